"""AWS Signature Version 4: signs a request at the moment it is sent. Pure: the time is given.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html. Checked against AWS's
published test suite. Paths are encoded twice, as all services but S3 want them.
"""

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec

from mainstem.destinations.base import Request
from mainstem.secret import Secret

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class AwsCredentials(msgspec.Struct, frozen=True):
    """Who signs."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret = Secret("")
    """Belongs to temporary credentials."""


def sign(request: Request, credentials: AwsCredentials, *, region: str, service: str, now_ms: int) -> Request:
    """Return the request with its date and Authorization; every header that it has is signed.

    Args:
        request: its URL names the host that it is sent to.
        service: AWS's name in signatures: `kinesis`, `events`.
        now_ms: AWS refuses a signature that is 5 minutes off.
    """
    at = datetime.fromtimestamp(now_ms / 1000, UTC)
    stamp, day = f"{at:%Y%m%dT%H%M%SZ}", f"{at:%Y%m%d}"
    added = [("X-Amz-Date", stamp)]
    if token := credentials.session_token.reveal():
        added.append(("X-Amz-Security-Token", token))
    headers = (*request.headers, *added)
    url = urlsplit(request.url)
    signed: dict[str, list[str]] = {"host": [_host(request.url)]}
    for name, value in headers:
        signed.setdefault(name.lower(), []).append(" ".join(value.split()))
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        (
            request.method,
            quote(_normal(url.path), safe="/-_.~"),
            _canonical_query(url.query),
            *(f"{name}:{','.join(signed[name])}" for name in sorted(signed)),
            "",
            names,
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    scope = f"{day}/{region}/{service}/aws4_request"
    text = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_access_key.reveal()}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    who = f"Credential={credentials.access_key_id}/{scope}"
    authorization = f"{_ALGORITHM} {who}, SignedHeaders={names}, Signature={signature}"
    return msgspec.structs.replace(request, headers=(*headers, ("Authorization", authorization)))


def _host(text: str) -> str:
    """Return the Host header that the client sends: with the port where it is not the scheme's own."""
    url = urlsplit(text)
    host = url.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if url.port in (None, _DEFAULT_PORTS.get(url.scheme)) else f"{host}:{url.port}"


def _normal(path: str) -> str:
    """Return a path without `.`, `..` and empty pieces."""
    kept: list[str] = []
    for piece in path.split("/"):
        if piece == "..":
            del kept[-1:]
        elif piece not in ("", "."):
            kept.append(piece)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith(("/", "/.", "/..")) else "")


def _canonical_query(query: str) -> str:
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
    encoded = sorted((quote(unquote(name), safe="-_.~"), quote(value, safe="-_.~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)
