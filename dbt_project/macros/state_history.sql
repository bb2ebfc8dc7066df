{#- The history of `model` (SCD type 2): each state with the time from which and until which it
    was the item's. The version decides the order; times of changes are whole seconds, may tie, and
    are never let run backwards. One window gives both ends. It is cut by the key's columns as well
    as by the key, so that a query for one item reads that item only. -#}

{%- macro state_history(model) -%}
{%- set states = ref(model ~ '_states') -%}
{{ adapter.dispatch('state_history')(states, key_columns(model)) }}
{%- endmacro -%}

{%- macro history_columns() -%}
{{ return(['_key', '_version', '_op', '_valid_from', '_valid_to', '_is_current', '_by_ttl']) }}
{%- endmacro -%}

{%- macro duckdb__state_history(states, key) -%}
select
    * exclude (_key, _version, _op, _by_ttl, _valid_from, _valid_to),
    _valid_from,
    _valid_to,
    _valid_to is null and _op <> 'REMOVE' as _is_current,
    _op,
    _by_ttl,
    _key,
    _version
from (
    select
        columns(lambda name: name not in ('_batch', '_changed_at', '_image')),
        max(_changed_at) over (versions rows unbounded preceding) as _valid_from,
        case when lead(_version) over versions is not null then
            max(_changed_at) over (versions rows between unbounded preceding and 1 following)
        end as _valid_to
    from {{ states.include(database=false) }}
    window versions as (
        partition by _key{% for name in key %}, {{ adapter.quote(name) }}{% endfor %}
        order by _version
    )
)
{%- endmacro -%}

{#- Names of the columns that hold the attributes of the key of `model` -#}
{%- macro key_columns(model) -%}
    {%- set log = source('changes', model) -%}
    {%- if not execute or not table_exists(log) -%}{{ return([]) }}{%- endif -%}
    {%- set state = merge_state(model, log, 0) -%}
    {{ return(attribute_columns(state.attributes, state.key, model_meta(model).get('types', {}))
              | selectattr('path', 'in', state.key) | map(attribute='name') | list) }}
{%- endmacro -%}
