"""Several events in one request. Part of the mapping kit: the vendor's rules as values, the loop once.

A destination's batching is: which requests may go together (`key`), how they become one (`merge`), and how many and
how long at most. What is more involved is written in the destination's module, against `base.Batcher`.
"""

from collections.abc import Callable, Hashable, Sequence

import msgspec

from mainstem.destinations.base import Batch, Call, Unit
from mainstem.destinations.kit.body import json_bytes


def alone(unit: Unit) -> Batch:
    """Return a batch of one unit as it is."""
    return Batch(unit.calls, (unit.index,), batched=False, many=len(unit.calls) > 1)


def together(
    units: Sequence[Unit],
    *,
    key: Callable[[Unit], Hashable | None],
    merge: Callable[[Sequence[Call]], Call],
    most: int,
    most_bytes: int | None = None,
    size: Callable[[Call], int] | None = None,
) -> list[Batch]:
    """Return batches of units that each became one request: those with the same key, in the order of their first.

    Args:
        key: what has to be the same (URL, headers, an API key); None = this unit goes by itself.
        merge: makes one request of several; given one too.
        most: units a batch.
        most_bytes: the sum of `size` of its units at most.
        size: of a unit's part of the request; None = the length of its body as JSON.
    """
    size = size or body_length
    open_: dict[Hashable, list[list[Unit]]] = {}
    lengths: dict[Hashable, int] = {}
    order: list[Unit | Hashable] = []
    for unit in units:
        group = key(unit) if len(unit.calls) == 1 else None
        if group is None:
            order.append(unit)
            continue
        length = size(unit.calls[0]) if most_bytes is not None else 0
        chunks = open_.get(group)
        if chunks is None:
            chunks = open_[group] = [[]]
            lengths[group] = 0
            order.append(_Key(group))
        full = len(chunks[-1]) >= most
        if most_bytes is not None and chunks[-1] and lengths[group] + length > most_bytes:
            full = True
        if full:
            chunks.append([])
            lengths[group] = 0
        chunks[-1].append(unit)
        lengths[group] += length
    batches: list[Batch] = []
    for entry in order:
        if isinstance(entry, Unit):
            batches.append(alone(entry))
        elif isinstance(entry, _Key):
            batches += [
                Batch((merge([unit.calls[0] for unit in chunk]),), tuple(unit.index for unit in chunk))
                for chunk in open_[entry.group]
            ]
    return batches


class _Key:
    __slots__ = ("group",)

    def __init__(self, group: Hashable) -> None:
        self.group = group


def body_length(call: Call) -> int:
    """Return the length of a request's body as JSON."""
    return len(json_bytes(call.body.value)) if call.body is not None else 0


def with_body(call: Call, value: object) -> Call:
    """Return a request with another body of the same kind."""
    assert call.body is not None  # noqa: S101 - for the type checker: only requests with a body are merged
    return msgspec.structs.replace(call, body=msgspec.structs.replace(call.body, value=value))
