"""Deliveries in the shapes of RudderStack's transformer proxy: a request and the recorded answer in, what it means out.

vector -> **this** -> the reading of answers that delivery uses -> answer. The statuses are what matters: 200 delivered,
429 slow down, 500 try again, else refused for good. The words, and what the peer echoes of the vendor's answer, are its
own and are not imitated.

RudderStack makes some requests only when it delivers: it searches for an id first, makes a job and runs it, and takes
parameters out that were meant for itself. Here that is the mapping's dialogue, done before. So where the request was
not sent as it is given, what is read is the answer to the last request that was.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mainstem.delivery.classify import classify_failure, classify_http
from mainstem.delivery.errors import ConnectFailed
from mainstem.delivery.http_attempt import read_each, read_whole, refused_together
from mainstem.destinations.base import (
    Body,
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    Rejected,
    Response,
    Retry,
    Unit,
)
from mainstem.destinations.catalog import find_spec
from mainstem.destinations.kit.body import text_of
from mainstem.destinations.kit.call import encode
from mainstem.events.canonical import Event
from mainstem.testing.conformance.exchanges import Exchanges
from mainstem.testing.conformance.shapes import call_of, event_of, now_of

FEATURE: Final = "dataDelivery"
Json = Any


def answer(vector: Mapping[str, Json]) -> dict[str, Json] | None:
    """Return the answer to a vector; None for a destination type that is not there."""
    spec = find_spec(str(vector["destination"]))
    if spec is None:
        return None
    given = vector["input"]["body"]
    metadata = given.get("metadata")
    jobs = metadata if isinstance(metadata, list) else [metadata]
    results = _results(spec, vector, given, len(jobs))
    statuses = [status_of(result) for result in results]
    worst = next((status for status in statuses if status != 200), 200)
    words = [_words(result) for result in results]
    if isinstance(metadata, list):
        response = [
            {"statusCode": status, "error": text, "metadata": job}
            for status, text, job in zip(statuses, words, jobs, strict=True)
        ]
        return {
            "status": 200,
            "body": {"output": {"status": worst, "message": words[0], "response": response}},
        }
    output = {"status": worst, "message": words[0], "destinationResponse": {}}
    return {"status": worst, "body": {"output": output}}


def _results(
    spec: DestinationSpec, vector: Mapping[str, Json], given: Mapping[str, Json], jobs: int
) -> list[Delivery]:
    return [result for result, _ in _read(spec, vector, given, jobs)]


def _read(
    spec: DestinationSpec, vector: Mapping[str, Json], given: Mapping[str, Json], jobs: int
) -> list[tuple[Delivery, bool]]:
    """Return what becomes of each job, and whether that is for people to put right."""
    call = call_of(given)
    exchanges = Exchanges([_recorded(one) for one in vector.get("http") or []])
    answered = exchanges.ask(call)
    if answered.status == 0 and exchanges.unmatched and (last := exchanges.last()) is not None:
        call, answered = msgspec.structs.replace(last[0], label=call.label), last[1]
    if answered.status == 0:
        return [(classify_failure(ConnectFailed(call.url, answered.error)), False)] * jobs
    request = encode(call)
    body = b"" if answered.body is None else text_of(answered.body).encode("utf-8", "replace")
    response = Response(answered.status, answered.headers, body)
    event = event_of({}, {}, now_of(vector))
    assert isinstance(event, Event)  # noqa: S101 - an empty object is one
    units = [Unit(index, (part,), event) for index, part in enumerate(_parts(call, jobs))]
    each = read_each(spec, call, request, response, units)
    if each is None:
        whole = read_whole(spec, request, response)
        if refused_together(whole, response, units):
            # Sent again in halves, until the events that are meant are alone.
            whole = Retry("sent again in halves")
        each = [whole] * jobs
    # A 5xx as such is an outage: it passes by itself.
    outage = classify_http(request, response) if response.status >= 500 else None
    return [(one, isinstance(one, Retry) and one.destination_wide and one != outage) for one in each]


def _recorded(exchange: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return an exchange; one without status and body as what it is at delivery: no answer."""
    response = exchange.get("response") or {}
    if response.get("status") is None and response.get("data") is None:
        return {"request": exchange["request"], "error": exchange.get("error") or {}}
    return exchange


def _parts(call: Call, jobs: int) -> list[Call]:
    """Return each job's part of a request, where its body has one list with as many entries as there are jobs; the
    transformer does not say more of them."""
    value = call.body.value if call.body is not None else None
    if jobs == 1 or call.body is None:
        return [call] * jobs
    if isinstance(value, list) and len(value) == jobs:
        return [_with(call, [item]) for item in value]
    if isinstance(value, dict):
        lists = [name for name, item in value.items() if isinstance(item, list) and len(item) == jobs]
        if len(lists) == 1:
            return [_with(call, {**value, lists[0]: [item]}) for item in value[lists[0]]]
    return [call] * jobs


def _with(call: Call, value: Json) -> Call:
    assert call.body is not None  # noqa: S101 - asked before
    return msgspec.structs.replace(call, body=Body(call.body.kind, value))


def readings(vector: Mapping[str, Json]) -> list[str] | None:
    """Return what becomes of each job by our reading, in the words of `fates`; beside them `stopped`: tried again when
    people have put credentials or permissions right, and nothing is sent until then. None: no such destination."""
    spec = find_spec(str(vector["destination"]))
    if spec is None:
        return None
    given = vector["input"]["body"]
    metadata = given.get("metadata")
    jobs = len(metadata) if isinstance(metadata, list) else 1
    return [
        "stopped" if people else _fate(status_of(one)) for one, people in _read(spec, vector, given, jobs)
    ]


def status_of(result: Delivery) -> int:
    """Return what the peer's server is told of a result."""
    match result:
        case Delivered():
            return 200
        case Retry(throttled=throttled):
            return 429 if throttled else 500
        case _:
            return 400


def _words(result: Delivery) -> str:
    match result:
        case Delivered(answer=text):
            return text or "delivered"
        case Retry(reason=reason) | Rejected(reason=reason):
            return reason
        case _:
            return "filtered"


def fates(answer: Mapping[str, Json]) -> list[str]:
    """Return what became of each job by an answer of the proxy, by whomever: delivered, throttled, retry or refused."""
    output = (answer.get("body") or {}).get("output") or {}
    response = output.get("response")
    statuses = (
        [item.get("statusCode") for item in response]
        if isinstance(response, list)
        else [output.get("status")]
    )
    return [_fate(status) for status in statuses]


def _fate(status: Json) -> str:
    if not isinstance(status, int):
        return "none"
    if 200 <= status < 300:
        return "delivered"
    if status == 429:
        return "throttled"
    return "retry" if status >= 500 else "refused"
