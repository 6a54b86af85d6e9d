"""People and sessions of a history, worked out the slow and plain way: what the models have to say too.

Nothing here is taken from the SQL: links are walked one by one, sessions are found event by event.
"""

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.examples.histories import HALF_AN_HOUR_MS, SOURCE, Sent

Id = tuple[str, str]
"""Kind and value."""

PLACEHOLDERS: Final = frozenset(
    ("", "null", "none", "nil", "nan", "undefined", "unknown", "anonymous", "guest", "test", "n/a", "0", "-1")
) | frozenset(("true", "false", "[object object]", "00000000-0000-0000-0000-000000000000"))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When ids are not linked."""

    user_ids: int = 3
    anonymous_ids: int = 200
    ids_of_a_person: int = 1000


def newest(staged: Iterable[Sequence[Sent]]) -> list[Sent]:
    """Each event as it arrived last."""
    found: dict[Id, Sent] = {}
    for stage in staged:
        for event in stage:
            found[event.type, event.id] = event
    return list(found.values())


def key_of(event: Sent) -> str:
    """What the models call an event."""
    return hashlib.md5(f"{event.type}:{SOURCE}:{event.id}".encode()).hexdigest()


def _id(value: str | None) -> str | None:
    return None if value is None or value.strip().lower() in PLACEHOLDERS else value


class People:
    """Who is who."""

    def __init__(self, events: Sequence[Sent], limits: Limits) -> None:
        self.canonical: dict[Id, str] = {}
        self.excluded: dict[Id, str] = {}
        links: dict[Id, set[Id]] = defaultdict(set)
        seen: dict[Id, int] = {}
        devices = {_id(event.anonymous_id) for event in events}
        users = {_id(event.user_id) for event in events}

        def see(one: Id, at_ms: int) -> None:
            seen[one] = min(at_ms, seen.get(one, at_ms))

        for event in events:
            at_ms = event.received_at_ms
            for kind, value in (("anonymous", event.anonymous_id), ("user", event.user_id)):
                if _id(value):
                    see((kind, str(value)), at_ms)
                elif value:
                    self.excluded[kind, value] = "placeholder"
            user, previous = _id(event.user_id), _id(event.previous_id)
            others: list[Id] = []
            if _id(event.anonymous_id):
                others.append(("anonymous", str(event.anonymous_id)))
            if previous and previous in devices:
                others.append(("anonymous", previous))
            if previous and (previous in users or previous not in devices) and previous != user:
                others.append(("user", previous))
            for other in others if user else ():
                links["user", str(user)].add(other)
                links[other].add(("user", str(user)))
                see(other, at_ms)
        for one in seen:
            kinds = [kind for kind, _ in links[one]]
            if kinds.count("user") > limits.user_ids:
                self.excluded[one] = "too many user ids"
            elif kinds.count("anonymous") > limits.anonymous_ids:
                self.excluded[one] = "too many anonymous ids"
        cut = set(self.excluded)
        left = set(seen)
        while left:
            first = left.pop()
            person, waiting = {first}, deque([first])
            while waiting:
                one = waiting.popleft()
                for other in links[one] if one not in cut else ():
                    if other not in cut and other not in person:
                        person.add(other)
                        waiting.append(other)
            left -= person
            if len(person) > limits.ids_of_a_person:
                self.excluded.update(dict.fromkeys(person, "too many ids of a person"))
                self.canonical.update({one: ":".join(one) for one in person})
            else:
                earliest = min(person, key=lambda one: (seen[one], one))
                self.canonical.update(dict.fromkeys(person, ":".join(earliest)))

    def of(self, event: Sent) -> str | None:
        """The person of an event; None if it is nobody's."""
        if user := _id(event.user_id):
            return self.canonical["user", user]
        if device := _id(event.anonymous_id):
            return self.canonical["anonymous", device]
        return None


def visits(
    events: Sequence[Sent], people: People, *, scope: str = "person", by_campaign: bool = False
) -> list[list[Sent]]:
    """The events of each session, in order."""
    by_owner: dict[tuple[str, str | None], list[Sent]] = defaultdict(list)
    for event in events:
        person = people.of(event)
        if person is not None and event.channel not in ("server", "sources"):
            device = _id(event.anonymous_id) if scope == "device" else None
            by_owner[person, device].append(event)
    found: list[list[Sent]] = []
    for owned in by_owner.values():
        owned.sort(key=lambda event: (event.at_ms, event.received_at_ms, key_of(event)))
        visit: list[Sent] = []
        campaign: Mapping[str, str] = {}
        for event in owned:
            if visit and event.at_ms - visit[-1].at_ms > HALF_AN_HOUR_MS:
                found.append(visit)
                visit, campaign = [], {}
            elif visit and by_campaign and event.campaign and event.campaign != campaign:
                found.append(visit)
                visit = []
            visit.append(event)
            campaign = event.campaign or campaign
        found.append(visit)
    return found


def session_of_event(found: Iterable[Sequence[Sent]]) -> dict[str, tuple[str, int]]:
    """By event: the session, and the event's place in it."""
    return {
        key_of(event): (key_of(visit[0]), place)
        for visit in found
        for place, event in enumerate(visit, start=1)
    }


def session_rows(found: Iterable[Sequence[Sent]], people: People) -> list[dict[str, Any]]:
    """The rows of the model `sessions`, in order of their ids."""
    rows = [_session(visit, people) for visit in found]
    rows.sort(key=lambda row: (row["canonical_id"], row["started_at"], row["session_id"]))
    place, before = 0, None
    for row in rows:
        place = place + 1 if row["canonical_id"] == before else 1
        row["session_of_person"], before = place, row["canonical_id"]
    return sorted(rows, key=lambda row: row["session_id"])


def _session(visit: Sequence[Sent], people: People) -> dict[str, Any]:
    pages = [event for event in visit if event.page]
    views = [event for event in pages if event.type == "page"] or pages
    landing, leaving = (views[0].page, views[-1].page) if views else ({}, {})
    campaign = next((event.campaign for event in visit if event.campaign), {})
    users = [event.user_id for event in visit if _id(event.user_id)]
    kinds = [event.type for event in visit]
    duration_s = (visit[-1].at_ms - visit[0].at_ms) / 1000
    return {
        "session_id": key_of(visit[0]),
        "canonical_id": people.of(visit[0]),
        "user_id": users[-1] if users else None,
        "started_at": moment(visit[0].at_ms),
        "ended_at": moment(visit[-1].at_ms),
        "duration_s": duration_s,
        "events": len(visit),
        "pages": kinds.count("page"),
        "screens": kinds.count("screen"),
        "tracks": kinds.count("track"),
        "conversions": 0,
        "devices": len({event.anonymous_id for event in visit if _id(event.anonymous_id)}),
        "is_engaged": duration_s >= 10 or kinds.count("page") + kinds.count("screen") >= 2,
        "landing_page": landing.get("url"),
        "landing_path": landing.get("path"),
        "exit_page": leaving.get("url"),
        "exit_path": leaving.get("path"),
        "referrer": landing.get("referrer"),
        "referring_domain": landing.get("referring_domain"),
        "utm_source": campaign.get("source"),
        "utm_medium": campaign.get("medium"),
        "utm_campaign": campaign.get("name"),
        "utm_term": None,
        "utm_content": None,
        "device": None,
        "os": next((event.os for event in visit if event.os), None),
        "browser": None,
        "user_agent": None,
    }


def moment(at_ms: int) -> datetime:
    """A time as the engines give it."""
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=at_ms)
