"""What an SDK driver is asked to send, and what it says it has sent.

Each call carries the mark `{"run": ..., "seq": ...}` in `context.mark`, on every SDK and every call, and
again as `seq` in the properties or traits where the call has them. Sequence numbers rise by one over a
whole run, so a user's events are in order exactly if their numbers rise.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

import msgspec

CALLS: Final = ("identify", "track", "page", "screen", "group", "alias")


class Plan(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything a driver needs to know."""

    endpoint: str
    """The gateway's origin, without a path: `http://127.0.0.1:8080`."""
    write_key: str
    run: str
    """Unique for the run; part of every user's ids."""
    users: int = 2
    """How many users send; user N is `{run}-user-{N}`, anonymous id `{run}-anon-{N}`."""
    rounds: int = 1
    """How many times each user makes all calls."""

    def user_ids(self) -> tuple[str, ...]:
        """The user ids of the run."""
        return tuple(f"{self.run}-user-{number}" for number in range(self.users))


class Sent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One call that the SDK reported as sent."""

    type: str
    seq: int
    message_id: str
    user_id: str | None
    anonymous_id: str | None


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What an arrived event says about where it came from."""

    run: str
    seq: int

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Self | None:
        """The mark of an event that a driver sent; None for any other event."""
        context = event.get("context")
        mark = context.get("mark") if isinstance(context, Mapping) else None
        return None if mark is None else msgspec.convert(mark, cls)


def parse_sent(lines: Iterable[str]) -> list[Sent]:
    """A driver's output, one JSON object a line."""
    return [msgspec.json.decode(line, type=Sent) for line in lines if line.strip()]
