"""Destinations in the shapes of RudderStack's transformer: a vector's input in, its answer out.

vector -> **this** -> the mapping, batching and reading of answers that delivery uses -> answer. Look-ups are answered
from the vector's recorded exchanges. What a vector expects is never read.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Batch,
    DestinationSpec,
    Dialogue,
    MapContext,
    Payload,
    Refusal,
    Retry,
    Skip,
    Unit,
)
from mainstem.destinations.catalog import check_config, find_spec
from mainstem.destinations.kit.batching import alone
from mainstem.destinations.kit.dialogue import drive
from mainstem.events.canonical import Event
from mainstem.pipeline.mapping import CompiledMapping
from mainstem.pipeline.steps.check_message_type import compile_message_types
from mainstem.testing.conformance.exchanges import Exchanges
from mainstem.testing.conformance.shapes import call_of, event_of, failure_of, now_of, output_of

FEATURES: Final = frozenset(("processor", "router", "batch"))
PARTNER: Final = "RudderStack"
"""Who the vectors' requests say has sent them."""
EVERY_TYPE: Final = frozenset(("identify", "track", "page", "screen", "group", "alias"))
_BATCHED_LATER: Final = frozenset(("AM",))
"""What the transformer's router answers by itself, as a list; only its /batch puts events of it together."""
_JOINED: Final = frozenset(("BRAZE",))
"""What it answers as one list of requests for all events, unless an environment variable asks for an item each."""
Json = Any
Answer = dict[str, Json]
End = Refusal | Skip | Retry

_NO_SUCH_TYPE: Final = Refusal("no such destination type")
_NO_EVENT: Final = Refusal("the message is not an object")
_NO_EVENTS: Final = Refusal("the input is not a list of events")


class _Desk:
    """One vector being answered."""

    def __init__(self, vector: Mapping[str, Json], spec: DestinationSpec) -> None:
        self.spec = spec
        self.feature = str(vector["feature"])
        environment = (vector.get("pins") or {}).get("env") or {}
        self.joined = spec.name in _JOINED and not environment.get(
            f"{spec.name}_PER_JOB_DELIVERY_MAPPING_WORKSPACE_IDS"
        )
        self.now_ms = now_of(vector)
        pinned = (vector.get("pins") or {}).get("uuid")
        self.fixed_id = str(pinned[0] if isinstance(pinned, list) and pinned else pinned or "")
        self.exchanges = Exchanges(vector.get("http") or [])
        self._mappings: dict[bytes, tuple[CompiledMapping, Any] | Refusal] = {}

    def mapping_of(self, destination: Mapping[str, Json]) -> tuple[CompiledMapping, Any] | Refusal:
        """Return the mapping for a destination's settings, and the settings; or what is wrong with them."""
        raw = destination.get("Config") or {}
        key = msgspec.json.encode(raw)
        found = self._mappings.get(key)
        if found is None:
            checked = check_config(self.spec.name, raw, to_send=False)
            if checked.errors:
                path, text = checked.errors[0]
                found = Refusal(f"`{path}` {text}")
            else:
                dynamic = destination.get("hasDynamicConfig") is not False
                found = CompiledMapping(self.spec, checked.config, raw if dynamic else None), checked.config
            self._mappings[key] = found
        return found

    def map(self, item: Mapping[str, Json]) -> tuple[Event, tuple[Payload, ...]] | End:
        """Return what one event becomes."""
        destination = item.get("destination") or {}
        metadata = _metadata(item)
        if account := destination.get("deliveryAccount"):
            # RudderStack's description of the account connected by OAuth stands beside the settings.
            metadata = {**metadata, "deliveryAccount": account}
        event = event_of(item.get("message"), metadata, self.now_ms)
        if event is None:
            return _NO_EVENT
        mapping = self.mapping_of(destination)
        if isinstance(mapping, Refusal):
            return mapping
        # The gateway lets no event without a type through; the transformer does, to those that take every type.
        untyped = not event.type and self.spec.message_types >= EVERY_TYPE
        wrong_type = compile_message_types(self.spec.message_types, ())(event)
        if wrong_type is not None and not untyped:
            return Skip(f"message type not supported: {event.type or 'none'}")
        context = MapContext(
            self.now_ms,
            str(destination.get("ID") or ""),
            metadata=metadata,
            secret=_secret_of(metadata),
            connection=item.get("connection") or {},
            partner=PARTNER,
            fixed_id=self.fixed_id,
        )
        mapped = mapping[0](event, context)
        if not isinstance(mapped, tuple):
            return mapped
        payloads: list[Payload] = []
        for payload in mapped:
            if isinstance(payload, Dialogue):
                ended = drive(payload.start(), self.exchanges.ask)
                if not isinstance(ended, tuple):
                    return ended
                payloads.extend(ended)
            else:
                payloads.append(payload)
        return (event, tuple(payloads)) if payloads else Skip("nothing to send")


def _secret_of(metadata: Mapping[str, Json]) -> Mapping[str, str]:
    """Return what OAuth gave; a token that is there under RudderStack's other name for it, under ours too."""
    secret: Mapping[str, str] = metadata.get("secret") or {}
    return {"access_token": secret["accessToken"], **secret} if "accessToken" in secret else secret


def answer(vector: Mapping[str, Json], unmatched: list[str] | None = None) -> Answer | None:
    """Return the answer to a vector; None for a destination type that is not there.

    Args:
        unmatched: requests that the vector has no recorded answer for are added here.
    """
    spec = find_spec(str(vector.get("destination", "")))
    if spec is None or spec.mapper is None:
        return None
    desk = _Desk(vector, spec)
    try:
        body = _body(desk, vector)
    except Exception as error:  # noqa: BLE001 - one vector's trouble must not cost the others their answers
        sys.stderr.write(f"{vector['id']}: {traceback.format_exc()}")
        return {"status": 500, "error": type(error).__name__}
    if unmatched is not None:
        unmatched += desk.exchanges.unmatched
    return {"status": 200, "body": body}


def _body(desk: _Desk, vector: Mapping[str, Json]) -> Json:
    if vector["feature"] == "processor":
        return _processed(desk, vector["input"]["body"])
    given = vector["input"]["body"]
    if not isinstance(given["input"], list):
        return {"output": [_failed(_NO_EVENTS, [{"destType": given.get("destType")}])]}
    items = _routed(desk, given["input"], vector["input"].get("headers") or {})
    return {"output": items} if vector["feature"] == "router" else items


def _processed(desk: _Desk, given: Json) -> list[Json]:
    items = given
    if isinstance(given, dict):  # x-content-format: json+compactedv1
        items = [
            {
                **item,
                "destination": given["destinations"][item["metadata"]["destinationId"]],
                "connection": (given.get("connections") or {}).get(
                    f"{item['metadata'].get('sourceId')}:{item['metadata']['destinationId']}"
                ),
            }
            for item in given["input"]
        ]
    answers: list[Json] = []
    for item in items:
        metadata = item.get("metadata")
        made = desk.map(item)
        if isinstance(made, tuple):
            answers += [
                {"output": output_of(payload, processor=True), "metadata": metadata, "statusCode": 200}
                for payload in made[1]
            ]
        else:
            answers.append({**failure_of(made), "metadata": metadata})
    return answers


def _routed(desk: _Desk, given: Sequence[Json], headers: Mapping[str, str]) -> list[Json]:
    secret = headers.get("oauth-secret")
    groups: dict[bytes, list[Json]] = {}
    for item in given:
        if secret:
            item = {
                **item,
                "metadata": {**(item.get("metadata") or {}), "secret": msgspec.json.decode(secret)},
            }
        destination = item.get("destination") or {}
        metadata = _metadata(item)
        # Settings that can't refer to the event are the destination's, so its events are one group.
        config = destination.get("Config") if destination.get("hasDynamicConfig") is not False else None
        key = msgspec.json.encode(
            [destination.get("ID"), metadata.get("sourceJobId"), config], order="sorted"
        )
        groups.setdefault(key, []).append(item)
    return [answer for items in groups.values() for answer in _group(desk, items)]


def _group(desk: _Desk, items: Sequence[Json]) -> list[Json]:
    answers: list[Json] = []
    units: list[Unit] = []
    places: list[Json] = []
    for item in items:
        message = item.get("message")
        if isinstance(message, dict) and (desk.feature == "batch" or message.get("statusCode")):
            # Made before: the request itself, or as the processor answers it.
            made: Any = (event_of({}, {}, desk.now_ms), (call_of(message.get("output") or message),))
        else:
            made = desk.map(item)
        if not isinstance(made, tuple):
            answers.append(_failed(made, [item.get("metadata")]))
            continue
        event, payloads = made
        units.append(Unit(len(units), payloads, event))
        places.append(item)
    if not units:
        return answers
    mapping = desk.mapping_of(items[0].get("destination") or {})
    for batch in _batches_as_asked(desk, mapping, units, places):
        metadata = [places[index].get("metadata") for index in batch.units]
        if batch.refusal is not None:
            answers.append(_failed(batch.refusal, metadata))
            continue
        calls = [output_of(call, processor=False) for call in batch.calls]
        answers.append(
            {
                "batchedRequest": calls if batch.many or len(calls) != 1 else calls[0],
                "metadata": metadata,
                # Answers of /batch don't say so.
                "batched": batch.batched and desk.feature != "batch",
                "statusCode": 200,
                "destination": places[batch.units[0]].get("destination"),
            }
        )
    return answers


def _batches_as_asked(
    desk: _Desk, mapping: Any, units: Sequence[Unit], places: Sequence[Json]
) -> list[Batch]:
    """Return the batches; jobs marked `dontBatch`, because their batch was refused before, are each by themselves.

    Batchers that ask for several at once are given all, and keep such jobs apart themselves.
    """
    batcher = desk.spec.batcher
    if (
        batcher is not None
        and not isinstance(mapping, Refusal)
        and not isinstance(batcher(mapping[1])(()), Sequence)
    ):
        return list(_batches(desk, mapping, units))
    single = [unit for unit in units if _metadata(places[unit.index]).get("dontBatch")]
    rest = [unit for unit in units if unit not in single]
    groups = ([rest] if rest else []) + [[unit] for unit in single]
    return [batch for group in groups for batch in _batches(desk, mapping, group)]


def _batches(desk: _Desk, mapping: Any, units: Sequence[Unit]) -> Sequence[Batch]:
    if desk.feature == "router" and desk.spec.name in _BATCHED_LATER:
        return [Batch(unit.calls, (unit.index,), batched=False, many=True) for unit in units]
    if desk.spec.batcher is None or isinstance(mapping, Refusal):
        return [alone(unit) for unit in units]
    made = desk.spec.batcher(mapping[1])(units)
    if isinstance(made, Sequence):
        return [_joined(made)] if desk.joined else made
    ended = drive(made, desk.exchanges.ask)
    if isinstance(ended, Sequence):
        return ended
    refusal = ended if isinstance(ended, Refusal) else Refusal(str(failure_of(ended)["error"]), ended.status)
    return [Batch((), tuple(unit.index for unit in units), refusal=refusal)]


def _joined(batches: Sequence[Batch]) -> Batch:
    calls = tuple(call for batch in batches for call in batch.calls)
    return Batch(calls, tuple(sorted(index for batch in batches for index in batch.units)), many=True)


def _metadata(item: Mapping[str, Json]) -> Mapping[str, Json]:
    metadata = item.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _failed(end: End, metadata: list[Json]) -> Json:
    return {**failure_of(end), "metadata": metadata, "batched": False}
