{#- What DynamoDB sends, and what becomes of it in a column of a type: exact, or NULL where it does not
    fit; nothing is rounded. -#}

{%- set longest = '9' * 38 -%}
{%- set values = [
    ('BIGINT', '7', '7'),
    ('BIGINT', '-007.0', '-7'),
    ('BIGINT', '9' * 18, '9' * 18),
    ('BIGINT', '1.5', none),
    ('BIGINT', '1' ~ '0' * 19, none),
    ('BIGINT', '1E3', none),
    ('DECIMAL(38,2)', '1.5', '1.50'),
    ('DECIMAL(38,2)', '1.255', none),
    ('DECIMAL(38,2)', '9' * 36 ~ '.99', '9' * 36 ~ '.99'),
    ('DECIMAL(38,0)', longest, longest),
    ('BOOLEAN', 'true', 'true'),
    ('VARCHAR', '0.10', '0.10'),
] -%}
{%- set documents = [
    ('{"M":{"a":{"N":"1.50"},"b":{"L":[{"S":"}"},{"NULL":true}]}}}', '{"a":1.50,"b":["}",null]}'),
    ('{"M":{"M":{"SS":["x"]},"n":{"NS":["2","10"]}}}', '{"M":["x"],"n":[2,10]}'),
    ('{"BOOL":false}', 'false'),
] -%}
with

found (type, given, found, wanted) as (
    values
    {%- for type, given, wanted in values %}
    ('{{ type }}', '{{ given }}', ({{ exact_value("'" ~ given ~ "'", type) }})::varchar, {{ "'" ~ wanted ~ "'" if wanted is not none else 'null' }}),
    {%- endfor %}
    {%- for given, wanted in documents %}
    ('JSON', '{{ given }}', ({{ plain_json("'" ~ given ~ "'::json") }})::varchar, '{{ wanted }}'),
    {%- endfor %}
    ('epoch_seconds', '1764150000.25', ({{ instant("'1764150000.25'", 'epoch_seconds') }})::varchar, '2025-11-26 09:40:00.25+00'),
    ('timestamp', '2026-11-01T14:30:00+02:00', ({{ instant("'2026-11-01T14:30:00+02:00'", 'timestamp') }})::varchar, '2026-11-01 12:30:00+00')
)

select *
from found
where found is distinct from wanted
