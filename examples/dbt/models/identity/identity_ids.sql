{#
  Every id that was ever sent, numbered in the order in which they were received first, and what is wrong with it.
  The order is by `received_at`: a late event does not come before what was there.
#}
with
sightings as (
    select 'anonymous' as id_kind, anonymous_id as id, received_at, 1 as event
    from {{ ref('events_loaded') }}
    where anonymous_id is not null

    union all

    select 'user', user_id, received_at, 1
    from {{ ref('events_loaded') }}
    where user_id is not null

    union all

    -- What an alias alone names is an id too, and is on no event of its own.
    select other_kind, other_id, first_seen_at, 0
    from {{ ref('identity_links') }}

    union all

    select 'user', previous_id, received_at, 0
    from {{ ref('events_loaded') }}
    where previous_id is not null and not ({{ is_id('previous_id') }})
)

, ids as (
    select
        id_kind
        , id
        , min(received_at) as first_seen_at
        , max(received_at) as last_seen_at
        , sum(event) as events
        , case when {{ is_id('id') }} then 1 else 0 end as is_id
    from sightings
    group by id_kind, id
)

, neighbours as (
    select 'user' as id_kind, user_id as id, other_kind as neighbour_kind, other_id as neighbour
    from {{ ref('identity_links') }}

    union

    select other_kind, other_id, 'user', user_id
    from {{ ref('identity_links') }}
)

, degrees as (
    select
        id_kind
        , id
        , sum(case when neighbour_kind = 'user' then 1 else 0 end) as user_ids
        , sum(case when neighbour_kind = 'anonymous' then 1 else 0 end) as anonymous_ids
    from neighbours
    group by id_kind, id
)

, counted as (
    select
        ids.*
        , coalesce(degrees.user_ids, 0) as user_ids
        , coalesce(degrees.anonymous_ids, 0) as anonymous_ids
    from ids
    left join degrees on ids.id_kind = degrees.id_kind and ids.id = degrees.id
)

select
    id_kind
    , id
    , cast(row_number() over (order by is_id desc, first_seen_at, id_kind, id) as bigint) as id_number
    , first_seen_at
    , last_seen_at
    , cast(events as bigint) as events
    , cast(user_ids as bigint) as user_ids
    , cast(anonymous_ids as bigint) as anonymous_ids
    , case
        when is_id = 0 then 'placeholder'
        when user_ids > {{ var('mainstem_max_user_ids') }} then 'too many user ids'
        when anonymous_ids > {{ var('mainstem_max_anonymous_ids') }} then 'too many anonymous ids'
    end as excluded_because
from counted
