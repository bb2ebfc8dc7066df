{{ config(materialized='view') }}
{{ public_state('orders') }}
