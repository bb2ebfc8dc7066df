{{ config(materialized='view') }}
{{ staged_changes('orders') }}
