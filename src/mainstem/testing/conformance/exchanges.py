"""The recorded exchanges of a vector, played back: a request is answered by the first unused exchange that is equal.

Equal means method, URL, query parameters and body, as FORMAT.md has it; headers don't count. The last answer to a
look-up that may be used again (`Call.cache_s`) is, once no exchange is left for it; also at another host, for the peer
keeps such answers by destination and not by request.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from mainstem.destinations.base import Answer, Body, Call
from mainstem.destinations.kit.body import form_bytes, text_of

Json = Any


class Exchanges:
    """Answers look-ups and deliveries."""

    def __init__(self, recorded: Sequence[Mapping[str, Json]]) -> None:
        self._left = list(recorded)
        self._kept: dict[bytes, Answer] = {}
        self.unmatched: list[str] = []
        """Requests that nobody had recorded, for people who look for the reason of a difference."""

    def ask(self, call: Call) -> Answer:
        """Return the recorded answer; a request nobody recorded is one to a host that is not there."""
        asked = _canonical(call.method, call.url, call.params, _sent(call))
        for exchange in self._left:
            request = exchange["request"]
            recorded = _canonical(
                request.get("method", "GET"),
                request.get("url", ""),
                request.get("params") or {},
                request.get("data"),
            )
            if asked == recorded:
                self._left.remove(exchange)
                answer = _answer(exchange)
                if call.cache_s:
                    self._kept[_kept_by(asked)] = answer
                return answer
        if call.cache_s and (kept := self._kept.get(_kept_by(asked))):
            return kept
        self.unmatched.append(f"{asked}")
        return Answer(0, error="ENOTFOUND")

    def last(self) -> tuple[Call, Answer] | None:
        """Return the request that was sent last, as it was recorded, and its answer; None if none was."""
        if not self._left:
            return None
        exchange = self._left[-1]
        request = exchange["request"]
        data = request.get("data")
        call = Call(
            url=str(request.get("url") or ""),
            method=str(request.get("method") or "GET"),
            headers=request.get("headers") or {},
            params=request.get("params") or {},
            body=Body("json", data) if data else None,
        )
        return call, _answer(exchange)


def _sent(call: Call) -> Json:
    """Return a body as it was recorded: forms as they are on the wire."""
    if call.body is None:
        return None
    return form_bytes(call.body.value).decode() if call.body.kind == "form" else call.body.value


def _kept_by(asked: tuple[Json, ...]) -> bytes:
    method, url, *rest = asked
    return msgspec.json.encode([method, urlsplit(url).path, *rest], order="sorted")


def _answer(exchange: Mapping[str, Json]) -> Answer:
    response = exchange.get("response")
    if response is None:
        error = exchange.get("error") or {}
        return Answer(0, error=str(error.get("code") or error.get("message") or "no answer"))
    headers = {str(key).lower(): text_of(value) for key, value in (response.get("headers") or {}).items()}
    return Answer(int(response.get("status") or 200), response.get("data"), headers)


def _canonical(method: str, url: str, params: Mapping[str, Json], data: Json) -> tuple[Json, ...]:
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    query += [(key, text_of(value)) for key, value in params.items() if value is not None]
    return (
        method.upper(),
        # Servers don't tell `//` from `/` either.
        parts._replace(path=re.sub("/+", "/", parts.path), query="", fragment="").geturl(),
        sorted(query),
        _body(data),
    )


def _body(data: Json) -> Json:
    if isinstance(data, str):
        stripped = data.strip()
        if stripped[:1] in ("{", "["):
            try:
                return _plain(msgspec.json.decode(stripped))
            except msgspec.DecodeError:
                return data
        if "=" in data and "<" not in data:
            return sorted(parse_qsl(data, keep_blank_values=True))
        return data or None
    return _plain(data) if data else None


def _plain(value: Json) -> Json:
    """Return a value with numbers as JavaScript has them: 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
