{#- The columns of <model>_latest that lack values, because these do not fit their types: attribute,
    type, values_found, example_key. The values themselves are in `_image`. One pass, which takes
    only those images apart whose row lacks anything; of a frozen schema another, for what its STRUCTs
    lack within. -#}

{%- macro misfits(model) -%}
{%- set latest = ref(model ~ '_latest') -%}
{%- set columns = typed_columns(model, latest) -%}
{%- set members = [] -%}
{%- for column in columns if model_meta(model).schema == 'frozen' and 'STRUCT(' in column.type -%}
    {%- do members.extend(member_misfits(latest, column)) -%}
{%- endfor -%}
{{ adapter.dispatch('misfits')(latest, columns, members) }}
{%- endmacro -%}

{#- The columns that do not take in every value, as they stand -#}
{%- macro typed_columns(model, latest) -%}
    {%- set log = source('changes', model) -%}
    {%- if not execute or not table_exists(log) or not table_exists(latest) -%}{{ return([]) }}{%- endif -%}
    {%- set state = merge_state(model, log, 0) -%}
    {%- set types = {} -%}
    {%- for column in relation_columns(latest) if column.type != 'JSON' -%}
        {%- do types.update({column.name | lower: column.type}) -%}
    {%- endfor -%}
    {%- set typed = [] -%}
    {%- for column in attribute_columns(state.attributes, state.key,
                                        model_meta(model).get('types', {}), state.structures)
            if not column.exact and column.name | lower in types -%}
        {%- do typed.append({'name': column.name, 'path': column.path,
                             'type': types[column.name | lower]}) -%}
    {%- endfor -%}
    {{ return(typed) }}
{%- endmacro -%}

{%- macro duckdb__misfits(latest, columns, members=[]) -%}
{%- if not columns -%}
select null as attribute, 0 as values_found where false
{%- else -%}
{%- set lacking = [] -%}
{%- set pointers = [] -%}
{%- for column in columns -%}
    {%- set name = adapter.quote(column.name) -%}
    {%- set of_sets = column.type.endswith('[]') and 'STRUCT(' not in column.type -%}
    {%- do lacking.append(name ~ ' is null'
        ~ (' or list_count(' ~ name ~ ') < len(' ~ name ~ ')' if of_sets)) -%}
    {%- do pointers.append(json_pointer(column.path)) -%}
{%- endfor -%}
with

counted as (
    select
        {%- for column in columns %}
        {%- set is_misfit = '_lacks_' ~ loop.index ~ ' and not starts_with(_found[' ~ loop.index
            ~ "]::varchar, '{\"NULL\":')" %}
        count(*) filter ({{ is_misfit }}) as count_{{ loop.index }},
        min(_key) filter ({{ is_misfit }}) as key_{{ loop.index }}{{ ',' if not loop.last }}
        {%- endfor %}
    from (
        select
            _key,
            {%- for each in lacking %}
            {{ each }} as _lacks_{{ loop.index }},
            {%- endfor %}
            json_extract(_image, [{{ pointers | join(', ') }}]) as _found
        from {{ latest }}
        where _image is not null and ({{ lacking | join(' or ') }})
    )
)

select *
from (
    select unnest([
        {%- for column in columns %}
        {
            attribute: '{{ column.path | replace("'", "''") }}',
            type: '{{ column.type | replace("'", "''") }}',
            values_found: count_{{ loop.index }},
            example_key: key_{{ loop.index }}
        }{{ ',' if not loop.last }}
        {%- endfor %}
    ], max_depth := 2)
    from counted
)
where values_found > 0
{%- for member in members %}
union all
select
    '{{ member.attribute | replace("'", "''") }}',
    {{ "'" ~ member.type | replace("'", "''") ~ "'" if member.type else 'null' }},
    sum({{ member.count }}),
    min(_key) filter ({{ member.count }} > 0)
from {{ latest }}
where _image is not null
{%- endfor %}
{%- endif -%}
{%- endmacro -%}
