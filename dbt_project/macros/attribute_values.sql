{#- SELECT of `relation`, whose `_image` and `_key` are DynamoDB JSON: its `own` columns, and a typed
    one for each of `columns` (see attribute_columns). The image is taken apart in two passes, one
    for texts and one for documents, and another for each document that becomes a STRUCT; by JSON
    pointers, so that any attribute name works. A value that
    does not fit its column exactly is NULL there, never rounded; it stays in `_image`. Tombstones
    keep their key attributes. -#}

{%- macro attribute_values(relation, columns, own) -%}
{{ adapter.dispatch('attribute_values')(relation, columns, own) }}
{%- endmacro -%}

{%- macro duckdb__attribute_values(relation, columns, own) -%}
    {%- set texts = [] -%}
    {%- set documents = [] -%}
    {%- set structures = [] -%}
    {%- set values = [] -%}
    {%- for column in columns -%}
        {%- if column.structure -%}
            {%- do structures.append(column) -%}
            {%- do values.append(
                structure_value(column.structure, '_structure_' ~ structures | length)) -%}
        {%- elif column.exact or column.type == 'JSON' or column.type.startswith('MAP(') -%}
            {%- do documents.append(json_pointer(column.path)) -%}
            {%- do values.append(
                document_value('_documents[' ~ documents | length ~ ']', column)) -%}
        {%- else -%}
            {%- set found = [] -%}
            {%- for tag in column.tags if 'STRUCT(' not in column.type and tag not in ['L', 'M'] -%}
                {%- do texts.append(json_pointer(column.path, tag)) -%}
                {%- do found.append(text_value('_texts[' ~ texts | length ~ ']', tag, column)) -%}
            {%- endfor -%}
            {%- do values.append('coalesce(' ~ found | join(', ') ~ ')' if found | length > 1
                                 else found[0] or 'null::' ~ column.type) -%}
        {%- endif -%}
    {%- endfor -%}
select
    {{ own | join(', ') }}
    {%- for column in columns %},
    {{ values[loop.index0] }} as "{{ column.name }}"
    {%- endfor %}
from (
    select
        {{ own | join(', ') }}
        {%- if texts %},
        json_extract_string(coalesce(_image, _key::json), [{{ texts | join(', ') }}]) as _texts
        {%- endif -%}
        {%- if documents %},
        json_extract(coalesce(_image, _key::json), [{{ documents | join(', ') }}]) as _documents
        {%- endif -%}
        {%- for column in structures %},
        json_transform(
            json_extract(_image, {{ json_pointer(column.path) }}),
            '{{ tojson(structure_shape(column.structure)) | replace("'", "''") }}'
        ) as _structure_{{ loop.index }}
        {%- endfor %}
    from {{ relation }}
) as extracted
{%- endmacro -%}

{%- macro json_pointer(path, tag=none) -%}
'/{{ (path | replace('~', '~0') | replace('/', '~1') | replace("'", "''")) }}{{ '/' ~ tag if tag }}'
{%- endmacro -%}

{#- SQL: the value of `column` from the attribute's DynamoDB JSON -#}
{%- macro document_value(document, column) -%}
    {%- if column.exact -%}
        {{ return(document) }}
    {%- elif column.type.startswith('MAP') -%}
        {{ return("case when starts_with(" ~ document ~ ", '{\"M\":') then try_cast(("
                  ~ plain_json(document) ~ ") as " ~ column.type ~ ") end") }}
    {%- endif -%}
    {{ return(plain_json(document)) }}
{%- endmacro -%}

{#- SQL: the value of `column` from the text of an attribute of type `tag` -#}
{%- macro text_value(text, tag, column) -%}
    {%- if column.wanted in ['timestamp', 'epoch_seconds', 'epoch_milliseconds'] -%}
        {{ return(instant(text, column.wanted) if tag in ['S', 'N'] else 'null') }}
    {%- elif column.wanted == 'double' -%}
        {{ return("case when not regexp_matches(" ~ text ~ ", '[A-DF-Za-df-z]') then try_cast("
                  ~ text ~ " as double) end" if tag in ['S', 'N'] else 'null') }}
    {%- elif column.type.endswith('[]') -%}
        {%- set element = exact_value('element', column.type[:-2]) -%}
        {{ return("list_transform(from_json(" ~ text ~ ", '[\"VARCHAR\"]'), lambda element: "
                  ~ element ~ ")") }}
    {%- endif -%}
    {{ return(exact_value(text, column.type)) }}
{%- endmacro -%}

{%- macro exact_value(text, type) -%}
    {%- if type == 'BIGINT' -%}
case when regexp_full_match({{ text }}, '-?0*[0-9]{1,18}(\.0*)?') then {{ text }}::bigint end
    {%- elif type.startswith('DECIMAL') -%}
    {#- Through 18 digits where they do: DuckDB casts a text to 64 bits much faster than to 128 -#}
    {%- set scale = type[11:-1] | int -%}
case
        {%- for digits in [18, 38] if digits >= scale %}
        when regexp_full_match({{ text }}, '-?0*[0-9]{0,{{ digits - scale }}}(\.[0-9]{0,{{ scale }}}0*)?')
            then {{ text }}::decimal({{ digits }},{{ scale }})::{{ type }}
        {%- endfor %}
    end
    {%- elif type == 'BOOLEAN' -%}
try_cast({{ text }} as boolean)
    {%- elif type == 'BLOB' -%}
try(from_base64({{ text }}))
    {%- elif type == 'VARCHAR' -%}
{{ text }}
    {%- else -%}
try_cast({{ text }} as {{ type }})
    {%- endif -%}
{%- endmacro -%}

{#- SQL: the moment that a text names, to the microsecond; one without a zone is in UTC -#}
{%- macro instant(text, unit) -%}
    {%- if unit == 'timestamp' -%}
case when regexp_matches({{ text }}, '^\d{4}-\d\d-\d\d') then try_cast({{ text }} as timestamptz) end
    {%- else -%}
    {#- Whole numbers, as nearly all are, without the arithmetic of decimals: it takes 20 µs each -#}
    {%- set micros = 1000000 if unit == 'epoch_seconds' else 1000 -%}
case
        when regexp_full_match({{ text }}, '-?[0-9]{1,{{ 12 if unit == 'epoch_seconds' else 15 }}}')
            then make_timestamptz({{ text }}::bigint * {{ micros }})
        else try(make_timestamptz((try_cast({{ text }} as decimal(38,6)) * {{ micros }})::bigint))
    end
    {%- endif -%}
{%- endmacro -%}
