{{ config(materialized='view') }}
{{ staged_changes('customers') }}
