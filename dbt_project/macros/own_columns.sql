{#- The columns that are Tailrace's own in <model>_latest, and the names kept free for models to
    come. An attribute of such a name gets a suffix. -#}

{%- macro own_columns() -%}
{{ return(['_key', '_version', '_epoch', '_batch', '_op', '_changed_at', '_ttl_expired', '_image']) }}
{%- endmacro -%}

{%- macro reserved_columns() -%}
{{ return(own_columns() + ['_landed_at', '_valid_from', '_valid_to', '_is_current', '_by_ttl']) }}
{%- endmacro -%}
