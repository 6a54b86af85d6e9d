"""Bodies: a JSON value as JSON, form fields, XML or a flat list of query parameters. Part of the mapping kit.

Everything here is deterministic to the byte: members keep the order in which they are given.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

import msgspec

Json = Any

_encode: Final = msgspec.json.Encoder().encode
# https://www.w3.org/TR/xml/#charsets: what no escape can carry.
_NOT_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# https://www.w3.org/TR/xml/#NT-NameStartChar without the colon, which would mean a namespace.
_FIRST: Final = (
    "A-Z_a-z\xc0-\xd6\xd8-\xf6\xf8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c-\u200d\u2070-\u218f\u2c00-\u2fef"
    "\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff"
)
_NOT_IN_NAME: Final = re.compile(f"[^{_FIRST}0-9.\xb7\u0300-\u036f\u203f-\u2040-]")
_NOT_FIRST: Final = re.compile(f"^[^{_FIRST}]")


def json_bytes(value: Json) -> bytes:
    """Return compact JSON in UTF-8. A lone surrogate is written as its escape, NaN and infinities as null."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(_finite(value), separators=(",", ":")).encode("ascii")


def _finite(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text_of(value: Json) -> str:
    """Return a value where only text goes (header, query, form, URL): texts as they are, the rest as JSON."""
    return value if isinstance(value, str) else json_bytes(value).decode()


class JsonTexts(list[str]):
    """A form field's texts, each of them JSON already: sent as one array of what they say, not as an array of texts."""


def form_bytes(value: Json) -> bytes:
    """Return an object as `application/x-www-form-urlencoded`: one field a member, nested values as JSON text.

    Null members are left out. Anything but an object becomes the single field `body`.
    """
    fields = value if isinstance(value, Mapping) else {"body": value}
    pairs = [(key, _field_text(item)) for key, item in fields.items() if item is not None]
    return urlencode(pairs, errors="replace").encode("ascii")


def _field_text(value: Json) -> str:
    return f"[{','.join(value)}]" if isinstance(value, JsonTexts) else text_of(value)


def xml_bytes(value: Json, root: str) -> bytes:
    """Return a value as an XML document: members as elements, a list as its element repeated, null as an empty one.

    Names that XML does not allow get `_` for each character it does not; characters it can't carry are dropped.
    """
    name = xml_name(root)
    inner = "".join(_xml(value, "item"))
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}>{inner}</{name}>'.encode()


def xml_name(name: str) -> str:
    """Return the nearest name that XML allows."""
    allowed = _NOT_IN_NAME.sub("_", name)
    return f"_{allowed}" if not allowed or _NOT_FIRST.match(allowed) else allowed


def _xml(value: Json, item_name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, member in value.items():
            name = xml_name(key)
            for each in member if isinstance(member, list) else [member]:
                yield f"<{name}>"
                yield from _xml(each, "item")
                yield f"</{name}>"
    elif isinstance(value, list):
        for each in value:
            yield f"<{item_name}>"
            yield from _xml(each, "item")
            yield f"</{item_name}>"
    elif value is not None:
        yield escape(_NOT_XML.sub("", text_of(value)))


def flat(value: Json) -> list[tuple[str, str]]:
    """Return an object's leaves as (path, text): `{"a": {"b": [1]}}` gives `a.b[0]` = `1`.

    Null is left out; an empty object or list is written as `{}` or `[]`.
    """
    return list(_leaves(value, ""))


def _leaves(value: Json, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and (value or not path):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    elif value is not None:
        yield path, text_of(value)


def quoted(text: str) -> str:
    """Return a text fit to be one piece of a URL's path or query (RFC 3986: all but unreserved is escaped)."""
    return quote(text, safe="", errors="replace")
