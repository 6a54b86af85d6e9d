"""What people may see of requests and answers: secrets replaced, long texts cut."""

import json
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

import msgspec

from mainstem.destinations.base import Payload, Request

MASK: Final = "***"

_SECRET_HEADERS: Final = frozenset(
    ("api-key", "authorization", "cookie", "proxy-authorization", "x-api-key", "x-auth-token")
)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with every secret replaced, also where it is percent-encoded or escaped in JSON."""
    for secret in secrets:
        if secret:
            for form in {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}:
                text = text.replace(form, MASK)
    return text


def cut(text: str, limit: int) -> str:
    """Return `text`, at most `limit` characters of it, saying how much is missing."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit} more)"


def describe_payload(payload: Payload, *, body_limit: int = 4096) -> str:
    """Return a payload as JSON: secrets redacted, the body as text and cut."""
    if isinstance(payload, Request):
        secrets = payload.secrets
        shown: dict[str, object] = {
            "method": payload.method,
            "url": redact(payload.url, secrets),
            "headers": [
                [name, MASK if name.lower() in _SECRET_HEADERS else redact(value, secrets)]
                for name, value in payload.headers
            ],
            "body": cut(redact(payload.body.decode("utf-8", "replace"), secrets), body_limit),
        }
    else:
        shown = {
            "topic": payload.topic,
            "key": payload.key.decode("utf-8", "replace"),
            "headers": [[name, value.decode("utf-8", "replace")] for name, value in payload.headers],
            "value": cut(payload.value.decode("utf-8", "replace"), body_limit),
        }
    return msgspec.json.encode(shown).decode()
