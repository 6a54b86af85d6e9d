"""Which input each output of `transformBatch` belongs to, so that books balance and users keep their order.

RudderStack asks for the input's messageId on an output and loses order and metadata without it. Here:

1. an output whose messageId is an input's belongs to that input;
2. otherwise it belongs to the first input of the same user (userId, else anonymousId);
3. otherwise to the first input of the batch.

An input without outputs was dropped. Ids are noted before the code runs, for it may change its events.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class Origins:
    """The inputs of one batch, by their ids."""

    def __init__(self, inputs: Sequence[Mapping[str, Any]]) -> None:
        self._count = len(inputs)
        self._by_id: dict[str, int] = {}
        self._by_user: dict[tuple[str, Any], int] = {}
        for index, message in enumerate(inputs):
            message_id = message.get("messageId")
            if isinstance(message_id, str):
                self._by_id.setdefault(message_id, index)
            for field in ("userId", "anonymousId"):
                user = message.get(field)
                if isinstance(user, str) and user:
                    self._by_user.setdefault((field, user), index)

    def index_of(self, output: Mapping[str, Any]) -> int:
        """Return the index of the input that the output belongs to."""
        message_id = output.get("messageId")
        if isinstance(message_id, str) and (index := self._by_id.get(message_id)) is not None:
            return index
        for field in ("userId", "anonymousId"):
            user = output.get(field)
            if isinstance(user, str) and (index := self._by_user.get((field, user))) is not None:
                return index
        return 0

    def group(self, outputs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Return, for each input, the indexes of its outputs in the order they came."""
        groups: list[list[int]] = [[] for _ in range(self._count)]
        for number, output in enumerate(outputs):
            groups[self.index_of(output)].append(number)
        return groups
