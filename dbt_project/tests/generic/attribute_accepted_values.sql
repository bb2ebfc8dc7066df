{#- A data test: a column holds none but these values, told as texts. A column that no item ever had a
    value for is not there yet, and holds no other. -#}

{% test attribute_accepted_values(model, column_name, values) %}
{%- if awaits_column(model, column_name) -%}
select null as value_found, 0 as rows_found where false
{%- else %}
select {{ column_name }}::varchar as value_found, count(*) as rows_found
from {{ model }}
where {{ column_name }}::varchar not in (
    {%- for value in values %}'{{ value }}'{{ ', ' if not loop.last }}{% endfor -%}
)
group by all
{%- endif %}
{% endtest %}
