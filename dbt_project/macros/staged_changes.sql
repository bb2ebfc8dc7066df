{#- The change log of `model` as far as anyone may see it, with the batch from which on each row
    counts (`visible_batch`): a base row from the batch in which its epoch went live, a stream row
    at once, or, where its stream overlaps the one before it, when its epoch went live; and none
    before the table first went live. -#}

{%- macro staged_changes(model) -%}
{%- set log = source('changes', model) -%}
{%- set epochs = source('tailrace', 'epochs') -%}
{{ adapter.dispatch('staged_changes')(model, log, epochs) }}
{%- endmacro -%}

{%- macro duckdb__staged_changes(model, log, epochs) -%}
with

live as not materialized (
    select epoch, min(batch) as batch
    from {{ epochs.include(database=false) }}
    where model = '{{ model }}' and state = 'live'
    group by epoch
),

first_live as (
    select min(batch) as batch from live
),

-- Until such an epoch is live, its stream may be behind what readers see: the rows of before its
-- base, too, which count as of the epoch before.
overlapping as not materialized (
    select distinct epochs.epoch, live.batch
    from {{ epochs.include(database=false) }} as epochs
    left join live on live.epoch = epochs.epoch
    where epochs.model = '{{ model }}' and (epochs.detail->>'$.overlaps') = 'true'
)

select
    log.batch,
    log.version,
    log.epoch,
    log.op,
    log.key,
    log.image,
    log.old_image,
    log.changed_at,
    log.ttl_expired,
    log.landed_at,
    case
        when {{ version_is_base('log.version') }} then live.batch
        when overlapping.epoch is not null then greatest(log.batch, overlapping.batch)
        when first_live.batch is not null then greatest(log.batch, first_live.batch)
    end as visible_batch,
    log.rowid as log_row
from {{ log.include(database=false) }} as log
cross join first_live
left join live on live.epoch = log.epoch
left join overlapping on overlapping.epoch = {{ version_epoch('log.version') }}
where case
    when {{ version_is_base('log.version') }} then live.batch is not null
    when overlapping.epoch is not null then overlapping.batch is not null
    else first_live.batch is not null
end
{%- endmacro -%}
