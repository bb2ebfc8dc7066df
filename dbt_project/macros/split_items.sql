{#- The items of one type of a single-table design: those of the public `model` that meet the condition
    in the call's block, and of its columns the key's, and those that any of these items uses. Which
    those are is found when the view is built; `runner` has it built again once a merge brings a value
    in another column. Where a column that the condition `needs` is not there yet, nothing is of the
    type. -#}

{%- macro split_items(model, needs=[]) -%}
{%- set public = ref(model) -%}
{{ adapter.dispatch('split_items')(public, caller() | trim, needs, key_columns(model)) }}
{%- endmacro -%}

{%- macro duckdb__split_items(public, condition, needs, key) -%}
{%- set there = relation_columns(public) | map(attribute='name') | list
    if execute and load_relation(public) else [] -%}
{%- set lacking = needs | reject('in', there) | list -%}
{%- set columns = [] -%}
{%- if there -%}
    {%- set asked = [] -%}
    {%- for name in there -%}
        {%- do asked.append('count(' ~ adapter.quote(name) ~ ')') -%}
    {%- endfor -%}
    {%- set counts = [] if lacking else read_json(
        'select to_json([' ~ asked | join(', ') ~ ']) from ' ~ public
        ~ ' where (' ~ condition ~ '\n)') -%}
    {%- for name in there -%}
        {%- if counts[loop.index0] or name in key + needs + ['_changed_at'] -%}
            {%- do columns.append(adapter.quote(name)) -%}
        {%- endif -%}
    {%- endfor -%}
{%- endif -%}
select {{ columns | join(', ') or '*' }}
from {{ public.include(database=false) }}
where {% if lacking or not there %}false{% else %}(
    {{ condition }}
){% endif %}
{%- endmacro -%}
