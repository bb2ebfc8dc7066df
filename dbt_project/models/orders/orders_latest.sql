{{ config(materialized='latest_version', unique_key='_key') }}
{{ latest_state('orders') }}
