{#- Whether the public model of a table lacks a column because no item ever had the attribute: then
    every item lacks it, and a test of its values has nothing to test. It says so, in case the name is
    misspelt. -#}

{%- macro awaits_column(model, column_name) -%}
    {%- if not execute or not model.identifier or not table_exists(model) -%}{{ return(false) }}{%- endif -%}
    {%- for column in relation_columns(model)
            if column_name | lower in [column.name | lower, adapter.quote(column.name) | lower] -%}
        {{ return(false) }}
    {%- endfor -%}
    {{ log(model.identifier ~ ' has no column ' ~ column_name ~ ' yet: no item ever had the attribute,'
           ~ ' and there was nothing to test. If it is misspelt, mend tailrace.yaml.', info=true) }}
    {{ return(true) }}
{%- endmacro -%}
