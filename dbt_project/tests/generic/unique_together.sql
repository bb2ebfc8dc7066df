{#- A data test: no two rows hold the same values in all of `columns`. -#}

{% test unique_together(model, columns) %}
{%- set quoted = [] -%}
{%- for column in columns -%}{%- do quoted.append(adapter.quote(column)) -%}{%- endfor %}
select {{ quoted | join(', ') }}, count(*) as rows_found
from {{ model }}
group by {{ quoted | join(', ') }}
having count(*) > 1
{% endtest %}
