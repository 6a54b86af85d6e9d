"""Messages of a send that may go together without anybody's messages changing places.

A broker's API that takes some messages of a request and not others could keep a user's second message and refuse the
first. So a request carries one message of a key at most, and after a failure that key's later messages wait.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from mainstem.destinations.base import Delivered, Delivery, Rejected, Retry, StreamMessage

Group = Sequence[StreamMessage]
SendGroup = Callable[[Group], Awaitable[Sequence[Delivery]]]
"""Sends messages of different keys in one request; one result per message, in order."""

WAITS: Final = Retry("an earlier message of the same user was not taken")


async def send_in_order(
    messages: Sequence[StreamMessage],
    send: SendGroup,
    *,
    most: int,
    most_bytes: int,
    size: Callable[[StreamMessage], int],
) -> list[Delivery]:
    """Send messages in requests of at most so many; one result per message, in their order.

    A message that never will be taken does not hold up its key: what comes after it is sent.

    Args:
        size: bytes that a message counts for.
    """
    results: list[Delivery | None] = [None] * len(messages)
    left = list(range(len(messages)))
    failed: set[bytes] = set()
    while left:
        group, left = _next_group(messages, left, most, most_bytes, size)
        kept = [index for index in group if not messages[index].key or messages[index].key not in failed]
        for index in group:
            results[index] = WAITS
        if not kept:
            continue
        outcome = await send([messages[index] for index in kept])
        for index, result in zip(kept, outcome, strict=True):
            results[index] = result
            if not isinstance(result, Delivered | Rejected):
                failed.add(messages[index].key)
    return [result or WAITS for result in results]


def _next_group(
    messages: Sequence[StreamMessage],
    left: Sequence[int],
    most: int,
    most_bytes: int,
    size: Callable[[StreamMessage], int],
) -> tuple[list[int], list[int]]:
    group: list[int] = []
    rest: list[int] = []
    keys: set[bytes] = set()
    total = 0
    for index in left:
        key, length = messages[index].key, size(messages[index])
        full = len(group) >= most or (group and total + length > most_bytes)
        if full or key in keys:
            # Whoever does not fit holds back what comes after of the same key.
            rest.append(index)
            keys.add(key)
            continue
        group.append(index)
        total += length
        if key:
            keys.add(key)
    return group, rest
