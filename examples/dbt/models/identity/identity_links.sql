{#
  Which ids stood together: on one event, or in an alias. Anonymous ids and user ids are different things even if they
  read the same, so an id is its kind and its value.
#}
with
ids as (
    select
        event_type
        , received_at
        , {{ id_or_null('anonymous_id') }} as anonymous_id
        , {{ id_or_null('user_id') }} as user_id
        , {{ id_or_null('previous_id') }} as previous_id
    from {{ ref('events_loaded') }}
)

, anonymous_ids as (
    select distinct anonymous_id from ids where anonymous_id is not null
)

, user_ids as (
    select distinct user_id from ids where user_id is not null
)

, stood_together as (
    select user_id, 'anonymous' as other_kind, anonymous_id as other_id, received_at
    from ids
    where user_id is not null and anonymous_id is not null

    union all

    -- An alias names the earlier id without its kind: it is of the kind that was seen, and a user id if none was.
    select ids.user_id, 'anonymous', ids.previous_id, ids.received_at
    from ids
    inner join anonymous_ids on ids.previous_id = anonymous_ids.anonymous_id
    where ids.user_id is not null

    union all

    select ids.user_id, 'user', ids.previous_id, ids.received_at
    from ids
    left join anonymous_ids on ids.previous_id = anonymous_ids.anonymous_id
    left join user_ids on ids.previous_id = user_ids.user_id
    where
        ids.user_id is not null
        and ids.previous_id is not null
        and ids.previous_id <> ids.user_id
        and (user_ids.user_id is not null or anonymous_ids.anonymous_id is null)
)

select
    user_id
    , other_kind
    , other_id
    , min(received_at) as first_seen_at
    , max(received_at) as last_seen_at
    , count(*) as events
from stood_together
group by user_id, other_kind, other_id
