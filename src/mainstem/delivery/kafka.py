"""The sending end for Kafka: acks=all, idempotent, each message answered for itself. The one user of the driver.

Within a partition the idempotent producer keeps the order in which messages were given to it, also over its
own retries; `delivery` has at most one message of a user on its way besides that, so a failure can't let a
later message overtake.

The guard sees the brokers named in the settings. The brokers that these then name (`advertised.listeners`) are
connected to by the driver without asking us: a cluster is trusted to name its own.
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
_MAX_TOPIC_WAIT_S: Final = 5.0


class KafkaSink:
    """A `StreamSink` for one Kafka cluster."""

    def __init__(self, config: Config, *, guard: AddressGuard, timeout_s: float) -> None:
        self._config = config
        self._guard = guard
        self._timeout_s = timeout_s
        self._client: _Client | None = None

    async def send(self, messages: Sequence[StreamMessage]) -> Sequence[Delivery]:
        """Send messages in this order; one result per message."""
        client = self._client
        if client is not None and client.broken:
            # A fatal error of the idempotent producer lasts until there is a new one.
            self._client = None
            await asyncio.to_thread(client.close, 0.0)
        if self._client is None:
            if refusal := await self._refusal():
                return [Rejected(refusal) for _ in messages]
            # Another send may have made one while this one looked names up.
            if self._client is None:
                try:
                    self._client = _Client(self._config, self._timeout_s)
                except KafkaException as error:
                    # Settings that the driver does not take, a certificate that is none: people can repair them.
                    answer = str(error.args[0].str())
                    return [Retry("kafka settings", destination_wide=True, answer=answer) for _ in messages]
        return await self._client.send(messages)

    async def close(self) -> None:
        """Send what is queued, then stop; what can't be sent in time is answered with `Retry`."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.to_thread(client.close, self._timeout_s)

    async def _refusal(self) -> str:
        """Why the guard forbids these brokers; empty if it does not."""
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


class _Client:
    """One producer of the driver, and the thread that serves its callbacks."""

    def __init__(self, config: Config, timeout_s: float) -> None:
        self.broken = False
        self._trouble = ""
        settings = _producer_settings(config, timeout_s)
        self._producer = Producer({**settings, "error_cb": self._on_error})
        self._closed = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="kafka-answers", daemon=True)
        self._poller.start()

    async def send(self, messages: Sequence[StreamMessage]) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Delivery]] = []
        for message in messages:
            future: asyncio.Future[Delivery] = loop.create_future()
            futures.append(future)
            try:
                self._producer.produce(
                    message.topic,
                    value=message.value,
                    key=message.key,
                    headers=list(message.headers),
                    on_delivery=self._answer_to(loop, future),
                )
            except BufferError:
                future.set_result(Retry("the producer's queue is full", after_s=0.1))
            except KafkaException as error:
                future.set_result(self._classify(error.args[0]))
        return await asyncio.gather(*futures)

    def close(self, timeout_s: float) -> None:
        """Send what is queued, for this long at most; give up the rest. Blocks."""
        self._producer.flush(timeout_s)
        self._producer.purge()
        self._producer.flush(_POLL_S)  # the callbacks of what was given up
        self._closed.set()
        self._poller.join()

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(_POLL_S)

    def _on_error(self, error: KafkaError) -> None:
        # Wrong credentials and certificates show here only; the messages just run out of time.
        self._trouble = error.str()
        if error.fatal():
            self.broken = True
        _log.warning("kafka", code=error.name(), error=error.str())

    def _answer_to(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Delivery]") -> Any:
        def on_delivery(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self._trouble = ""
                result: Delivery = Delivered(f"{message.topic()}[{message.partition()}]@{message.offset()}")
            else:
                result = self._classify(error)
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, future, result)

        return on_delivery

    def _classify(self, error: KafkaError) -> Delivery:
        code = error.code()
        reason = f"kafka {error.name()}"
        if code in _REJECTED_CODES:
            return Rejected(reason, answer=error.str())
        if error.fatal() or code == KafkaError._FATAL:
            self.broken = True
        answer = "; ".join(filter(None, (error.str(), self._trouble)))
        return Retry(reason, destination_wide=code not in _PER_TOPIC_CODES, answer=answer)


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
        # Before its time is over, a message for a topic that is not there must be known as such: else one wrong
        # topic would look like the whole cluster's trouble.
        "topic.metadata.propagation.max.ms": round(min(_MAX_TOPIC_WAIT_S, timeout_s / 2) * 1000),
        "log_level": 3,
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


def _resolve(future: "asyncio.Future[Delivery]", result: Delivery) -> None:
    if not future.done():
        future.set_result(result)
