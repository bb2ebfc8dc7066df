{#- One row for each element of a list of the living items of `model`: the key, the place in the list
    from 1 on, and the element: a column for each member where it is a STRUCT, else `value`. A view,
    for the elements stand typed in <model>_latest already; it is built anew when members join. -#}

{%- macro list_rows(model, rows) -%}
{%- set latest = ref(model ~ '_latest') -%}
{%- set log = source('changes', model) -%}
{%- set list = list_column(model, rows, log, latest) -%}
{{ adapter.dispatch('list_rows')(latest, key_columns(model), list) }}
{%- endmacro -%}

{#- The list's column in <model>_latest, with the members of its elements; none where no item had it
    yet -#}
{%- macro list_column(model, rows, log, latest) -%}
    {%- if not execute or not table_exists(log) or not table_exists(latest) -%}{{ return(none) }}{%- endif -%}
    {%- set meta = model_meta(model) -%}
    {%- set state = merge_state(model, log, 0) -%}
    {%- set there = relation_columns(latest) -%}
    {%- for column in attribute_columns(state.attributes, state.key, meta.types, state.structures)
            if column.path == meta.rows[rows] and not column.exact -%}
        {%- for found in there if found.name == column.name -%}
            {%- set name = adapter.quote(found.name) -%}
            {%- set members = [] -%}
            {%- if found.type.startswith('STRUCT(') and found.type.endswith(')[]') -%}
                {%- do members.extend(read_json(
                    'select to_json(list(column_name)) from (describe select unnest(' ~ name
                    ~ ', max_depth := 2) from ' ~ latest ~ ')')) -%}
            {%- endif -%}
            {{ return({'name': name, 'type': found.type, 'members': members}) }}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(none) }}
{%- endmacro -%}

{%- macro duckdb__list_rows(latest, key, list) -%}
{%- set taken = ['_position'] + key | map('lower') | list -%}
{%- set elements = [] -%}
{%- for member in (list or {}).members or [none] -%}
    {%- set name = free_name(member or 'value', taken) -%}
    {%- do taken.append(name | lower) -%}
    {%- do elements.append('_element' ~ ('.' ~ adapter.quote(member | replace('"', '""')) if member)
                           ~ ' as ' ~ adapter.quote(name)) -%}
{%- endfor -%}
{%- set name = list.name if list else 'null::json[]' -%}
{%- if list and not list.type.endswith('[]') -%}
    {%- set name = "case when json_type(" ~ name ~ ") = 'ARRAY' then " ~ name ~ "::json[] end" -%}
{%- endif -%}
select
    {%- for each in key %}
    {{ adapter.quote(each) }},
    {%- endfor %}
    _position,
    {{ elements | join(',\n    ') }}
from (
    select
        {%- for each in key %}
        {{ adapter.quote(each) }},
        {%- endfor %}
        unnest({{ name }}) as _element,
        unnest(generate_series(1, len({{ name }}))) as _position
    from {{ latest.include(database=false) }}
    where _op <> 'REMOVE'
)
{%- endmacro -%}
