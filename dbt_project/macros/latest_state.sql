{#- The newest row of each key of `model`, typed: of all keys where the table is built anew, else
    of the keys that changed since it was merged last. Literal batch bounds let DuckLake skip the
    log's older files. The first line tells the materialization which of the two it is.

    The states go first: where a build was killed between the two, this table's watermark still
    asks for another build. -#}

{%- macro latest_state(model) -%}
{%- set changes = ref('stg_' ~ model ~ '_changes') -%}
{%- do ref(model ~ '_states') -%}
{%- set plan = merge_plan(model) -%}
{%- if execute and plan.rebuild and plan.why != 'it is new' -%}
    {{ log(this.identifier ~ ' is built anew from the log: ' ~ plan.why, info=true) }}
{%- endif -%}
{{ adapter.dispatch('latest_state')(changes, plan) }}
{%- endmacro -%}

{%- macro duckdb__latest_state(changes, plan) -%}
{%- set full = plan.live | selectattr('kind', 'equalto', 'full') | list | last -%}
{%- set went_live = plan.live | selectattr('batch', 'gt', plan.watermark) | list -%}
{%- set first_live_is_new = plan.live and plan.live | map(attribute='batch') | min > plan.watermark -%}
/* tailrace: {{ 'rebuild' if plan.rebuild else 'merge' }} to batch {{ plan.head }} */
with

visible as not materialized (
    select key, version, epoch, op, image, changed_at, ttl_expired, visible_batch, log_row
    from {{ changes }}
    where visible_batch <= {{ plan.head }} and batch <= {{ plan.head }}
    {%- if not plan.rebuild and not first_live_is_new %}
        and visible_batch > {{ plan.watermark }}
        and (batch > {{ plan.watermark }}
        {%- if went_live %} or epoch in ({{ went_live | map(attribute='epoch') | join(', ') }}){% endif -%}
        )
    {%- endif %}
),

-- Most keys have one row only: there is nothing to rank then.
several as (
    select key from visible group by key having count(*) > 1
),

-- Ranked by row number, so that sorting never carries an image.
ranked as (
    select
        log_row,
        max(visible_batch) over (partition by key) as merged_batch,
        row_number() over (partition by key order by version desc, log_row desc) as place
    from visible
    where key in (select key from several)
),

-- What is older than the newest full base and not in it was deleted meanwhile: it is gone.
winners as (
    select
        visible.*,
        coalesce(ranked.merged_batch, visible.visible_batch) as merged_batch,
        {{ version_wins(version_floor(full.epoch), 'visible.version') if full else 'false' }} as gone
    from visible
    left join ranked on ranked.log_row = visible.log_row
    where ranked.place = 1 or ranked.place is null
),

states as (
    {%- if full %}
    select
        key as _key,
        case when gone then {{ version_floor(full.epoch) }} else version end as _version,
        case when gone then {{ full.epoch }} else epoch end as _epoch,
        case when gone then greatest(merged_batch, {{ full.batch }}) else merged_batch end as _batch,
        case when gone then 'REMOVE' else op end as _op,
        case when gone and op <> 'REMOVE' then '{{ full.recorded_at }}'::timestamptz
            else changed_at end as _changed_at,
        ttl_expired and not (gone and op <> 'REMOVE') as _ttl_expired,
        case when not gone then image end as _image
    from winners
    {%- else %}
    select
        key as _key, version as _version, epoch as _epoch, merged_batch as _batch, op as _op,
        changed_at as _changed_at, ttl_expired as _ttl_expired, image as _image
    from winners
    {%- endif %}
    {%- if full and not plan.rebuild and full.batch > plan.watermark %}
    union all
    select
        _key, {{ version_floor(full.epoch) }}, {{ full.epoch }}, {{ full.batch }}, 'REMOVE',
        '{{ full.recorded_at }}'::timestamptz, false, null
    from {{ this }} as merged
    where {{ version_wins(version_floor(full.epoch), '_version') }}
        and _op <> 'REMOVE'
        and not exists (select 1 from visible where visible.key = merged._key)
    {%- endif %}
)

{{ attribute_values('states', plan.columns, own_columns()) }}
{%- endmacro -%}
