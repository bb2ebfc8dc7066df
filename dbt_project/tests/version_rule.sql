{#- Versions in their order, oldest first: each beats those before it and none after it, and tells its
    epoch and whether it is of a base. -#}

{%- set zeros = '0' * 40 -%}
{%- set versions = [
    ('000001-' ~ '9' * 40, 1, false),
    ('0000010' ~ zeros, 1, true),
    ('0000011' ~ zeros, 1, false),
    ('0000011' ~ '0' * 38 ~ '99', 1, false),
    ('0000011' ~ '0' * 37 ~ '100', 1, false),
    ('000002-' ~ '0' * 40, 2, false),
    ('0000020' ~ zeros, 2, true),
    ('0000101' ~ zeros, 10, false),
] -%}
with

versions (place, version, epoch, is_base) as (
    values
    {%- for version, epoch, is_base in versions %}
    ({{ loop.index }}, '{{ version }}', {{ epoch }}, {{ is_base }}){{ ',' if not loop.last }}
    {%- endfor %}
)

select
    one.version,
    other.version as other
from versions as one
cross join versions as other
where ({{ version_wins('one.version', 'other.version') }}) <> (one.place > other.place)
    or {{ version_epoch('one.version') }} <> one.epoch
    or ({{ version_is_base('one.version') }}) <> one.is_base
    or one.is_base and one.epoch = 2 and one.version <> {{ version_floor(2) }}
