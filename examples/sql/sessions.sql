-- Events with their person and session (models.events), sessions (models.sessions), and weekly retention
-- (models.retention). Run identity.sql before it.

DROP TABLE IF EXISTS models.events;
CREATE TABLE models.events AS
with
identified as (
    select
        loaded.event_key
        , loaded.event_type
        , loaded.event_id
        , loaded.source_id
        , case when loaded.anonymous_id is not null and lower(trim(loaded.anonymous_id)) not in ('', 'null', 'none', 'nil', 'nan', 'undefined', 'unknown', 'anonymous', 'guest', 'test', 'n/a', '0', '-1', 'true', 'false', '[object object]', '00000000-0000-0000-0000-000000000000') then loaded.anonymous_id end as anonymous_id
        , case when loaded.user_id is not null and lower(trim(loaded.user_id)) not in ('', 'null', 'none', 'nil', 'nan', 'undefined', 'unknown', 'anonymous', 'guest', 'test', 'n/a', '0', '-1', 'true', 'false', '[object object]', '00000000-0000-0000-0000-000000000000') then loaded.user_id end as user_id
        , case when loaded.previous_id is not null and lower(trim(loaded.previous_id)) not in ('', 'null', 'none', 'nil', 'nan', 'undefined', 'unknown', 'anonymous', 'guest', 'test', 'n/a', '0', '-1', 'true', 'false', '[object object]', '00000000-0000-0000-0000-000000000000') then loaded.previous_id end as previous_id
        , loaded.group_id
        , loaded.event_name
        , loaded.event_at
        , loaded.received_at
        , loaded.loaded_at
        , loaded.channel
        , loaded.page_url
        , loaded.page_path
        , loaded.page_title
        , loaded.page_referrer
        , loaded.page_referring_domain
        , loaded.utm_source
        , loaded.utm_medium
        , loaded.utm_campaign
        , loaded.utm_term
        , loaded.utm_content
        , loaded.device
        , loaded.os
        , loaded.browser
        , loaded.user_agent
        , coalesce(users.canonical_id, devices.canonical_id) as canonical_id
    from models.events_loaded as loaded
    left join models.identity as users on users.id_kind = 'user' and loaded.user_id = users.id
    left join models.identity as devices on devices.id_kind = 'anonymous' and loaded.anonymous_id = devices.id
)

, wanted as (
    select * from identified
)

, activity as (
    select
        *
        , canonical_id as session_owner
    from wanted
    where
        canonical_id is not null
        and coalesce(channel, '') not in ('server', 'sources')
)

, gaps as (
    select
        *
        , case
            when event_at <= lag(event_at) over (partition by session_owner order by event_at, received_at, event_key)
                + interval '30 minutes' then 0
            else 1
        end as begins
    from activity
)

, begun as (
    select *, begins as begins_session from gaps
)

, counted as (
    select *, sum(begins_session) over (partition by session_owner order by event_at, received_at, event_key rows between unbounded preceding and current row) as session_of_owner
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
    , cast(current_timestamp as timestamp with time zone) as modelled_at
from wanted
left join sessions on wanted.event_key = sessions.event_key
;

DROP TABLE IF EXISTS models.sessions;
CREATE TABLE models.sessions AS
with
in_sessions as (
    select
        events.*
        , case when utm_source is not null or utm_medium is not null or utm_campaign is not null
                or utm_term is not null or utm_content is not null then 1 else 0 end as has_campaign
    from models.events as events
    where
        session_id is not null
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
        , max(case when campaign_rank = 1 then utm_source end) as utm_source
        , max(case when campaign_rank = 1 then utm_medium end) as utm_medium
        , max(case when campaign_rank = 1 then utm_campaign end) as utm_campaign
        , max(case when campaign_rank = 1 then utm_term end) as utm_term
        , max(case when campaign_rank = 1 then utm_content end) as utm_content
        , max(case when device_rank = 1 then device end) as device
        , max(case when device_rank = 1 then os end) as os
        , max(case when device_rank = 1 then browser end) as browser
        , max(case when device_rank = 1 then user_agent end) as user_agent
        , cast(sum(0) as bigint) as conversions
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
    , duration_s >= 10 or pages + screens >= 2 or conversions > 0 as is_engaged
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
;

DROP TABLE IF EXISTS models.retention;
CREATE TABLE models.retention AS
with
weeks as (
    select distinct canonical_id, cast(date_trunc('week', cast(started_at at time zone 'UTC' as date)) as date) as week
    from models.sessions
)

, cohorts as (
    select canonical_id, min(week) as cohort_week
    from weeks
    group by canonical_id
)

, sizes as (
    select cohort_week, count(*) as people
    from cohorts
    group by cohort_week
)

select
    cohorts.cohort_week
    , cast((weeks.week - cohorts.cohort_week) / 7 as bigint) as weeks_later
    , count(*) as people_back
    , max(sizes.people) as people
    , cast(count(*) as double precision) / max(sizes.people) as retention
from weeks
inner join cohorts on weeks.canonical_id = cohorts.canonical_id
inner join sizes on cohorts.cohort_week = sizes.cohort_week
group by cohorts.cohort_week, cast((weeks.week - cohorts.cohort_week) / 7 as bigint)
;
