{% test unique_together(model, columns) %}
select {{ columns | join(', ') }}
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1
{% endtest %}

{#  As `unique`, for a table that no event may have made yet. #}

{% test unique_if_there(model, column) %}
{%- set relation = adapter.get_relation(model.database, model.schema, model.identifier) if execute -%}
{%- if relation %}
select {{ column }}
from {{ relation }}
group by {{ column }}
having count(*) > 1
{%- else %}
select 1 as nothing where 1 = 0
{%- endif %}
{% endtest %}
