"""The sending ends for Amazon Kinesis and EventBridge: AWS's JSON protocol, signed, each record answered for itself.

https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html and
https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html. Both answer 200 although they did not
take some records: `FailedRecordCount`, `FailedEntryCount` and an `ErrorCode` for each of those.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mainstem.clock import Clock
from mainstem.delivery.aws_signature import AwsCredentials, sign
from mainstem.delivery.classify import classify_failure, classify_http
from mainstem.delivery.each_key import send_in_order
from mainstem.delivery.errors import TransportError
from mainstem.delivery.transport import Transport
from mainstem.destinations import eventbridge, kinesis
from mainstem.destinations.base import Delivered, Delivery, Rejected, Request, Response, Retry, StreamMessage
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.values import mapping, sequence
from mainstem.destinations.render import cut

Json = Any

_JSON: Final = "application/x-amz-json-1.1"
_ANSWER_LIMIT: Final = 300

# Codes that every service of AWS has, and those of the two:
# https://docs.aws.amazon.com/kinesis/latest/APIReference/CommonErrors.html
_THROTTLED: Final = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "KMSThrottlingException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_WRONG_EVENT: Final = frozenset(
    {
        "InvalidArgument",
        "InvalidArgumentException",
        "MalformedDetail",
        "SerializationException",
        "ValidationError",
        "ValidationException",
    }
)


class _AwsSink:
    """What the two have in common."""

    service: str
    target: str
    most: int
    most_bytes: int

    def __init__(
        self,
        *,
        region: str,
        endpoint: str,
        credentials: AwsCredentials,
        transport: Transport,
        clock: Clock,
        timeout_s: float,
    ) -> None:
        self._region = region
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        self._url = (endpoint or f"https://{self.service}.{region}.{domain}").rstrip("/") + "/"
        self._credentials = credentials
        self._transport = transport
        self._clock = clock
        self._timeout_s = timeout_s

    async def send(self, messages: Sequence[StreamMessage]) -> Sequence[Delivery]:
        """Send messages in this order; one result per message."""
        return await send_in_order(
            messages, self._send_group, most=self.most, most_bytes=self.most_bytes, size=self._size
        )

    async def close(self) -> None:
        """The transport is not ours to close."""

    async def _send_group(self, messages: Sequence[StreamMessage]) -> Sequence[Delivery]:
        answer = await self._call(self._body(messages))
        if isinstance(answer, Rejected) and len(messages) > 1:
            # AWS does not say which record the request was refused for: one must not cost the others.
            half = len(messages) // 2
            return [*await self._send_group(messages[:half]), *await self._send_group(messages[half:])]
        if not isinstance(answer, Mapping):
            return [answer] * len(messages)
        entries = [mapping(entry) for entry in sequence(answer.get("Records", answer.get("Entries")))]
        if len(entries) != len(messages):
            return [Retry("the answer of AWS has not one result per record", answer="200")] * len(messages)
        return [self._result(entry) for entry in entries]

    async def _call(self, body: Json) -> Mapping[str, Json] | Delivery:
        """Return what a successful request was answered, or what its failure means for all of its records."""
        request = Request(
            "POST",
            self._url,
            (("Content-Type", _JSON), ("X-Amz-Target", self.target)),
            json_bytes(body),
            (self._credentials.secret_access_key.reveal(),),
        )
        signed = sign(
            request, self._credentials, region=self._region, service=self.service, now_ms=self._clock.now_ms()
        )
        try:
            response = await self._transport.send(signed, timeout_s=self._timeout_s)
        except TransportError as error:
            return classify_failure(error)
        if response.status == 200:
            return mapping(answer_of(response).body)
        return _failure(signed, response)

    def _result(self, entry: Mapping[str, Json]) -> Delivery:
        code = str(entry.get("ErrorCode") or "")
        if not code:
            told = entry.get("SequenceNumber") or entry.get("EventId") or ""
            return Delivered(str(told)[:64], acceptance="accepted")
        said = cut(str(entry.get("ErrorMessage") or ""), _ANSWER_LIMIT)
        return _meaning(code, said, throttled=code in _THROTTLED, whole=False)

    def _body(self, messages: Sequence[StreamMessage]) -> Json:
        raise NotImplementedError

    def _size(self, message: StreamMessage) -> int:
        raise NotImplementedError


class KinesisSink(_AwsSink):
    """A `StreamSink` for Kinesis data streams."""

    service = "kinesis"
    target = "Kinesis_20131202.PutRecords"
    # Of the 500 that AWS takes: answers about more would be longer than the transport keeps.
    most = 200
    most_bytes = 4_500_000

    def _body(self, messages: Sequence[StreamMessage]) -> Json:
        return {
            "StreamName": messages[0].topic,
            "Records": [
                {
                    "Data": base64.b64encode(message.value).decode(),
                    "PartitionKey": message.key.decode("utf-8", "replace"),
                }
                for message in messages
            ],
        }

    def _size(self, message: StreamMessage) -> int:
        return len(message.value) + len(message.key)


class EventBridgeSink(_AwsSink):
    """A `StreamSink` for EventBridge buses."""

    service = "events"
    target = "AWSEvents.PutEvents"
    most = 10
    most_bytes = 240_000

    def _body(self, messages: Sequence[StreamMessage]) -> Json:
        fields = ("Source", "DetailType", "Detail", "Resources", "EventBusName")
        return {
            "Entries": [
                {name: message.extra[name] for name in fields if name in message.extra}
                for message in messages
            ]
        }

    def _size(self, message: StreamMessage) -> int:
        extra = message.extra
        around = len(str(extra.get("Source"))) + len(str(extra.get("DetailType"))) + 14
        return len(message.value) + around + sum(map(len, extra.get("Resources") or ()))


def _failure(request: Request, response: Response) -> Delivery:
    """Return what a refused request means."""
    body = mapping(answer_of(response).body)
    named = str(body.get("__type") or response.headers.get("x-amzn-errortype") or "")
    code = named.rpartition("#")[2].partition(":")[0]
    if not code:
        return classify_http(request, response)
    said = cut(str(body.get("message") or body.get("Message") or ""), _ANSWER_LIMIT)
    return _meaning(code, said, throttled=code in _THROTTLED or response.status == 429, whole=True)


def _meaning(code: str, said: str, *, throttled: bool, whole: bool) -> Delivery:
    """Return what an error code means.

    Args:
        whole: it is about the request, not about one record.
    """
    if throttled:
        return Retry(f"aws {code}", throttled=True, answer=said)
    if code in _WRONG_EVENT:
        return Rejected(f"aws {code}", said)
    # The rest is trouble at AWS, or something of the account that people repair: a key, a right, a stream's name.
    return Retry(f"aws {code}", destination_wide=whole, answer=said)


def open_kinesis(config: kinesis.Config, transport: Transport, clock: Clock, timeout_s: float) -> KinesisSink:
    """Return the sending end for a destination's settings."""
    return KinesisSink(
        region=config.region,
        endpoint=config.endpoint,
        credentials=AwsCredentials(config.access_key_id, config.access_key, config.session_token),
        transport=transport,
        clock=clock,
        timeout_s=timeout_s,
    )


def open_eventbridge(
    config: eventbridge.Config, transport: Transport, clock: Clock, timeout_s: float
) -> EventBridgeSink:
    """Return the sending end for a destination's settings."""
    return EventBridgeSink(
        region=config.region,
        endpoint=config.endpoint,
        credentials=AwsCredentials(config.access_key_id, config.access_key, config.session_token),
        transport=transport,
        clock=clock,
        timeout_s=timeout_s,
    )
