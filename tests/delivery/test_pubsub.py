"""Google Pub/Sub against a server that checks its tokens and keeps its rules, and says no in its ways."""

import base64
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mainstem.clock import FixedClock, SystemClock
from mainstem.delivery.each_key import WAITS
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.pubsub import PubSubSink
from mainstem.delivery.transport import PyreqwestTransport
from mainstem.destinations.base import Delivered, Delivery, Rejected, Retry, StreamMessage
from mainstem.destinations.googlepubsub import Config
from mainstem.secret import Secret
from mainstem.testing.sink import Answer, Behaviour, Cut, Received, Sink

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NOW_MS = 1_767_323_045_000


def _pem(key: Any) -> str:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


class Google:
    """The token endpoint and Pub/Sub."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        sink.script = self.answer
        self.tokens: list[str] = []
        self.good = True
        """Whether the last token is taken."""
        self.published: list[tuple[str, str, str, dict[str, str]]] = []
        """(topic, ordering key, data, attributes)"""
        self.next: list[Behaviour | int] = []
        self.next_token: list[Behaviour | int] = []
        self.wrong = ""
        """Data for which Google refuses the whole request."""

    def answer(self, request: Received) -> Behaviour | int:
        if request.path == "/token":
            return self._token(request)
        if self.next:
            return self.next.pop(0)
        token = request.headers["authorization"].removeprefix("Bearer ")
        if not self.good or token != self.tokens[-1]:
            self.good = True
            return _error(401, "UNAUTHENTICATED", "no such token")
        project, _, topic = request.path.removeprefix("/v1/projects/").partition("/topics/")
        assert project == "my-project"
        topic = topic.removesuffix(":publish")
        messages = request.json()["messages"]
        data = [base64.b64decode(message["data"]).decode() for message in messages]
        if self.wrong in data:
            return _error(400, "INVALID_ARGUMENT", "a message is wrong")
        for message, one in zip(messages, data, strict=True):
            self.published.append((topic, message.get("orderingKey", ""), one, message.get("attributes", {})))
        return Answer(200, body=msgspec.json.encode({"messageIds": [f"id-{one}" for one in data]}))

    def _token(self, request: Received) -> Behaviour | int:
        if self.next_token:
            return self.next_token.pop(0)
        fields = parse_qs(request.body.decode())
        assert fields["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        header, claims, signature = fields["assertion"][0].split(".")
        KEY.public_key().verify(_bytes(signature), f"{header}.{claims}".encode(), PKCS1v15(), SHA256())
        assert msgspec.json.decode(_bytes(header)) == {"alg": "RS256", "typ": "JWT", "kid": "key-1"}
        assert msgspec.json.decode(_bytes(claims)) == {
            "iss": "sender@my-project.iam.gserviceaccount.com",
            "scope": "https://www.googleapis.com/auth/pubsub",
            "aud": f"{self.sink.url}/token",
            "iat": NOW_MS // 1000,
            "exp": NOW_MS // 1000 + 3600,
        }
        self.tokens.append(f"token-{len(self.tokens)}")
        return Answer(200, body=msgspec.json.encode({"access_token": self.tokens[-1], "expires_in": 3599}))


def _bytes(piece: str) -> bytes:
    return base64.urlsafe_b64decode(piece + "=" * (-len(piece) % 4))


def _error(code: int, status: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    body = {"error": {"code": code, "status": status, "message": message}}
    return Answer(code, headers, msgspec.json.encode(body))


@pytest.fixture
async def google() -> AsyncIterator[Google]:
    async with Sink() as sink:
        yield Google(sink)


@pytest.fixture
async def transport() -> AsyncIterator[PyreqwestTransport]:
    opened = PyreqwestTransport(AddressGuard(allow_private=True), SystemClock())
    yield opened
    await opened.close()


def _sink(google: Google, transport: PyreqwestTransport, **key: Any) -> PubSubSink:
    account = {
        "type": "service_account",
        "client_email": "sender@my-project.iam.gserviceaccount.com",
        "private_key": _pem(KEY),
        "private_key_id": "key-1",
        "token_uri": f"{google.sink.url}/token",
        **key,
    }
    credentials = Secret(msgspec.json.encode(account).decode())
    config = Config(project_id="my-project", credentials=credentials, endpoint=google.sink.url)
    return PubSubSink(config, transport=transport, clock=FixedClock(NOW_MS), timeout_s=5.0)


def _message(data: str, user: str = "", topic: str = "t") -> StreamMessage:
    return StreamMessage(topic=topic, key=user.encode(), value=data.encode(), headers=(("plan", b"pro"),))


def _taken(data: str) -> Delivered:
    return Delivered(f"id-{data}", acceptance="accepted")


async def test_messages_are_published_with_their_key_and_attributes(
    google: Google, transport: PyreqwestTransport
) -> None:
    sink = _sink(google, transport)
    assert await sink.send([_message("a", "u"), _message("b"), _message("c", "u", "other")]) == [
        *(_taken(data) for data in "abc")
    ]
    assert google.published == [
        ("t", "u", "a", {"plan": "pro"}),
        ("t", "", "b", {"plan": "pro"}),
        ("other", "u", "c", {"plan": "pro"}),
    ]
    await sink.send([_message("d")])
    assert google.tokens == ["token-0"]
    await sink.close()


async def test_a_token_that_is_not_taken_any_more_is_renewed(
    google: Google, transport: PyreqwestTransport
) -> None:
    sink = _sink(google, transport)
    await sink.send([_message("a")])
    google.good = False
    assert await sink.send([_message("b")]) == [_taken("b")]
    assert google.tokens == ["token-0", "token-1"]


async def test_one_wrong_message_does_not_cost_the_others(
    google: Google, transport: PyreqwestTransport
) -> None:
    google.wrong = "c"
    results = await _sink(google, transport).send([_message(data, "u") for data in "abcde"])
    assert [type(result) for result in results] == [Delivered, Delivered, Rejected, Delivered, Delivered]
    assert [data for _, _, data, _ in google.published] == ["a", "b", "d", "e"]


async def test_after_a_failure_the_users_later_messages_wait(
    google: Google, transport: PyreqwestTransport
) -> None:
    google.next = [_error(503, "UNAVAILABLE", "later")]
    messages = [_message("1", "u"), _message("2", "u", "other"), _message("x", "v", "other")]
    first, second, third = await _sink(google, transport).send(messages)
    assert isinstance(first, Retry)
    assert second == WAITS
    assert third == _taken("x")


async def test_requests_stay_within_what_google_takes(google: Google, transport: PyreqwestTransport) -> None:
    messages = [_message(f"{n}", "u") for n in range(1001)]
    messages += [_message(f"{n}" + "x" * 4_000_000, "u", "big") for n in range(2)]
    results = await _sink(google, transport).send(messages)
    assert all(isinstance(result, Delivered) for result in results)
    sizes = [len(r.json()["messages"]) for r in google.sink.requests if r.path != "/token"]
    assert sizes == [1000, 1, 1, 1]


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (_error(404, "NOT_FOUND", "no topic"), Retry("pubsub NOT_FOUND", answer="no topic")),
        (_error(429, "RESOURCE_EXHAUSTED", "slow", (("retry-after", "3"),)),
         Retry("pubsub RESOURCE_EXHAUSTED", throttled=True, after_s=3.0, answer="slow")),
        (_error(400, "FAILED_PRECONDITION", "key"),
         Retry("pubsub FAILED_PRECONDITION", destination_wide=True, answer="key")),
        (Answer(403, body=b"{}"), Retry("http 403: forbidden", destination_wide=True, answer="403 {}")),
        (Answer(200, body=b"{}"), Delivered("200")),
    ],
)  # fmt: skip
async def test_a_failed_request(
    google: Google, transport: PyreqwestTransport, behaviour: Behaviour, expected: Delivery
) -> None:
    google.next = [behaviour]
    assert await _sink(google, transport).send([_message("a")]) == [expected]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Answer(400, body=b'{"error":"invalid_grant"}'), "no token for the service account: invalid_grant"),
        (Answer(500, body=b"oops"), "no token for the service account: http 500"),
        (Cut(), "no answer: Cut"),
    ],
)
async def test_without_a_token_nothing_is_lost(
    google: Google, transport: PyreqwestTransport, behaviour: Behaviour, reason: str
) -> None:
    google.next_token = [behaviour]
    sink = _sink(google, transport)
    [result] = await sink.send([_message("a")])
    assert isinstance(result, Retry)
    assert (result.reason, result.destination_wide) == (reason, True)
    assert await sink.send([_message("a")]) == [_taken("a")]


@pytest.mark.parametrize(
    "key",
    [
        {"private_key": "none"},
        {"private_key": _pem(ec.generate_private_key(ec.SECP256R1()))},
        {"client_email": 7},
    ],
)
async def test_credentials_that_are_none(
    google: Google, transport: PyreqwestTransport, key: dict[str, Any]
) -> None:
    [result] = await _sink(google, transport, **key).send([_message("a")])
    assert result == Retry("`credentials` is no key of a service account", destination_wide=True)
