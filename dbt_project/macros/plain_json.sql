{#- SQL: plain JSON of a value in DynamoDB JSON: {"M":{"qty":{"N":"2"}}} becomes {"qty":2}. Numbers
    keep their digits, sets become arrays, binary stays base64. One pass of one expression, with
    nothing to know about the structure beforehand: a string is always taken whole, so what stands
    in it is never mistaken for structure. What DynamoDB would not write stays as it is. -#}

{%- macro plain_json(document) -%}
{{ adapter.dispatch('plain_json')(document) }}
{%- endmacro -%}

{%- macro duckdb__plain_json(document) -%}
    {%- set string = '"(?:[^"\\\\]|\\\\.)*"' -%}
    {%- set number = '-?(?:0|[1-9][0-9]*)(?:\\.[0-9]+)?(?:[Ee][+-]?[0-9]+)?' -%}
    {#- A member's name, and what opens its value; a name alone; what closes a map or a list. The
        values of the nine groups follow each other in the result, all but one or two empty. -#}
    {%- set expression -%}
({{ string }}:)?\{"(?:[SB]":({{ string }})\}|N":(?:"({{ number }})"|({{ string }}))\}|(?:BOOL|NULL)":([a-z]+)\}|[SBN]S":(\[(?:{{ string }},?)*\]|\[[^"\]]*\])\}|[ML]":([\{\[]))|({{ string }})|([\]\}])\}
    {%- endset -%}
{%- set marked -%}
replace(({{ document }})::varchar, '{"NULL":true}', '{"NULL":null}')
    {%- endset -%}
coalesce(try_cast(regexp_replace({{ bare_number_sets(marked) }}, '{{ expression }}', '\1\2\3\4\5\6\7\8\9', 'g') as json), {{ document }})
{%- endmacro -%}

{#- SQL: the numbers of number sets without their quotes. No string can hold {"NS":[, for a quote
    within one is escaped. -#}
{%- macro bare_number_sets(text) -%}
{%- set opening = '{"NS":[' -%}
case when contains({{ text }}, '{{ opening }}')
    then array_to_string(list_transform(string_split({{ text }}, '{{ opening }}'), lambda piece, place:
        case when place = 1 then piece
            else replace(split_part(piece, ']', 1), '"', '') || substr(piece, instr(piece, ']')) end
    ), '{{ opening }}')
    else {{ text }} end
{%- endmacro -%}
