{#
  What is read of the tables that Mainstem loads: docs/reference/warehouse-tables.md.

  A column of ours has a type and the columns it comes from, the first that has a value. A table or a column is made
  when an event has a value for it, so each may be missing: then it is null.
#}

{% macro event_columns(table) %}
  {%- set page = table == 'pages' -%}
  {%- set columns = {
    'event_id': ['string', ['id']],
    'source_id': ['string', ['context_source_id']],
    'anonymous_id': ['string', ['anonymous_id']],
    'user_id': ['string', ['user_id']],
    'previous_id': ['string', ['previous_id'] if table == 'aliases' else []],
    'group_id': ['string', ['group_id'] if table == 'groups' else []],
    'event_name': ['string', {'tracks': ['event_text', 'event'], 'pages': ['name'], 'screens': ['name']}.get(table, [])],
    'event_at': ['time', ['timestamp', '_timestamp', 'received_at']],
    'received_at': ['time', ['received_at']],
    'loaded_at': ['time', ['uuid_ts', 'received_at']],
    'channel': ['string', ['channel']],
    'page_url': ['string', (['url'] if page else []) + ['context_page_url']],
    'page_path': ['string', (['path'] if page else []) + ['context_page_path']],
    'page_title': ['string', (['title'] if page else []) + ['context_page_title']],
    'page_referrer': ['string', (['referrer'] if page else []) + ['context_page_referrer']],
    'page_referring_domain': ['string', ['context_page_referring_domain']],
    'utm_source': ['string', ['context_campaign_source']],
    'utm_medium': ['string', ['context_campaign_medium']],
    'utm_campaign': ['string', ['context_campaign_name']],
    'utm_term': ['string', ['context_campaign_term']],
    'utm_content': ['string', ['context_campaign_content']],
    'device': ['string', ['context_user_agent_parsed_device_name', 'context_device_model', 'context_device_type']],
    'os': ['string', ['context_user_agent_parsed_os_name', 'context_os_name']],
    'browser': ['string', ['context_user_agent_parsed_browser_name']],
    'user_agent': ['string', ['context_user_agent']],
  } -%}
  {{ return(columns) }}
{% endmacro %}

{% macro event_tables() %}
  {{ return({'tracks': 'track', 'pages': 'page', 'screens': 'screen', 'identifies': 'identify', 'groups': 'group', 'aliases': 'alias'}) }}
{% endmacro %}

{#  Types, in each engine's words. Times have a zone where the loader makes them with one. #}

{% macro type_of(kind) %}{{ adapter.dispatch('type_of', 'mainstem')(kind) }}{% endmacro %}

{% macro default__type_of(kind) %}{{ {'string': 'text', 'time': 'timestamp with time zone'}[kind] }}{% endmacro %}

{% macro snowflake__type_of(kind) %}{{ {'string': 'text', 'time': 'timestamp_tz'}[kind] }}{% endmacro %}

{% macro utc_date(time) %}{{ adapter.dispatch('utc_date', 'mainstem')(time) }}{% endmacro %}

{% macro default__utc_date(time) %}cast({{ time }} at time zone 'UTC' as date){% endmacro %}

{% macro snowflake__utc_date(time) %}cast(convert_timezone('UTC', {{ time }}) as date){% endmacro %}
