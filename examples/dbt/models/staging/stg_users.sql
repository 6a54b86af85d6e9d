-- depends_on: {{ source('mainstem', 'users') }}
{%- set relations = mainstem_relations('users') %}
{%- set traits = trait_columns(relations) %}
{%- for relation in relations %}
{%- set there = columns_there(relation) %}
select
    cast({{ there['id'] }} as {{ type_of('string') }}) as user_id
    , cast({{ there['received_at'] if 'received_at' in there else 'null' }} as {{ type_of('time') }}) as received_at
    {%- for name, type in traits.items() %}
    , {{ there[name] if name in there else 'cast(null as ' ~ type ~ ')' }} as {{ trait_name(name) }}
    {%- endfor %}
from {{ relation }}
{%- if not loop.last %}
union all
{%- endif %}
{%- endfor %}
{%- if not relations %}
select
    cast(null as {{ type_of('string') }}) as user_id
    , cast(null as {{ type_of('time') }}) as received_at
where 1 = 0
{%- endif %}
