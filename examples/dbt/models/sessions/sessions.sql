{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key='canonical_id',
    on_schema_change='append_new_columns',
    post_hook="delete from {{ this }} where session_id || canonical_id not in (select event_key || canonical_id from {{ ref('events') }} where session_id = event_key)",
) }}
{#
  Sessions, from the events that are theirs. A session is called by the key of the event that opened it.

  People of whom `events` wrote anything since are replaced as a whole; those that are somebody else by now have no
  rows of their own any more, and the hook takes theirs out.
#}
with
in_sessions as (
    select
        events.*
        , case when utm_source is not null or utm_medium is not null or utm_campaign is not null
                or utm_term is not null or utm_content is not null then 1 else 0 end as has_campaign
    from {{ ref('events') }} as events
    where
        session_id is not null
        {%- if is_incremental() %}
        and canonical_id in (
            select canonical_id from {{ ref('events') }}
            where modelled_at > (
                select coalesce(max(modelled_at), cast('1970-01-01' as {{ type_of('time') }})) from {{ this }}
            )
        )
        {%- endif %}
)

-- Which event tells what: a page view rather than another event with a page, the first or the last of them.
, ranked as (
    select
        *
        , row_number() over (
            partition by session_id
            order by
                case when page_url is null then 2 when event_type = 'page' then 0 else 1 end, event_of_session
        ) as landing_rank
        , row_number() over (
            partition by session_id
            order by
                case when page_url is null then 2 when event_type = 'page' then 0 else 1 end, event_of_session desc
        ) as exit_rank
        , row_number() over (partition by session_id order by has_campaign desc, event_of_session) as campaign_rank
        , row_number() over (
            partition by session_id
            order by case when coalesce(device, os, user_agent) is null then 1 else 0 end, event_of_session
        ) as device_rank
        , row_number() over (
            partition by session_id
            order by case when user_id is null then 1 else 0 end, event_of_session desc
        ) as user_rank
    from in_sessions
)

, grouped as (
    select
        session_id
        , canonical_id
        , min(event_at) as started_at
        , max(event_at) as ended_at
        , cast(
            cast(extract(epoch from max(event_at)) - extract(epoch from min(event_at)) as decimal(18, 6))
            as double precision
        ) as duration_s
        , count(*) as events
        , cast(sum(case when event_type = 'page' then 1 else 0 end) as bigint) as pages
        , cast(sum(case when event_type = 'screen' then 1 else 0 end) as bigint) as screens
        , cast(sum(case when event_type = 'track' then 1 else 0 end) as bigint) as tracks
        , count(distinct anonymous_id) as devices
        , max(case when user_rank = 1 then user_id end) as user_id
        , max(case when landing_rank = 1 then page_url end) as landing_page
        , max(case when landing_rank = 1 then page_path end) as landing_path
        , max(case when exit_rank = 1 then page_url end) as exit_page
        , max(case when exit_rank = 1 then page_path end) as exit_path
        , max(case when landing_rank = 1 then page_referrer end) as referrer
        , max(case when landing_rank = 1 then page_referring_domain end) as referring_domain
        {%- for name in ('utm_source', 'utm_medium', 'utm_campaign', 'utm_term', 'utm_content') %}
        , max(case when campaign_rank = 1 then {{ name }} end) as {{ name }}
        {%- endfor %}
        {%- for name in ('device', 'os', 'browser', 'user_agent') %}
        , max(case when device_rank = 1 then {{ name }} end) as {{ name }}
        {%- endfor %}
        , cast(sum(
            {%- if var('mainstem_conversion_events') %}
            case when event_type = 'track' and event_name in (
                {%- for name in var('mainstem_conversion_events') -%}
                '{{ name | replace("'", "''") }}'{{ ', ' if not loop.last }}
                {%- endfor -%}
            ) then 1 else 0 end
            {%- else %}0{% endif -%}
        ) as bigint) as conversions
        , max(modelled_at) as modelled_at
    from ranked
    group by session_id, canonical_id
)

select
    session_id
    , canonical_id
    , row_number() over (partition by canonical_id order by started_at, session_id) as session_of_person
    , user_id
    , started_at
    , ended_at
    , duration_s
    , events
    , pages
    , screens
    , tracks
    , conversions
    , devices
    , duration_s >= {{ var('mainstem_engaged_seconds') }} or pages + screens >= 2 or conversions > 0 as is_engaged
    , landing_page
    , landing_path
    , exit_page
    , exit_path
    , referrer
    , referring_domain
    , utm_source
    , utm_medium
    , utm_campaign
    , utm_term
    , utm_content
    , device
    , os
    , browser
    , user_agent
    , modelled_at
from grouped
