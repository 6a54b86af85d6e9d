"""What people do with their devices, by chance: events as Mainstem stores them, in the order in which they arrive.

Every case is a few people who have nothing to do with those of other cases. They browse, log in on several devices,
share devices, change their ids, come back after half an hour less or more a millisecond; their events come late, twice,
and again with other contents.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from mainstem.events.stored import StoredEvent
from tests.warehouse.rig import START_MS

SOURCE: Final = "web"
STAGES: Final = 3
HALF_AN_HOUR_MS: Final = 1_800_000
_NOBODY: Final = ("null", "undefined", "Test", "0", "00000000-0000-0000-0000-000000000000")
_GAPS_MS: Final = (
    *(0, 1, 9_999, 10_000, 60_000, 900_000),
    *(HALF_AN_HOUR_MS - 1, HALF_AN_HOUR_MS, HALF_AN_HOUR_MS + 1),
    *(2 * HALF_AN_HOUR_MS, 26 * 3_600_000),
)
_CAMPAIGNS: Final[tuple[dict[str, str], ...]] = (
    {},
    {},
    {},
    {"source": "mail"},
    {"source": "search", "medium": "cpc", "name": "2026-01"},
)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """An event as it arrived at one time."""

    type: str
    id: str
    at_ms: int
    """When it happened."""
    received_at_ms: int
    stage: int
    """In which of the loads it is."""
    anonymous_id: str | None = None
    user_id: str | None = None
    previous_id: str | None = None
    name: str | None = None
    channel: str | None = None
    page: dict[str, str] = field(default_factory=dict)
    campaign: dict[str, str] = field(default_factory=dict)
    os: str | None = None
    traits: dict[str, Any] = field(default_factory=dict)

    def stored(self) -> StoredEvent:
        """The event as the gateway appends it."""
        moment = _iso(self.at_ms)
        context: dict[str, Any] = {"page": self.page, "campaign": self.campaign}
        if self.os:
            context["os"] = {"name": self.os}
        body: dict[str, Any] = {
            "type": self.type,
            "messageId": self.id,
            "originalTimestamp": moment,
            "timestamp": moment,
            "context": context,
        }
        given = {
            "anonymousId": self.anonymous_id,
            "userId": self.user_id,
            "previousId": self.previous_id,
            "channel": self.channel,
            "event" if self.type == "track" else "name": self.name,
            "groupId": "g" if self.type == "group" else None,
            "traits": self.traits or None,
        }
        body.update({key: value for key, value in given.items() if value is not None})
        return StoredEvent(
            source_id=SOURCE,
            message_id=self.id,
            type=self.type,
            received_at_ms=self.received_at_ms,
            raw=msgspec.json.encode(body),
        )


def _iso(at_ms: int) -> str:
    return (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")


class _Case:
    """The events of a few people."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self._name = f"c{number}"
        self._chance = chance
        self._devices = [f"{self._name}-d{one}" for one in range(chance.randint(1, 6))]
        self._users = [f"{self._name}-u{one}" for one in range(chance.randint(1, 4))]
        self._events = 0
        self._now_ms = START_MS + chance.randrange(3_600_000)

    def __iter__(self) -> Iterator[Sent]:
        chance = self._chance
        logged_in: dict[str, str] = {}
        for _ in range(chance.randint(3, 40)):
            self._now_ms += chance.choice(_GAPS_MS)
            device = chance.choice(self._devices)
            action = chance.random()
            if action < 0.1:
                user = logged_in[device] = chance.choice(self._users)
                yield self._sent("identify", device, user, traits={"plan": chance.choice(["free", "pro"])})
            elif action < 0.15:
                logged_in.pop(device, None)
            elif action < 0.19:
                earlier = chance.choice([*self._devices, *self._users, f"{self._name}-forgotten"])
                yield self._sent("alias", None, chance.choice(self._users), previous_id=earlier)
            elif action < 0.22:
                yield self._sent("track", None, chance.choice(self._users), channel="server", name="Billed")
            elif action < 0.25:
                yield self._sent("group", device, logged_in.get(device))
            elif action < 0.29:
                yield self._sent(
                    "page", chance.choice([device, chance.choice(_NOBODY)]), chance.choice(_NOBODY)
                )
            elif action < 0.33:
                yield self._sent("page", None, chance.choice(self._users))
            elif action < 0.5:
                name = chance.choice(["Order Completed", "Viewed"])
                yield self._sent("track", device, logged_in.get(device), name=name)
            else:
                yield self._sent(chance.choice(["page", "page", "screen"]), device, logged_in.get(device))

    def _sent(self, kind: str, device: str | None, user: str | None, **more: Any) -> Sent:
        chance = self._chance
        self._events += 1
        late_ms = chance.choice([0, 0, 0, 5, 3_600_000, 40 * 3_600_000])
        page = {}
        if kind == "page" or chance.random() < 0.3:
            path = f"/{chance.randrange(9)}"
            page = {"url": f"https://shop.example{path}", "path": path}
            if chance.random() < 0.4:
                page |= {"referrer": "https://search.example/", "referring_domain": "search.example"}
        return Sent(
            type=kind,
            id=f"{self._name}-m{self._events}",
            at_ms=self._now_ms,
            received_at_ms=self._now_ms + late_ms,
            stage=0,
            anonymous_id=device,
            user_id=user,
            page=page,
            campaign=dict(chance.choice(_CAMPAIGNS)),
            os=chance.choice([None, "Linux", "iOS"]),
            **more,
        )


def histories(*, cases: int, seed: int) -> Sequence[Sequence[Sent]]:
    """The events of many cases, by stage: those of a stage were received before those of the next.

    The first stage has neither screens nor aliases, so that those tables come to be later.
    """
    chance = random.Random(seed)
    once = [event for number in range(cases) for event in _Case(number, random.Random(chance.random()))]
    once += _chain("k", 9) + _chain("long", 13) + _crowd("kiosk", 7) + _collector("bot", 9)
    once.sort(key=lambda event: (event.received_at_ms, event.id))
    share = len(once) // STAGES + 1
    staged: list[list[Sent]] = [[] for _ in range(STAGES)]
    for place, event in enumerate(once):
        stage = place // share
        if event.type in ("screen", "alias"):
            stage = max(stage, 1)
        staged[stage].append(replace(event, stage=stage))
        if chance.random() < 0.05:
            staged[stage].append(staged[stage][-1])
    for stage in range(1, STAGES):
        before = [event for earlier in staged[:stage] for event in earlier]
        staged[stage] += [_again(event, stage, chance) for event in chance.sample(before, len(before) // 20)]
    return staged


def _again(event: Sent, stage: int, chance: random.Random) -> Sent:
    """An event that is sent again, late; sometimes it says something else this time."""
    again = replace(event, stage=stage, received_at_ms=event.received_at_ms + 90 * 3_600_000)
    match chance.randrange(4):
        case 0:
            return replace(again, at_ms=event.at_ms + chance.choice([-1, 1]) * 2 * HALF_AN_HOUR_MS)
        case 1 if event.anonymous_id and event.user_id:
            return replace(again, user_id=None)
        case _:
            return again


def _pair(name: str, number: int, device: str, user: str) -> Sent:
    at_ms = START_MS + number * 60_000
    return Sent(
        type="identify",
        id=f"{name}-{number}",
        at_ms=at_ms,
        received_at_ms=at_ms,
        stage=0,
        anonymous_id=f"{name}-d{device}",
        user_id=f"{name}-u{user}",
    )


def _chain(name: str, length: int) -> list[Sent]:
    """Users of whom each shares a device with the next."""
    return [_pair(name, number, str(number // 2), str((number + 1) // 2)) for number in range(length)]


def _crowd(name: str, users: int) -> list[Sent]:
    """A device that many use, each of whom has one of their own too."""
    shared = [_pair(name, 2 * number, "shared", str(number)) for number in range(users)]
    return shared + [_pair(name, 2 * number + 1, str(number), str(number)) for number in range(users)]


def _collector(name: str, devices: int) -> list[Sent]:
    """A user id that a program uses, each time with another anonymous id."""
    return [_pair(name, number, str(number), "one") for number in range(devices)]
