{{ config(materialized='view') }}
{{ public_state('customers') }}
