{#- What a merge of `model` has to do, read in two short queries: a mapping with
      rebuild     whether the table is built anew from the whole log, and `why`
      watermark   the batch up to which it is merged already
      head        the batch up to which this merge goes: later commits wait for the next one
      live        the live epochs: epoch, kind, batch, recorded_at
      columns     its columns, as attribute_columns gives them; where the schema is frozen and the
                  table stands already, its own and no others -#}

{%- macro merge_plan(model) -%}
    {%- set nothing = {'rebuild': true, 'why': 'it is new', 'watermark': 0, 'head': 0, 'live': [],
                       'columns': []} -%}
    {%- set log = source('changes', model) -%}
    {%- set control = [source('tailrace', 'tables'), source('tailrace', 'epochs'),
                       source('tailrace', 'attributes'), source('tailrace', 'structures')] -%}
    {%- if not execute or not table_exists(log) -%}{{ return(nothing) }}{%- endif -%}
    {%- set existing = load_relation(this) -%}
    {%- set target = merge_target(existing) if existing and existing.is_table else none -%}
    {%- set watermark = target.watermark if target else 0 -%}
    {%- set meta = model_meta(model) -%}
    {%- set state = merge_state(model, log, watermark) -%}
    {%- if meta.get('schema') != 'frozen' -%}
        {%- set state = as_far_as_learned(state, meta.get('types', {})) -%}
    {%- endif -%}
    {%- set columns = attribute_columns(state.attributes, state.key, meta.get('types', {}),
                                        state.structures) -%}
    {%- if not target -%}
        {{ return({'rebuild': true, 'why': 'it is new', 'watermark': 0, 'head': state.head,
                   'live': state.live, 'columns': columns}) }}
    {%- endif -%}
    {%- if meta.get('schema') == 'frozen' and not should_full_refresh() -%}
        {%- set columns = frozen_columns(columns, target.types) -%}
    {%- endif -%}
    {%- set why = reasons_to_rebuild(columns, target) -%}
    {%- if should_full_refresh() or why -%}
        {{ return({'rebuild': true, 'why': why | join(', ') or 'a full refresh was asked for',
                   'watermark': 0, 'head': [state.head, watermark] | max, 'live': state.live,
                   'columns': columns}) }}
    {%- endif -%}
    {{ return({'rebuild': false, 'why': '', 'watermark': watermark, 'head': state.head,
               'live': state.live, 'columns': columns}) }}
{%- endmacro -%}

{%- macro merge_target(relation) -%}
    {%- set types = {} -%}
    {%- for column in relation_columns(relation) -%}
        {%- do types.update({column.name | lower: column.type}) -%}
    {%- endfor -%}
    {{ return({'watermark': read_json('select coalesce(max(_batch), 0)::json from ' ~ relation),
               'types': types}) }}
{%- endmacro -%}

{%- macro merge_state(model, log, watermark) -%}
    {%- set tables = source('tailrace', 'tables') -%}
    {%- set epochs = source('tailrace', 'epochs') -%}
    {%- set attributes = source('tailrace', 'attributes') -%}
    {%- set structures = source('tailrace', 'structures') -%}
    {%- set found = read_json("
        select to_json({
            head: greatest(
                (select max(batch) from " ~ log ~ " where batch > " ~ watermark ~ "),
                (select max(batch) from " ~ epochs ~ " where model = '" ~ model ~ "'),
                0),
            live: (
                select list({epoch: epoch, kind: kind, batch: batch, recorded_at: recorded_at}
                            order by epoch)
                from (select epoch, kind, min(batch) as batch,
                             min(recorded_at)::varchar as recorded_at
                      from " ~ epochs ~ "
                      where model = '" ~ model ~ "' and state = 'live' group by epoch, kind)),
            key: (
                select json_extract_string(key_schema, '$[*].name')
                from " ~ tables ~ " where model = '" ~ model ~ "' order by batch desc limit 1),
            attributes: (
                select list({path: path, type: type, integer_digits: integer_digits, scale: scale,
                             batch: batch}
                            order by path_batch, path, batch, type)
                from (select path, type, max(integer_digits) as integer_digits,
                             max(scale) as scale, min(batch) as batch,
                             min(min(batch)) over (partition by path) as path_batch
                      from (select path, type, integer_digits, scale, batch
                            from " ~ attributes ~ " where model = '" ~ model ~ "'
                            union all
                            -- The key's attributes are known before the first item is.
                            select part->>'name', part->>'type', null, null, batch
                            from (select unnest(key_schema::json[]) as part, batch
                                  from " ~ tables ~ " where model = '" ~ model ~ "'))
                      group by path, type)),
            structures: (
                select list({path: path, batch: batch, tree: tree, known_until: known_until,
                             trees: trees})
                from (select path, max(batch) as batch, arg_max(structure, batch) as tree,
                             coalesce(list_sort(list(batch))[-2], 0) as known_until,
                             list(distinct structure) as trees
                      from " ~ structures ~ " where model = '" ~ model ~ "' group by path))})") -%}
    {%- set known = {} -%}
    {%- for each in found.structures or [] -%}
        {%- do known.update({each.path: each}) -%}
    {%- endfor -%}
    {{ return({'head': found.head, 'live': found.live or [], 'key': found.key or [],
               'attributes': found.attributes or [], 'structures': known}) }}
{%- endmacro -%}

{#- The state up to the batch until which the structures of documents are known that are to be
    columns: what landed later waits, so that no member is ever missed -#}
{%- macro as_far_as_learned(state, wanted) -%}
    {%- set heads = [state.head] -%}
    {%- for path, structure in state.structures.items() if wanted.get(path) == 'struct' -%}
        {%- do heads.append(structure.batch) -%}
    {%- endfor -%}
    {%- set head = heads | min -%}
    {%- do state.update({'head': head,
                         'live': state.live | selectattr('batch', 'le', head) | list}) -%}
    {{ return(state) }}
{%- endmacro -%}

{#- Why the table has to be built anew, for each column that cannot become what it has to be in
    place: its type does not widen there, or rows that are merged already have values for it -#}
{%- macro reasons_to_rebuild(columns, target) -%}
    {%- set why = [] -%}
    {%- for column in columns -%}
        {%- set type = target.types.get(column.name | lower) -%}
        {%- if not type and column.exact -%}
            {%- do why.append('"' ~ column.path ~ '" has values of two types now') -%}
        {%- elif not type and column.batch <= target.watermark -%}
            {%- do why.append('"' ~ column.name ~ '" is let in, which older rows have too') -%}
        {%- elif type and not same_type(type, column.type)
                and not (column.known_until >= target.watermark and type_grows(type, column.type)) -%}
            {%- do why.append('"' ~ column.name ~ '" is ' ~ type ~ ' and has to be ' ~ column.type) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(why) }}
{%- endmacro -%}

{#- The columns that stand already, with the types they have: what `schema: frozen` leaves of them.
    A value that does not fit is NULL there. -#}
{%- macro frozen_columns(columns, types) -%}
    {%- set kept = [] -%}
    {%- for column in columns if column.name | lower in types -%}
        {%- set type = types[column.name | lower] -%}
        {%- if not same_type(type, column.type) -%}
            {%- set fitting = [] -%}
            {%- for structure in column.structures if same_type(type, structure_type(structure)) -%}
                {%- do fitting.append(structure) -%}
            {%- endfor -%}
            {%- do column.update({'type': type, 'structure': fitting[0] if fitting else none,
                                  'tags': tags_of_type(type, column.tags)}) -%}
        {%- endif -%}
        {%- do kept.append(column) -%}
    {%- endfor -%}
    {{ return(kept) }}
{%- endmacro -%}

{#- Those of the tags whose values a column of that type can hold -#}
{%- macro tags_of_type(type, tags) -%}
    {%- set held = {'BIGINT': ['N'], 'BOOLEAN': ['BOOL'], 'BLOB': ['B'], 'VARCHAR': ['S', 'N', 'BOOL'],
                    'VARCHAR[]': ['SS', 'NS'], 'BLOB[]': ['BS']} -%}
    {%- set of_numbers = ['N'] if type.startswith('DECIMAL') and not type.endswith('[]')
        else ['NS'] if type.endswith('[]') and type[:-2] == 'BIGINT' or type.startswith('DECIMAL')
        else tags -%}
    {{ return(tags | select('in', held.get(type, of_numbers)) | list) }}
{%- endmacro -%}

{%- macro table_exists(relation) -%}
    {{ return(read_json("
        select to_json(count(*) > 0) from information_schema.tables
        where table_catalog = '" ~ relation.database ~ "' and table_schema = '" ~ relation.schema ~ "'
            and table_name = '" ~ relation.identifier ~ "'")) }}
{%- endmacro -%}

{%- macro relation_columns(relation) -%}
    {{ return(read_json("select to_json(list({name: column_name, type: column_type}))
                         from (describe " ~ relation ~ ")")) }}
{%- endmacro -%}

{%- macro read_json(sql) -%}
    {#- One value, as JSON text: dbt's own result tables would turn the name `null` into None -#}
    {%- call statement('read_json', fetch_result=true, auto_begin=false) -%}{{ sql }}{%- endcall -%}
    {{ return(fromjson(load_result('read_json').table.rows[0][0])) }}
{%- endmacro -%}
