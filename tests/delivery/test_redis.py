"""The Redis sink against a real server: what is written, restarts, and what each failure is called."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from redis.asyncio import Redis
from tests.components.process import free_port
from tests.components.redis import RedisServer
from tests.destinations.events import mapped

from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.redis import RedisSink, _addresses, _commands
from mainstem.destinations.base import Delivered, Rejected, Retry, StreamMessage
from mainstem.destinations.redis import Config
from mainstem.secret import Secret

OK = Delivered("OK", acceptance="accepted")


@asynccontextmanager
async def _sink(
    address: str, *, allow_private: bool = True, timeout_s: float = 5.0, **settings: Any
) -> AsyncIterator[RedisSink]:
    config = Config(address=address, **settings)
    sink = RedisSink(config, guard=AddressGuard(allow_private=allow_private), timeout_s=timeout_s)
    try:
        yield sink
    finally:
        await sink.close()


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Any]:
    opened: Any = Redis(port=redis_server.port, decode_responses=True)
    yield opened
    await opened.aclose()


def _identify(user: str, traits: dict[str, Any], **raw: Any) -> StreamMessage:
    [message] = mapped(  # type: ignore[misc]
        "redis", {"address": "unused", **raw}, {"type": "identify", "userId": user, "traits": traits}
    )
    assert isinstance(message, StreamMessage)
    return message


async def test_traits_are_a_hash_and_later_ones_win(redis_server: RedisServer, client: Any) -> None:
    user = str(uuid4())
    messages = [
        _identify(user, {"plan": "free", "city": {"name": "Bonn"}, "tags": ["a"]}),
        _identify(user, {"plan": "pro", "age": 31}),
    ]
    async with _sink(redis_server.address) as sink:
        assert await sink.send(messages) == [OK, OK]
        assert await sink.send(messages[1:]) == [OK]
    assert await client.hgetall(f"user:{user}") == {
        "plan": "pro",
        "city.name": "Bonn",
        "tags": '["a"]',
        "age": "31",
    }


async def test_a_profiles_model_is_a_field(redis_server: RedisServer, client: Any) -> None:
    user = str(uuid4())
    sources = {"profiles_model": "churn", "profiles_entity": "user", "profiles_id_type": "id"}
    event = {"type": "identify", "userId": user, "context": {"sources": sources}, "traits": {"score": 0.7}}
    [message] = mapped("redis", {"address": "unused"}, event)  # type: ignore[misc]
    assert isinstance(message, StreamMessage)
    async with _sink(redis_server.address) as sink:
        assert await sink.send([message]) == [OK]
    assert await client.hget(f":d1:user:id:{user}", "churn") == '{"score":0.7}'


async def test_another_database(redis_server: RedisServer, client: Any) -> None:
    user = str(uuid4())
    async with _sink(redis_server.address, database="3") as sink:
        assert await sink.send([_identify(user, {"a": "b"})]) == [OK]
    assert await client.exists(f"user:{user}") == 0
    other: Any = Redis(port=redis_server.port, db=3, decode_responses=True)
    assert await other.hgetall(f"user:{user}") == {"a": "b"}
    await other.aclose()


async def test_one_key_of_another_type_does_not_cost_the_others(
    redis_server: RedisServer, client: Any
) -> None:
    wrong, right = str(uuid4()), str(uuid4())
    await client.set(f"user:{wrong}", "a text")
    async with _sink(redis_server.address) as sink:
        first, second = await sink.send([_identify(wrong, {"a": "b"}), _identify(right, {"a": "b"})])
    assert isinstance(first, Rejected)
    assert first.reason == "redis WRONGTYPE"
    assert second == OK
    assert await client.hgetall(f"user:{right}") == {"a": "b"}


async def test_documents_need_redis_with_json(redis_server: RedisServer) -> None:
    # Debian's Redis has no JSON: its people install it, or switch the setting off.
    async with _sink(redis_server.address, use_json_module=True) as sink:
        [result] = await sink.send([_identify("u", {"a": 1}, useJSONModule=True)])
    assert isinstance(result, Retry)
    assert result.destination_wide
    assert "JSON.SET" in result.answer


def test_what_is_said_of_a_document() -> None:
    whole = _identify("u", {"a": [1]}, useJSONModule=True)
    assert _commands(whole) == [["JSON.SET", "user:u", "$", '{"a":[1]}']]
    command = {"key": "k", "path": 'mo"del', "value": {"a": 1}}
    part = StreamMessage(topic="k", key=b"u", value=b"", extra={"message": command})
    assert _commands(part) == [
        ["JSON.SET", "k", "$", "{}", "NX"],
        ["JSON.SET", "k", '$["mo\\"del"]', '{"a":1}'],
    ]


async def test_a_server_that_restarts_is_found_again(redis_server: RedisServer, tmp_path: Path) -> None:
    # Not the shared one: this one gets killed.
    with RedisServer(tmp_path / "restarted") as server:
        async with _sink(server.address) as sink:
            assert await sink.send([_identify("u", {"a": "1"})]) == [OK]
            server.kill9()
            [result] = await sink.send([_identify("u", {"a": "2"})])
            assert isinstance(result, Retry)
            assert result.destination_wide
            server.restart()
            assert await sink.send([_identify("u", {"a": "2"})]) == [OK]


async def test_a_cluster(redis_server: RedisServer, tmp_path: Path) -> None:
    # Else the port beside it, for the nodes, is 10,000 higher: among those that clients go out from.
    nodes = ("--cluster-port", str(free_port()))
    with RedisServer(tmp_path / "cluster", "--cluster-enabled", "yes", *nodes) as server:
        async with _sink(server.address) as sink:
            # Not told that it is one: what has no slots yet says so.
            [result] = await sink.send([_identify("u", {"a": "1"})])
            assert isinstance(result, Retry)
            assert result.reason == "redis ClusterDownError"
        client: Any = Redis(port=server.port, decode_responses=True)
        await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        async with asyncio.timeout(20):
            while "cluster_state:ok" not in str(await client.execute_command("CLUSTER", "INFO")):
                await asyncio.sleep(0.05)
        async with _sink(server.address, cluster_mode=True) as sink:
            messages = [_identify(f"u{n}", {"a": str(n)}) for n in range(20)]
            assert await sink.send(messages) == [OK] * 20
        assert await client.hget("user:u19", "a") == "19"
        await client.aclose()


@pytest.mark.parametrize("settings", [{"cluster_mode": True}, {"secure": True, "skip_verify": True}])
async def test_nobody_there(settings: dict[str, Any]) -> None:
    async with _sink("127.0.0.1:1", **settings) as sink:
        [result] = await sink.send([_identify("u", {"a": "1"})])
    assert isinstance(result, Retry)
    assert result.destination_wide


async def test_a_wrong_password_and_a_right_one(redis_server: RedisServer, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "locked", "--requirepass", "pass-1234") as server:
        for password, right in (("", False), ("wrong", False), ("pass-1234", True)):
            async with _sink(server.address, password=Secret(password)) as sink:
                [result] = await sink.send([_identify("u", {"a": "1"})])
                assert (result == OK) is right
                assert right or (isinstance(result, Retry) and result.destination_wide)
                assert "pass-1234" not in repr(result)


async def test_a_server_that_says_nothing(redis_server: RedisServer) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with _sink(f"127.0.0.1:{port}", timeout_s=0.2) as sink:
        [result] = await sink.send([_identify("u", {"a": "1"})])
        assert isinstance(result, Retry)
        assert result.destination_wide
    listening.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"address": "127.0.0.1:1", "allow_private": False}, "loopback"),
        ({"address": "127.0.0.1:1", "database": "test"}, "`database` is no number"),
        ({"address": " , "}, "`address` is empty"),
    ],
)
async def test_settings_that_people_repair(settings: dict[str, Any], words: str) -> None:
    async with _sink(**settings) as sink:
        [result] = await sink.send([_identify("u", {"a": "1"})])
    assert isinstance(result, Retry)
    assert result.destination_wide
    assert words in result.answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h", [("h", 6379)]),
        ("h:7000, [::1]:7001", [("h", 7000), ("::1", 7001)]),
        ("redis://h:7000", [("h", 7000)]),
    ],
)
def test_addresses(text: str, expected: list[tuple[str, int]]) -> None:
    assert _addresses(text) == expected


def test_what_is_written_is_in_the_rendered_message() -> None:
    message = _identify("u", {"a": "1"})
    assert msgspec.json.decode(message.value) == message.extra["message"]
