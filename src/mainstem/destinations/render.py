"""Render: what would be sent, as JSON that people and `diff` can read, without its secrets.

Used by `dry-run`, `explain` and dead letters. The same payload gives the same bytes, always.
"""

import base64
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

import msgspec

from mainstem.destinations.base import ACCESS_TOKEN, Call, Dialogue, Payload, Request, Skip
from mainstem.destinations.kit.call import encode
from mainstem.destinations.kit.dialogue import first_question
from mainstem.secret import Secret

HIDDEN: Final = "***"
_SHORTEST: Final = 4
"""A shorter value (a header `X-Env: 1` from the environment) hides nothing and would blot out half of the text."""

_SECRET_NAME: Final = re.compile(
    r"auth|cookie|token|secret|passw|api[-_]?key|access[-_]?key|write[-_]?key|signature|credential",
    re.IGNORECASE,
)
_QUERY: Final = re.compile(r"(?<=[?&])([^=&#]+)=([^&#]*)")
_USERINFO: Final = re.compile(r"(?<=://)[^/?#@]*@")


class Redactor:
    """Replaces secrets by `***`, wherever they stand: as they are, URL-quoted, JSON-escaped, in Base64."""

    __slots__ = ("_pattern",)

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= _SHORTEST:
                octets = secret.encode("utf-8", "replace")
                forms.update((secret, quote(octets, safe=""), quote(octets), quote_plus(octets)))
                forms.update((json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]))
                forms.add(base64.b64encode(octets).decode().rstrip("="))
                forms.add(octets.decode("latin-1"))  # binary bodies are searched as Latin-1
        # The longest first, so that a secret which holds another disappears whole.
        ordered = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def text(self, text: str) -> str:
        """Return `text` without the secrets."""
        return self._pattern.sub(HIDDEN, text) if self._pattern is not None else text

    def url(self, url: str) -> str:
        """Return `url` without the secrets, its user and password, and query values with a secret's name."""
        hidden = _USERINFO.sub(f"{HIDDEN}@", self.text(url))
        return _QUERY.sub(
            lambda found: f"{found[1]}={HIDDEN}" if _SECRET_NAME.search(found[1]) else found[0], hidden
        )

    def header(self, name: str, value: str) -> str:
        """Return a header's value; nothing of it when its name says that it is a secret."""
        return HIDDEN if _SECRET_NAME.search(name) else self.text(value)

    def json(self, value: Any) -> Any:
        """Return a copy of parsed JSON without the secrets, in keys, texts and numbers."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.json(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.json(item) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool) and self._pattern is not None:
            return HIDDEN if self._pattern.fullmatch(str(value)) else value
        return value

    def body(self, body: bytes, name: str = "body") -> dict[str, Any]:
        """Return a body under `name` if it is JSON, `<name>Text` if other UTF-8, else `<name>Base64`; {} if empty."""
        if not body:
            return {}
        try:
            return {name: self.json(msgspec.json.decode(body))}
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            pass  # not JSON
        try:
            return {f"{name}Text": self.text(body.decode())}
        except UnicodeDecodeError:
            # Latin-1 keeps every byte, so secrets inside binary bodies are found as well.
            clean = self.text(body.decode("latin-1")).encode("latin-1", "replace")
            return {f"{name}Base64": base64.b64encode(clean).decode()}


def rendered(payload: Payload, secrets: Iterable[str] = ()) -> dict[str, Any]:
    """Return a payload as JSON-able values, redacted of its own `secrets` and of those given.

    A request: method, url, headers (a list of [name, value], in order) and body, bodyText or bodyBase64.
    A message: topic, key, headers and value, valueText or valueBase64. Empty bodies are absent.
    """
    if isinstance(payload, Dialogue):
        return _rendered_dialogue(payload, secrets)
    if isinstance(payload, Call):
        payload = encode(payload)
    if isinstance(payload, Request):
        redact = Redactor((*payload.secrets, ACCESS_TOKEN, *secrets))
        return {
            "method": payload.method,
            "url": redact.url(payload.url),
            "headers": [[name, redact.header(name, value)] for name, value in payload.headers],
            **redact.body(_plain(payload)),
        }
    redact = Redactor(secrets)
    return {
        "topic": redact.text(payload.topic),
        "key": redact.text(payload.key.decode("utf-8", "backslashreplace")),
        "headers": [
            [name, redact.header(name, value.decode("utf-8", "backslashreplace"))]
            for name, value in payload.headers
        ],
        **redact.body(payload.value, "value"),
    }


def _rendered_dialogue(payload: Dialogue, secrets: Iterable[str]) -> dict[str, Any]:
    """Return what is asked first; what is sent follows from the answer, which nobody has here."""
    step = first_question(payload.start())
    if isinstance(step, Call):
        return {"lookUp": rendered(step, secrets)}
    if isinstance(step, tuple):
        return {"requests": [rendered(call, secrets) for call in step]}
    return {"notSent": step.rule if isinstance(step, Skip) else step.reason}


def described(payload: Payload, secrets: Iterable[str] = (), *, body_limit: int = 4096) -> str:
    """Return `rendered` as JSON text for a dead letter; a body above the limit is cut and says so."""
    shown = rendered(payload, secrets)
    for name in ("body", "value"):
        if name in shown:
            text = msgspec.json.encode(shown[name]).decode()
            if len(text) > body_limit:
                del shown[name]
                shown[f"{name}Text"] = cut(text, body_limit)
    for name in ("bodyText", "bodyBase64", "valueText", "valueBase64"):
        if name in shown:
            shown[name] = cut(shown[name], body_limit)
    return msgspec.json.encode(shown).decode()


def cut(text: str, limit: int) -> str:
    """Return `text`, at most `limit` characters of it, saying how much is missing."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more)"


def secrets_in(value: Any) -> tuple[str, ...]:
    """Return every `Secret` in settings (structs, mappings and lists of any depth), sorted."""
    found: set[str] = set()
    _collect(value, found)
    return tuple(sorted(found))


def _collect(value: Any, found: set[str]) -> None:
    if isinstance(value, Secret):
        found.add(value.reveal())
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _collect(getattr(value, name), found)
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, found)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _collect(item, found)


def _plain(request: Request) -> bytes:
    # A compressed body can't be searched for secrets, nor read by people.
    encodings = {
        value.strip().lower() for name, value in request.headers if name.lower() == "content-encoding"
    }
    if encodings & {"gzip", "deflate"}:
        try:
            return zlib.decompress(request.body, wbits=zlib.MAX_WBITS | 32)
        except zlib.error:
            return request.body  # mislabelled: shown as it is
    return request.body
