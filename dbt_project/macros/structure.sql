{#- From the structure of a document (tailrace/lake/structure.py) to a typed column of STRUCTs and
    lists: `structure_type` is its SQL type, `structure_value` the SQL that makes it of what
    json_transform read in the shape `structure_shape`. What has two types or members that cannot be
    told apart in SQL is plain JSON there; a member that was only ever NULL is left out. -#}

{%- macro structure_type(tree) -%}
    {%- if is_document(tree) -%}{{ return('JSON') }}{%- endif -%}
    {%- set tag = tree | list | first -%}
    {%- if tag == 'M' -%}
        {%- set members = [] -%}
        {%- for name, member in tree['M'].items() if member -%}
            {%- do members.append('"' ~ name | replace('"', '""') ~ '" ' ~ structure_type(member)) -%}
        {%- endfor -%}
        {{ return('STRUCT(' ~ members | join(', ') ~ ')') }}
    {%- elif tag == 'L' -%}
        {{ return(structure_type(tree['L']) ~ '[]') }}
    {%- elif tree | length > 1 -%}
        {{ return('VARCHAR') }}
    {%- endif -%}
    {%- set digits = tree[tag] if tag in ['N', 'NS'] else [none, none] -%}
    {{ return(adapter.dispatch('attribute_type')(
        [{'type': tag, 'integer_digits': digits[0], 'scale': digits[1]}], none)) }}
{%- endmacro -%}

{%- macro is_document(tree) -%}
    {%- if not tree -%}{{ return(true) }}{%- endif -%}
    {%- if tree | length > 1 -%}
        {{ return(tree | reject('in', ['S', 'N', 'BOOL']) | list != []) }}
    {%- endif -%}
    {%- if 'M' in tree -%}
        {%- set names = [] -%}
        {%- for name, member in (tree['M'] or {}).items() if member -%}
            {%- do names.append(name | lower) -%}
        {%- endfor -%}
        {{ return(names == [] or '' in names or names | unique | list | length < names | length
                  or modules.re.search('[\x00-\x1f\x7f]', names | join) is not none) }}
    {%- endif -%}
    {{ return(false) }}
{%- endmacro -%}

{#- What json_transform reads, as a mapping that is written as JSON -#}
{%- macro structure_shape(tree) -%}
    {%- if is_document(tree) -%}{{ return('JSON') }}{%- endif -%}
    {%- set shape = {} -%}
    {%- for tag, inner in tree.items() -%}
        {%- if tag == 'M' -%}
            {%- set members = {} -%}
            {%- for name, member in inner.items() if member -%}
                {%- do members.update({name: structure_shape(member)}) -%}
            {%- endfor -%}
            {%- do shape.update({'M': members}) -%}
        {%- elif tag == 'L' -%}
            {%- do shape.update({'L': [structure_shape(inner)]}) -%}
        {%- else -%}
            {%- do shape.update({tag: ['VARCHAR'] if tag in ['SS', 'NS', 'BS'] else 'VARCHAR'}) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(shape) }}
{%- endmacro -%}

{%- macro structure_value(tree, value, depth=0) -%}
    {%- if is_document(tree) -%}{{ return(plain_json(value)) }}{%- endif -%}
    {%- set tag = tree | list | first -%}
    {%- set element = 'element_' ~ depth -%}
    {%- if tag == 'M' -%}
        {%- set members = [] -%}
        {%- for name, member in tree['M'].items() if member -%}
            {%- set inner = value ~ '."M"."' ~ name | replace('"', '""') ~ '"' -%}
            {%- do members.append("'" ~ name | replace("'", "''") ~ "': "
                                  ~ structure_value(member, inner, depth)) -%}
        {%- endfor -%}
        {{ return('case when ' ~ value ~ '."M" is not null then {' ~ members | join(', ') ~ '} end') }}
    {%- elif tag == 'L' -%}
        {{ return('list_transform(' ~ value ~ '."L", lambda ' ~ element ~ ': '
                  ~ structure_value(tree['L'], element, depth + 1) ~ ')') }}
    {%- elif tag in ['SS', 'NS', 'BS'] -%}
        {{ return('list_transform(' ~ value ~ '."' ~ tag ~ '", lambda ' ~ element ~ ': '
                  ~ exact_value(element, structure_type(tree)[:-2]) ~ ')') }}
    {%- endif -%}
    {%- set type = structure_type(tree) -%}
    {%- set texts = [] -%}
    {%- for each in tree -%}
        {%- do texts.append(exact_value(value ~ '."' ~ each ~ '"', type)) -%}
    {%- endfor -%}
    {{ return('coalesce(' ~ texts | join(', ') ~ ')' if texts | length > 1 else texts[0]) }}
{%- endmacro -%}

{#- Whether a column can become another type where it stands: members may join its STRUCTs, but what
    is there keeps its type -#}
{%- macro type_grows(type, wanted) -%}
    {%- set before = type_leaves(type) -%}
    {%- set after = type_leaves(wanted) -%}
    {{ return('STRUCT(' in type and before | reject('in', after) | list == []) }}
{%- endmacro -%}

{%- macro same_type(type, other) -%}
    {{ return(type == other or 'STRUCT(' in type and type_leaves(type) == type_leaves(other)) }}
{%- endmacro -%}

{#- The members of a nested type as DuckDB writes it, each with its path and type -#}
{%- macro type_leaves(type) -%}
    {%- set leaves = [] -%}
    {%- set path = [] -%}
    {%- set at = namespace(name=false) -%}
    {%- set tokens = 'STRUCT[(]|"(?:[^"]|"")*"|[)](?:\\[\\])*|, |[^\\s(),"]+(?:[(][^()]*[)])?(?:\\[\\])*' -%}
    {%- for token in modules.re.findall(tokens, type) -%}
        {%- if at.name -%}
            {%- do path.append(token[1:-1] if token.startswith('"') else token) -%}
            {%- set at.name = false -%}
        {%- elif token == 'STRUCT(' -%}
            {%- set at.name = true -%}
        {%- elif token == ', ' -%}
            {%- do path.pop() -%}
            {%- set at.name = true -%}
        {%- else -%}
            {%- if token.startswith(')') -%}{%- do path.pop() -%}{%- endif -%}
            {%- do leaves.append([path | list, token]) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(leaves) }}
{%- endmacro -%}
