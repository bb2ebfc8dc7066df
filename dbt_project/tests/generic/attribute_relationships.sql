{#- A data test: each value of a column is one of `field` in the model `to`. A column that no item ever
    had a value for is not there yet, and has none that could be missing. -#}

{% test attribute_relationships(model, column_name, to, field) %}
{%- if awaits_column(model, column_name) -%}
select null as value_missing where false
{%- else %}
select {{ column_name }} as value_missing
from {{ model }}
where {{ column_name }} is not null
    and {{ column_name }} not in (select {{ field }} from {{ to }} where {{ field }} is not null)
{%- endif %}
{% endtest %}
