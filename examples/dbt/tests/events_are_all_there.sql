-- Neither model of events has one that the other lacks.
select coalesce(loaded.event_key, events.event_key) as event_key
from {{ ref('events_loaded') }} as loaded
full outer join {{ ref('events') }} as events on loaded.event_key = events.event_key
where loaded.event_key is null or events.event_key is null
