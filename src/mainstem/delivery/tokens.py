"""Access tokens of one destination: kept while they hold, asked for again when they end.

attempt -> **tokens** -> the provider's token endpoint. Mappings write a placeholder where a token belongs; the attempt
asks here for the one that holds now. Many attempts at once ask the provider once. No token is ever stored or logged.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from mainstem.clock import Clock
from mainstem.delivery.classify import classify_failure, retry_after_s
from mainstem.delivery.errors import TransportError
from mainstem.delivery.transport import Transport
from mainstem.destinations.base import Body, Call, Delivery, OAuth, OAuthGrant, Retry
from mainstem.destinations.kit.call import encode
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.values import mapping, parse_int

_SPARE_S: Final = 60.0
"""A token is renewed this long before it ends: requests with it are on their way for a while."""
_UNTOLD_S: Final = 1800.0
"""Taken for a token's life where the provider does not say (RFC 6749 only recommends `expires_in`)."""

Request = Callable[[], Call | Delivery]
"""Makes the call that asks for a token, as RFC 6749 has it; or says why there can be none."""


class Tokens:
    """The access token of one destination."""

    def __init__(
        self, request: Request, transport: Transport, clock: Clock, *, timeout_s: float, what: str
    ) -> None:
        """
        Args:
            what: is missing if the provider gives none: `OAuth token`.
        """
        self._request = request
        self._transport = transport
        self._clock = clock
        self._timeout_s = timeout_s
        self._what = what
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
        """Note that the destination refused a token: it is not used again."""
        if token == self._token:
            self._token = ""

    def _holds(self) -> bool:
        return bool(self._token) and self._clock.monotonic() < self._until

    async def _ask(self) -> str | Delivery:
        call = self._request()
        if not isinstance(call, Call):
            return call
        try:
            response = await self._transport.send(encode(call), timeout_s=self._timeout_s)
        except TransportError as error:
            return classify_failure(error)
        body = mapping(answer_of(response).body)
        token = body.get("access_token")
        if response.status != 200 or not isinstance(token, str) or not token:
            # `error` is a code of RFC 6749, section 5.2; nothing else of the answer is shown, it may hold tokens.
            code = body.get("error")
            told = code if isinstance(code, str) and len(code) <= 64 else f"http {response.status}"
            throttled = response.status == 429
            return Retry(
                f"no {self._what}: {told}",
                after_s=retry_after_s(response.headers),
                throttled=throttled,
                destination_wide=not throttled,
            )
        life_s = parse_int(body.get("expires_in")) or _UNTOLD_S
        self._token = token
        self._until = self._clock.monotonic() + max(life_s - _SPARE_S, life_s / 2)
        return token


def oauth_tokens(
    oauth: OAuth, grant: OAuthGrant, transport: Transport, clock: Clock, *, timeout_s: float
) -> Tokens:
    """Return tokens for which a refresh token stands (RFC 6749, section 6)."""

    def request() -> Call:
        fields: dict[str, Any] = {
            "grant_type": "refresh_token",
            "refresh_token": grant.refresh_token.reveal(),
            "client_id": grant.client_id,
            "client_secret": grant.client_secret.reveal(),
        }
        if oauth.scopes:
            fields["scope"] = " ".join(oauth.scopes)
        url = grant.token_url or oauth.token_url
        return Call(url=url, body=Body("form", fields), headers={"Accept": "application/json"})

    return Tokens(request, transport, clock, timeout_s=timeout_s, what="OAuth token")
