"""AWS: signatures against AWS's published test suite; Kinesis and EventBridge against a server with their rules."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from mainstem.clock import FixedClock, SystemClock
from mainstem.delivery.aws import EventBridgeSink, KinesisSink, open_eventbridge, open_kinesis
from mainstem.delivery.aws_signature import AwsCredentials, sign
from mainstem.delivery.each_key import WAITS
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.transport import PyreqwestTransport
from mainstem.destinations import eventbridge, kinesis
from mainstem.destinations.base import Delivered, Rejected, Request, Retry, StreamMessage
from mainstem.secret import Secret
from mainstem.testing.sink import Answer, Behaviour, Cut, Received, Sink

AT_MS = 1_440_938_160_000  # 2015-08-30T12:36:00Z, the suite's moment
KEY = AwsCredentials("AKIDEXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))
SUITE = "https://example.amazonaws.com"
VANILLA = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"


@pytest.mark.parametrize(
    ("name", "request_", "signature"),
    [
        ("get-vanilla", Request("GET", f"{SUITE}/"), VANILLA),
        (
            "get-vanilla-query-order-key-case",
            Request("GET", f"{SUITE}/?Param2=value2&Param1=value1"),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "get-unreserved",
            Request("GET", f"{SUITE}/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"),
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        (
            "get-header-value-trim",
            Request("GET", f"{SUITE}/", (("My-Header1", " value1"), ("My-Header2", ' "a   b   c"'))),
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "post-vanilla",
            Request("POST", f"{SUITE}/"),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "post-header-key-sort",
            Request("POST", f"{SUITE}/", (("My-Header1", "value1"),)),
            "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
        ),
        (
            "post-x-www-form-urlencoded",
            Request("POST", f"{SUITE}/", (("Content-Type", "application/x-www-form-urlencoded"),), b"Param1=value1"),
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
        ("get-slashes", Request("GET", f"{SUITE}//"), VANILLA),
        ("get-relative", Request("GET", f"{SUITE}/example/.."), VANILLA),
    ],
)  # fmt: skip
def test_the_published_signatures(name: str, request_: Request, signature: str) -> None:
    signed = sign(request_, KEY, region="us-east-1", service="service", now_ms=AT_MS)
    headers = dict(signed.headers)
    assert headers["X-Amz-Date"] == "20150830T123600Z"
    assert headers["Authorization"].endswith(f"Signature={signature}"), name


def test_a_session_token_is_sent_and_signed() -> None:
    credentials = AwsCredentials("AKIDEXAMPLE", Secret("secret"), Secret("token-1"))
    headers = dict(
        sign(Request("POST", f"{SUITE}:8443/"), credentials, region="r", service="s", now_ms=AT_MS).headers
    )
    assert headers["X-Amz-Security-Token"] == "token-1"
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token" in headers["Authorization"]


# ---------------------------------------------------------------- a server that keeps AWS's rules


class Aws:
    """Checks signatures, counts records, and says no as it is told to."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        sink.script = self.answer
        self.taken: list[str] = []
        self.codes: dict[str, list[str]] = {}
        """By record: the error codes that it gets in turn."""
        self.next: list[Behaviour | int] = []
        self.wrong = ""
        """A record for which AWS refuses the whole request."""

    def answer(self, request: Received) -> Behaviour | int:
        if self.next:
            return self.next.pop(0)
        if not self._signed(request):
            return _error(400, "com.amazon.coral.service#InvalidSignatureException", "not signed so")
        body = request.json()
        assert request.headers["content-type"] == "application/x-amz-json-1.1"
        if request.headers["x-amz-target"] == "Kinesis_20131202.PutRecords":
            assert body["StreamName"] == "events"
            assert len(body["Records"]) <= 500
            records = [base64.b64decode(record["Data"]).decode() for record in body["Records"]]
            assert all(1 <= len(record["PartitionKey"]) <= 256 for record in body["Records"])
            told, done = "FailedRecordCount", "SequenceNumber"
        else:
            assert request.headers["x-amz-target"] == "AWSEvents.PutEvents"
            assert len(body["Entries"]) <= 10
            assert {"Source", "DetailType", "Detail"} <= set(body["Entries"][0])
            records = [entry["Detail"] for entry in body["Entries"]]
            told, done = "FailedEntryCount", "EventId"
        if self.wrong in records:
            return _error(400, "ValidationException", "a record is wrong")
        results = [self._result(record, done) for record in records]
        failed = sum("ErrorCode" in result for result in results)
        name = "Records" if told == "FailedRecordCount" else "Entries"
        return Answer(200, body=msgspec.json.encode({told: failed, name: results}))

    def _result(self, record: str, done: str) -> dict[str, str]:
        if waiting := self.codes.get(record):
            return {"ErrorCode": waiting.pop(0), "ErrorMessage": "later"}
        self.taken.append(record)
        return {done: f"n-{len(self.taken)}"}

    def _signed(self, request: Received) -> bool:
        names = ("Content-Type", "X-Amz-Target")
        again = Request(
            request.method,
            self.sink.url + request.path,
            tuple((name, request.headers[name.lower()]) for name in names),
            request.body,
        )
        service = "kinesis" if "Kinesis" in request.headers["x-amz-target"] else "events"
        expected = sign(again, KEY, region="eu-west-1", service=service, now_ms=AT_MS)
        return request.headers["authorization"] == dict(expected.headers)["Authorization"]


def _error(status: int, kind: str, message: str) -> Answer:
    return Answer(status, body=msgspec.json.encode({"__type": kind, "message": message}))


@pytest.fixture
async def aws() -> AsyncIterator[Aws]:
    async with Sink() as sink:
        yield Aws(sink)


@pytest.fixture
async def transport() -> AsyncIterator[PyreqwestTransport]:
    opened = PyreqwestTransport(AddressGuard(allow_private=True), SystemClock())
    yield opened
    await opened.close()


def _kinesis(aws: Aws, transport: PyreqwestTransport, secret: Secret = KEY.secret_access_key) -> KinesisSink:
    config = kinesis.Config(
        region="eu-west-1",
        stream="events",
        access_key_id=KEY.access_key_id,
        access_key=secret,
        endpoint=aws.sink.url,
    )
    return open_kinesis(config, transport, FixedClock(AT_MS), 5.0)


def _eventbridge(aws: Aws, transport: PyreqwestTransport) -> EventBridgeSink:
    config = eventbridge.Config(
        region="eu-west-1",
        detail_type="event",
        access_key_id=KEY.access_key_id,
        access_key=KEY.secret_access_key,
        endpoint=aws.sink.url,
    )
    return open_eventbridge(config, transport, FixedClock(AT_MS), 5.0)


def _message(value: str, user: str = "") -> StreamMessage:
    detail = {"Detail": value, "DetailType": "event", "Source": "rudderstack", "Resources": []}
    return StreamMessage(topic="events", key=(user or value).encode(), value=value.encode(), extra=detail)


async def test_records_are_taken_and_numbered(aws: Aws, transport: PyreqwestTransport) -> None:
    sink = _kinesis(aws, transport)
    results = await sink.send([_message("a"), _message("b")])
    assert results == [Delivered("n-1", acceptance="accepted"), Delivered("n-2", acceptance="accepted")]
    assert aws.taken == ["a", "b"]
    assert len(aws.sink.requests) == 1
    await sink.close()


async def test_only_what_failed_is_sent_again(aws: Aws, transport: PyreqwestTransport) -> None:
    aws.codes = {"b": ["ProvisionedThroughputExceededException"], "c": ["InternalFailure"]}
    taken, throttled, failed = await _kinesis(aws, transport).send(
        [_message("a"), _message("b"), _message("c")]
    )
    assert isinstance(taken, Delivered)
    assert throttled == Retry("aws ProvisionedThroughputExceededException", throttled=True, answer="later")
    assert failed == Retry("aws InternalFailure", answer="later")


async def test_a_users_records_keep_their_order(aws: Aws, transport: PyreqwestTransport) -> None:
    sink = _kinesis(aws, transport)
    messages = [_message("1", "u"), _message("x", "v"), _message("2", "u"), _message("3", "u")]
    aws.codes = {"2": ["InternalFailure"]}
    first = await sink.send(messages)
    assert [type(result) for result in first] == [Delivered, Delivered, Retry, Retry]
    assert first[3] == WAITS
    assert all(isinstance(result, Delivered) for result in await sink.send(messages[2:]))
    assert aws.taken == ["1", "x", "2", "3"]


async def test_one_wrong_record_does_not_cost_the_others(aws: Aws, transport: PyreqwestTransport) -> None:
    aws.wrong = "c"
    results = await _kinesis(aws, transport).send([_message(value) for value in "abcde"])
    assert [type(result) for result in results] == [Delivered, Delivered, Rejected, Delivered, Delivered]
    assert results[2] == Rejected("aws ValidationException", "a record is wrong")
    assert aws.taken == ["a", "b", "d", "e"]


async def test_requests_stay_within_what_aws_takes(aws: Aws, transport: PyreqwestTransport) -> None:
    results = await _eventbridge(aws, transport).send([_message(f"e{n}") for n in range(25)])
    assert len(results) == 25
    assert [len(request.json()["Entries"]) for request in aws.sink.requests] == [10, 10, 5]
    aws.sink.requests.clear()
    await _eventbridge(aws, transport).send([_message(f"{n}" + "x" * 100_000) for n in range(3)])
    assert [len(request.json()["Entries"]) for request in aws.sink.requests] == [2, 1]


async def test_an_entry_that_eventbridge_never_takes(aws: Aws, transport: PyreqwestTransport) -> None:
    aws.codes = {"a": ["MalformedDetail"], "b": ["ThrottlingException"]}
    results = await _eventbridge(aws, transport).send([_message("a"), _message("b"), _message("c")])
    assert results[0] == Rejected("aws MalformedDetail", "later")
    assert results[1] == Retry("aws ThrottlingException", throttled=True, answer="later")
    assert results[2] == Delivered("n-1", acceptance="accepted")


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (_error(400, "com.amazonaws.kinesis#ResourceNotFoundException", "no stream"),
         Retry("aws ResourceNotFoundException", destination_wide=True, answer="no stream")),
        (_error(400, "ExpiredTokenException", "x"),
         Retry("aws ExpiredTokenException", destination_wide=True, answer="x")),
        (_error(400, "LimitExceededException", "x"), Retry("aws LimitExceededException", throttled=True, answer="x")),
        (Answer(503, body=b"busy"), Retry("http 503", destination_wide=True, answer="503 busy")),
        (Answer(200, body=b"not json"), Retry("the answer of AWS has not one result per record", answer="200")),
        (Answer(413, (("x-amzn-errortype", "SerializationException:"),), b""),
         Rejected("aws SerializationException", "")),
    ],
)  # fmt: skip
async def test_a_failed_request(
    aws: Aws, transport: PyreqwestTransport, behaviour: Any, expected: Any
) -> None:
    aws.next = [behaviour]
    assert await _kinesis(aws, transport).send([_message("a")]) == [expected]


async def test_no_answer_is_tried_again(aws: Aws, transport: PyreqwestTransport) -> None:
    aws.next = [Cut()]
    [result] = await _kinesis(aws, transport).send([_message("a")])
    assert isinstance(result, Retry)
    assert result.destination_wide


async def test_a_wrong_secret_loses_nothing(aws: Aws, transport: PyreqwestTransport) -> None:
    [result] = await _kinesis(aws, transport, Secret("wrong")).send([_message("a")])
    assert result == Retry("aws InvalidSignatureException", destination_wide=True, answer="not signed so")


async def test_sends_at_once_do_not_mix_up_their_results(aws: Aws, transport: PyreqwestTransport) -> None:
    sink = _kinesis(aws, transport)
    sends = [sink.send([_message(f"{n}-{i}") for i in range(5)]) for n in range(10)]
    results = await asyncio.gather(*sends)
    assert all(isinstance(result, Delivered) for each in results for result in each)
    assert len(set(aws.taken)) == 50


def test_the_regions_hosts() -> None:
    for region, host in (
        ("us-east-1", "kinesis.us-east-1.amazonaws.com"),
        ("cn-north-1", "kinesis.cn-north-1.amazonaws.com.cn"),
    ):
        config = kinesis.Config(region=region, stream="s", access_key_id="A", access_key=Secret("s"))
        sink = open_kinesis(config, None, FixedClock(0), 1.0)  # type: ignore[arg-type]
        assert sink._url == f"https://{host}/"
