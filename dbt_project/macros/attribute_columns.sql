{#- From what was seen of a table's attributes to its columns: a list of {name, path, tags, type,
    wanted, structure, structures, known_until, exact, batch}.

    Names are stable because columns only ever join at the end: the first seen keeps its plain name,
    a later twin (names that differ only in case are one to SQL) gets _2, _3 and so on. The key's
    columns come first in a new table; their names follow the same rule. `batch` is the one from
    which on the column is due.
    Types follow the DynamoDB tags seen, unless tailrace.yaml wants another one (`wanted`); a NULL
    is not a type but the absence of a value. An attribute seen with two tags or more has a column
    more, <name>__raw, with the exact value as DynamoDB JSON (`exact`). Documents that are to be
    STRUCTs have their `structure` (see structure.sql), those of all times, and the batch until which
    it was known before. -#}

{%- macro attribute_columns(attributes, key=[], wanted={}, structures={}) -%}
    {%- set seen = {} -%}
    {%- for attribute in attributes -%}
        {%- do seen.setdefault(attribute.path, []).append(attribute) -%}
    {%- endfor -%}
    {%- set due = [] -%}
    {%- for path, found in seen.items() -%}
        {%- set typed = found | rejectattr('type', 'equalto', 'NULL') | list -%}
        {%- do due.append({'batch': found | map(attribute='batch') | min, 'exact': 0, 'path': path,
                           'found': typed}) -%}
        {%- if typed | length > 1 -%}
            {%- do due.append({'batch': (typed | map(attribute='batch') | sort)[1], 'exact': 1,
                               'path': path, 'found': typed}) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- set taken = reserved_columns() -%}
    {%- set columns = [] -%}
    {%- for each in due | sort(attribute='batch,exact,path', case_sensitive=true) -%}
        {%- set name = free_name(each.path ~ ('__raw' if each.exact else ''), taken) -%}
        {%- set known = structures.get(each.path, {}) if not each.exact
            and wanted.get(each.path) == 'struct' else {} -%}
        {%- set structure = known.tree if not is_document(known.tree) else none -%}
        {%- if each.exact -%}{%- set type = 'JSON' -%}
        {%- elif structure -%}{%- set type = structure_type(structure) -%}
        {%- else -%}
            {%- set type = adapter.dispatch('attribute_type')(each.found, wanted.get(each.path)) -%}
        {%- endif -%}
        {%- do taken.append(name | lower) -%}
        {%- do columns.append({
            'name': name,
            'path': each.path,
            'tags': each.found | map(attribute='type') | list,
            'type': type,
            'wanted': wanted.get(each.path),
            'structure': structure,
            'structures': known.trees or [],
            'known_until': known.known_until or 0,
            'exact': each.exact == 1,
            'batch': each.batch,
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

{#- What tailrace.yaml says of `model`, as `tailrace generate` wrote it into the public model's
    meta -#}
{%- macro model_meta(model) -%}
    {%- for node in graph.nodes.values() if execute
            and node.resource_type == 'model' and node.name == model -%}
        {{ return(node.config.meta) }}
    {%- endfor -%}
    {{ return({}) }}
{%- endmacro -%}

{#- The declared rule: one tag, its own type; several of S, N and BOOL, their text; else JSON -#}
{%- macro duckdb__attribute_type(found, wanted) -%}
    {%- set types = {'timestamp': 'TIMESTAMP WITH TIME ZONE', 'double': 'DOUBLE', 'json': 'JSON',
                     'epoch_seconds': 'TIMESTAMP WITH TIME ZONE', 'map': 'MAP(VARCHAR, JSON)',
                     'epoch_milliseconds': 'TIMESTAMP WITH TIME ZONE'} -%}
    {%- if wanted in types -%}{{ return(types[wanted]) }}{%- endif -%}
    {%- if found | length > 1 and found | rejectattr('type', 'in', ['S', 'N', 'BOOL']) | list == [] -%}
        {{ return('VARCHAR') }}
    {%- endif -%}
    {%- if found | length != 1 -%}{{ return('JSON') }}{%- endif -%}
    {%- set one = found[0] -%}
    {%- if one.type == 'N' -%}{{ return(number_type(one)) }}{%- endif -%}
    {%- if one.type == 'NS' -%}{{ return(number_type(one) ~ '[]') }}{%- endif -%}
    {{ return({'S': 'VARCHAR', 'BOOL': 'BOOLEAN', 'B': 'BLOB', 'SS': 'VARCHAR[]', 'BS': 'BLOB[]'}
              .get(one.type, 'JSON')) }}
{%- endmacro -%}

{%- macro number_type(seen) -%}
    {%- if seen.integer_digits is none or seen.scale is none -%}{{ return('VARCHAR') }}{%- endif -%}
    {%- if seen.scale == 0 and seen.integer_digits <= 18 -%}{{ return('BIGINT') }}{%- endif -%}
    {%- if seen.integer_digits + seen.scale <= 38 -%}
        {{ return('DECIMAL(38,' ~ seen.scale ~ ')') }}
    {%- endif -%}
    {{ return('VARCHAR') }}
{%- endmacro -%}
