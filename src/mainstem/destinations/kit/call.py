"""From a request in its parts to its bytes, and short ways to write one. Part of the mapping kit."""

import base64
import gzip
from collections.abc import Mapping
from typing import Any, Final

from mainstem.destinations.base import ACCESS_TOKEN, Body, BodyKind, Call, Request
from mainstem.destinations.kit.body import form_bytes, json_bytes, text_of
from mainstem.destinations.kit.wire import merged, with_query

Json = Any

_TYPES: Final[dict[BodyKind, str]] = {
    "json": "application/json",
    "json_array": "application/json",
    "form": "application/x-www-form-urlencoded",
    "xml": "application/xml",
    "gzip": "application/json",
}


def json_call(url: str, value: Json, *, method: str = "POST", **more: Any) -> Call:
    """Return a request with a JSON object; `more` are the other parts of a `Call`."""
    return Call(url=url, method=method, body=Body("json", value), **more)


def form_call(url: str, fields: Mapping[str, Json], *, method: str = "POST", **more: Any) -> Call:
    """Return a request with form fields."""
    return Call(url=url, method=method, body=Body("form", fields), **more)


def basic_auth(user: str, password: str) -> str:
    """Return the value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def encode(call: Call, access_token: str | None = None) -> Request:
    """Return the bytes of a request.

    Args:
        access_token: put in for `base.ACCESS_TOKEN`; None leaves the placeholder (to be shown as `***`).
    """
    pairs: list[tuple[str, str]] = []
    for name, value in call.params.items():
        if isinstance(value, list):
            pairs += [(name, text_of(item)) for item in value]
        elif value is not None:
            pairs.append((name, text_of(value)))
    headers = [(name, text_of(value)) for name, value in call.headers.items() if value is not None]
    names = {name.lower() for name, _ in headers}
    if len(names) != len(headers):
        # RFC 9110 §5.1: case does not tell names apart. Of two spellings the later one counts.
        headers = list(merged(headers))
    body = b""
    if call.body is not None:
        body = _bytes_of(call.body)
        if "content-type" not in names:
            headers.append(("Content-Type", _TYPES[call.body.kind]))
        if call.body.kind == "gzip" and "content-encoding" not in names:
            headers.append(("Content-Encoding", "gzip"))
    request = Request(call.method, with_query(call.url, pairs), tuple(headers), body, call.secrets)
    return request if access_token is None else _with_token(request, access_token)


def _bytes_of(body: Body) -> bytes:
    match body.kind:
        case "json" | "json_array":
            return json_bytes(body.value)
        case "form":
            return form_bytes(body.value)
        case "xml":
            return text_of(body.value).encode("utf-8", "replace")
        case "gzip":
            # mtime 0: the same event gives the same bytes.
            return gzip.compress(text_of(body.value).encode("utf-8", "replace"), mtime=0)


_PLACEHOLDER: Final = ACCESS_TOKEN.encode()


def _with_token(request: Request, token: str) -> Request:
    return Request(
        request.method,
        request.url.replace(ACCESS_TOKEN, token).replace("%EE%80%80access_token%EE%80%80", token),
        tuple((name, value.replace(ACCESS_TOKEN, token)) for name, value in request.headers),
        request.body.replace(_PLACEHOLDER, token.encode()),
        (*request.secrets, token),
    )
