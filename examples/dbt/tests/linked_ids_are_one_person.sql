select links.*
from {{ ref('identity_links') }} as links
inner join {{ ref('identity') }} as users on users.id_kind = 'user' and links.user_id = users.id
inner join {{ ref('identity') }} as others on links.other_kind = others.id_kind and links.other_id = others.id
where
    users.excluded_because is null
    and others.excluded_because is null
    and users.canonical_id <> others.canonical_id
