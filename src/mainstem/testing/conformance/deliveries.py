"""Deliveries in the shapes of RudderStack's transformer proxy: a request and the recorded answer in, what it means out.

vector -> **this** -> the reading of answers that delivery uses -> answer. The statuses are what matters: 200 delivered,
429 slow down, 500 try again, else refused for good. The words, and what the peer echoes of the vendor's answer, are its
own and are not imitated.
"""

from collections.abc import Mapping
from typing import Any, Final

from mainstem.delivery.classify import classify_failure
from mainstem.delivery.errors import ConnectFailed
from mainstem.delivery.http_attempt import read_answer
from mainstem.destinations.base import (
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
    call = call_of(given)
    request = encode(call)
    answered = Exchanges(vector.get("http") or []).ask(call)
    if answered.status == 0:
        return [classify_failure(ConnectFailed(call.url, answered.error))] * jobs
    body = b"" if answered.body is None else text_of(answered.body).encode("utf-8", "replace")
    response = Response(answered.status, answered.headers, body)
    event = event_of({}, {}, now_of(vector))
    assert isinstance(event, Event)  # noqa: S101 - an empty object is one
    units = [Unit(index, (call,), event) for index in range(jobs)]
    return list(read_answer(spec, call, request, response, units))


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
