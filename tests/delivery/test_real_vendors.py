"""Real destinations against vendors that misbehave in the vendors' own words: mapping, batching, sending, reading.

The answers are those of the vendors' documentation, which each test names. Requests go to the addresses that the
mappings wrote; only on the way the host is replaced by the sink's.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import msgspec
import pytest
from tests.delivery.kit import item
from tests.destinations.events import CONTEXT, config_of, event_of

from mainstem.clock import FixedClock, SystemClock
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.http_attempt import HttpAttempt
from mainstem.delivery.item import Item
from mainstem.delivery.tokens import oauth_tokens
from mainstem.delivery.transport import PyreqwestTransport, Transport
from mainstem.destinations.base import Delivered, Delivery, Rejected, Request, Response, Retry
from mainstem.destinations.catalog import find_spec, oauth_grant
from mainstem.testing.sink import Answer, Received, Sink


class Rerouted:
    """A transport to the sink, whatever the host; `hosts` are those that were meant."""

    def __init__(self, transport: Transport, sink: Sink) -> None:
        self.hosts: list[str] = []
        self._transport = transport
        self._sink = sink

    async def send(self, request: Request, *, timeout_s: float) -> Response:
        parts = urlsplit(request.url)
        self.hosts.append(parts.netloc)
        url = urlunsplit(parts._replace(scheme="http", netloc=f"127.0.0.1:{self._sink.port}"))
        # The client writes the Host of the address it connects to.
        headers = tuple(pair for pair in request.headers if pair[0].lower() != "host")
        return await self._transport.send(
            msgspec.structs.replace(request, url=url, headers=headers), timeout_s=timeout_s
        )

    async def close(self) -> None:
        await self._transport.close()


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with Sink() as opened:
        yield opened


@pytest.fixture
async def transport(sink: Sink) -> AsyncIterator[Rerouted]:
    opened = Rerouted(PyreqwestTransport(AddressGuard(allow_private=True), SystemClock()), sink)
    yield opened
    await opened.close()


class Scene:
    """A destination with its settings, and an attempt at it."""

    def __init__(self, transport: Rerouted, type_name: str, settings: Mapping[str, Any]) -> None:
        spec = find_spec(type_name)
        assert spec is not None
        assert spec.mapper is not None
        config = config_of(type_name, settings)
        self._map = spec.mapper(config)
        clock = FixedClock()
        tokens = None
        if spec.oauth is not None:
            grant = oauth_grant(settings)
            assert grant is not None
            tokens = oauth_tokens(spec.oauth, grant, transport, clock, timeout_s=2.0)
        self._attempt = HttpAttempt(
            transport, timeout_s=2.0, clock=clock, spec=spec, config=config, tokens=tokens, validate=True
        )

    async def send(self, *messages: dict[str, Any]) -> Sequence[Delivery]:
        """Send one event of each message."""
        return await self._attempt([self._item(n, message) for n, message in enumerate(messages)])

    def _item(self, n: int, message: dict[str, Any]) -> Item:
        payloads = self._map(event_of(message), CONTEXT)
        assert isinstance(payloads, tuple), payloads
        one = item(n, str(message["userId"]))
        one.payloads = payloads
        return one


def _json(status: int, body: Any, **headers: str) -> Answer:
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, (("content-type", "application/json"), *pairs), msgspec.json.encode(body))


def kinds(results: Sequence[Delivery]) -> list[type]:
    return [type(one) for one in results]


def track(user: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "track",
        "event": "Signed Up",
        "userId": user,
        "messageId": f"m-{user}",
        "originalTimestamp": "2023-11-14T22:00:00.000Z",
        "timestamp": "2023-11-14T22:00:00.000Z",
        "properties": {"order_id": f"o-{user}"},
        **more,
    }


# ---------------------------------------------------------------- Amplitude: one bad event, and nothing is taken
# https://amplitude.com/docs/apis/analytics/batch-event-upload


class Amplitude:
    """Takes a batch whole or not at all, and says by index what is wrong."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.slow: set[str] = set()
        self.most = 1000
        self.taken: list[str] = []

    def script(self, request: Received) -> Answer:
        events = request.json()["events"]
        users = [one["user_id"] for one in events]
        if len(events) > self.most:
            return _json(413, {"code": 413, "error": "Payload too large"})
        if slow := self.slow.intersection(users):
            return _json(
                429,
                {
                    "code": 429,
                    "error": "Too many requests for some devices and users",
                    "eps_threshold": 1000,
                    "throttled_users": dict.fromkeys(slow, 2000),
                    "throttled_events": [n for n, user in enumerate(users) if user in slow],
                },
            )
        wrong = [n for n, user in enumerate(users) if user in self.bad]
        if wrong:
            return _json(
                400,
                {
                    "code": 400,
                    "error": "Request missing required field",
                    "events_with_invalid_fields": {"time": wrong},
                },
            )
        self.taken += users
        return _json(200, {"code": 200, "events_ingested": len(events), "payload_size_bytes": 50})


async def test_amplitude_a_bad_event_is_buried_and_the_others_go_again(
    sink: Sink, transport: Rerouted
) -> None:
    vendor = Amplitude()
    sink.script = vendor.script
    vendor.bad = {"user-2"}
    scene = Scene(transport, "AM", {"apiKey": "k1"})
    events = [track(f"user-{n}") for n in range(1, 4)]
    results = await scene.send(*events)
    assert kinds(results) == [Retry, Rejected, Retry]
    assert isinstance(results[1], Rejected)
    assert results[1].reason == "http 400: `time` is invalid"
    assert not any(one.destination_wide for one in results if isinstance(one, Retry))
    assert [urlsplit(request.path).path for request in sink.requests] == ["/batch"]
    assert kinds(await scene.send(events[0], events[2])) == [Delivered, Delivered]
    assert vendor.taken == ["user-1", "user-3"]


async def test_amplitude_a_user_with_too_many_events_waits_and_slows_nobody_else(
    sink: Sink, transport: Rerouted
) -> None:
    vendor = Amplitude()
    sink.script = vendor.script
    vendor.slow = {"user-1"}
    scene = Scene(transport, "AM", {"apiKey": "k1"})
    results = await scene.send(track("user-1"), track("user-2"))
    waits = [(one.after_s, one.throttled) for one in results if isinstance(one, Retry)]
    assert waits == [(30.0, False), (0.0, False)]


async def test_amplitude_a_batch_that_is_too_large_is_sent_in_halves(sink: Sink, transport: Rerouted) -> None:
    vendor = Amplitude()
    sink.script = vendor.script
    vendor.most = 2
    scene = Scene(transport, "AM", {"apiKey": "k1"})
    results = await scene.send(*(track(f"user-{n}") for n in range(5)))
    assert kinds(results) == [Delivered] * 5
    assert vendor.taken == [f"user-{n}" for n in range(5)]


async def test_amplitude_a_wrong_key_stops_the_destination(sink: Sink, transport: Rerouted) -> None:
    sink.script = lambda request: _json(400, {"code": 400, "error": "Invalid API key: k1"})
    results = await Scene(transport, "AM", {"apiKey": "k1"}).send(track("user-1"), track("user-2"))
    assert all(isinstance(one, Retry) and one.destination_wide for one in results)
    assert len(sink.requests) == 1, "no event is to blame: nothing is searched for"


# ---------------------------------------------------------------- Braze: taken, with errors
# https://www.braze.com/docs/api/endpoints/user_data/post_user_track and .../api/errors

BRAZE: Mapping[str, Any] = {
    "restApiKey": "k1",
    "dataCenter": "US-03",
    "enableSubscriptionGroupInGroupCall": False,
}


async def test_braze_events_that_it_names_are_buried_although_it_answers_201(
    sink: Sink, transport: Rerouted
) -> None:
    error = {"type": "'time' is not valid", "input_array": "events", "index": 1}
    sink.script = lambda request: _json(201, {"message": "success", "events_processed": 2, "errors": [error]})
    results = await Scene(transport, "BRAZE", BRAZE).send(track("u1"), track("u2"), track("u3"))
    assert kinds(results) == [Delivered, Rejected, Delivered]
    assert isinstance(results[0], Delivered)
    assert results[0].acceptance == "accepted"
    assert len(sink.requests[0].json()["events"]) == 3
    assert transport.hosts == ["rest.iad-03.braze.com"]


async def test_braze_a_fatal_error_that_names_events_costs_only_them(sink: Sink, transport: Rerouted) -> None:
    def script(request: Received) -> Answer:
        bad = [n for n, one in enumerate(request.json()["events"]) if one["external_id"] == "u2"]
        errors = [{"type": "'name' is required", "input_array": "events", "index": n} for n in bad]
        said = "Valid data must be provided in the 'attributes', 'events', or 'purchases' fields."
        return _json(400, {"message": said, "errors": errors}) if bad else _json(201, {"message": "success"})

    sink.script = script
    scene = Scene(transport, "BRAZE", BRAZE)
    assert kinds(await scene.send(track("u1"), track("u2"), track("u3"))) == [Retry, Rejected, Retry]
    assert kinds(await scene.send(track("u1"), track("u3"))) == [Delivered, Delivered]


async def test_braze_a_400_that_names_nobody_is_searched_in_halves(sink: Sink, transport: Rerouted) -> None:
    def script(request: Received) -> Answer:
        if any(one["external_id"] == "u2" for one in request.json()["events"]):
            return _json(400, {"message": "Bad Request: malformed"})
        return _json(201, {"message": "success"})

    sink.script = script
    results = await Scene(transport, "BRAZE", BRAZE).send(*(track(f"u{n}") for n in range(5)))
    assert kinds(results) == [Delivered, Delivered, Rejected, Delivered, Delivered]


@pytest.mark.parametrize(("headers", "after_s"), [({"retry_after": "17"}, 17.0), ({}, None)])
async def test_braze_a_429_with_and_without_a_time(
    sink: Sink, transport: Rerouted, headers: dict[str, str], after_s: float | None
) -> None:
    sink.script = lambda request: _json(429, {"message": "Rate limit exceeded"}, **headers)
    results = await Scene(transport, "BRAZE", BRAZE).send(track("u1"), track("u2"))
    assert [(one.after_s, one.throttled) for one in results if isinstance(one, Retry)] == [
        (after_s, True),
        (after_s, True),
    ]


# ---------------------------------------------------------------- Facebook: codes of its own
# https://developers.facebook.com/docs/graph-api/guides/error-handling

FACEBOOK: Mapping[str, Any] = {"pixelId": "123", "accessToken": "t1"}


def _error(code: int, **more: Any) -> dict[str, Any]:
    return {"error": {"message": "words about t1", "type": "OAuthException", "code": code, **more}}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"events_received": 1, "fbtrace_id": "A"}, Delivered("200", acceptance="accepted")),
        (200, _error(100, error_subcode=2804003), Rejected("Meta's error 100/2804003: invalid parameter")),
        (400, _error(100), Rejected("Meta's error 100: invalid parameter")),
        (400, _error(190), Retry("Meta's error 190: the access token is refused", destination_wide=True)),
        (400, _error(4), Retry("Meta's error 4: too many calls", throttled=True)),
        (400, _error(2, is_transient=True), Retry("Meta's error 2: transient")),
        (500, _error(1), Retry("Meta's error 1: transient", destination_wide=True)),
        (403, _error(10), Retry("Meta's error 10: a permission is missing", destination_wide=True)),
    ],
)
async def test_facebooks_codes_count_and_not_its_status(
    sink: Sink, transport: Rerouted, status: int, body: dict[str, Any], expected: Delivery
) -> None:
    sink.script = lambda request: _json(status, body)
    [result] = await Scene(transport, "FACEBOOK_PIXEL", FACEBOOK).send(track("u1"))
    if isinstance(expected, Retry | Rejected):
        assert isinstance(result, Retry | Rejected)
        assert result.answer.startswith(f"{status} OAuthException"), "what Meta said is kept"
        assert "t1" not in result.answer
        result = msgspec.structs.replace(result, answer="")
    assert result == expected


# ---------------------------------------------------------------- Google Ads: partial failures, and tokens that end
# https://developers.google.com/google-ads/api/docs/best-practices/partial-failures

GOOGLE: Mapping[str, Any] = {
    "customerId": "123-456-7890",
    "developerToken": "d1",
    "listOfConversions": [{"conversions": "Signed Up"}],
    "oauth": {"clientId": "c1", "clientSecret": "s1", "refreshToken": "r1"},
}


class Google:
    """The token endpoint, the search, and the upload, which refuses what is in `bad` by its place."""

    def __init__(self) -> None:
        self.tokens = 0
        self.good = ""
        self.revoked = False
        self.bad: dict[str, str] = {}
        """Order id to the error's code."""
        self.taken: list[str] = []
        self.searches = 0

    def script(self, request: Received) -> Answer:
        path = urlsplit(request.path).path
        if path == "/token":
            assert parse_qs(request.body.decode())["refresh_token"] == ["r1"]
            if self.revoked:
                return _json(400, {"error": "invalid_grant", "error_description": "Token has been revoked."})
            self.tokens += 1
            self.good = f"token-{self.tokens}"
            return _json(200, {"access_token": self.good, "expires_in": 3599, "token_type": "Bearer"})
        if request.headers["authorization"] != f"Bearer {self.good}":
            return _json(401, {"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "expired"}})
        assert request.headers["developer-token"] == "d1"
        if path.endswith(":searchStream"):
            self.searches += 1
            action = {"resourceName": "customers/1234567890/conversionActions/7", "id": "7"}
            return _json(200, [{"results": [{"conversionAction": action}]}])
        orders = [one["orderId"] for one in request.json()["conversionAdjustments"]]
        errors = [
            {
                "errorCode": {"conversionAdjustmentUploadError": self.bad[order]},
                "message": "words",
                "location": {"fieldPathElements": [{"fieldName": "conversion_adjustments", "index": n}]},
            }
            for n, order in enumerate(orders)
            if order in self.bad
        ]
        self.taken += [order for order in orders if order not in self.bad]
        body: dict[str, Any] = {"results": [{} for _ in orders]}
        if errors:
            body["partialFailureError"] = {"code": 3, "message": "words", "details": [{"errors": errors}]}
        return _json(200, body)


def purchase(user: str) -> dict[str, Any]:
    return track(user, context={"traits": {"email": f"{user}@example.com"}})


async def test_google_ads_a_partial_failure_names_the_conversions_it_is_about(
    sink: Sink, transport: Rerouted
) -> None:
    vendor = Google()
    sink.script = vendor.script
    vendor.bad = {"o-u2": "CONVERSION_ALREADY_ENHANCED", "o-u3": "TOO_RECENT_CONVERSION"}
    scene = Scene(transport, "GOOGLE_ADWORDS_ENHANCED_CONVERSIONS", GOOGLE)
    results = await scene.send(*(purchase(f"u{n}") for n in range(1, 5)))
    assert kinds(results) == [Delivered, Rejected, Retry, Delivered]
    assert vendor.taken == ["o-u1", "o-u4"]
    assert vendor.searches == 1, "the action's number is known for a day"
    assert transport.hosts == [
        "oauth2.googleapis.com",
        "googleads.googleapis.com",
        "googleads.googleapis.com",
    ]


async def test_google_ads_a_token_that_ended_early_is_renewed_and_nothing_is_lost(
    sink: Sink, transport: Rerouted
) -> None:
    vendor = Google()
    sink.script = vendor.script
    scene = Scene(transport, "GOOGLE_ADWORDS_ENHANCED_CONVERSIONS", GOOGLE)
    assert kinds(await scene.send(purchase("u1"))) == [Delivered]
    vendor.good = "none"
    assert kinds(await scene.send(purchase("u2"), purchase("u3"))) == [Delivered, Delivered]
    assert vendor.tokens == 2
    assert vendor.taken == ["o-u1", "o-u2", "o-u3"]


async def test_google_ads_a_grant_that_was_revoked_stops_the_destination(
    sink: Sink, transport: Rerouted
) -> None:
    vendor = Google()
    sink.script = vendor.script
    vendor.revoked = True
    scene = Scene(transport, "GOOGLE_ADWORDS_ENHANCED_CONVERSIONS", GOOGLE)
    results = await scene.send(purchase("u1"), purchase("u2"))
    assert results == [Retry("no OAuth token: invalid_grant", destination_wide=True)] * 2
    assert vendor.taken == []
