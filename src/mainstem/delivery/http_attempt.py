"""An attempt by HTTP: what events became, sent through the transport, and what the answers mean.

lanes -> **attempt** -> transport. In three steps: dialogues are held (look-ups), events are put together where the
destination takes batches, requests are sent one after the other. Each event has one result.

Order in a batching destination
-------------------------------
A vendor's batching may sort events by endpoint, which could send a user's second event before the first. So the
events of an attempt are taken in *rounds*: as many from the front as the batching keeps in every user's order. And
when a batch fails, the users in it have nothing more sent in this attempt: their later events wait with them.

A batch that is refused as a whole
----------------------------------
Many vendors refuse a request because of one event in it and don't say which. So it is sent again in halves, and they
in halves, until the events that are meant are alone; log2 n levels at most. When a half is to be tried later because
of the destination as a whole, or because it is throttled, nothing of what is behind it is sent.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from mainstem.clock import Clock
from mainstem.delivery.classify import classify_failure, classify_http
from mainstem.delivery.errors import TransportError
from mainstem.delivery.item import Item
from mainstem.delivery.lookups import Lookups
from mainstem.delivery.tokens import Tokens
from mainstem.delivery.transport import Transport
from mainstem.destinations.base import (
    Batch,
    Batcher,
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    Dialogue,
    Payload,
    Refusal,
    Rejected,
    Request,
    Response,
    Retry,
    Unit,
)
from mainstem.destinations.kit.call import encode
from mainstem.destinations.kit.dialogue import Ended, drive_async
from mainstem.destinations.render import described
from mainstem.destinations.schemas import compile_check

_REST = Retry("a later request of its batch was not sent")
_WAITS = Retry("waits behind an earlier event of the same user")
_WHOLE: Final = frozenset((400, 413, 422))
"""Statuses by which a request is refused for what it carries, as opposed to where it goes or who sends it."""


class HttpAttempt:
    """See `item.Attempt`. Requests that were accepted are not sent again when a later one of the same event
    is to be retried; a batching destination's events are one request each time, so they begin anew."""

    def __init__(
        self,
        transport: Transport,
        *,
        timeout_s: float,
        clock: Clock,
        spec: DestinationSpec | None = None,
        config: Any = None,
        tokens: Tokens | None = None,
        validate: bool = False,
        secrets: Sequence[str] = (),
    ) -> None:
        """
        Args:
            timeout_s: for one request, from connecting to the end of the answer.
            spec: how the destination batches and what its answers mean; None = by status alone.
            config: the destination's settings.
            tokens: where its access tokens come from, if it takes OAuth.
            validate: whether what dialogues end with is checked against the vendor's schemas (what mappings give by
                themselves is checked with them).
            secrets: of the destination's settings, hidden where a request is shown.
        """
        self._transport = transport
        self._timeout_s = timeout_s
        self._spec = spec
        self._batcher: Batcher | None = spec.batcher(config) if spec is not None and spec.batcher else None
        self._tokens = tokens
        self._check = compile_check(spec) if validate and spec is not None else None
        self._lookups = Lookups(transport, clock, timeout_s=timeout_s)
        self._secrets = secrets

    async def __call__(self, items: Sequence[Item]) -> Sequence[Delivery]:
        if self._batcher is None:
            return [await self._send_one(item) for item in items]
        return await self._send_batches(self._batcher, items)

    def describe(self, item: Item) -> str:
        if item.last_sent is not None:
            return described(item.last_sent, self._secrets)
        if not item.payloads:
            return ""
        return described(item.payloads[min(item.sent, len(item.payloads) - 1)], self._secrets)

    # ------------------------------------------------------------ one event by itself

    async def _send_one(self, item: Item) -> Delivery:
        result = Delivered("nothing to send")
        while item.sent < len(item.payloads):
            payload = item.payloads[item.sent]
            if isinstance(payload, Dialogue):
                talked = await self._talk(payload)
                if not isinstance(talked, tuple):
                    return talked
                steps: tuple[Payload, ...] = talked
            else:
                steps = (payload,)
            for step in steps:
                one = await self._send(step, item)
                if not isinstance(one, Delivered):
                    return one
                result = _worse(result, one)
            item.sent += 1
        return result

    async def _talk(self, dialogue: Dialogue) -> tuple[Payload, ...] | Delivery:
        token = await self._token()
        if not isinstance(token, str | None):
            return token

        async def ask(call: Call) -> Any:
            return await self._lookups.ask(call, token)

        try:
            ended = await drive_async(dialogue.start(), ask)
        except TransportError as error:
            return classify_failure(error)
        if not isinstance(ended, tuple):
            return _as_delivery(ended)
        for step in ended:
            problem = self._check(step) if self._check is not None and isinstance(step, Call) else None
            if problem:
                return Rejected(problem)
        return ended

    async def _send(self, payload: Payload, item: Item) -> Delivery:
        if not isinstance(payload, Request | Call):
            return Rejected("internal error: not an HTTP request")
        sent = await self._exchange(payload)
        item.last_sent = payload
        if not isinstance(sent, tuple):
            return sent
        request, response = sent
        units = [Unit(0, (payload,), item.event)] if isinstance(payload, Call) else []
        return read_answer(self._spec, payload, request, response, units)[0]

    # ------------------------------------------------------------ many events together

    async def _send_batches(self, batcher: Batcher, items: Sequence[Item]) -> Sequence[Delivery]:
        results: list[Delivery | None] = [None] * len(items)
        units: list[Unit] = []
        failed: set[str] = set()
        for index, item in enumerate(items):
            if item.key in failed:
                results[index] = _WAITS
                continue
            prepared = await self._prepare(item)
            if isinstance(prepared, tuple):
                units.append(Unit(index, prepared, item.event))
            else:
                results[index] = prepared
                if isinstance(prepared, Retry):
                    failed.add(item.key)
        left = units
        while left:
            left = await self._round(batcher, left, items, results, failed)
        return [result or Retry("internal error: result missing") for result in results]

    async def _prepare(self, item: Item) -> tuple[Call, ...] | Delivery:
        calls: list[Call] = []
        for payload in item.payloads:
            steps: tuple[Payload, ...] = (payload,)
            if isinstance(payload, Dialogue):
                talked = await self._talk(payload)
                if not isinstance(talked, tuple):
                    return talked
                steps = talked
            for step in steps:
                if not isinstance(step, Call):
                    return Rejected("internal error: not a request that can be batched")
                calls.append(step)
        return tuple(calls)

    async def _round(
        self,
        batcher: Batcher,
        units: Sequence[Unit],
        items: Sequence[Item],
        results: list[Delivery | None],
        failed: set[str],
    ) -> list[Unit]:
        """Send as many units from the front as keep their users' order; return the rest."""
        batches, taken = await self._in_order(batcher, units, items)
        if not isinstance(batches, Sequence):
            for unit in units:
                results[unit.index] = batches
                if isinstance(batches, Retry):
                    failed.add(items[unit.index].key)
            return []
        for number, batch in enumerate(batches):
            places = [taken[index].index for index in batch.units]
            if any(items[place].key in failed for place in places):
                # Some of its users wait: what is left of the round is put together anew without them.
                again = [taken[index] for later in batches[number:] for index in later.units]
                again.sort(key=lambda unit: unit.index)
                for unit in again:
                    if items[unit.index].key in failed:
                        results[unit.index] = _WAITS
                kept = [unit for unit in again if results[unit.index] is None]
                return [*kept, *units[len(taken) :]]
            together = [taken[index] for index in batch.units]
            outcome = await self._send_batch(batch, together, items)
            if outcome is None:
                await self._in_halves(batcher, together, items, results, failed)
                continue
            for place, result in zip(places, outcome, strict=True):
                results[place] = result
                if isinstance(result, Retry):
                    failed.add(items[place].key)
        return list(units[len(taken) :])

    async def _in_halves(
        self,
        batcher: Batcher,
        units: Sequence[Unit],
        items: Sequence[Item],
        results: list[Delivery | None],
        failed: set[str],
    ) -> None:
        """Send the events of a batch that was refused as a whole again, one half after the other."""
        middle = len(units) // 2
        stop: Retry | None = None
        for half in (units[:middle], units[middle:]):
            left: Sequence[Unit] = half
            while left and stop is None:
                left = await self._round(batcher, left, items, results, failed)
                stop = _stop(results[unit.index] for unit in half)
            for unit in left:
                if stop is not None and results[unit.index] is None:
                    results[unit.index] = stop
                    failed.add(items[unit.index].key)

    async def _in_order(
        self, batcher: Batcher, units: Sequence[Unit], items: Sequence[Item]
    ) -> tuple[Sequence[Batch] | Delivery, Sequence[Unit]]:
        """Return batches of the longest beginning of `units` in which nobody's events change places, and it."""
        taken = units
        while True:
            # A batcher counts from 0.
            numbered = [msgspec.structs.replace(unit, index=n) for n, unit in enumerate(taken)]
            batches = await self._batched(batcher, numbered)
            if not isinstance(batches, Sequence):
                return batches, taken
            cut = _first_out_of_order(batches, [items[unit.index].key for unit in taken])
            if cut is None:
                return batches, taken
            taken = taken[:cut]

    async def _batched(self, batcher: Batcher, units: Sequence[Unit]) -> Sequence[Batch] | Delivery:
        made = batcher(units)
        if isinstance(made, Sequence):
            return made
        token = await self._token()
        if not isinstance(token, str | None):
            return token

        async def ask(call: Call) -> Any:
            return await self._lookups.ask(call, token)

        try:
            ended = await drive_async(made, ask)
        except TransportError as error:
            return classify_failure(error)
        return ended if isinstance(ended, Sequence) else _as_delivery(ended)

    async def _send_batch(
        self, batch: Batch, units: Sequence[Unit], items: Sequence[Item]
    ) -> Sequence[Delivery] | None:
        """Return each unit's result; None if the batch was refused as a whole and has to be sent in halves."""
        if batch.refusal is not None:
            return [Rejected(batch.refusal.reason)] * len(units)
        results: list[Delivery] = [Delivered("nothing to send")] * len(units)
        for number, call in enumerate(batch.calls):
            for unit in units:
                items[unit.index].last_sent = call
            sent = await self._exchange(call)
            if not isinstance(sent, tuple):
                return [sent] * len(units)
            request, response = sent
            each = read_each(self._spec, call, request, response, units)
            if each is None:
                whole = read_whole(self._spec, request, response)
                if number == 0 and refused_together(whole, response, units):
                    return None
                each = [whole] * len(units)
            for index, one in enumerate(each):
                before = results[index]
                if isinstance(before, Delivered):
                    results[index] = _worse(before, one) if isinstance(one, Delivered) else one
            if any(type(one) is not Delivered for one in each):
                if number + 1 < len(batch.calls):
                    # The rest of the batch is not sent: whoever was well so far has not been delivered whole.
                    results = [_REST if type(one) is Delivered else one for one in results]
                return results
        return results

    # ------------------------------------------------------------ one request

    async def _token(self) -> str | Delivery | None:
        return None if self._tokens is None else await self._tokens.current()

    async def _exchange(self, payload: Request | Call) -> tuple[Request, Response] | Delivery:
        fresh = False
        while True:
            token = await self._token()
            if not isinstance(token, str | None):
                return token
            request = encode(payload, token) if isinstance(payload, Call) else payload
            try:
                response = await self._transport.send(request, timeout_s=self._timeout_s)
            except TransportError as error:
                return classify_failure(error)
            if response.status != 401 or token is None or self._tokens is None:
                return request, response
            # It may have ended before its time: once more with a new one.
            self._tokens.refused(token)
            if fresh:
                return request, response
            fresh = True


def read_answer(
    spec: DestinationSpec | None,
    payload: Request | Call,
    request: Request,
    response: Response,
    units: Sequence[Unit],
) -> Sequence[Delivery]:
    """Return what an answer means for each unit of a request (for the request itself where there are no units).

    By the destination's reading of single results, else by its reading of the whole, else by the status. Pure.
    """
    each = read_each(spec, payload, request, response, units)
    return [read_whole(spec, request, response)] * max(1, len(units)) if each is None else each


def read_each(
    spec: DestinationSpec | None,
    payload: Request | Call,
    request: Request,
    response: Response,
    units: Sequence[Unit],
) -> Sequence[Delivery] | None:
    """Return what the answer says of each unit; None if it says nothing of them. Pure."""
    if spec is None or spec.classify_each is None or not isinstance(payload, Call):
        return None
    each = spec.classify_each(payload, request, response, units)
    return each if each is not None and len(each) == len(units) else None


def read_whole(spec: DestinationSpec | None, request: Request, response: Response) -> Delivery:
    """Return what the answer means for everything in the request. Pure."""
    read = spec.classify(request, response) if spec is not None and spec.classify is not None else None
    return read or classify_http(request, response)


def refused_together(whole: Delivery, response: Response, units: Sequence[Unit]) -> bool:
    """Tell whether a request was refused for what it carries, and carries several events: one may be to blame."""
    return isinstance(whole, Rejected) and len(units) > 1 and response.status in _WHOLE


def _stop(results: Iterable[Delivery | None]) -> Retry | None:
    """Return the first result that forbids to go on sending."""
    return next(
        (one for one in results if isinstance(one, Retry) and (one.destination_wide or one.throttled)), None
    )


def _as_delivery(ended: Ended) -> Delivery:
    return Rejected(ended.reason) if isinstance(ended, Refusal) else ended


def _worse(one: Delivered, other: Delivered) -> Delivered:
    """Return what two successes of one event prove together: a warning is kept, and the weaker proof."""
    if one.answer == "nothing to send":
        return other
    if one.warning or other.warning:
        return one if one.warning else other
    return one if one.acceptance == "unverifiable" else other


def _first_out_of_order(batches: Sequence[Batch], keys: Sequence[str]) -> int | None:
    """Return the first unit (counted from 0) that would go before an earlier one of the same key; None if none does."""
    batch_of = {index: number for number, batch in enumerate(batches) for index in batch.units}
    last: dict[str, int] = {}
    for index, key in enumerate(keys):
        number = batch_of[index]
        if number < last.get(key, 0):
            return index
        last[key] = number
    return None
