{#- A data test: each row of `model`, told by `columns`, is in exactly one of `models`. It returns how
    many rows are in none of them, or in more than one, with an example. -#}

{% test in_exactly_one_of(model, columns, models) %}
{%- set quoted = [] -%}
{%- for column in columns -%}{%- do quoted.append(adapter.quote(column)) -%}{%- endfor %}
with

found as (
    {%- for each in models %}
    select {{ quoted | join(', ') }} from {{ each }}
    {%- if not loop.last %}
    union all
    {%- endif %}
    {%- endfor %}
),

counted as (
    select {{ quoted | join(', ') }}, count(*) as models_found
    from found
    group by {{ quoted | join(', ') }}
)

select
    coalesce(models_found, 0) as models_found,
    count(*) as rows_found,
    {%- for column in quoted %}
    any_value({{ column }}) as {{ column }}{{ ',' if not loop.last }}
    {%- endfor %}
from {{ model }}
left join counted using ({{ quoted | join(', ') }})
where models_found is distinct from 1
group by all
{% endtest %}
