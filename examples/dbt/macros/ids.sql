{#  Whether a value is an id of somebody, not what a program writes when it has none. #}

{% macro is_id(column) -%}
  {{ column }} is not null and lower(trim({{ column }})) not in (
    {%- for value in var('mainstem_placeholder_ids') -%}
      '{{ value | lower | replace("'", "''") }}'{{ ', ' if not loop.last }}
    {%- endfor -%}
  )
{%- endmacro %}

{% macro id_or_null(column) -%}
  case when {{ is_id(column) }} then {{ column }} end
{%- endmacro %}
