"""A vendor for the tests of delivery: its API with look-ups, batches, OAuth and each style of telling failures.

Served by the sink, over real connections. Its paths:

    POST /token         renews an access token (RFC 6749); `tokens` counts them, `grant_error` refuses
    GET  /people?id=    a look-up
    POST /batch         {"events": [{"id": …}]}: 200 with one result per event, by `verdicts`; 400 without saying why
                        if any is in `unwanted`, 413 if there are more than `most`
    POST /single        200 with an error body where `verdicts` has the id
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from mainstem.destinations.base import (
    ACCESS_TOKEN,
    Batch,
    Batcher,
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    OAuth,
    Rejected,
    Request,
    Response,
    Retry,
    Unit,
)
from mainstem.destinations.kit.batching import together, with_body
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.values import mapping, sequence
from mainstem.testing.sink import Answer, Behaviour, Received


class Vendor:
    """What the vendor knows; `script` is the sink's."""

    def __init__(self) -> None:
        self.tokens = 0
        self.grant_error = ""
        self.expires_in = 3600
        self.good_tokens: set[str] = set()
        self.verdicts: dict[str, list[str]] = {}
        """By event id: what is said of it in turn (ok, bad, later), then ok."""
        self.unwanted: set[str] = set()
        self.most = 1000
        self.taken: list[str] = []
        """Ids of events that were taken, in order."""
        self.next: list[Behaviour | int] = []
        """What is answered instead, in turn."""
        self.lookups = 0

    def script(self, request: Received) -> Behaviour | int:
        """Answer one request."""
        path = urlsplit(request.path).path
        if path == "/token":
            return self._token(request)
        if self.next:
            return self.next.pop(0)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.good_tokens and token not in self.good_tokens:
            return Answer(401, body=b'{"error":"invalid_token"}')
        if path == "/people":
            self.lookups += 1
            [person] = parse_qs(urlsplit(request.path).query)["id"]
            return _json({"segment": f"segment of {person}"})
        if path == "/batch":
            events = request.json()["events"]
            if len(events) > self.most:
                return 413
            if any(event["id"] in self.unwanted for event in events):
                return 400
            verdicts = [self._verdict(event) for event in events]
            return _json({"results": verdicts})
        return _json({"result": self._verdict(request.json())})

    def _verdict(self, event: Any) -> str:
        waiting = self.verdicts.get(event["id"])
        verdict = waiting.pop(0) if waiting else "ok"
        if verdict in ("ok", "warn"):
            self.taken.append(event["id"])
        return verdict

    def _token(self, request: Received) -> Behaviour:
        fields = parse_qs(request.body.decode())
        assert fields["grant_type"] == ["refresh_token"]
        assert fields["refresh_token"] == ["r1"]
        if self.grant_error:
            return Answer(400, body=msgspec.json.encode({"error": self.grant_error}))
        self.tokens += 1
        token = f"token-{self.tokens}"
        self.good_tokens = {token}
        return _json({"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"})


def _json(value: Any) -> Answer:
    return Answer(200, body=msgspec.json.encode(value))


def call_for(url: str, event_id: str, *, path: str = "/batch") -> Call:
    """Return the request for one event, as a mapping would make it."""
    body = {"events": [{"id": event_id}]} if path == "/batch" else {"id": event_id}
    return json_call(url + path, body, headers={"Authorization": f"Bearer {ACCESS_TOKEN}"})


def _merge(calls: Sequence[Call]) -> Call:
    events = [event for call in calls for event in mapping(call.body.value if call.body else None)["events"]]
    return with_body(calls[0], {"events": events})


def _batcher(config: Any) -> Batcher:
    def batch(units: Sequence[Unit]) -> Sequence[Batch]:
        return together(units, key=lambda unit: unit.calls[0].url, merge=_merge, most=config)

    return batch


_MEANING: dict[str, Delivery] = {
    "ok": Delivered(acceptance="accepted"),
    "warn": Delivered(acceptance="accepted with warning", warning="`age` was ignored"),
    "bad": Rejected("bad event"),
    "later": Retry("not now"),
}


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """Read one result per event."""
    if response.status != 200:
        return None
    return [_MEANING[str(verdict)] for verdict in sequence(mapping(answer_of(response).body).get("results"))]


def classify(request: Request, response: Response) -> Delivery | None:
    """Read a 200 whose body says otherwise."""
    body = mapping(answer_of(response).body)
    return _MEANING.get(str(body.get("result"))) if response.status == 200 else None


def spec(url: str, **fields: Any) -> DestinationSpec:
    """The type, as a module would describe it."""
    given: dict[str, Any] = {
        "classify_each": classify_each,
        "classify": classify,
        "batcher": _batcher,
        "default_max_batch": 10,
        "oauth": OAuth(token_url=f"{url}/token"),
        "proof": "each event",
        **fields,
    }
    return DestinationSpec(
        name="VENDOR",
        title="Vendor",
        kind="http",
        config=msgspec.Struct,
        message_types=frozenset(("track",)),
        doc_url="https://vendor.test",
        **given,
    )
