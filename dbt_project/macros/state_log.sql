{#- The materialization of <model>_states: rows are appended and never changed.

    The new rows are worked out beside the table; one INSERT then takes them in, if the table still
    ends at the batch from which they were worked out. So it may run again, be killed at any point,
    or meet another run: no row gets in twice. A rebuild fills a table beside it and swaps the
    two, as for <model>_latest. -#}

{%- materialization state_log, adapter='duckdb' -%}
    {%- set existing = load_cached_relation(this) -%}
    {%- set target = this.incorporate(type='table') -%}
    {%- set task = modules.re.search(
        '/[*] tailrace: (rebuild|append from batch ([0-9]+)) to batch [0-9]+ [*]/', sql) -%}
    {%- if task[2] and not existing -%}
        {{ exceptions.raise_compiler_error(this ~ ' vanished while it was being appended to.') }}
    {%- endif -%}
    {%- do run_each_hook(pre_hooks) -%}
    {%- if task[2] -%}
        {%- do append_states(target, sql, task[2]) -%}
    {%- else -%}
        {%- do rebuild_table(existing, target, sql) -%}
    {%- endif -%}
    {%- do run_each_hook(post_hooks) -%}
    {{ return({'relations': [target]}) }}
{%- endmaterialization -%}

{%- macro append_states(target, sql, watermark) -%}
    {%- set newest = make_temp_relation(target) -%}
    {%- call statement('newest', auto_begin=false) -%}
create temporary table {{ newest }} as
{{ sql }}
    {%- endcall -%}
    {%- do add_new_columns(newest, target) -%}
    {%- call statement('main', auto_begin=false) -%}
insert into {{ target }} by name
select * from {{ newest }}
where (select coalesce(max(_batch), 0) from {{ target }}) = {{ watermark }}
    {%- endcall -%}
    {%- do write_sql('drop table ' ~ newest) -%}
{%- endmacro -%}
