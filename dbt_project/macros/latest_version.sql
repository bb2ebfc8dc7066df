{#- The materialization of <model>_latest: the greatest version of each key wins.

    The new rows are worked out beside the table; one MERGE, which compares versions itself, then
    takes them in. So it may run again, be killed at any point, or meet another merge: an older
    version never replaces a newer one. A rebuild fills a table beside it and swaps the two. Every
    write is one short transaction, because a commit by anyone else makes an open one fail. -#}

{%- materialization latest_version, adapter='duckdb' -%}
    {%- set existing = load_cached_relation(this) -%}
    {%- set target = this.incorporate(type='table') -%}
    {%- set rebuild = not modules.re.search('/[*] tailrace: merge to batch [0-9]+ [*]/', sql) -%}
    {%- if not rebuild and not existing -%}
        {{ exceptions.raise_compiler_error(this ~ ' vanished while it was being merged.') }}
    {%- endif -%}
    {%- do run_each_hook(pre_hooks) -%}
    {%- if rebuild -%}
        {%- do rebuild_table(existing, target, sql) -%}
    {%- else -%}
        {%- do merge_versions(target, sql) -%}
    {%- endif -%}
    {%- do run_each_hook(post_hooks) -%}
    {{ return({'relations': [target]}) }}
{%- endmaterialization -%}

{%- macro run_each_hook(hooks) -%}
    {#- Each by itself: there is no long transaction for a hook to be in -#}
    {%- for hook in hooks -%}
        {%- do write_sql(render(hook.get('sql'))) -%}
    {%- endfor -%}
{%- endmacro -%}

{%- macro rebuild_table(existing, target, sql) -%}
    {%- set fresh = make_intermediate_relation(target) -%}
    {%- do write_sql('drop table if exists ' ~ fresh) -%}
    {%- call statement('main', auto_begin=false) -%}
create table {{ fresh }} as
{{ sql }}
    {%- endcall -%}
    {%- do comment_columns(fresh) -%}
    {%- call statement('swap', auto_begin=false) -%}
begin;
    {%- if existing %}
drop {{ existing.type }} {{ existing }};
    {%- endif %}
alter table {{ fresh }} rename to {{ adapter.quote(target.identifier) }};
commit;
    {%- endcall -%}
{%- endmacro -%}

{%- macro merge_versions(target, sql) -%}
    {%- set newest = make_temp_relation(target) -%}
    {%- call statement('newest', auto_begin=false) -%}
create temporary table {{ newest }} as
{{ sql }}
    {%- endcall -%}
    {%- do add_new_columns(newest, target) -%}
    {%- call statement('main', auto_begin=false) -%}
merge into {{ target }} as merged
using {{ newest }} as newest
on newest._key = merged._key
when matched and {{ version_wins('newest._version', 'merged._version') }} then update by name
when not matched then insert by name
    {%- endcall -%}
    {%- do raise_watermark(newest, target) -%}
    {%- do write_sql('drop table ' ~ newest) -%}
{%- endmacro -%}

{#- Columns that are new join at the end, and STRUCTs take in their new members, where they stand -#}
{%- macro add_new_columns(newest, target) -%}
    {%- set known = {} -%}
    {%- for column in relation_columns(target) -%}
        {%- do known.update({column.name | lower: column.type}) -%}
    {%- endfor -%}
    {%- set changes = [] -%}
    {%- set notes = [] -%}
    {%- for column in relation_columns(newest) -%}
        {%- set name = adapter.quote(column.name) -%}
        {%- set type = known.get(column.name | lower) -%}
        {%- if not type -%}
            {%- do changes.append('add column ' ~ name ~ ' ' ~ column.type) -%}
            {%- do notes.append(column.name) -%}
        {%- elif type != column.type and type.startswith('STRUCT(') -%}
            {%- do changes.append('alter column ' ~ name ~ ' set data type ' ~ column.type) -%}
            {%- do notes.append(column.name ~ ' (new members)') -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if changes -%}
        {%- call statement('add_columns', auto_begin=false) -%}
begin;
        {%- for change in changes %}
alter table {{ target }} {{ change }};
        {%- endfor %}
commit;
        {%- endcall -%}
        {%- do comment_columns(target) -%}
        {{ log(target.identifier ~ ' has new columns: ' ~ notes | join(', '), info=true) }}
    {%- endif -%}
{%- endmacro -%}

{%- macro raise_watermark(newest, target) -%}
    {#- Where every row of a batch lost, one row carries the batch on, or it would be read for ever -#}
    {%- set reached = read_json("select to_json({
        delta: (select max(_batch) from " ~ newest ~ "),
        merged: (select max(_batch) from " ~ target ~ ")})") -%}
    {%- if reached.delta and reached.merged and reached.delta > reached.merged -%}
        {%- do write_sql('update ' ~ target ~ ' set _batch = ' ~ reached.delta
            ~ ' where _key = (select max(_key) from ' ~ target ~ ')') -%}
    {%- endif -%}
{%- endmacro -%}

{%- macro comment_columns(relation) -%}
    {#- A column that could not keep its attribute's name says in its comment what that is -#}
    {%- set there = relation_columns(relation) | map(attribute='name') | list -%}
    {%- set comments = [] -%}
    {%- for column in merge_plan(this.identifier.rpartition('_')[0]).columns
            if column.name != column.path and column.name in there -%}
        {%- do comments.append('comment on column ' ~ relation ~ '.' ~ adapter.quote(column.name)
            ~ " is 'DynamoDB attribute " ~ column.path | replace("'", "''") ~ "';") -%}
    {%- endfor -%}
    {%- if comments -%}{%- do write_sql('begin; ' ~ comments | join(' ') ~ ' commit;') -%}{%- endif -%}
{%- endmacro -%}

{%- macro write_sql(sql) -%}
    {%- call statement('write_sql', auto_begin=false) -%}{{ sql }}{%- endcall -%}
{%- endmacro -%}
