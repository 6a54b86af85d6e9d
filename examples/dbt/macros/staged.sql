{#
  The rows of one of Mainstem's tables, from every namespace that has it; no rows, but all columns, where none does.

  Staging models begin with `-- depends_on` of their source: dbt draws its lineage from that.
#}

{% macro mainstem_relations(table) %}
  {%- set first = source('mainstem', table) -%}
  {%- set found = [] -%}
  {%- if execute -%}
    {%- for schema in [first.schema] + var('mainstem_more_schemas') -%}
      {%- set relation = adapter.get_relation(first.database, schema, first.identifier) -%}
      {%- if relation is not none -%}{%- do found.append(relation) -%}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{ return(found) }}
{% endmacro %}

{% macro columns_there(relation) %}
  {#- Quoted names by their names in lower case. -#}
  {%- set there = {} -%}
  {%- for column in adapter.get_columns_in_relation(relation) -%}
    {%- do there.update({column.name | lower: adapter.quote(column.name)}) -%}
  {%- endfor -%}
  {{ return(there) }}
{% endmacro %}

{% macro staged(table) %}
  {%- set columns = event_columns(table) -%}
  {%- set relations = mainstem_relations(table) -%}
  {%- for relation in relations %}
    {%- set there = columns_there(relation) %}
select
    '{{ event_tables()[table] }}' as event_type
    {%- for name, (kind, origins) in columns.items() %}
    {%- set values = [] %}
    {%- for origin in origins if origin in there %}
      {%- do values.append('cast(' ~ there[origin] ~ ' as ' ~ type_of(kind) ~ ')') %}
    {%- endfor %}
    , {% if not values %}cast(null as {{ type_of(kind) }}){% elif values | length == 1 %}{{ values[0] }}{% else %}coalesce({{ values | join(', ') }}){% endif %} as {{ name }}
    {%- endfor %}
from {{ relation }}
    {%- if not loop.last %}
union all
    {%- endif %}
  {%- endfor %}
  {%- if not relations %}
select
    '{{ event_tables()[table] }}' as event_type
    {%- for name, (kind, origins) in columns.items() %}
    , cast(null as {{ type_of(kind) }}) as {{ name }}
    {%- endfor %}
where 1 = 0
  {%- endif %}
{% endmacro %}
