"""`GET /pixel/v1/{track,page}`: an event in a query string, for e-mails and pages without scripts.

Parameters are the event's fields, nested ones with dots (`properties.plan=pro`); `writeKey` authenticates. The
answer is always a 1x1 GIF: there is nobody to read an error. Refusals are counted, and stored when the key was
right, as anywhere.
"""

import base64
from typing import Any, Final
from urllib.parse import parse_qsl

from mainstem.gateway.http1 import Answer

_GIF: Final = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")

PIXEL: Final = Answer(
    200, _GIF, "image/gif", headers=[("cache-control", "no-store, no-cache, must-revalidate, private")]
)

_MAX_FIELDS: Final = 1_000
_MAX_LEVELS: Final = 16


def pixel_event(query: bytes, referer: str) -> dict[str, Any]:
    """Return the event a pixel's query describes. A parameter that contradicts an earlier one
    (`properties=1&properties.a=2`) is kept under its whole dotted name."""
    event: dict[str, Any] = {}
    for name, value in query_pairs(query):
        if name.lower() == "writekey":
            continue
        *parents, last = name.split(".")
        place: Any = event
        if len(parents) < _MAX_LEVELS:
            for parent in parents:
                place = place.setdefault(parent, {})
                if not isinstance(place, dict):
                    break
        if not isinstance(place, dict) or len(parents) >= _MAX_LEVELS or isinstance(place.get(last), dict):
            event[name] = value
        else:
            place[last] = value
    if referer:
        context = event.setdefault("context", {})
        if isinstance(context, dict):
            page = context.setdefault("page", {})
            if isinstance(page, dict):
                page.setdefault("url", referer)
    return event


def query_pairs(query: bytes) -> list[tuple[str, str]]:
    """Return the parameters of a query or form, percent-decoded; a broken one is read as far as it can be."""
    pairs = query.split(b"&", _MAX_FIELDS)[:_MAX_FIELDS]
    return parse_qsl(b"&".join(pairs).decode("utf-8", "replace"), keep_blank_values=True, errors="replace")
