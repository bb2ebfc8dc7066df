{#- SELECT of `relation`, whose `_image` and `_key` are DynamoDB JSON: its `own` columns, and a typed
    one for each of `columns` (see attribute_columns). The image is taken apart in one pass, by JSON
    pointers, so that any attribute name works. A value that does not fit its column exactly is NULL
    there, never rounded; it stays in `_image`. Tombstones keep their key attributes. -#}

{%- macro attribute_values(relation, columns, own) -%}
{{ adapter.dispatch('attribute_values')(relation, columns, own) }}
{%- endmacro -%}

{%- macro duckdb__attribute_values(relation, columns, own) -%}
    {%- set scalars = columns | rejectattr('type', 'equalto', 'JSON') | list -%}
    {%- set documents = columns | selectattr('type', 'equalto', 'JSON') | list -%}
select
    {{ own | join(', ') }}
    {%- for column in columns %},
    {% if column.type == 'JSON' -%}
        extracted._documents[{{ documents.index(column) + 1 }}]
    {%- else -%}
        {{ exact_value('extracted._scalars[' ~ (scalars.index(column) + 1) ~ ']', column.type) }}
    {%- endif %} as "{{ column.name }}"
    {%- endfor %}
from (
    select
        {{ own | join(', ') }}
        {%- if scalars %},
        json_extract_string(coalesce(_image, _key::json), [
            {%- for column in scalars %}
            {{ json_pointer(column.path, column.tag) }}{{ ',' if not loop.last }}
            {%- endfor %}
        ]) as _scalars
        {%- endif -%}
        {%- if documents %},
        json_extract(coalesce(_image, _key::json), [
            {%- for column in documents %}
            {{ json_pointer(column.path) }}{{ ',' if not loop.last }}
            {%- endfor %}
        ]) as _documents
        {%- endif %}
    from {{ relation }}
) as extracted
{%- endmacro -%}

{%- macro json_pointer(path, tag=none) -%}
'/{{ (path | replace('~', '~0') | replace('/', '~1') | replace("'", "''")) }}{{ '/' ~ tag if tag }}'
{%- endmacro -%}

{%- macro exact_value(text, type) -%}
    {%- if type == 'BIGINT' -%}
case when regexp_full_match({{ text }}, '-?0*[0-9]{1,18}(\.0*)?') then {{ text }}::bigint end
    {%- elif type.startswith('DECIMAL') -%}
    {%- set scale = type[11:-1] | int -%}
case when regexp_full_match({{ text }}, '-?0*[0-9]{0,{{ 38 - scale }}}(\.[0-9]{0,{{ scale }}}0*)?') then {{ text }}::{{ type }} end
    {%- elif type == 'BOOLEAN' -%}
try_cast({{ text }} as boolean)
    {%- elif type == 'BLOB' -%}
try(from_base64({{ text }}))
    {%- else -%}
{{ text }}
    {%- endif -%}
{%- endmacro -%}
