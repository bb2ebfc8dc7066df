{#- What analysts query of `model`: the living items, their attributes and when they last changed.
    `* exclude` is bound when it is queried, so a new attribute shows at once. -#}

{%- macro public_state(model) -%}
{%- set latest = ref(model ~ '_latest') -%}
{{ adapter.dispatch('public_state')(latest) }}
{%- endmacro -%}

{%- macro duckdb__public_state(latest) -%}
select
    * exclude ({{ own_columns() | join(', ') }}),
    _changed_at
from {{ latest.include(database=false) }}
where _op <> 'REMOVE'
{%- endmacro -%}
