"""Values of events, read the way the world's SDKs and RudderStack's transformer read them. Part of the mapping kit.

Events come from JavaScript more often than not, and companies that move to Mainstem expect the same requests as
before: so truth, texts and numbers here follow ECMAScript (https://tc39.es/ecma262/#sec-type-conversion). No
function raises for any JSON value; what can't be read is None.
"""

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from mainstem.destinations.kit.body import text_of
from mainstem.destinations.kit.paths import MISSING

Json = Any

_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|Infinity)")
_LEADING_FLOAT: Final = re.compile(r"\s*([+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?))")
_LEADING_INT: Final = re.compile(r"\s*([+-]?\d+)")
_EMAIL: Final = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@.]+")
_MOST_DIGITS: Final = 400

# ---------------------------------------------------------------- truth and presence


def truthy(value: Json) -> bool:
    """Tell what JavaScript's `if (value)` says: empty lists and objects are true, NaN is not."""
    if value is None or value is MISSING or value is False:
        return False
    if isinstance(value, float) and math.isnan(value):
        return False
    return value is True or isinstance(value, list | dict) or bool(value)


def present(value: Json) -> bool:
    """Tell whether a field counts as given: anything true, and `false` and 0; not null, not an empty text."""
    return truthy(value) or value is False or (isinstance(value, int | float) and value == 0)


def defined(value: Json) -> bool:
    """Tell whether a value is neither absent nor null."""
    return value is not None and value is not MISSING


def defined_not_empty(value: Json) -> bool:
    """Tell whether a value is there and is no empty text, list or object."""
    return defined(value) and not (isinstance(value, str | list | dict) and not value)


# ---------------------------------------------------------------- reading


def get(message: Json, path: str, default: Json = None) -> Json:
    """Return the value at a dotted path (`context.traits.email`, `products.0.id`), `default` if absent or null."""
    value = message
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return default
    return default if value is None else value


def first(message: Json, *paths: str) -> Json:
    """Return the first value that is `present` at one of these paths, in order of preference; None without."""
    for path in paths:
        value = get(message, path)
        if present(value):
            return value
    return None


def mapping(value: Json) -> dict[str, Json]:
    """Return a value if it is an object, else an empty one. Don't change it: it is the event's own."""
    return value if isinstance(value, dict) else {}


def sequence(value: Json) -> list[Json]:
    """Return a value if it is a list, else an empty one. Don't change it: it is the event's own."""
    return value if isinstance(value, list) else []


def traits_of(message: Mapping[str, Json]) -> dict[str, Json]:
    """Return a new object of a person's traits: those in the context, with the event's own over them."""
    return {**mapping(mapping(message.get("context")).get("traits")), **mapping(message.get("traits"))}


def external_id(message: Mapping[str, Json], *types: str) -> Json:
    """Return the id of the first entry of `context.externalId` whose type is one of these; None without."""
    for entry in sequence(mapping(message.get("context")).get("externalId")):
        if isinstance(entry, dict) and entry.get("type") in types:
            return entry.get("id")
    return None


def integration_options(message: Mapping[str, Json], *names: str) -> dict[str, Json]:
    """Return the options an event gives for a destination, `integrations: {Amplitude: {…}}`; empty without.

    Args:
        names: the destination's, in order of preference.
    """
    integrations = mapping(message.get("integrations"))
    for name in names:
        if isinstance(options := integrations.get(name), dict):
            return options
    return {}


# ---------------------------------------------------------------- texts and numbers


def text(value: Json) -> str:
    """Return `String(value)`: true, 1.5, 1e+21, a,b for a list, [object Object] for an object."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if value is MISSING:
        return "undefined"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return number_text(value)
    if isinstance(value, list):
        return ",".join("" if item is None else text(item) for item in value)
    return "[object Object]"


def number_text(value: float) -> str:
    """Return a number as JavaScript writes it: integral ones without a point, 21 digits before an exponent."""
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
    elif abs(value) < 10**21:
        return str(value)
    try:
        shortest = Decimal(repr(float(value)))
    except OverflowError:
        return "Infinity" if value > 0 else "-Infinity"
    sign, digits, exponent = shortest.as_tuple()
    assert isinstance(exponent, int)  # noqa: S101 - finite here
    written = "".join(map(str, digits)).rstrip("0") or "0"
    point = len(digits) + exponent
    if -6 < point <= 0:
        body = "0." + "0" * -point + written
    elif 0 < point <= 21:
        body = written.ljust(point, "0")
        body = f"{body[:point]}.{body[point:]}" if len(body) > point else body
    else:
        body = written[0] + (f".{written[1:]}" if len(written) > 1 else "")
        body += f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return ("-" if sign else "") + body


def number(value: Json) -> float | None:
    """Return `Number(value)` for texts, numbers and booleans; None where JavaScript says NaN. An int stays one."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else _plain(value)
    if isinstance(value, str):
        stripped = value.strip()
        if not stripped:
            return 0
        if len(stripped) <= _MOST_DIGITS and _NUMBER.fullmatch(stripped):
            return _of_text(stripped)
        return None
    return 0 if value is None else None


def parse_float(value: Json) -> float | None:
    """Return `parseFloat(value)`: the number a text begins with; None where JavaScript says NaN."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    found = _LEADING_FLOAT.match(value[:_MOST_DIGITS]) if isinstance(value, str) else None
    return _of_text(found[1]) if found else None


def parse_int(value: Json) -> int | None:
    """Return `parseInt(value, 10)`: the integer a text begins with; None where JavaScript says NaN."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) if math.isfinite(value) else None
    found = _LEADING_INT.match(value[:_MOST_DIGITS]) if isinstance(value, str) else None
    return int(found[1]) if found else None


def _of_text(text: str) -> float:
    value = float(text)
    return _plain(value)


def _plain(value: float) -> float:
    """Return an integral float as an int, as JSON from JavaScript would have it."""
    return int(value) if value.is_integer() and abs(value) < 2**63 else value


def rounded(value: float, digits: int = 0) -> float:
    """Return `Math.round` to so many decimals: half goes up, also below zero."""
    factor = 10**digits
    return _plain(math.floor(value * factor + 0.5) / factor)


def json_text(value: Json) -> str:
    """Return a text as it is, anything else as `JSON.stringify` writes it."""
    return text_of(value)


def lower(value: Json) -> str:
    return text(value).lower()


def trimmed_lower(value: Json) -> str:
    return text(value).strip().lower()


def utf16_length(value: str) -> int:
    """Return a text's length as JavaScript counts it: in UTF-16 code units."""
    return len(value) + sum(char > "\uffff" for char in value)


def cut_utf16(value: str, most: int) -> str:
    """Return at most so many UTF-16 code units of a text, as JavaScript's `slice` cuts; no half characters."""
    if len(value) * 2 <= most:
        return value
    return value.encode("utf-16-le", "surrogatepass")[: 2 * most].decode("utf-16-le", "ignore")


def is_email(value: Json) -> bool:
    """Tell whether a value looks like an e-mail address."""
    return isinstance(value, str) and len(value) <= 320 and _EMAIL.fullmatch(value) is not None


def sha256(value: str) -> str:
    """Return the SHA-256 of a text's UTF-8, in hexadecimal."""
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()


def md5(value: str) -> str:
    """Return the MD5 of a text's UTF-8, in hexadecimal: where vendors identify people by it."""
    return hashlib.md5(value.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()


# ---------------------------------------------------------------- objects


def without_none(value: Mapping[str, Json]) -> dict[str, Json]:
    """Return a new object without members that are absent or null."""
    return {key: item for key, item in value.items() if item is not None and item is not MISSING}


def without_empty(value: Mapping[str, Json]) -> dict[str, Json]:
    """Return a new object without members that are absent, null, or an empty text, list or object."""
    return {key: item for key, item in value.items() if defined_not_empty(item)}


def pick(value: Mapping[str, Json], keys: Iterable[str]) -> dict[str, Json]:
    """Return a new object of these members, where there."""
    return {key: value[key] for key in keys if key in value}


def omit(value: Mapping[str, Json], keys: Collection[str]) -> dict[str, Json]:
    """Return a new object of all other members."""
    return {key: item for key, item in value.items() if key not in keys}


def renamed(value: Mapping[str, Json], names: Mapping[str, str]) -> dict[str, Json]:
    """Return a new object with members renamed; those without a new name stay."""
    return {names.get(key, key): item for key, item in value.items()}


def pairs(rows: Iterable[Any], source: str = "from", target: str = "to") -> dict[str, str]:
    """Return RudderStack's `[{from, to}]` settings as an object, without rows left empty."""
    found: dict[str, str] = {}
    for row in rows:
        entry = mapping(row)
        if isinstance(entry.get(source), str) and entry[source] and isinstance(entry.get(target), str):
            found[entry[source]] = entry[target]
    return found


def flattened(
    value: Json, separator: str = ".", *, lists: str = "index", keep_empty: bool = True
) -> dict[str, Json]:
    """Return an object's leaves by their path.

    Args:
        lists: `index` (a.0.b), `bracket` (a[0].b), or `whole` (a list is a leaf).
        keep_empty: whether empty objects and lists are leaves.
    """
    found: dict[str, Json] = {}

    def walk(path: str, item: Json) -> None:
        if isinstance(item, dict) and (item or not keep_empty):
            for key, member in item.items():
                walk(f"{path}{separator}{key}" if path else key, member)
        elif isinstance(item, list) and lists != "whole" and (item or not keep_empty):
            for index, member in enumerate(item):
                at = f"{path}[{index}]" if lists == "bracket" else f"{path}{separator}{index}"
                walk(at if path else str(index), member)
        else:
            found[path] = item

    for key, member in mapping(value).items():
        walk(key, member)
    return found


def merged_deep(*layers: Json) -> dict[str, Json]:
    """Return a new object of all layers; a later one's members win, objects are merged member by member."""
    result: dict[str, Json] = {}
    for layer in layers:
        for key, item in mapping(layer).items():
            here = result.get(key)
            if isinstance(here, dict) and isinstance(item, dict):
                result[key] = merged_deep(here, item)
            else:
                result[key] = item
    return result


def map_values(value: Mapping[str, Json], change: Callable[[Json], Json]) -> dict[str, Json]:
    """Return a new object with every member changed."""
    return {key: change(item) for key, item in value.items()}


def put(target: dict[str, Json], path: str, value: Json) -> None:
    """Put a value at a dotted path of an object being built, making the objects on the way."""
    *way, last = path.split(".")
    for part in way:
        inner = target.get(part)
        if not isinstance(inner, dict):
            inner = target[part] = {}
        target = inner
    target[last] = value
