{#  What was not linked, and why: to be read, and to set the limits by. #}
select
    ids.id_kind
    , ids.id
    , coalesce(ids.excluded_because, identity.excluded_because) as excluded_because
    , ids.user_ids
    , ids.anonymous_ids
    , identity.ids_linked
    , ids.events
    , ids.first_seen_at
    , ids.last_seen_at
from {{ ref('identity_ids') }} as ids
left join {{ ref('identity') }} as identity on ids.id_kind = identity.id_kind and ids.id = identity.id
where ids.excluded_because is not null or identity.excluded_because is not null
