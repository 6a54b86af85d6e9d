"""Access tokens of a Google service account: its key signs a statement, Google gives a token for it.

https://developers.google.com/identity/protocols/oauth2/service-account#httprest (RFC 7523). Kept while it holds; many
sends at once ask once. The one user of `cryptography`, for RS256.
"""

import asyncio
import base64
from typing import Any, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mainstem.clock import Clock
from mainstem.delivery.classify import classify_failure, retry_after_s
from mainstem.delivery.errors import TransportError
from mainstem.delivery.transport import Transport
from mainstem.destinations.base import Body, Call, Delivery, Retry
from mainstem.destinations.kit.call import encode
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.values import mapping, parse_int
from mainstem.secret import Secret

_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_LIFE_S: Final = 3600
_SPARE_S: Final = 60.0


class AccountKey(msgspec.Struct, frozen=True):
    """A service account's key, as Google gives it."""

    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address

    def __repr__(self) -> str:
        return f"AccountKey({self.client_email})"


class GoogleTokens:
    """The access token of one service account."""

    def __init__(
        self, credentials: Secret, scope: str, transport: Transport, clock: Clock, *, timeout_s: float
    ) -> None:
        self._credentials = credentials
        self._scope = scope
        self._transport = transport
        self._clock = clock
        self._timeout_s = timeout_s
        self._token = ""
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def current(self) -> str | Delivery:
        """Return a token that holds, or why there is none: a Retry that concerns the destination as a whole."""
        if self._holds():
            return self._token
        async with self._asking:
            if self._holds():  # somebody else got it meanwhile
                return self._token
            return await self._ask()

    def refused(self, token: str) -> None:
        """Note that Google refused a token: it is not used again."""
        if token == self._token:
            self._token = ""

    def _holds(self) -> bool:
        return bool(self._token) and self._clock.monotonic() < self._until

    async def _ask(self) -> str | Delivery:
        try:
            key = msgspec.json.decode(self._credentials.reveal(), type=AccountKey)
            assertion = _statement(key, self._scope, self._clock.now_ms() // 1000)
        except (msgspec.DecodeError, ValueError, TypeError, UnsupportedAlgorithm):
            return Retry("`credentials` is no key of a service account", destination_wide=True)
        call = Call(url=key.token_uri, body=Body("form", {"grant_type": _GRANT, "assertion": assertion}))
        try:
            response = await self._transport.send(encode(call), timeout_s=self._timeout_s)
        except TransportError as error:
            return classify_failure(error)
        body = mapping(answer_of(response).body)
        token = body.get("access_token")
        if response.status != 200 or not isinstance(token, str) or not token:
            # `error` is a code of RFC 6749; nothing else of the answer is shown, it may hold tokens.
            code = body.get("error")
            told = code if isinstance(code, str) and len(code) <= 64 else f"http {response.status}"
            return Retry(
                f"no token for the service account: {told}",
                after_s=retry_after_s(response.headers),
                destination_wide=True,
            )
        life_s = parse_int(body.get("expires_in")) or _LIFE_S
        self._token = token
        self._until = self._clock.monotonic() + max(life_s - _SPARE_S, life_s / 2)
        return token


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
