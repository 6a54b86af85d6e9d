-- depends_on: {{ ref('stg_users') }}, {{ ref('identity') }}, {{ source('mainstem', 'users') }}
{#
  A row for each person: when and how they came first and last, what they did, and the latest value of each trait.

  A touch is a session. The last touch is the last one that came from somewhere (a campaign, another site); who was
  never sent by anybody has the last session itself.
#}
{%- set traits = trait_columns(mainstem_relations('users')) %}
with
people as (
    select
        canonical_id
        , min(event_at) as first_seen_at
        , max(event_at) as last_seen_at
        , count(*) as events
        , cast(sum(case when event_type = 'page' then 1 else 0 end) as bigint) as pages
        , cast(sum(case when event_type = 'screen' then 1 else 0 end) as bigint) as screens
        , cast(sum(case when event_type = 'track' then 1 else 0 end) as bigint) as tracks
        , count(distinct user_id) as user_ids
        , count(distinct anonymous_id) as anonymous_ids
    from {{ ref('events') }}
    where canonical_id is not null
    group by canonical_id
)

, user_ids as (
    select canonical_id, user_id
    from (
        select
            canonical_id
            , user_id
            , row_number() over (
                partition by canonical_id order by event_at desc, received_at desc, event_key desc
            ) as newest
        from {{ ref('events') }}
        where canonical_id is not null and user_id is not null
    ) as with_user
    where newest = 1
)

, touches as (
    select
        *
        , coalesce(utm_source, referring_domain, 'direct') as source
        , row_number() over (partition by canonical_id order by session_of_person) as from_first
        , row_number() over (
            partition by canonical_id
            order by
                case when coalesce(utm_source, referring_domain) is null then 1 else 0 end, session_of_person desc
        ) as from_last
    from {{ ref('sessions') }}
)

, visits as (
    select
        canonical_id
        , count(*) as sessions
        , cast(sum(case when is_engaged then 1 else 0 end) as bigint) as engaged_sessions
        , sum(duration_s) as duration_s
        {%- for which, rank in {'first': 'from_first', 'last': 'from_last'}.items() %}
        , max(case when {{ rank }} = 1 then started_at end) as {{ which }}_touch_at
        {%- for name in ('source', 'utm_medium', 'utm_campaign', 'landing_page', 'referrer') %}
        , max(case when {{ rank }} = 1 then {{ name }} end) as {{ which }}_touch_{{ name | replace('utm_', '') }}
        {%- endfor %}
        {%- endfor %}
    from touches
    group by canonical_id
)
{% if traits %}
-- Column by column the newest value that is there, over all user ids of the person.
, traits as (
    select canonical_id
        {%- for name in traits %}
        , {{ trait_name(name) }}
        {%- endfor %}
    from (
        select
            identity.canonical_id
            , row_number() over (
                partition by identity.canonical_id order by users.received_at desc, users.user_id
            ) as newest
            {%- for name in traits %}
            , first_value(users.{{ trait_name(name) }}) over (
                partition by identity.canonical_id
                order by
                    case when users.{{ trait_name(name) }} is null then 1 else 0 end
                    , users.received_at desc, users.user_id
                rows between unbounded preceding and unbounded following
            ) as {{ trait_name(name) }}
            {%- endfor %}
        from {{ ref('stg_users') }} as users
        inner join {{ ref('identity') }} as identity
            on identity.id_kind = 'user' and users.user_id = identity.id
    ) as of_users
    where newest = 1
)
{% endif %}
select
    people.*
    , user_ids.user_id
    , coalesce(visits.sessions, 0) as sessions
    , coalesce(visits.engaged_sessions, 0) as engaged_sessions
    , coalesce(visits.duration_s, 0) as duration_s
    {%- for which in ('first', 'last') %}
    {%- for name in ('at', 'source', 'medium', 'campaign', 'landing_page', 'referrer') %}
    , visits.{{ which }}_touch_{{ name }}
    {%- endfor %}
    {%- endfor %}
    {%- for name in traits %}
    , traits.{{ trait_name(name) }}
    {%- endfor %}
from people
left join user_ids on people.canonical_id = user_ids.canonical_id
left join visits on people.canonical_id = visits.canonical_id
{%- if traits %}
left join traits on people.canonical_id = traits.canonical_id
{%- endif %}
