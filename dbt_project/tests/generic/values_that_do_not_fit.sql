{#- A data test: the columns of <table>_latest that lack values because these do not fit. It counts
    the values. -#}

{% test values_that_do_not_fit(model, table) %}
{{ misfits(table) }}
{% endtest %}
