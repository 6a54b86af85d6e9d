"""Look-ups of mappings: asked through the transport, answers kept for as long as the mapping allows.

dialogue -> **look-ups** -> transport. A look-up that got no usable answer ends the attempt; what it means for the
event is read as from any other request: try again.
"""

from collections import OrderedDict
from typing import Final

import msgspec

from mainstem.clock import Clock
from mainstem.delivery.transport import Transport
from mainstem.destinations.base import Answer, Call, Request
from mainstem.destinations.kit.call import encode
from mainstem.destinations.kit.dialogue import answer_of, ok

_MOST_KEPT: Final = 10_000
_MOST_KEPT_BYTES: Final = 16 * 1024 * 1024


class _Kept(msgspec.Struct, frozen=True):
    answer: Answer
    until: float
    length: int


class Lookups:
    """Asks for one destination."""

    def __init__(self, transport: Transport, clock: Clock, *, timeout_s: float) -> None:
        self._transport = transport
        self._clock = clock
        self._timeout_s = timeout_s
        self._kept: OrderedDict[Request, _Kept] = OrderedDict()
        self._kept_bytes = 0

    async def ask(self, call: Call, access_token: str | None) -> Answer:
        """Return the answer to a look-up.

        Raises:
            TransportError: there is none.
        """
        request = encode(call, access_token)
        now = self._clock.monotonic()
        if call.cache_s:
            # By the request without its token: a new token makes no new answer.
            key = encode(call)
            kept = self._kept.get(key)
            if kept is not None and now < kept.until:
                return kept.answer
        response = await self._transport.send(request, timeout_s=self._timeout_s)
        answer = answer_of(response)
        if call.cache_s and ok(answer):
            self._keep(key, _Kept(answer, now + call.cache_s, len(response.body)))
        return answer

    def _keep(self, key: Request, kept: _Kept) -> None:
        before = self._kept.pop(key, None)
        self._kept_bytes += kept.length - (before.length if before is not None else 0)
        self._kept[key] = kept
        while len(self._kept) > _MOST_KEPT or self._kept_bytes > _MOST_KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.length
