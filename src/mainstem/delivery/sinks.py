"""Brokers by destination type: which sink sends a type's messages.

A new kind of broker is its module with a `StreamSink`, and one line here.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from mainstem.clock import Clock
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.kafka import KafkaSink
from mainstem.delivery.transport import Transport
from mainstem.destinations.base import StreamSink


class SinkRoom(msgspec.Struct, frozen=True):
    """What sinks are made of, beside the destination's settings."""

    transport: Transport
    guard: AddressGuard
    clock: Clock
    timeout_s: float


def _kafka(config: Any, room: SinkRoom) -> StreamSink:
    return KafkaSink(config, guard=room.guard, timeout_s=room.timeout_s)


_SINKS: Final[Mapping[str, Callable[[Any, SinkRoom], StreamSink]]] = {
    "KAFKA": _kafka,
}


def open_sink(type_name: str, config: Any, room: SinkRoom) -> StreamSink | None:
    """Return the sending end for a destination's settings; None if no sink knows the type."""
    make = _SINKS.get(type_name)
    return None if make is None else make(config, room)
