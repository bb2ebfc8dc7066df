{#- SQL: a digest of an item, the same for images that say the same. AWS promises no order of
    attributes nor of sets' elements, and a base writes them in another one than the stream. Maps
    within maps and lists are put in order down to a depth; deeper ones count as they are written.
    Different states never have one digest (md5, 128 bits). NULL for no item. -#}

{%- macro state_digest(image) -%}
{{ adapter.dispatch('state_digest')(image) }}
{%- endmacro -%}

{%- macro duckdb__state_digest(image) -%}
md5_number({{ ordered_map(image, 4) }})
{%- endmacro -%}

{%- macro ordered_map(map, depth) -%}
to_json(list_sort(list_transform(
    map_entries(({{ map }})::map(varchar, json)),
    lambda e{{ depth }}: [e{{ depth }}.key, {{ ordered_value('e' ~ depth ~ '.value', depth) }}]
)))::varchar
{%- endmacro -%}

{%- macro ordered_value(value, depth) -%}
{%- if depth == 0 -%}
{{ value }}::varchar
{%- else -%}
case
    when starts_with({{ value }}, '{"M":') then {{ ordered_map(value ~ "->'M'", depth - 1) }}
    when starts_with({{ value }}, '{"L":') then 'L' || to_json(list_transform(
        ({{ value }}->'L')::json[],
        lambda v{{ depth }}: {{ ordered_value('v' ~ depth, depth - 1) }}
    ))::varchar
    {%- for tag in ['SS', 'NS', 'BS'] %}
    when starts_with({{ value }}, '{"{{ tag }}":')
        then '{{ tag }}' || to_json(list_sort(({{ value }}->'{{ tag }}')::varchar[]))::varchar
    {%- endfor %}
    else {{ value }}::varchar
end
{%- endif -%}
{%- endmacro -%}
