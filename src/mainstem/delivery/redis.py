"""The sending end for Redis: each message one write, in order, each answered for itself. The one user of the driver.

Writes are the same when repeated (`HSET`, `JSON.SET`), so a connection that breaks costs nothing but a repetition.
The guard sees the addresses of the settings; a cluster is trusted to name its own.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry as DriverRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mainstem.delivery.guard import AddressGuard
from mainstem.destinations.base import Delivered, Delivery, Rejected, Retry, StreamMessage
from mainstem.destinations.redis import Config

_PORT: Final = 6379

# The first word of an error (https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors). These are
# about the one key; whatever else Redis says is about the server, the login or its rights, and people repair that.
_WRONG_KEY: Final = frozenset({"WRONGTYPE"})


class RedisSink:
    """A `StreamSink` for one Redis server or cluster."""

    def __init__(self, config: Config, *, guard: AddressGuard, timeout_s: float) -> None:
        self._config = config
        self._guard = guard
        self._timeout_s = timeout_s
        self._client: Redis | RedisCluster | None = None

    async def send(self, messages: Sequence[StreamMessage]) -> Sequence[Delivery]:
        """Send messages in this order; one result per message."""
        if self._client is None:
            try:
                if refusal := await self._refusal():
                    return [Retry("address refused", destination_wide=True, answer=refusal)] * len(messages)
                self._client = self._open()
            except (RedisError, ValueError, OSError) as error:
                # Settings that the driver does not take: people can repair them.
                return [Retry("redis settings", destination_wide=True, answer=_told(error))] * len(messages)
        commands = [_commands(message) for message in messages]
        try:
            pipeline: Any = self._client.pipeline(transaction=False)
            for command in (one for each in commands for one in each):
                pipeline.execute_command(*command)
            async with asyncio.timeout(self._timeout_s):
                answers = iter(await pipeline.execute(raise_on_error=False))
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            return [_failure(error)] * len(messages)
        return [_worst([next(answers) for _ in each]) for each in commands]

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _open(self) -> Redis | RedisCluster:
        config = self._config
        common: dict[str, Any] = {
            "username": config.username or None,
            "password": config.password.reveal() or None,
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            # Once, for a connection that was closed while it was idle; what else fails is delivery's to try again.
            "retry": DriverRetry(NoBackoff(), 1),
        }
        if config.secure:
            common |= {
                "ssl": True,
                "ssl_cert_reqs": "none" if config.skip_verify else "required",
                "ssl_check_hostname": not config.skip_verify,
                "ssl_ca_data": config.ca_certificate or None,
            }
        addresses = _addresses(config.address)
        if config.cluster_mode:
            nodes = [ClusterNode(host, port) for host, port in addresses]
            return RedisCluster(startup_nodes=nodes, **common)
        [(host, port), *_] = addresses
        return Redis(host=host, port=port, db=_database(config.database), **common)

    async def _refusal(self) -> str:
        """Why the guard forbids these addresses; empty if it does not."""
        loop = asyncio.get_running_loop()
        for host, port in _addresses(self._config.address):
            try:
                found = await loop.getaddrinfo(host, port)
            except OSError:
                continue  # the driver looks it up again and reports it as a network failure
            for *_, address in found:
                if reason := self._guard.check(str(address[0])):
                    return f"{host}: {reason}"
        return ""


def _addresses(text: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for piece in filter(None, (part.strip() for part in text.split(","))):
        host, colon, port = piece.removeprefix("rediss://").removeprefix("redis://").rpartition(":")
        bare = not colon or not port.isdecimal()
        found.append((piece if bare else host.strip("[]"), _PORT if bare else int(port)))
    if not found:
        raise ValueError("`address` is empty")
    return found


def _database(text: str) -> int:
    if text.strip() and not text.strip().isdecimal():
        raise ValueError("`database` is no number")
    return int(text.strip() or 0)


def _commands(message: StreamMessage) -> list[list[Any]]:
    """Return the commands of one message, which says what to write (`destinations.redis`)."""
    write = message.extra["message"]
    if "fields" in write:
        return [["HSET", write["key"], *(part for pair in write["fields"].items() for part in pair)]]
    if "hash" in write:
        return [["HSET", write["hash"], write["key"], write["value"]]]
    value = msgspec.json.encode(write["value"]).decode()
    if "path" not in write:
        return [["JSON.SET", write["key"], "$", value]]
    path = f"$[{msgspec.json.encode(write['path']).decode()}]"
    # A document has to be there before something is put into it.
    return [["JSON.SET", write["key"], "$", "{}", "NX"], ["JSON.SET", write["key"], path, value]]


def _worst(answers: Sequence[Any]) -> Delivery:
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    return _failure(errors[0]) if errors else Delivered("OK", acceptance="accepted")


def _failure(error: Exception) -> Delivery:
    told = _told(error)
    if isinstance(error, ResponseError):
        word = told.partition(" ")[0]
        if word in _WRONG_KEY:
            return Rejected(f"redis {word}", told)
        name = word if word.isupper() else type(error).__name__
        return Retry(f"redis {name}", destination_wide=True, answer=told)
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return Retry("no answer: timed out", destination_wide=True, answer=told)
    return Retry(f"no answer: {type(error).__name__}", destination_wide=True, answer=told)


def _told(error: Exception) -> str:
    return str(error)[:300]
