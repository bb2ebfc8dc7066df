{#- SELECT of `relation`, whose `_image` and `_key` are DynamoDB JSON: its `own` columns, and a typed
    one for each of `columns` (see attribute_columns). The image is taken apart in one pass, and
    another for all documents that become STRUCTs; by JSON pointers, so that any attribute name works.
    A value that does not fit its column exactly is NULL there, never rounded; it stays in `_image`.
    Tombstones keep their key attributes. -#}

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
            {%- do values.append(structure_value(column.structure, structure_place(structures, column))) -%}
        {%- elif column.exact or column.type == 'JSON' or column.type.startswith('MAP(') -%}
            {%- do texts.append(json_pointer(column.path)) -%}
            {%- set text = '_texts[' ~ texts | length ~ ']' -%}
            {%- if not column.exact -%}{%- do documents.append(text) -%}{%- endif -%}
            {%- do values.append(document_value(text, documents | length, column)) -%}
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
    {%- set steps = ['scalars', 'openings', 'endings', 'plain'] if documents else [] -%}
select
    {{ own | join(', ') }}
    {%- for column in columns %},
    {{ values[loop.index0] }} as "{{ column.name }}"
    {%- endfor %}
from (
    {%- for step in steps | reverse %}
    select
        *
        {%- for text in documents %},
        {% if step == 'scalars' -%}
            {{ plain_scalars(text) }}
        {%- elif step == 'openings' -%}
            {{ plain_openings('_scalars_' ~ loop.index) }}
        {%- elif step == 'endings' -%}
            {{ plain_endings('_openings_' ~ loop.index) }}
        {%- else -%}
            {{ plain_checked('_scalars_' ~ loop.index, '_openings_' ~ loop.index, '_endings_' ~ loop.index) }}
        {%- endif %} as _{{ step }}_{{ loop.index }}
        {%- endfor %}
    from (
    {%- endfor %}
    select
        {{ own | join(', ') }}
        {%- if texts %},
        json_extract_string(coalesce(_image::varchar, _key), [{{ texts | join(', ') }}]) as _texts
        {%- endif -%}
        {%- for group in structures %},
        json_transform(_image, '{{ tojson(group) | replace("'", "''") }}') as _structures_{{ loop.index }}
        {%- endfor %}
    from {{ relation }}
    {%- for step in steps %}
    ) as {{ step }}_next
    {%- endfor %}
) as extracted
{%- endmacro -%}

{#- SQL: where json_transform puts what it reads of a document. `shapes` is what is read in one pass,
    and in another, where names of attributes differ only in case: as a STRUCT's they would be one. -#}
{%- macro structure_place(shapes, column) -%}
    {%- set others = [] -%}
    {%- for shape in shapes if column.path | lower in shape | map('lower') -%}
        {%- do others.append(shape) -%}
    {%- endfor -%}
    {%- if others | length == shapes | length -%}{%- do shapes.append({}) -%}{%- endif -%}
    {%- do shapes[others | length].update({column.path: structure_shape(column.structure)}) -%}
    {{ return('struct_extract(_structures_' ~ (others | length + 1) ~ ", '"
              ~ column.path | replace("'", "''") ~ "')") }}
{%- endmacro -%}

{%- macro json_pointer(path, tag=none) -%}
'/{{ (path | replace('~', '~0') | replace('/', '~1') | replace("'", "''")) }}{{ '/' ~ tag if tag }}'
{%- endmacro -%}

{#- SQL: the value of `column` from the text of the attribute's DynamoDB JSON, the `number`th of the
    documents whose plain JSON stands beside it, but for unusual ones -#}
{%- macro document_value(text, number, column) -%}
    {%- if column.exact -%}{{ return(text ~ '::json') }}{%- endif -%}
    {%- set plain = 'case when _plain_' ~ number ~ ' is null then ' ~ plain_json(text ~ '::json')
        ~ ' else _plain_' ~ number ~ ' end' -%}
    {%- if column.type.startswith('MAP') -%}
        {{ return("case when starts_with(" ~ text ~ ", '{\"M\":') then try_cast(("
                  ~ plain ~ ") as " ~ column.type ~ ") end") }}
    {%- endif -%}
    {{ return(plain) }}
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
        {%- set elements = "from_json(" ~ text ~ ", '[\"VARCHAR\"]')" -%}
        {{ return(elements if element == 'element'
                  else 'list_transform(' ~ elements ~ ', lambda element: ' ~ element ~ ')') }}
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
