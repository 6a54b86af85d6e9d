"""Every answer the gateway gives, in the words that SDKs look for.

Success is exactly `200` with a JSON object that Segment, RudderStack and Jitsu clients all take: rudder and
Segment Python test for 200 and `success`, @jitsu/js for JSON. An error has both `code` and `message`: the
Python SDKs read both of any JSON error and retry a 4xx eleven times when one is missing. Mobile SDKs look for
the sentences `invalid write key` and `request neither has anonymousId nor userId`.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mainstem.gateway.http1 import Answer

_encode: Final = msgspec.json.encode

INVALID_WRITE_KEY: Final = "invalid write key"
NO_IDS: Final = "request neither has anonymousId nor userId"


class Rejection(msgspec.Struct, frozen=True):
    """One event that was refused, as the answer tells it."""

    index: int
    code: str
    message: str


def ok(document: Any, headers: Sequence[tuple[str, str]] = ()) -> Answer:
    """Return a 200 with a JSON document."""
    return Answer(200, _encode(document), headers=headers)


def error(
    status: int, code: str, message: str, *, retry_after_s: int = 0, headers: Sequence[tuple[str, str]] = ()
) -> Answer:
    """Return an error that every SDK can read."""
    more = [("retry-after", str(retry_after_s))] if retry_after_s else []
    return Answer(status, _encode({"code": code, "message": message}), headers=[*headers, *more])


ACCEPTED: Final = ok({"success": True, "ok": True})
MISSING_WRITE_KEY: Final = error(
    401,
    "missing_write_key",
    "no write key: send it as Basic user, X-Write-Key header, writeKey query parameter or writeKey in the body",
    headers=[("www-authenticate", 'Basic realm="write key"')],
)
WRONG_WRITE_KEY: Final = error(
    401, "invalid_write_key", INVALID_WRITE_KEY, headers=[("www-authenticate", 'Basic realm="write key"')]
)
CONFIG_WRONG_WRITE_KEY: Final = error(400, "invalid_write_key", INVALID_WRITE_KEY)
SOURCE_DISABLED: Final = error(404, "source_disabled", "source is disabled")
ORIGIN_REFUSED: Final = error(403, "origin_not_allowed", "this origin may not send to this source")
NOT_FOUND: Final = error(404, "no_such_path", "there is nothing at this path")
STREAM_FULL: Final = error(
    503, "stream_full", "no space to store events: nothing was taken, try again later", retry_after_s=5
)
UNAVAILABLE: Final = error(
    503, "unavailable", "the event could not be made durable: try again later", retry_after_s=1
)


def partly_accepted(accepted: int, rejected: Sequence[Rejection]) -> Answer:
    """Return the 200 of a batch in which some events were refused."""
    return ok({"success": True, "ok": True, "accepted": accepted, "rejected": rejected})


def all_rejected(rejected: Sequence[Rejection]) -> Answer:
    """Return the 400 of a request in which every event was refused; the first reason speaks for all."""
    first = rejected[0]
    return Answer(
        400, _encode({"code": first.code, "message": first.message, "accepted": 0, "rejected": rejected})
    )
