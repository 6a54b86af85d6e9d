-- Each event of a session is counted in that session, and within its times.
select events.session_id, count(*) as found, max(sessions.events) as counted
from {{ ref('events') }} as events
left join {{ ref('sessions') }} as sessions
    on events.session_id = sessions.session_id
    and events.canonical_id = sessions.canonical_id
    and events.event_at between sessions.started_at and sessions.ended_at
where events.session_id is not null
group by events.session_id
having count(*) <> coalesce(max(sessions.events), 0)
    or count(*) <> count(sessions.session_id)
