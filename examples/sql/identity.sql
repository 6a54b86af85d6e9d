-- Which ids are one person: models.identity, and models.identity_excluded for what was not linked and why. Makes
-- models.events_loaded too, every event of all tables once. Run prepare.sql before it.

CREATE SCHEMA IF NOT EXISTS models;

DROP TABLE IF EXISTS models.events_loaded;
CREATE TABLE models.events_loaded AS
with
 stg_tracks as (

select
    'track' as event_type
    , cast("id" as text) as event_id
    , cast("context_source_id" as text) as source_id
    , cast("anonymous_id" as text) as anonymous_id
    , cast("user_id" as text) as user_id
    , cast(null as text) as previous_id
    , cast(null as text) as group_id
    , coalesce(cast("event_text" as text), cast("event" as text)) as event_name
    , coalesce(cast("timestamp" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as event_at
    , cast("received_at" as timestamp with time zone) as received_at
    , coalesce(cast("uuid_ts" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as loaded_at
    , cast("channel" as text) as channel
    , cast("context_page_url" as text) as page_url
    , cast("context_page_path" as text) as page_path
    , cast("context_page_title" as text) as page_title
    , cast("context_page_referrer" as text) as page_referrer
    , cast("context_page_referring_domain" as text) as page_referring_domain
    , cast("context_campaign_source" as text) as utm_source
    , cast("context_campaign_medium" as text) as utm_medium
    , cast("context_campaign_name" as text) as utm_campaign
    , cast("context_campaign_term" as text) as utm_term
    , cast("context_campaign_content" as text) as utm_content
    , coalesce(cast("context_user_agent_parsed_device_name" as text), cast("context_device_model" as text), cast("context_device_type" as text)) as device
    , coalesce(cast("context_user_agent_parsed_os_name" as text), cast("context_os_name" as text)) as os
    , cast("context_user_agent_parsed_browser_name" as text) as browser
    , cast("context_user_agent" as text) as user_agent
from "tracks"

),  stg_pages as (

select
    'page' as event_type
    , cast("id" as text) as event_id
    , cast("context_source_id" as text) as source_id
    , cast("anonymous_id" as text) as anonymous_id
    , cast("user_id" as text) as user_id
    , cast(null as text) as previous_id
    , cast(null as text) as group_id
    , cast("name" as text) as event_name
    , coalesce(cast("timestamp" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as event_at
    , cast("received_at" as timestamp with time zone) as received_at
    , coalesce(cast("uuid_ts" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as loaded_at
    , cast("channel" as text) as channel
    , coalesce(cast("url" as text), cast("context_page_url" as text)) as page_url
    , coalesce(cast("path" as text), cast("context_page_path" as text)) as page_path
    , coalesce(cast("title" as text), cast("context_page_title" as text)) as page_title
    , coalesce(cast("referrer" as text), cast("context_page_referrer" as text)) as page_referrer
    , cast("context_page_referring_domain" as text) as page_referring_domain
    , cast("context_campaign_source" as text) as utm_source
    , cast("context_campaign_medium" as text) as utm_medium
    , cast("context_campaign_name" as text) as utm_campaign
    , cast("context_campaign_term" as text) as utm_term
    , cast("context_campaign_content" as text) as utm_content
    , coalesce(cast("context_user_agent_parsed_device_name" as text), cast("context_device_model" as text), cast("context_device_type" as text)) as device
    , coalesce(cast("context_user_agent_parsed_os_name" as text), cast("context_os_name" as text)) as os
    , cast("context_user_agent_parsed_browser_name" as text) as browser
    , cast("context_user_agent" as text) as user_agent
from "pages"

),  stg_screens as (

select
    'screen' as event_type
    , cast("id" as text) as event_id
    , cast("context_source_id" as text) as source_id
    , cast("anonymous_id" as text) as anonymous_id
    , cast("user_id" as text) as user_id
    , cast(null as text) as previous_id
    , cast(null as text) as group_id
    , cast("name" as text) as event_name
    , coalesce(cast("timestamp" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as event_at
    , cast("received_at" as timestamp with time zone) as received_at
    , coalesce(cast("uuid_ts" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as loaded_at
    , cast("channel" as text) as channel
    , cast("context_page_url" as text) as page_url
    , cast("context_page_path" as text) as page_path
    , cast("context_page_title" as text) as page_title
    , cast("context_page_referrer" as text) as page_referrer
    , cast("context_page_referring_domain" as text) as page_referring_domain
    , cast("context_campaign_source" as text) as utm_source
    , cast("context_campaign_medium" as text) as utm_medium
    , cast("context_campaign_name" as text) as utm_campaign
    , cast("context_campaign_term" as text) as utm_term
    , cast("context_campaign_content" as text) as utm_content
    , coalesce(cast("context_user_agent_parsed_device_name" as text), cast("context_device_model" as text), cast("context_device_type" as text)) as device
    , coalesce(cast("context_user_agent_parsed_os_name" as text), cast("context_os_name" as text)) as os
    , cast("context_user_agent_parsed_browser_name" as text) as browser
    , cast("context_user_agent" as text) as user_agent
from "screens"

),  stg_identifies as (

select
    'identify' as event_type
    , cast("id" as text) as event_id
    , cast("context_source_id" as text) as source_id
    , cast("anonymous_id" as text) as anonymous_id
    , cast("user_id" as text) as user_id
    , cast(null as text) as previous_id
    , cast(null as text) as group_id
    , cast(null as text) as event_name
    , coalesce(cast("timestamp" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as event_at
    , cast("received_at" as timestamp with time zone) as received_at
    , coalesce(cast("uuid_ts" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as loaded_at
    , cast("channel" as text) as channel
    , cast("context_page_url" as text) as page_url
    , cast("context_page_path" as text) as page_path
    , cast("context_page_title" as text) as page_title
    , cast("context_page_referrer" as text) as page_referrer
    , cast("context_page_referring_domain" as text) as page_referring_domain
    , cast("context_campaign_source" as text) as utm_source
    , cast("context_campaign_medium" as text) as utm_medium
    , cast("context_campaign_name" as text) as utm_campaign
    , cast("context_campaign_term" as text) as utm_term
    , cast("context_campaign_content" as text) as utm_content
    , coalesce(cast("context_user_agent_parsed_device_name" as text), cast("context_device_model" as text), cast("context_device_type" as text)) as device
    , coalesce(cast("context_user_agent_parsed_os_name" as text), cast("context_os_name" as text)) as os
    , cast("context_user_agent_parsed_browser_name" as text) as browser
    , cast("context_user_agent" as text) as user_agent
from "identifies"

),  stg_groups as (

select
    'group' as event_type
    , cast("id" as text) as event_id
    , cast("context_source_id" as text) as source_id
    , cast("anonymous_id" as text) as anonymous_id
    , cast("user_id" as text) as user_id
    , cast(null as text) as previous_id
    , cast("group_id" as text) as group_id
    , cast(null as text) as event_name
    , coalesce(cast("timestamp" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as event_at
    , cast("received_at" as timestamp with time zone) as received_at
    , coalesce(cast("uuid_ts" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as loaded_at
    , cast("channel" as text) as channel
    , cast("context_page_url" as text) as page_url
    , cast("context_page_path" as text) as page_path
    , cast("context_page_title" as text) as page_title
    , cast("context_page_referrer" as text) as page_referrer
    , cast("context_page_referring_domain" as text) as page_referring_domain
    , cast("context_campaign_source" as text) as utm_source
    , cast("context_campaign_medium" as text) as utm_medium
    , cast("context_campaign_name" as text) as utm_campaign
    , cast("context_campaign_term" as text) as utm_term
    , cast("context_campaign_content" as text) as utm_content
    , coalesce(cast("context_user_agent_parsed_device_name" as text), cast("context_device_model" as text), cast("context_device_type" as text)) as device
    , coalesce(cast("context_user_agent_parsed_os_name" as text), cast("context_os_name" as text)) as os
    , cast("context_user_agent_parsed_browser_name" as text) as browser
    , cast("context_user_agent" as text) as user_agent
from "groups"

),  stg_aliases as (

select
    'alias' as event_type
    , cast("id" as text) as event_id
    , cast("context_source_id" as text) as source_id
    , cast("anonymous_id" as text) as anonymous_id
    , cast("user_id" as text) as user_id
    , cast("previous_id" as text) as previous_id
    , cast(null as text) as group_id
    , cast(null as text) as event_name
    , coalesce(cast("timestamp" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as event_at
    , cast("received_at" as timestamp with time zone) as received_at
    , coalesce(cast("uuid_ts" as timestamp with time zone), cast("received_at" as timestamp with time zone)) as loaded_at
    , cast("channel" as text) as channel
    , cast("context_page_url" as text) as page_url
    , cast("context_page_path" as text) as page_path
    , cast("context_page_title" as text) as page_title
    , cast("context_page_referrer" as text) as page_referrer
    , cast("context_page_referring_domain" as text) as page_referring_domain
    , cast("context_campaign_source" as text) as utm_source
    , cast("context_campaign_medium" as text) as utm_medium
    , cast("context_campaign_name" as text) as utm_campaign
    , cast("context_campaign_term" as text) as utm_term
    , cast("context_campaign_content" as text) as utm_content
    , coalesce(cast("context_user_agent_parsed_device_name" as text), cast("context_device_model" as text), cast("context_device_type" as text)) as device
    , coalesce(cast("context_user_agent_parsed_os_name" as text), cast("context_os_name" as text)) as os
    , cast("context_user_agent_parsed_browser_name" as text) as browser
    , cast("context_user_agent" as text) as user_agent
from "aliases"

), loaded as (
    select * from stg_tracks
    union all
    select * from stg_pages
    union all
    select * from stg_screens
    union all
    select * from stg_identifies
    union all
    select * from stg_groups
    union all
    select * from stg_aliases
)

, numbered as (
    select
        *
        , row_number() over (
            partition by event_type, source_id, event_id
            order by loaded_at desc, received_at desc, event_at desc
        ) as copy
    from loaded
    where
        event_id is not null
        and event_at is not null
)

select
    md5(event_type || ':' || coalesce(source_id, '') || ':' || event_id) as event_key
    , event_type
    , event_id
    , source_id
    , anonymous_id
    , user_id
    , previous_id
    , group_id
    , event_name
    , event_at
    , received_at
    , loaded_at
    , channel
    , page_url
    , page_path
    , page_title
    , page_referrer
    , page_referring_domain
    , utm_source
    , utm_medium
    , utm_campaign
    , utm_term
    , utm_content
    , device
    , os
    , browser
    , user_agent
from numbered
where copy = 1
;

DROP TABLE IF EXISTS models.identity_links;
CREATE TABLE models.identity_links AS
with
ids as (
    select
        event_type
        , received_at
        , case when anonymous_id is not null and lower(trim(anonymous_id)) not in ('', 'null', 'none', 'nil', 'nan', 'undefined', 'unknown', 'anonymous', 'guest', 'test', 'n/a', '0', '-1', 'true', 'false', '[object object]', '00000000-0000-0000-0000-000000000000') then anonymous_id end as anonymous_id
        , case when user_id is not null and lower(trim(user_id)) not in ('', 'null', 'none', 'nil', 'nan', 'undefined', 'unknown', 'anonymous', 'guest', 'test', 'n/a', '0', '-1', 'true', 'false', '[object object]', '00000000-0000-0000-0000-000000000000') then user_id end as user_id
        , case when previous_id is not null and lower(trim(previous_id)) not in ('', 'null', 'none', 'nil', 'nan', 'undefined', 'unknown', 'anonymous', 'guest', 'test', 'n/a', '0', '-1', 'true', 'false', '[object object]', '00000000-0000-0000-0000-000000000000') then previous_id end as previous_id
    from models.events_loaded
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
;

DROP TABLE IF EXISTS models.identity_ids;
CREATE TABLE models.identity_ids AS
with
sightings as (
    select 'anonymous' as id_kind, anonymous_id as id, received_at, 1 as event
    from models.events_loaded
    where anonymous_id is not null

    union all

    select 'user', user_id, received_at, 1
    from models.events_loaded
    where user_id is not null

    union all

    -- What an alias alone names is an id too, and is on no event of its own.
    select other_kind, other_id, first_seen_at, 0
    from models.identity_links

    union all

    select 'user', previous_id, received_at, 0
    from models.events_loaded
    where previous_id is not null and not (previous_id is not null and lower(trim(previous_id)) not in ('', 'null', 'none', 'nil', 'nan', 'undefined', 'unknown', 'anonymous', 'guest', 'test', 'n/a', '0', '-1', 'true', 'false', '[object object]', '00000000-0000-0000-0000-000000000000'))
)

, ids as (
    select
        id_kind
        , id
        , min(received_at) as first_seen_at
        , max(received_at) as last_seen_at
        , sum(event) as events
        , case when id is not null and lower(trim(id)) not in ('', 'null', 'none', 'nil', 'nan', 'undefined', 'unknown', 'anonymous', 'guest', 'test', 'n/a', '0', '-1', 'true', 'false', '[object object]', '00000000-0000-0000-0000-000000000000') then 1 else 0 end as is_id
    from sightings
    group by id_kind, id
)

, neighbours as (
    select 'user' as id_kind, user_id as id, other_kind as neighbour_kind, other_id as neighbour
    from models.identity_links

    union

    select other_kind, other_id, 'user', user_id
    from models.identity_links
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
        when user_ids > 3 then 'too many user ids'
        when anonymous_ids > 200 then 'too many anonymous ids'
    end as excluded_because
from counted
;

DROP TABLE IF EXISTS models.identity;
CREATE TABLE models.identity AS
with
nodes as (
    select id_number, id_kind, id, excluded_because
    from models.identity_ids
    where excluded_because is null or excluded_because <> 'placeholder'
)

, one_way as (
    select a.id_number as node, b.id_number as neighbour
    from models.identity_links as links
    inner join nodes as a on a.id_kind = 'user' and links.user_id = a.id
    inner join nodes as b on links.other_kind = b.id_kind and links.other_id = b.id
    where a.excluded_because is null and b.excluded_because is null
)

, edges as (
    select node, neighbour from one_way
    union
    select neighbour, node from one_way
)

, labels_0 as (
    select id_number as node, id_number as label from nodes
)

, jumped_1 as (
    select one.node, one.label, two.label as next_label
    from labels_0 as one
    inner join labels_0 as two on one.label = two.node
)

, across_1 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_1 as here on edges.node = here.node
    inner join jumped_1 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_1 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_1
        union all
        select node, offered from across_1
        union all
        select label, offered from across_1
    ) as offers
    group by node
)

, jumped_2 as (
    select one.node, one.label, two.label as next_label
    from labels_1 as one
    inner join labels_1 as two on one.label = two.node
)

, across_2 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_2 as here on edges.node = here.node
    inner join jumped_2 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_2 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_2
        union all
        select node, offered from across_2
        union all
        select label, offered from across_2
    ) as offers
    group by node
)

, jumped_3 as (
    select one.node, one.label, two.label as next_label
    from labels_2 as one
    inner join labels_2 as two on one.label = two.node
)

, across_3 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_3 as here on edges.node = here.node
    inner join jumped_3 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_3 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_3
        union all
        select node, offered from across_3
        union all
        select label, offered from across_3
    ) as offers
    group by node
)

, jumped_4 as (
    select one.node, one.label, two.label as next_label
    from labels_3 as one
    inner join labels_3 as two on one.label = two.node
)

, across_4 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_4 as here on edges.node = here.node
    inner join jumped_4 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_4 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_4
        union all
        select node, offered from across_4
        union all
        select label, offered from across_4
    ) as offers
    group by node
)

, jumped_5 as (
    select one.node, one.label, two.label as next_label
    from labels_4 as one
    inner join labels_4 as two on one.label = two.node
)

, across_5 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_5 as here on edges.node = here.node
    inner join jumped_5 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_5 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_5
        union all
        select node, offered from across_5
        union all
        select label, offered from across_5
    ) as offers
    group by node
)

, jumped_6 as (
    select one.node, one.label, two.label as next_label
    from labels_5 as one
    inner join labels_5 as two on one.label = two.node
)

, across_6 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_6 as here on edges.node = here.node
    inner join jumped_6 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_6 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_6
        union all
        select node, offered from across_6
        union all
        select label, offered from across_6
    ) as offers
    group by node
)

, jumped_7 as (
    select one.node, one.label, two.label as next_label
    from labels_6 as one
    inner join labels_6 as two on one.label = two.node
)

, across_7 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_7 as here on edges.node = here.node
    inner join jumped_7 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_7 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_7
        union all
        select node, offered from across_7
        union all
        select label, offered from across_7
    ) as offers
    group by node
)

, jumped_8 as (
    select one.node, one.label, two.label as next_label
    from labels_7 as one
    inner join labels_7 as two on one.label = two.node
)

, across_8 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_8 as here on edges.node = here.node
    inner join jumped_8 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_8 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_8
        union all
        select node, offered from across_8
        union all
        select label, offered from across_8
    ) as offers
    group by node
)

, jumped_9 as (
    select one.node, one.label, two.label as next_label
    from labels_8 as one
    inner join labels_8 as two on one.label = two.node
)

, across_9 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_9 as here on edges.node = here.node
    inner join jumped_9 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_9 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_9
        union all
        select node, offered from across_9
        union all
        select label, offered from across_9
    ) as offers
    group by node
)

, jumped_10 as (
    select one.node, one.label, two.label as next_label
    from labels_9 as one
    inner join labels_9 as two on one.label = two.node
)

, across_10 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_10 as here on edges.node = here.node
    inner join jumped_10 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_10 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_10
        union all
        select node, offered from across_10
        union all
        select label, offered from across_10
    ) as offers
    group by node
)

, jumped_11 as (
    select one.node, one.label, two.label as next_label
    from labels_10 as one
    inner join labels_10 as two on one.label = two.node
)

, across_11 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_11 as here on edges.node = here.node
    inner join jumped_11 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_11 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_11
        union all
        select node, offered from across_11
        union all
        select label, offered from across_11
    ) as offers
    group by node
)

, jumped_12 as (
    select one.node, one.label, two.label as next_label
    from labels_11 as one
    inner join labels_11 as two on one.label = two.node
)

, across_12 as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_12 as here on edges.node = here.node
    inner join jumped_12 as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_12 as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_12
        union all
        select node, offered from across_12
        union all
        select label, offered from across_12
    ) as offers
    group by node
)

, sizes as (
    select label, count(*) as ids
    from labels_12
    group by label
)

-- Where a link still has two labels, the rounds were too few: nobody knows yet how large that component is.
, unsettled as (
    select distinct here.label
    from edges
    inner join labels_12 as here on edges.node = here.node
    inner join labels_12 as there on edges.neighbour = there.node
    where here.label <> there.label
)

, judged as (
    select
        labels.node
        , labels.label
        , sizes.ids
        , case
            when unsettled.label is not null then 'not settled'
            when sizes.ids > 1000 then 'too many ids of a person'
        end as excluded_because
    from labels_12 as labels
    inner join sizes on labels.label = sizes.label
    left join unsettled on labels.label = unsettled.label
)

select
    nodes.id_kind
    , nodes.id
    , canonical.id_kind || ':' || canonical.id as canonical_id
    , cast(case when judged.excluded_because is null then judged.ids else 1 end as bigint) as ids_of_person
    , coalesce(nodes.excluded_because, judged.excluded_because) as excluded_because
    , cast(case when judged.excluded_because is not null then judged.ids end as bigint) as ids_linked
from judged
inner join nodes on judged.node = nodes.id_number
inner join nodes as canonical
    on canonical.id_number = case when judged.excluded_because is null then judged.label else judged.node end
;

DROP TABLE IF EXISTS models.identity_excluded;
CREATE TABLE models.identity_excluded AS
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
from models.identity_ids as ids
left join models.identity as identity on ids.id_kind = identity.id_kind and ids.id = identity.id
where ids.excluded_because is not null or identity.excluded_because is not null
;
