{#- The one place in dbt that knows how a `version` is laid out and what it means: six digits of
    epoch, one sign of phase (- stream before the base, 0 base, 1 stream), and a position, compared
    as text. Positions are of one width within an epoch and a phase; wherever these differ they
    decide, and no position is looked at. The engine's half is tailrace/lake/version.py, and a test holds the two together. -#}

{%- macro version_wins(candidate, current) -%}
{{ candidate }} > {{ current }}
{%- endmacro -%}

{%- macro version_is_base(version) -%}
substr({{ version }}, 7, 1) = '0'
{%- endmacro -%}

{%- macro version_floor(epoch) -%}
'{{ '%06d' % epoch }}{{ '0' * 41 }}'
{%- endmacro -%}

{%- macro version_epoch(version) -%}
substr({{ version }}, 1, 6)::integer
{%- endmacro -%}
