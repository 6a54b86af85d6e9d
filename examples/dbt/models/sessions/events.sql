{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key='event_key',
    on_schema_change='append_new_columns',
) }}
{#
  Every event with the person it belongs to and the session it is part of.

  A late event may join two sessions, a login may give a person another's history. So people are computed whole: all
  events of everybody of whom an event is new, was replaced, or has changed hands.
#}
{%- set before = 'partition by session_owner order by event_at, received_at, event_key' %}
{%- set so_far = before ~ ' rows between unbounded preceding and current row' %}
{%- set by_campaign = var('mainstem_new_session_on_campaign') %}
with
identified as (
    select
        loaded.event_key
        , loaded.event_type
        {%- for name in event_columns('tracks') %}
        , {% if name in ('anonymous_id', 'user_id', 'previous_id') %}{{ id_or_null('loaded.' ~ name) }} as {{ name }}{% else %}loaded.{{ name }}{% endif %}
        {%- endfor %}
        , coalesce(users.canonical_id, devices.canonical_id) as canonical_id
    from {{ ref('events_loaded') }} as loaded
    left join {{ ref('identity') }} as users on users.id_kind = 'user' and loaded.user_id = users.id
    left join {{ ref('identity') }} as devices on devices.id_kind = 'anonymous' and loaded.anonymous_id = devices.id
)
{% if is_incremental() %}
, changed as (
    select identified.event_key, identified.canonical_id, stored.canonical_id as stored_canonical_id
    from identified
    left join {{ this }} as stored on identified.event_key = stored.event_key
    where
        stored.event_key is null
        or stored.loaded_at <> identified.loaded_at
        or coalesce(stored.canonical_id, '') <> coalesce(identified.canonical_id, '')
)

, people_changed as (
    select canonical_id from changed where canonical_id is not null
    union
    select stored_canonical_id from changed where stored_canonical_id is not null
)

, wanted as (
    select * from identified
    where
        canonical_id in (select canonical_id from people_changed)
        or event_key in (select event_key from changed)
)
{% else %}
, wanted as (
    select * from identified
)
{% endif %}
, activity as (
    select
        *
        {%- if var('mainstem_session_scope') == 'device' %}
        , canonical_id || ' ' || coalesce(anonymous_id, '') as session_owner
        {%- else %}
        , canonical_id as session_owner
        {%- endif %}
    from wanted
    where
        canonical_id is not null
        {%- if var('mainstem_session_ignored_channels') %}
        and coalesce(channel, '') not in (
            {%- for channel in var('mainstem_session_ignored_channels') -%}
            '{{ channel }}'{{ ', ' if not loop.last }}
            {%- endfor -%}
        )
        {%- endif %}
)

, gaps as (
    select
        *
        , case
            when event_at <= lag(event_at) over ({{ before }})
                + interval '{{ var("mainstem_session_timeout_minutes") }} minutes' then 0
            else 1
        end as begins
    from activity
)
{% if by_campaign %}
, visits as (
    select
        *
        , sum(begins) over ({{ so_far }}) as visit
        , case
            when coalesce(utm_source, utm_medium, utm_campaign, utm_term, utm_content) is not null
                then coalesce(utm_source, '') || '|' || coalesce(utm_medium, '') || '|' || coalesce(utm_campaign, '')
                    || '|' || coalesce(utm_term, '') || '|' || coalesce(utm_content, '')
        end as campaign
    from gaps
)

-- The campaign that is in force: the newest one of the visit.
, campaigns as (
    select
        *
        , count(campaign) over (
            partition by session_owner, visit order by event_at, received_at, event_key
            rows between unbounded preceding and current row
        ) as campaigns_so_far
    from visits
)

, in_force as (
    select
        *
        , first_value(campaign) over (
            partition by session_owner, visit, campaigns_so_far order by event_at, received_at, event_key
            rows between unbounded preceding and current row
        ) as campaign_in_force
    from campaigns
)

, begun as (
    select
        *
        , case
            when begins = 1 then 1
            when campaign is not null
                and campaign <> coalesce(lag(campaign_in_force) over ({{ before }}), '') then 1
            else 0
        end as begins_session
    from in_force
)
{% else %}
, begun as (
    select *, begins as begins_session from gaps
)
{% endif %}
, counted as (
    select *, sum(begins_session) over ({{ so_far }}) as session_of_owner
    from begun
)

, sessions as (
    select
        event_key
        , first_value(event_key) over (
            partition by session_owner, session_of_owner order by event_at, received_at, event_key
            rows between unbounded preceding and current row
        ) as session_id
        , row_number() over (
            partition by session_owner, session_of_owner order by event_at, received_at, event_key
        ) as event_of_session
    from counted
)

select
    wanted.*
    , sessions.session_id
    , cast(sessions.event_of_session as bigint) as event_of_session
    , cast(current_timestamp as {{ type_of('time') }}) as modelled_at
from wanted
left join sessions on wanted.event_key = sessions.event_key
