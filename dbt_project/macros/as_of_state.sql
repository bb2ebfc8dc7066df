{#- Creates <model>_as_of(moment), a table macro in the warehouse: the items as they were then; in
    UTC, where the moment has no zone. A macro's names are looked up where it is called and not
    where it stands, so the history is named with its database: the warehouse has to be attached
    under the same name. -#}

{%- macro as_of_state(model) -%}
{{ adapter.dispatch('as_of_state')(model) }}
{%- endmacro -%}

{%- macro duckdb__as_of_state(model) -%}
{%- set instant -%}
case
        when regexp_matches(_moment::varchar, ':\d\d(\.\d+)? ?[A-Za-z+-]')
            then _moment::varchar::timestamptz
        else _moment::varchar::timestamp at time zone 'UTC'
    end
{%- endset -%}
create or replace macro {{ this.incorporate(path={'identifier': model ~ '_as_of'}) }}(_moment) as table
select * exclude ({{ history_columns() | join(', ') }}), _valid_from as _changed_at
from {{ this }}
where _op <> 'REMOVE'
    and _valid_from <= {{ instant }}
    and (_valid_to is null or _valid_to > {{ instant }})
{%- endmacro -%}
