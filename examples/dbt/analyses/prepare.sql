{#- What examples/sql/prepare.sql is made of: every table and column that the models read. -#}
{%- for table in event_tables() %}
create table if not exists {{ adapter.quote(table) }} ({{ adapter.quote('id') }} {{ type_of('string') }});
{%- set made = ['id', '_timestamp'] %}
{%- for name, (kind, origins) in event_columns(table).items() %}
{%- for origin in origins if origin not in made %}
{%- do made.append(origin) %}
alter table {{ adapter.quote(table) }} add column if not exists {{ adapter.quote(origin) }} {{ type_of(kind) }};
{%- endfor %}
{%- endfor %}
{% endfor %}
