"""Events as JSON: one line of UTF-8 each, whatever Python objects they hold.

What JSON has no word for becomes: `datetime` (ISO 8601, as it is: without a zone if it has none), `date`,
`time`, `UUID`, `Enum` (its value), paths: text. `timedelta`: seconds. `Decimal` and numbers of other libraries:
a number. Sets, tuples, other collections: a list. `bytes`: their text if they are UTF-8, else Base64. Dataclasses: an
object. NaN and infinities: null. Anything else: null, with a warning. Halves of surrogate pairs: U+FFFD.

Nearly every event goes through C alone; what that refuses is copied into something it takes.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import math
import numbers
from collections.abc import Collection, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

_log = logging.getLogger("mainstem_analytics")
_MAX_DEPTH = 64


def encode(event: Mapping[str, Any]) -> bytes:
    """Return the event as JSON, without a line break in it."""
    try:
        text = _fast(event)
    except (TypeError, ValueError, RecursionError):
        # NaN, keys that are no text, a circle.
        text = _fast(_plain(event, 0))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _other(value: object) -> Any:
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (UUID, PurePath)):
        return str(value)
    if isinstance(value, Decimal):
        return float(value) if value.is_finite() else None
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _of_bytes(bytes(value))
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Collection):
        return list(value)
    _log.warning("a value of type %s has no JSON form and was left out", type(value).__name__)
    return None


_fast = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_other).encode


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > _MAX_DEPTH:
        _log.warning("a value is nested deeper than %d, or in a circle, and was left out", _MAX_DEPTH)
        return None
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    return _plain(_other(value), depth + 1)


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, (bool, int)):
        return json.dumps(key)
    plain = _other(key) if not isinstance(key, (float, tuple)) else key
    return str(plain)


def _of_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()
