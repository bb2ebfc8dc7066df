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

{#- SQL of the same in three steps, at a third of the time, for the usual document: its strings have no
    escapes and do not hold what ends a value, and there are no sets and no binary in it. Where there
    is no backslash every quote is structure, so a pattern with a quote never is what a string says.
    Each step is to be a column of its own: the last is checked against the others (plain_checked).

    Scalars first. What is cut at "}, which ends S and N, has one beginning in each piece. If a piece
    has none, a string began with }, or there is binary: a character that JSON forbids tells of it. -#}
{%- macro plain_scalars(text) -%}
    {%- set usual -%}
case when not contains({{ text }}, '\\') then {{ text }} || '{"N":"' end
    {%- endset -%}
    {%- set words -%}
case when contains({{ text }}, 'e}')
                then {{ swap(swap(swap(usual, '{"NULL":true}', 'null'), '{"BOOL":true}', 'true'), '{"BOOL":false}', 'false') }}
                else {{ usual }} end
    {%- endset -%}
    {%- set pieces -%}
array_to_string(list_transform(
            string_split({{ words }}, '"}'),
            lambda piece: case
                when contains(piece, '{"N":"') then piece
                when contains(piece, '{"S":"') then piece || '"'
                else chr(1) end), '')
    {%- endset -%}
{{ swap(swap(pieces, '{"N":"', ''), '{"S":"', '"') }}
{%- endmacro -%}

{#- How maps and lists begin. A map's own brace always follows its tag and goes with it: so a member
    that is called M is not taken for a tag. -#}
{%- macro plain_openings(scalars) -%}
{{ swap(swap(scalars, '{"M":{', '{'), '{"L":[', '[') }}
{%- endmacro -%}

{%- macro plain_endings(openings) -%}
{{ swap(swap(openings, ']}', ']'), '}}', '}') }}
{%- endmacro -%}

{#- The plain document, or NULL for an unusual one. Each opening lost five characters and each ending
    one. If more ended than opened, there is a set, or a string that holds what looks like an end. -#}
{%- macro plain_checked(scalars, openings, endings) -%}
case when strlen({{ scalars }}) - strlen({{ openings }}) = 5 * (strlen({{ openings }}) - strlen({{ endings }}))
            then try_cast({{ endings }} as json) end
{%- endmacro -%}

{#- replace(), in half its time -#}
{%- macro swap(text, old, new) -%}
array_to_string(string_split({{ text }}, '{{ old }}'), '{{ new }}')
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
