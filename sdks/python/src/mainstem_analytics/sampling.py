"""Sampling: a share of the users, always the same ones, so that what is left of a user is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Callable, Union

Rate = Union[float, Mapping[str, float], Callable[[Mapping[str, Any]], float]]
"""One rate for all; by event name or type (`track`, `page`, `screen`), else 1; or a function of the event."""

_SALT = b"mainstem-sample-v1\0"


def in_sample(event: Mapping[str, Any], rate: Rate) -> bool:
    """Whether this event is sent. identify, group and alias are always: they say who somebody is.

    A user who is in the sample of one rate is in that of every higher one.
    """
    if event["type"] not in ("track", "page", "screen"):
        return True
    if callable(rate):
        share = rate(event)
    elif isinstance(rate, Mapping):
        share = rate.get(event.get("event", ""), rate.get(event["type"], 1.0))
    else:
        share = rate
    if share >= 1:
        return True
    who = event.get("userId") or event.get("anonymousId") or event["messageId"]
    digest = hashlib.blake2b(_SALT + str(who).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * (1 << 64)
