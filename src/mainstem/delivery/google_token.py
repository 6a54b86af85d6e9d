"""Access tokens of a Google service account: its key signs a statement, Google gives a token for it.

https://developers.google.com/identity/protocols/oauth2/service-account#httprest (RFC 7523). The one user of
`cryptography`, for RS256.
"""

import base64
from typing import Any, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mainstem.clock import Clock
from mainstem.delivery.tokens import Tokens
from mainstem.delivery.transport import Transport
from mainstem.destinations.base import Body, Call, Delivery, Retry
from mainstem.secret import Secret

_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_LIFE_S: Final = 3600


class AccountKey(msgspec.Struct, frozen=True):
    """A service account's key, as Google gives it."""

    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address

    def __repr__(self) -> str:
        return f"AccountKey({self.client_email})"


def google_tokens(
    credentials: Secret, scope: str, transport: Transport, clock: Clock, *, timeout_s: float
) -> Tokens:
    """Return tokens of one service account."""

    def request() -> Call | Delivery:
        try:
            key = msgspec.json.decode(credentials.reveal(), type=AccountKey)
            assertion = _statement(key, scope, clock.now_ms() // 1000)
        except (msgspec.DecodeError, ValueError, TypeError, UnsupportedAlgorithm):
            return Retry("`credentials` is no key of a service account", destination_wide=True)
        return Call(url=key.token_uri, body=Body("form", {"grant_type": _GRANT, "assertion": assertion}))

    return Tokens(request, transport, clock, timeout_s=timeout_s, what="token for the service account")


def _statement(key: AccountKey, scope: str, now_s: int) -> str:
    """Return the signed statement (RFC 7519 in RFC 7515's compact form).

    Raises:
        ValueError, TypeError, UnsupportedAlgorithm: the private key is none that can sign so.
    """
    signing = load_pem_private_key(key.private_key.encode(), password=None)
    if not isinstance(signing, RSAPrivateKey):
        raise TypeError("not an RSA key")
    header = {
        "alg": "RS256",
        "typ": "JWT",
        **({"kid": key.private_key_id} if key.private_key_id else {}),
    }
    claims = {
        "iss": key.client_email,
        "scope": scope,
        "aud": key.token_uri,
        "iat": now_s,
        "exp": now_s + _LIFE_S,
    }
    signed = f"{_piece(msgspec.json.encode(header))}.{_piece(msgspec.json.encode(claims))}"
    return f"{signed}.{_piece(signing.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def _piece(data: Any) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
