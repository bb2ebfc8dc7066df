{#- The columns that are Tailrace's own in <model>_latest, and all names that are kept free for
    columns of its own in any model. An attribute of such a name gets a suffix. -#}

{%- macro own_columns() -%}
{{ return(['_key', '_version', '_epoch', '_batch', '_op', '_changed_at', '_ttl_expired', '_image']) }}
{%- endmacro -%}

{%- macro reserved_columns() -%}
{#- _moment is what the parameter of <model>_as_of is called: SQL would take a column for it. The last
    three are DuckLake's own: a table with such a column cannot be made, or merged into. -#}
{{ return(own_columns() + ['_landed_at', '_valid_from', '_valid_to', '_is_current', '_by_ttl',
                           '_changed', '_before', '_after', '_moment', '_position',
                           'rowid', '_ducklake_internal_row_id', '_ducklake_internal_snapshot_id']) }}
{%- endmacro -%}
