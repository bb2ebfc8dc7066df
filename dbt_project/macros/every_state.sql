{#- Every state that each key of `model` was ever in, typed, one row a state, deletions included:
    all of them where the table is built anew, else what became visible since it was appended to
    last. In most minutes that is the stream's new rows as they came. Where an epoch went live the
    base's rows have to be weighed, and the whole log is looked at for it (see how-it-works.md).

    Where the log does not keep everything, the raw items are in this table too, and it is built anew
    from its own rows. -#}

{%- macro every_state(model) -%}
{%- set changes = ref('stg_' ~ model ~ '_changes') -%}
{%- set plan = merge_plan(model) -%}
{%- set raw = has_raw_items(this) -%}
{%- do plan.update({'raw': raw or (config.get('meta') or {}).get('raw_items', false), 'own': false}) -%}
{%- if raw and plan.rebuild -%}
    {%- do plan.update({'own': true, 'watermark': merge_target(this).watermark}) -%}
{%- elif plan.raw and not raw and not plan.rebuild -%}
    {%- do plan.update({'rebuild': true, 'why': 'it is to have the raw items too',
                        'head': [plan.head, plan.watermark] | max, 'watermark': 0}) -%}
{%- endif -%}
{%- if execute and plan.rebuild and plan.why != 'it is new' -%}
    {{ log(this.identifier ~ ' is built anew from ' ~ ('its own rows' if plan.own else 'the log')
           ~ ': ' ~ plan.why, info=true) }}
{%- endif -%}
{{ adapter.dispatch('every_state')(changes, plan) }}
{%- endmacro -%}

{%- macro state_columns() -%}
{{ return(['_key', '_version', '_batch', '_op', '_changed_at', '_by_ttl']) }}
{%- endmacro -%}

{#- Whether the states in `relation` have the items as DynamoDB sent them -#}
{%- macro has_raw_items(relation) -%}
    {%- if not execute or not table_exists(relation) -%}{{ return(false) }}{%- endif -%}
    {{ return('_image' in relation_columns(relation) | map(attribute='name') | list) }}
{%- endmacro -%}

{%- macro duckdb__every_state(changes, plan) -%}
{%- set fulls = plan.live | selectattr('kind', 'equalto', 'full') | list -%}
{%- set went_live = plan.live | selectattr('batch', 'gt', plan.watermark) | list -%}
/* tailrace: {{ 'rebuild' if plan.rebuild else 'append from batch ' ~ plan.watermark }} to batch {{ plan.head }} */
with

visible as not materialized (
    select
        key, version, epoch, op, image, changed_at, ttl_expired, batch, visible_batch, log_row,
        {{ version_is_base('version') }} as is_base
    from {{ changes }}
    where visible_batch <= {{ plan.head }} and batch <= {{ plan.head }}
    {%- if not went_live %}
        and batch > {{ plan.watermark }} and visible_batch > {{ plan.watermark }}
    {%- endif %}
),
{% if went_live %}
{{ weighed_bases(fulls, plan.watermark) }},
{% endif %}
states as (
    {%- if plan.own %}
    select {{ state_columns() | join(', ') }}, _image
    from {{ this }}
    union all
    {%- endif %}
    select
        key as _key, version as _version, visible_batch as _batch, op as _op,
        changed_at as _changed_at, ttl_expired as _by_ttl, image as _image
    from visible
    where visible_batch > {{ plan.watermark }}
    {%- if went_live %}
        and not exists (select 1 from told where told.log_row = visible.log_row)
    {%- endif %}
    {%- if went_live and fulls %}
    union all
    select key, floor, live_batch, 'REMOVE', recorded_at, false, null
    from vanished
    where live_batch > {{ plan.watermark }}
    {%- endif %}
)

{{ attribute_values('states', plan.columns, state_columns() + (['_image'] if plan.raw else [])) }}
{%- endmacro -%}

{#- The CTEs `told`, the base rows that tell nothing new, and `vanished`, the keys that a full base
    did not hold. Decided only by what had landed when the epoch went live, so that a rebuild comes
    to what was appended. -#}
{%- macro weighed_bases(fulls, watermark) -%}
in_order as materialized (
    select
        log_row, key, epoch, op, batch, visible_batch, changed_at, is_base,
        {{ full_after(fulls, 'epoch') }} as replaced_by,
        lag(log_row) over versions as prior_row,
        lag(epoch) over versions as prior_epoch,
        lag(op) over versions as prior_op,
        lag(batch) over versions as prior_batch,
        lead(log_row) over versions as next_row,
        lead(epoch) over versions as next_epoch,
        lead(is_base) over versions as next_is_base,
        lead(batch) over versions as next_batch,
        lead(changed_at) over versions as next_changed_at
    from visible
    window versions as (partition by key order by version, log_row)
),

bases as (
    select
        *,
        prior_row is not null and prior_batch < visible_batch and (
            prior_op = 'REMOVE' or {{ full_after(fulls, 'prior_epoch') }} is null
            or {{ full_after(fulls, 'prior_epoch') }} >= epoch
        ) as follows_a_state,
        coalesce(next_epoch = epoch and not next_is_base and next_batch < visible_batch, false)
            as precedes_a_change
    from in_order
    where is_base and visible_batch > {{ watermark }}
),

-- A base row is weighed against its neighbours: did it find what was there before, or what one of
-- the changes after it had made already (a base's rows bear the time at which their batch began)?
pairs as (
    select log_row, prior_row as other_row from bases where follows_a_state
    union all
    select bases.log_row, change.log_row
    from bases
    inner join in_order as change on
        change.key = bases.key and change.epoch = bases.epoch and not change.is_base
        and change.batch < bases.visible_batch
    where bases.precedes_a_change and bases.next_changed_at > bases.changed_at
),

digests as materialized (
    select log_row, {{ state_digest('image') }} as digest
    from visible
    where log_row in (select log_row from pairs union all select other_row from pairs)
),

told as materialized (
    select log_row from bases where precedes_a_change and next_changed_at <= changed_at
    union
    select pairs.log_row
    from pairs
    inner join digests as mine on mine.log_row = pairs.log_row
    inner join digests as other on other.log_row = pairs.other_row
    where mine.digest is not distinct from other.digest
)
{%- if fulls %},

fulls (epoch, floor, live_batch, recorded_at) as (
    values
    {%- for full in fulls %}
    ({{ full.epoch }}, {{ version_floor(full.epoch) }}, {{ full.batch }}, '{{ full.recorded_at }}'::timestamptz){{ ',' if not loop.last }}
    {%- endfor %}
),

vanished as (
    select in_order.key, fulls.floor, fulls.live_batch, fulls.recorded_at
    from in_order
    inner join fulls on fulls.epoch = in_order.replaced_by
    where in_order.op <> 'REMOVE' and (
        in_order.next_row is null
        or in_order.next_epoch > fulls.epoch
        or in_order.next_epoch = fulls.epoch
        and not in_order.next_is_base
        and in_order.next_batch > fulls.live_batch
    )
)
{%- endif %}
{%- endmacro -%}

{#- SQL: the first full epoch after `epoch`, the one that replaced it; NULL where there is none -#}
{%- macro full_after(fulls, epoch) -%}
{%- if fulls -%}
case{% for full in fulls %} when {{ epoch }} < {{ full.epoch }} then {{ full.epoch }}{% endfor %} end
{%- else -%}
null::integer
{%- endif -%}
{%- endmacro -%}
