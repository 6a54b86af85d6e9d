"""Mappings that look things up, driven with answers at hand."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from mainstem.destinations.base import (
    Answer,
    Batch,
    Call,
    Dialogue,
    MapContext,
    Mapped,
    Payload,
    Response,
    Unit,
)
from mainstem.destinations.catalog import find_spec
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.dialogue import Ended, drive
from mainstem.events.canonical import Event
from tests.destinations.events import CONTEXT, config_of, event_of

Json = Any
Answers = Mapping[str, Answer | Json]
"""What is answered, by `METHOD path`, the path as the URL ends or as it is found in it; a value is a 200 with it as
its body. Whatever is not there is answered with 404."""


class Desk:
    """Answers look-ups and remembers them."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.asked: list[Call] = []

    def __call__(self, call: Call) -> Answer:
        self.asked.append(call)
        for key, value in self._answers.items():
            method, _, path = key.partition(" ")
            if method == call.method and path in call.url:
                return value if isinstance(value, Answer) else Answer(200, value)
        return Answer(404)


def talked(
    name: str,
    raw: Mapping[str, Json],
    message: dict[str, Json],
    ask: Callable[[Call], Answer],
    context: MapContext = CONTEXT,
) -> Mapped | Ended:
    """What a type makes of an event once its look-ups are answered."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.mapper is not None
    mapped = spec.mapper(config_of(name, raw))(_event(message), context)
    if not isinstance(mapped, tuple):
        return mapped
    payloads: list[Payload] = []
    for payload in mapped:
        if isinstance(payload, Dialogue):
            ended = drive(payload.start(), ask)
            if not isinstance(ended, tuple):
                return ended
            payloads += ended
        else:
            payloads.append(payload)
    return tuple(payloads)


def _event(message: dict[str, Json]) -> Event:
    return msgspec.structs.replace(event_of(message), message_id=str(message.get("messageId", "m1")))


def calls(
    name: str, raw: Mapping[str, Json], message: dict[str, Json], ask: Callable[[Call], Answer]
) -> tuple[Call, ...]:
    """The requests made of an event."""
    mapped = talked(name, raw, message, ask)
    assert isinstance(mapped, tuple), mapped
    made = [payload for payload in mapped if isinstance(payload, Call)]
    assert len(made) == len(mapped)
    return tuple(made)


def batched(
    name: str, raw: Mapping[str, Json], messages: Sequence[dict[str, Json]], ask: Callable[[Call], Answer]
) -> tuple[Sequence[Batch], list[Unit]]:
    """The batches that a type makes of events, and what they were made of."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.batcher is not None
    units = [
        Unit(index, calls(name, raw, message, ask), _event(message)) for index, message in enumerate(messages)
    ]
    made = spec.batcher(config_of(name, raw))(units)
    ended = made if isinstance(made, Sequence) else drive(made, ask)
    assert isinstance(ended, Sequence), ended
    return ended, units


def answered(status: int, body: Json = None, **headers: str) -> Response:
    """A response with a JSON body."""
    return Response(status, headers, b"" if body is None else json_bytes(body))
