"""An attempt by HTTP: the requests of an event, one after the other, through the transport."""

from collections.abc import Sequence

from mainstem.delivery.classify import classify_failure, classify_http
from mainstem.delivery.errors import TransportError
from mainstem.delivery.item import Item
from mainstem.delivery.transport import Transport
from mainstem.destinations.base import Classify, Delivered, Delivery, Rejected, Request
from mainstem.destinations.render import described


class HttpAttempt:
    """See `item.Attempt`. Requests that were accepted are not sent again when a later one of the same event
    is to be retried."""

    def __init__(
        self,
        transport: Transport,
        *,
        timeout_s: float,
        classify: Classify | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        """
        Args:
            timeout_s: for one request, from connecting to the end of the answer.
            classify: reads an answer; None = `classify.classify_http`.
            secrets: of the destination's settings, hidden where a request is shown.
        """
        self._transport = transport
        self._timeout_s = timeout_s
        self._classify = classify or classify_http
        self._secrets = secrets

    async def __call__(self, items: Sequence[Item]) -> Sequence[Delivery]:
        return [await self._send(item) for item in items]

    async def _send(self, item: Item) -> Delivery:
        result: Delivery = Delivered("nothing to send")
        while item.sent < len(item.payloads):
            payload = item.payloads[item.sent]
            if not isinstance(payload, Request):
                return Rejected("internal error: not an HTTP request")
            try:
                response = await self._transport.send(payload, timeout_s=self._timeout_s)
            except TransportError as error:
                return classify_failure(error)
            result = self._classify(payload, response) or classify_http(payload, response)
            if type(result) is not Delivered:
                return result
            item.sent += 1
        return result

    def describe(self, item: Item) -> str:
        if not item.payloads:
            return ""
        return described(item.payloads[min(item.sent, len(item.payloads) - 1)], self._secrets)
