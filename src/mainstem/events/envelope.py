"""From the bytes of a request to the events in it: strict first, tolerant second, nothing lost.

gateway -> **envelope** -> stored. Real SDKs send what strict JSON forbids: `NaN`, `Infinity`, lone surrogates,
a byte order mark, bytes that are not UTF-8. What parses strictly is kept byte for byte. What does not is read
tolerantly and written again as strict JSON (`Item.repaired`):

* `NaN`, `Infinity`, `-Infinity` and numbers no double can hold (`1e999`) become `null`;
* a lone surrogate escape and bytes that are not UTF-8 become U+FFFD;
* a byte order mark is dropped; raw control characters in strings are escaped;
* integers of any size and the digits of every number stay as they are (above 4,000 digits: text).

In a batch only the events that need it are repaired; their neighbours keep their bytes. What is accepted here
decodes in `events.canonical`, which uses the same decoder.

Envelope: https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/#batch
"""

import json
import re
from typing import Any, Final

import msgspec

from mainstem.clock import iso_from_ms
from mainstem.events.canonical import parse_time_ms


class Item(msgspec.Struct, frozen=True, gc=False):
    """One event's JSON, readable."""

    raw: bytes
    message: dict[str, Any]
    repaired: bool = False


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """One event that can't be accepted, as far as its JSON goes."""

    raw: bytes
    code: str
    message: str


class Batch(msgspec.Struct, frozen=True):
    """The envelope of `/v1/batch`."""

    items: list[bytes]
    """The JSON of each event, as it stands in the body."""
    sent_at: str = ""
    context: bytes = b""
    integrations: bytes = b""
    write_key: str = ""
    replaced: bool = False
    """The body was not UTF-8: items that hold U+FFFD are repaired ones."""


class NotABatch(msgspec.Struct, frozen=True):
    """The body is not a batch."""

    code: str
    message: str
    write_key: str = ""
    """Found on the way: the caller may be authenticated nevertheless."""


class _Envelope(msgspec.Struct, rename="camel", gc=False):
    batch: list[msgspec.Raw]
    sent_at: Any = None
    context: msgspec.Raw = msgspec.Raw()
    integrations: msgspec.Raw = msgspec.Raw()
    write_key: Any = None


_decode_any: Final = msgspec.json.Decoder().decode
_decode_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_encode: Final = msgspec.json.encode
_STRICT_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError)

_MAX_DIGITS: Final = 4_000
_MANY_COMMAS: Final = 1_000_000
"""An 8 MiB batch of real events has about a quarter of this."""
_SCAN_TOKENS: Final = 200_000
"""Tokens the search for the end of a too deep element may look at: bounds its time to tens of ms."""


def strict_message(raw: bytes, max_depth: int) -> dict[str, Any] | None:
    """Return the event in `raw` if there is nothing odd about it; None: ask `read_item` what it is.

    The way of nearly every event, so it makes no object beside the message.
    """
    try:
        message = _decode_any(raw)
    except (*_STRICT_ERRORS, RecursionError):
        return None
    if type(message) is not dict:
        return None
    # Every level opens a bracket: few brackets, no depth. Counted by what is left without them: bytes.replace
    # searches with memchr and takes half the time of bytes.count.
    brackets = 2 * len(raw) - len(raw.replace(b"{", b"")) - len(raw.replace(b"[", b""))
    if brackets > max_depth and deeper_than(raw, max_depth):
        return None
    return message


def read_item(raw: bytes, max_depth: int, *, replaced: bool = False) -> Item | Unreadable:
    """Return the event in `raw`, strictly read if it can be, else repaired, else why not."""
    try:
        message = _decode_any(raw)
        repaired = replaced and b"\xef\xbf\xbd" in raw
    except RecursionError:
        return _too_deep(raw, max_depth)
    except _STRICT_ERRORS:
        try:
            raw = _encode(_Tolerant.decode(_escape_lone_surrogates(_text(raw)[0])))
            message = _decode_any(raw)
        except RecursionError:
            return _too_deep(raw, max_depth)
        except (ValueError, msgspec.MsgspecError) as error:
            return Unreadable(raw, "invalid_json", f"invalid json: {_short(error)}")
        repaired = True
    if type(message) is not dict:
        return Unreadable(raw, "not_an_object", "the event is not a JSON object")
    if raw.count(b"{") + raw.count(b"[") > max_depth and deeper_than(raw, max_depth):
        return _too_deep(raw, max_depth)
    return Item(raw, message, repaired)


def read_value(raw: bytes, max_depth: int) -> tuple[Any] | Unreadable:
    """Return any JSON value (in a tuple), read as an event is; big numbers included."""
    try:
        try:
            value = _decode_any(raw)
        except _STRICT_ERRORS:
            raw = _encode(_Tolerant.decode(_escape_lone_surrogates(_text(raw)[0])))
            value = _decode_any(raw)
        if raw.count(b"{") + raw.count(b"[") > max_depth and deeper_than(raw, max_depth):
            return _too_deep(raw, max_depth)
    except RecursionError:
        return _too_deep(raw, max_depth)
    except (ValueError, msgspec.MsgspecError) as error:
        return Unreadable(raw, "invalid_json", f"invalid json: {_short(error)}")
    return (value,)


def _too_deep(raw: bytes, max_depth: int) -> Unreadable:
    return Unreadable(raw, "too_deep", f"the event is nested deeper than {max_depth} levels")


_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_TO_BRACES: Final = bytes.maketrans(b"[]", b"{}")
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def deeper_than(raw: bytes, max_depth: int) -> bool:
    """Return whether strict JSON is nested deeper than `max_depth`, without recursion.

    Every pass takes the innermost level off, so there are at most `max_depth` passes.
    """
    brackets = _STRINGS.sub(b"", raw).translate(_TO_BRACES, _NOT_BRACKETS)
    for _ in range(max_depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"{}", b"")
    return bool(brackets)


# ---------------------------------------------------------------- tolerant reading


def _number(text: str) -> Any:
    if len(text) > _MAX_DIGITS:
        return text
    return msgspec.Raw(text.encode())


def _float(text: str) -> Any:
    if float(text) in (float("inf"), float("-inf")):
        return None
    return _number(text)


_Tolerant: Final = json.JSONDecoder(
    parse_constant=lambda _: None, parse_int=_number, parse_float=_float, strict=False
)

# Only finds where a value ends: no Python call per number, and no limit on its digits.
_Scanner: Final = json.JSONDecoder(parse_constant=lambda _: None, parse_int=float, strict=False)

_ESCAPES: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def _escape_lone_surrogates(text: str) -> str:
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return _ESCAPES.sub(lambda match: "\\ufffd" if match[1] else match[0], text)


def _text(body: bytes) -> tuple[str, bool]:
    """Return the body as text, and whether bytes had to be replaced."""
    try:
        return body.decode("utf-8-sig"), False
    except UnicodeDecodeError:
        return body.decode("utf-8-sig", "replace"), True


def _short(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:120]


# ---------------------------------------------------------------- batches


def read_batch(body: bytes, max_items: int) -> Batch | NotABatch:
    """Return the batch in `body`; its items are not looked into.

    More than `max_items` items are `NotABatch` with code `too_many_events`.
    """
    if body.count(b",") > _MANY_COMMAS:
        # So many that a list of them all could take hundreds of megabytes: this reader stops at the bound.
        return _read_batch_tolerantly(body, max_items)
    try:
        envelope = _decode_envelope(body)
        if not body.isascii():
            body.decode()
    except (*_STRICT_ERRORS, RecursionError):
        return _read_batch_tolerantly(body, max_items)
    context, integrations = bytes(envelope.context), bytes(envelope.integrations)
    if (context or integrations) and not (_is_object(context) and _is_object(integrations)):
        return _read_batch_tolerantly(body, max_items)
    if len(envelope.batch) > max_items:
        return _too_many(max_items, _key_text(envelope.write_key))
    return Batch(
        [bytes(item) for item in envelope.batch],
        _time_text(envelope.sent_at),
        context,
        integrations,
        _key_text(envelope.write_key),
    )


def _too_many(max_items: int, write_key: str = "") -> NotABatch:
    return NotABatch("too_many_events", f"a batch holds at most {max_items} events", write_key)


def _is_object(raw: bytes) -> bool:
    if not raw:
        return True
    try:
        return isinstance(_decode_any(raw), dict)
    except (*_STRICT_ERRORS, RecursionError):
        return False


def _time_text(value: Any) -> str:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    at_ms = parse_time_ms(value)
    # What RFC 3339 can write: up to the year 9999.
    return iso_from_ms(at_ms) if at_ms is not None and at_ms < 253_402_300_800_000 else ""


def _key_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


_SPACE: Final = re.compile(r"[ \t\n\r]*")


class _Broken(Exception):
    """The envelope is not JSON even tolerantly."""


class _TooMany(Exception):
    """The batch has more items than are wanted."""


def _read_batch_tolerantly(body: bytes, max_items: int) -> Batch | NotABatch:
    text, replaced = _text(body)
    fields: dict[str, Any] = {}
    texts: dict[str, str] = {}
    items: list[str] | None = None
    try:
        at = _skip(text, 0)
        if text[at : at + 1] != "{":
            if at == len(text):
                return NotABatch("empty_body", "the request body is empty")
            _Tolerant.decode(text)
            return NotABatch("not_a_batch", "the body is not a JSON object with a batch")
        at = _skip(text, at + 1)
        if text[at : at + 1] == "}":
            at += 1
        else:
            while True:
                key, at = _key(text, at)
                if key == "batch" and text[at : at + 1] == "[":
                    items, at = _elements(text, at, max_items)
                else:
                    if key == "batch":
                        items = None
                    start = at
                    fields[key], at = _value(text, at)
                    texts[key] = text[start:at]
                at, more = _more(text, at, "}")
                if not more:
                    break
        if _skip(text, at) != len(text):
            raise _Broken("text after the end of the object")
        context, integrations = (
            _encode(_Tolerant.decode(_escape_lone_surrogates(texts[name])))
            if isinstance(fields.get(name), dict)
            else b""
            for name in ("context", "integrations")
        )
    except _TooMany:
        return _too_many(max_items, _key_text(fields.get("writeKey")))
    except (ValueError, _Broken) as error:
        return NotABatch("invalid_json", f"invalid json: {_short(error)}")
    except RecursionError:
        return NotABatch("invalid_json", "invalid json: nested too deeply")
    write_key = _key_text(fields.get("writeKey"))
    if items is None:
        return NotABatch("not_a_batch", "the body has no list named batch", write_key)
    sent_at = fields.get("sentAt")
    if isinstance(sent_at, msgspec.Raw):
        sent_at = _decode_any(sent_at)
    return Batch(
        [item.encode("utf-8", "replace") for item in items],
        _time_text(sent_at),
        context,
        integrations,
        write_key,
        replaced,
    )


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _key(text: str, at: int) -> tuple[str, int]:
    key, at = _value(text, at)
    at = _skip(text, at)
    if not isinstance(key, str) or text[at : at + 1] != ":":
        raise _Broken(f"a key is expected at character {at}")
    return key, _skip(text, at + 1)


def _value(text: str, at: int) -> tuple[Any, int]:
    return _Tolerant.raw_decode(text, at)


def _more(text: str, at: int, end: str) -> tuple[int, bool]:
    at = _skip(text, at)
    if text[at : at + 1] == ",":
        return _skip(text, at + 1), True
    if text[at : at + 1] == end:
        return at + 1, False
    raise _Broken(f"a comma or {end} is expected at character {at}")


def _elements(text: str, at: int, max_items: int) -> tuple[list[str], int]:
    items: list[str] = []
    at = _skip(text, at + 1)
    if text[at : at + 1] == "]":
        return items, at + 1
    while True:
        try:
            end = _Scanner.raw_decode(text, at)[1]
        except RecursionError:
            end = _end_of_deep(text, at)
        if len(items) >= max_items:
            raise _TooMany
        items.append(text[at:end])
        at, more = _more(text, end, "]")
        if not more:
            return items, at


_DEEP_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]+|[\]}]+', re.DOTALL)


def _end_of_deep(text: str, at: int) -> int:
    """Return where the element at `at` ends, by counting brackets, within a bounded amount of work."""
    depth = 0
    for count, token in enumerate(_DEEP_TOKENS.finditer(text, at)):
        if count > _SCAN_TOKENS:
            break
        first = token[0][0]
        if first in "[{":
            depth += len(token[0])
        elif first in "]}":
            closing = len(token[0])
            if closing >= depth:
                return token.start() + depth
            depth -= closing
    raise _Broken("an element is nested too deeply to find its end")
