{#  The traits that the table `users` has: what was asked for, or every column that no event's context made. #}

{% macro trait_columns(relations) %}
  {%- set asked = var('mainstem_traits') -%}
  {%- set own = ['id', 'user_id', 'anonymous_id', 'received_at', 'sent_at', 'timestamp', '_timestamp', 'original_timestamp', 'uuid_ts', 'loaded_at', 'channel', 'rudder_event'] -%}
  {%- set traits = {} -%}
  {%- for relation in relations -%}
    {%- for column in adapter.get_columns_in_relation(relation) -%}
      {%- set name = column.name | lower -%}
      {%- if name in asked or (not asked and name not in own and not name.startswith('context_')) -%}
        {%- if name not in traits -%}{%- do traits.update({name: column.data_type}) -%}{%- endif -%}
      {%- endif -%}
    {%- endfor -%}
  {%- endfor -%}
  {{ return(traits) }}
{% endmacro %}

{#  The name of a trait among the columns of profiles: `trait_` in front, so that no trait hides a column of ours. #}

{% macro trait_name(name) %}{{ adapter.quote('trait_' ~ name) }}{% endmacro %}
