{#- What a frozen STRUCT lacks of the documents that it was made from: members that joined later, and
    values of types that a member does not take. A list of {attribute, type, count}: the place's name
    with dots, the SQL type there (NULL where there is no member), and SQL for how many values of one
    item's `_image` it lacks. What the documents are made of is asked of all of them, in one aggregate. -#}

{%- macro member_misfits(latest, column) -%}
    {%- set types = {} -%}
    {%- for path, type in type_leaves(column.type) -%}{%- do types.update({path | join('\n'): type}) -%}{%- endfor -%}
    {%- set found = read_json("select coalesce(to_json(json_group_structure(json_extract(_image, "
                              ~ json_pointer(column.path) ~ "))), 'null') from " ~ latest) -%}
    {%- set lacking = [] -%}
    {%- for steps, tag, type in lacking_places(found, types, column.type, [], []) -%}
        {%- do lacking.append({
            'attribute': ([column.path] + steps | reject('none') | list) | join('.'),
            'type': type,
            'count': place_count('_image', [pointer_step(column.path)], steps, tag),
        }) -%}
    {%- endfor -%}
    {{ return(lacking) }}
{%- endmacro -%}

{#- Of a structure as json_group_structure tells it: [steps, tag, type] of each place and tag that the
    SQL type there does not hold. A step is a member's name, or none for a list's elements. -#}
{%- macro lacking_places(found, types, type, names, steps) -%}
    {%- set lacking = [] -%}
    {%- for tag, inner in (found if found is mapping else {}).items() if tag != 'NULL' -%}
        {%- set is_struct = type and (type == ')' or type.startswith('STRUCT(') and not type.endswith('[]')) -%}
        {%- if type == 'JSON' or type and type.startswith('MAP(') and type.endswith(')') -%}
        {%- elif tag == 'M' and is_struct -%}
            {%- for name, member in (inner if inner is mapping else {}).items() -%}
                {%- set path = names + [name | replace('"', '""')] -%}
                {%- do lacking.extend(lacking_places(
                    member, types, types.get(path | join('\n')), path, steps + [name])) -%}
            {%- endfor -%}
        {%- elif tag == 'L' and type and type.endswith('[]') -%}
            {%- do lacking.extend(lacking_places(
                inner[0] if inner is sequence and inner is not string else none,
                types, type[:-2], names, steps + [none])) -%}
        {%- elif is_struct or tag in ['M', 'L'] or not type or tags_of_type(type, [tag]) == [] -%}
            {%- do lacking.append([steps, tag, 'STRUCT' if type == ')' else type]) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(lacking) }}
{%- endmacro -%}

{#- SQL: how many values of type `tag` are at a place within a document in DynamoDB JSON -#}
{%- macro place_count(document, pointer, steps, tag, depth=0) -%}
    {%- set text = pointer | join | replace("'", "''") -%}
    {%- if not steps -%}
        {{ return("(json_extract(" ~ document ~ ", '" ~ text ~ '/' ~ tag ~ "') is not null)::integer") }}
    {%- elif steps[0] is not none -%}
        {{ return(place_count(document, pointer + ['/M', pointer_step(steps[0])], steps[1:], tag, depth)) }}
    {%- endif -%}
    {%- set element = 'element_' ~ depth -%}
    {{ return("coalesce(list_sum(list_transform(json_extract(" ~ document ~ ", '" ~ text ~ "/L')::json[], lambda "
              ~ element ~ ": " ~ place_count(element, [], steps[1:], tag, depth + 1) ~ ")), 0)::integer") }}
{%- endmacro -%}

{%- macro pointer_step(name) -%}
/{{ name | replace('~', '~0') | replace('/', '~1') }}
{%- endmacro -%}
