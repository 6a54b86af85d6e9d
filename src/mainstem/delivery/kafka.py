"""The sending end for Kafka: acks=all, idempotent, each message answered for itself. The one user of the driver.

Within a partition the idempotent producer keeps the order in which messages were given to it, also over its
own retries; `delivery` has at most one message of a user on its way besides that, so a failure can't let a
later message overtake.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from mainstem.delivery.guard import AddressGuard
from mainstem.destinations.base import Delivered, Delivery, Rejected, Retry, StreamMessage
from mainstem.destinations.kafka import Config
from mainstem.telemetry.log import logger

_log = logger(__name__)

_POLL_S: Final = 0.1
_LINGER_MS: Final = 2

# This message will never be taken, whatever the broker's state; everything else may pass.
_REJECTED_CODES: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.TOPIC_EXCEPTION,
    }
)
_PER_TOPIC_CODES: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.TOPIC_AUTHORIZATION_FAILED}
)


class KafkaSink:
    """A `StreamSink` for one Kafka cluster."""

    def __init__(self, config: Config, *, guard: AddressGuard, timeout_s: float) -> None:
        self._config = config
        self._guard = guard
        self._timeout_s = timeout_s
        self._producer: Producer | None = None
        self._poller: threading.Thread | None = None
        self._closed = threading.Event()

    async def send(self, messages: Sequence[StreamMessage]) -> Sequence[Delivery]:
        """Send messages in this order; one result per message."""
        refusal = await self._refusal()
        if refusal:
            return [Rejected(refusal) for _ in messages]
        producer = self._ensure_producer()
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Delivery]] = []
        for message in messages:
            future: asyncio.Future[Delivery] = loop.create_future()
            futures.append(future)
            try:
                producer.produce(
                    message.topic,
                    value=message.value,
                    key=message.key,
                    headers=list(message.headers),
                    on_delivery=_answer_to(loop, future),
                )
            except BufferError:
                future.set_result(Retry("the producer's queue is full", after_s=0.1))
            except KafkaException as error:
                future.set_result(_classify(error.args[0]))
        return await asyncio.gather(*futures)

    async def close(self) -> None:
        """Send what is queued, then stop."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await asyncio.to_thread(producer.flush, self._timeout_s)
        self._closed.set()
        if self._poller is not None:
            await asyncio.to_thread(self._poller.join)

    async def _refusal(self) -> str:
        """Why the guard forbids these brokers; empty if it does not. Looks names up once, at the first send."""
        if self._producer is not None:
            return ""
        loop = asyncio.get_running_loop()
        for server in self._config.bootstrap_servers.split(","):
            host, _, port = server.rpartition(":")
            try:
                found = await loop.getaddrinfo(host.strip("[]"), int(port))
            except OSError:
                continue  # the driver keeps trying to look it up and reports it as a network failure
            for *_, address in found:
                reason = self._guard.check(str(address[0]))
                if reason:
                    return f"broker {host}: {reason}"
        return ""

    def _ensure_producer(self) -> Producer:
        if self._producer is None:
            self._producer = Producer(_producer_settings(self._config, self._timeout_s))
            self._poller = threading.Thread(target=self._poll, args=(self._producer,), daemon=True)
            self._poller.start()
        return self._producer

    def _poll(self, producer: Producer) -> None:
        while not self._closed.is_set():
            producer.poll(_POLL_S)


def _producer_settings(config: Config, timeout_s: float) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "bootstrap.servers": config.bootstrap_servers,
        "client.id": "mainstem",
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": _LINGER_MS,
        "compression.type": "lz4",
        "delivery.timeout.ms": max(1000, round(timeout_s * 1000)),
        "request.timeout.ms": max(1000, round(timeout_s * 1000)),
        "partitioner": "murmur2_random",
        "log_level": 3,
        "error_cb": _log_error,
    }
    security = ("SASL_" if config.use_sasl else "") + ("SSL" if config.ssl_enabled else "PLAINTEXT")
    settings["security.protocol"] = security
    if config.ssl_enabled and config.ca_certificate:
        settings["ssl.ca.pem"] = config.ca_certificate
    if config.use_sasl:
        mechanism = {"plain": "PLAIN", "sha256": "SCRAM-SHA-256", "sha512": "SCRAM-SHA-512"}
        settings["sasl.mechanism"] = mechanism[config.sasl_type]
        settings["sasl.username"] = config.username
        settings["sasl.password"] = config.password.reveal()
    return settings


def _log_error(error: KafkaError) -> None:
    _log.warning("kafka", code=error.name(), error=error.str())


def _answer_to(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Delivery]") -> Any:
    def on_delivery(error: KafkaError | None, message: Message) -> None:
        if error is None:
            result: Delivery = Delivered(f"{message.topic()}[{message.partition()}]@{message.offset()}")
        else:
            result = _classify(error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, future, result)

    return on_delivery


def _resolve(future: "asyncio.Future[Delivery]", result: Delivery) -> None:
    if not future.done():
        future.set_result(result)


def _classify(error: KafkaError) -> Delivery:
    code = error.code()
    reason = f"kafka {error.name()}"
    if code in _REJECTED_CODES:
        return Rejected(reason, answer=error.str())
    return Retry(reason, destination_wide=code not in _PER_TOPIC_CODES, answer=error.str())
