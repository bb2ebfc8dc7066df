{#- What a merge of `model` has to do, read in two short queries: a mapping with
      rebuild     whether the table is built anew from the whole log, and `why`
      watermark   the batch up to which it is merged already
      head        the batch up to which this merge goes: later commits wait for the next one
      live        the live epochs: epoch, kind, batch, recorded_at
      columns     its columns, as attribute_columns gives them; where the table stands already,
                  with the types it has -#}

{%- macro merge_plan(model) -%}
    {%- set nothing = {'rebuild': true, 'why': 'it is new', 'watermark': 0, 'head': 0, 'live': [],
                       'columns': []} -%}
    {%- set log = source('changes', model) -%}
    {%- set control = [source('tailrace', 'tables'), source('tailrace', 'epochs'),
                       source('tailrace', 'attributes')] -%}
    {%- if not execute or not table_exists(log) -%}{{ return(nothing) }}{%- endif -%}
    {%- set existing = load_relation(this) -%}
    {%- set target = merge_target(existing) if existing and existing.is_table else none -%}
    {%- set watermark = target.watermark if target else 0 -%}
    {%- set state = merge_state(model, log, watermark) -%}
    {%- set columns = attribute_columns(state.attributes, state.key, wanted_types(model)) -%}
    {%- if not target -%}
        {{ return({'rebuild': true, 'why': 'it is new', 'watermark': 0, 'head': state.head,
                   'live': state.live, 'columns': columns}) }}
    {%- endif -%}
    {%- set changed = changed_types(columns, target.types) -%}
    {%- if should_full_refresh() or changed -%}
        {{ return({'rebuild': true, 'why': changed | join(', ') or 'a full refresh was asked for',
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
                      group by path, type))})") -%}
    {{ return({'head': found.head, 'live': found.live or [], 'key': found.key or [],
               'attributes': found.attributes or []}) }}
{%- endmacro -%}

{%- macro changed_types(columns, types) -%}
    {%- set changed = [] -%}
    {%- for column in columns if types.get(column.name | lower, column.type) != column.type -%}
        {%- do changed.append('"' ~ column.name ~ '" is ' ~ types[column.name | lower]
                              ~ ' and has to be ' ~ column.type) -%}
    {%- endfor -%}
    {{ return(changed) }}
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
