"""An attempt at a broker: the messages of a batch of events, in order, through the destination's sink."""

from collections.abc import Sequence

from mainstem.delivery.item import Item
from mainstem.destinations.base import Delivered, Delivery, Rejected, StreamMessage, StreamSink
from mainstem.destinations.render import described


class StreamAttempt:
    """See `item.Attempt`."""

    def __init__(self, sink: StreamSink, *, secrets: Sequence[str] = ()) -> None:
        self._sink = sink
        self._secrets = secrets

    async def __call__(self, items: Sequence[Item]) -> Sequence[Delivery]:
        messages: list[StreamMessage] = []
        owners: list[int] = []
        results: list[Delivery] = [Delivered() for _ in items]
        for index, item in enumerate(items):
            for payload in item.payloads[item.sent :]:
                if isinstance(payload, StreamMessage):
                    messages.append(payload)
                    owners.append(index)
                else:
                    results[index] = Rejected("internal error: not a message for a broker")
        for index, result in zip(owners, await self._sink.send(messages), strict=True):
            # The first message of an event that was not taken decides; what was taken after it will be sent
            # once more, because messages are counted from the front.
            if type(results[index]) is Delivered:
                results[index] = result
                if type(result) is Delivered:
                    items[index].sent += 1
        return results

    def describe(self, item: Item) -> str:
        if not item.payloads:
            return ""
        return described(item.payloads[min(item.sent, len(item.payloads) - 1)], self._secrets)
