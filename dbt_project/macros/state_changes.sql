{#- The changes of `model`, one row each: the item before and after, and which attributes changed.

    They are the states, without those that a base found at the beginning; their images are looked
    up in the log. The join names the time too: what a query filters the states by then reaches the
    log's files. What was before comes from the stream; where that did not tell (it carries no old
    images, or a later base or a repair found the change), it is the state before. Where the log does
    not keep everything, the changes go back as far as it does. -#}

{%- macro state_changes(model) -%}
{%- set states = ref(model ~ '_states') -%}
{%- set log = source('changes', model) -%}
{%- set control = [source('tailrace', 'tables'), source('tailrace', 'epochs')] -%}
{%- set told = told_by(model) -%}
{%- do told.update({'shortened': has_raw_items(states)}) -%}
{%- do told.update({'lost': told.first is not none and has_lost_keys(states, told.first)}) -%}
{{ adapter.dispatch('state_changes')(states, log, key_columns(model), told) }}
{%- endmacro -%}

{%- macro change_columns() -%}
{{ return(['_op', '_changed_at', '_by_ttl', '_changed', '_before', '_after', '_key', '_version']) }}
{%- endmacro -%}

{#- Which epochs' streams carry no old images (`silent`), which live epoch is the `first` and which
    are not (`later`): only of the latter's bases do the states before have to be looked up, and of the
    first's where it did not hold a key that the stream had told of (`lost`) -#}
{%- macro told_by(model) -%}
    {%- set log = source('changes', model) -%}
    {%- if not execute or not table_exists(log) -%}
        {{ return({'silent': [], 'first': none, 'later': []}) }}
    {%- endif -%}
    {%- set found = read_json("
        select to_json({
            silent: list(distinct epochs.epoch order by epochs.epoch) filter (
                tables.view_type is distinct from 'NEW_AND_OLD_IMAGES'),
            live: list(distinct epochs.epoch order by epochs.epoch) filter (
                epochs.state = 'live')})
        from " ~ source('tailrace', 'epochs') ~ " as epochs
        left join " ~ source('tailrace', 'tables') ~ " as tables
            on tables.model = epochs.model and tables.batch = epochs.batch
        where epochs.model = '" ~ model ~ "'") -%}
    {%- set live = found.live or [] -%}
    {{ return({'silent': found.silent or [], 'first': live | first or none, 'later': live[1:]}) }}
{%- endmacro -%}

{%- macro has_lost_keys(states, epoch) -%}
    {{ return(table_exists(states) and read_json("
        select to_json(count(*) > 0) from (from " ~ states ~ " where " ~ lost_key(epoch) ~ " limit 1)")) }}
{%- endmacro -%}

{%- macro lost_key(epoch) -%}
_op = 'REMOVE' and {{ version_is_base('_version') }} and {{ version_epoch('_version') }} = {{ epoch }}
{%- endmacro -%}

{%- macro duckdb__state_changes(states, log, key, told) -%}
{%- set quoted = [] -%}
{%- for name in key -%}{%- do quoted.append(adapter.quote(name)) -%}{%- endfor -%}
{%- set own = ['_key', '_version', '_op', '_changed_at', '_by_ttl'] -%}
{%- set rebased = told.later or told.lost -%}
{%- set later_base -%}
(
    {%- if told.later -%}
    {{ version_is_base('_version') }} and {{ version_epoch('_version') }} in ({{ told.later | join(', ') }})
        and _version >= {{ version_floor(told.later[0]) }}
    {%- endif -%}
    {%- if told.later and told.lost %} or {% endif -%}
    {%- if told.lost %}{{ lost_key(told.first) }}{% endif -%}
)
{%- endset -%}
{%- set untold -%}
(
    {%- if rebased %}{{ later_base }}{% else %}false{% endif %}
    {%- if told.silent %}
        or not {{ version_is_base('_version') }} and _op <> 'INSERT'
            and {{ version_epoch('_version') }} in ({{ told.silent | join(', ') }})
    {%- endif -%}
)
{%- endset -%}
with

told as (
    select
        {{ (quoted + own) | join(', ') }},
        log.image as _after,
        log.old_image as _before
    from {{ states.include(database=false) }} as states
    left join {{ log.include(database=false) }} as log
        on log.key = states._key and log.version = states._version
        and log.changed_at = states._changed_at
    where _op <> 'READ' and not {{ version_is_base('_version') }}
    {%- if rebased or told.silent %} and not {{ untold }}{% endif %}
    {%- if told.shortened %} and log.key is not null{% endif %}
),
{% if rebased or told.silent %}
in_order as (
    select
        {{ (quoted + own) | join(', ') }},
        lag(_version) over versions as prior_version,
        lag(_changed_at) over versions as prior_changed_at
    from {{ states.include(database=false) }}
    {%- if not told.silent %}
    where _key in (select _key from {{ states.include(database=false) }} where {{ later_base }})
    {%- endif %}
    window versions as (
        partition by _key{% for name in quoted %}, {{ name }}{% endfor %} order by _version
    )
),

untold as (
    select
        {{ (quoted + own) | join(', ') }},
        log.image as _after,
        coalesce(log.old_image, prior.image) as _before
    from in_order
    left join {{ log.include(database=false) }} as log
        on log.key = in_order._key and log.version = in_order._version
        and log.changed_at = in_order._changed_at
    left join {{ log.include(database=false) }} as prior
        on prior.key = in_order._key and prior.version = in_order.prior_version
        and prior.changed_at = in_order.prior_changed_at
    where {{ untold }}
    {%- if told.shortened %} and (log.key is not null or {{ version_is_base('_version') }}){% endif %}
),
{% endif %}
changes as (
    select *, {before: _before::map(varchar, json), after: _after::map(varchar, json)} as _changed
    from (
        select * from told
        {%- if rebased or told.silent %}
        union all
        select * from untold
        {%- endif %}
    )
)

select
    {% for name in quoted %}{{ name }}, {% endfor -%}
    _op,
    _changed_at,
    _by_ttl,
    case when _op <> 'MODIFY' or _before is not null then
        {{ changed_attributes('_changed.before', '_changed.after') }}
    end as _changed,
    {{ plain_json('_before') }} as _before,
    {{ plain_json('_after') }} as _after,
    _key,
    _version
from changes
{%- endmacro -%}

{#- SQL: the names of the attributes in which two items differ, each a MAP of DynamoDB JSON, or NULL
    where there is no item. What differs as a text is looked at again: AWS promises no order. -#}
{%- macro changed_attributes(before, after) -%}
list_sort(list_transform(
        list_filter(
            list_transform(
                list_filter(
                    list_distinct(coalesce(map_keys({{ before }}), []) || coalesce(map_keys({{ after }}), [])),
                    lambda name: {{ before }}[name] is distinct from {{ after }}[name]),
                lambda name: {name: name, before: {{ before }}[name], after: {{ after }}[name]}),
            lambda pair: {{ ordered_value('pair.before', 4) }}
                is distinct from {{ ordered_value('pair.after', 4) }}),
        lambda pair: pair.name))
{%- endmacro -%}
