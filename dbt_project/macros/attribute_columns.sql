{#- From what was seen of a table's attributes to its columns: a list of {name, path, tag, type}.

    Names are stable because attributes only ever join at the end: the first seen keeps its plain
    name, a later twin (names that differ only in case are one to SQL) gets _2, _3 and so on.
    The key's columns come first in a new table; their names follow the same rule.
    Types follow the DynamoDB tags seen; a NULL is not a type but the absence of a value. -#}

{%- macro attribute_columns(attributes, key=[]) -%}
    {%- set seen = {} -%}
    {%- for attribute in attributes -%}
        {%- do seen.setdefault(attribute.path, []).append(attribute) -%}
    {%- endfor -%}
    {%- set taken = reserved_columns() -%}
    {%- set columns = [] -%}
    {%- for path, found in seen.items() -%}
        {%- set name = free_name(path, taken) -%}
        {%- do taken.append(name | lower) -%}
        {%- set tags = found | map(attribute='type') | reject('equalto', 'NULL') | list -%}
        {%- do columns.append({
            'name': name,
            'path': path,
            'tag': tags[0] if tags else none,
            'type': adapter.dispatch('attribute_type')(found),
        }) -%}
    {%- endfor -%}
    {{ return((columns | selectattr('path', 'in', key) | list)
              + (columns | rejectattr('path', 'in', key) | list)) }}
{%- endmacro -%}

{%- macro free_name(path, taken) -%}
    {#- A double quote or a control character in a name breaks every tool on the way: they become _ -#}
    {%- set plain = modules.re.sub('[\x00-\x1f\x7f"]', '_', path) or 'unnamed' -%}
    {%- if plain | lower not in taken -%}{{ return(plain) }}{%- endif -%}
    {%- for number in range(2, taken | length + 3) if (plain ~ '_' ~ number) | lower not in taken -%}
        {{ return(plain ~ '_' ~ number) }}
    {%- endfor -%}
{%- endmacro -%}

{%- macro duckdb__attribute_type(found) -%}
    {%- set typed = found | rejectattr('type', 'equalto', 'NULL') | list -%}
    {%- if typed | length != 1 -%}{{ return('JSON') }}{%- endif -%}
    {%- set one = typed[0] -%}
    {%- if one.type != 'N' -%}
        {{ return({'S': 'VARCHAR', 'BOOL': 'BOOLEAN', 'B': 'BLOB'}.get(one.type, 'JSON')) }}
    {%- endif -%}
    {%- if one.integer_digits is none or one.scale is none -%}{{ return('VARCHAR') }}{%- endif -%}
    {%- if one.scale == 0 and one.integer_digits <= 18 -%}{{ return('BIGINT') }}{%- endif -%}
    {%- if one.integer_digits + one.scale <= 38 -%}
        {{ return('DECIMAL(38,' ~ one.scale ~ ')') }}
    {%- endif -%}
    {{ return('VARCHAR') }}
{%- endmacro -%}
