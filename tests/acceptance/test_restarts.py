"""Processes come and go: replaced, crashed, stopped, orphaned. Nobody is refused, nothing is lost, order holds."""

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mainstem.testing.sink import Answer, Sink
from tests.acceptance.evidence import accepted, archived, assert_exactly_once, assert_in_order, ids
from tests.acceptance.load import Load
from tests.acceptance.serving import WRITE_KEY, Serving, serving, track, until
from tests.acceptance.test_torture import alive, judge, workspace

_SETTINGS = {"log_level": "info", "restart_delay_max_s": 0.1}


async def test_hup_replaces_every_process_and_no_client_notices(tmp_path: Path) -> None:
    async with Sink() as sink, serving(tmp_path, workspace(sink.url), settings=_SETTINGS) as product:
        before = product.children()
        async with Load(product.port, persons=16, logging_in=8) as load:
            await until("events flow", lambda: load.count > 50)
            os.kill(product.pid, signal.SIGHUP)
            await until("all are replaced", lambda: replaced(product, before), timeout_s=60.0)
            at = load.count
            await until("events flow to the new processes", lambda: load.count > at + 50)
        books = await product.settled("hook", "files")
        assert not load.errors, load.errors
        # Nothing crashed, so nothing had to be sent twice either.
        events = judge(load, sink.requests, product, books)
        assert len(events) == load.count


async def test_hup_replaces_several_processes_one_by_one(tmp_path: Path) -> None:
    settings = {**_SETTINGS, "gateways": 2, "workers": 2}
    async with Sink() as sink, serving(tmp_path, workspace(sink.url), settings=settings) as product:
        before = product.children()
        async with Load(product.port, persons=16) as load:
            await until("events flow", lambda: load.count > 50)
            os.kill(product.pid, signal.SIGHUP)
            await until("all are replaced", lambda: replaced(product, before), timeout_s=60.0)
        books = await product.settled("hook", "files")
        assert not load.errors, load.errors
        judge(load, sink.requests, product, books)


async def test_a_crashed_gateway_refuses_nobody(tmp_path: Path) -> None:
    async with Sink() as sink, serving(tmp_path, workspace(sink.url), settings=_SETTINGS) as product:
        async with Load(product.port, persons=16) as load:
            for _ in range(3):
                at = load.count
                await until("events flow", lambda at=at: load.count > at + 30)  # type: ignore[misc]
                old = await product.child("gateway-0")
                os.kill(old, signal.SIGKILL)
                await product.child("gateway-0", other_than=old)
        books = await product.settled("hook", "files")
        judge(load, sink.requests, product, books)
        # New connections wait in the socket's queue; only what was under way is cut.
        assert load.errors.keys() <= {"reset"}, load.errors
        assert load.errors["reset"] <= 3 * len(load.persons)


async def test_term_answers_what_is_under_way_and_delivers_what_was_acknowledged(tmp_path: Path) -> None:
    async with Sink() as sink, serving(tmp_path, workspace(sink.url), settings=_SETTINGS) as product:
        reader, writer = await asyncio.open_connection("127.0.0.1", product.port)
        body = msgspec.json.encode(track("late", 0))
        head = f"POST /v1/track HTTP/1.1\r\nhost: t\r\nx-write-key: {WRITE_KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[:20])
        await writer.drain()
        sink.script = lambda request: Answer(after_s=0.2)
        await product.send([track(f"u{number % 5}", number) for number in range(40)])
        children = product.children()
        await until("delivery has begun", lambda: sink.count > 0)
        os.kill(product.pid, signal.SIGTERM)
        await until("the gateway is told", lambda: "stopping" in product.log.read_text())
        writer.write(body[20:])
        answer = await asyncio.wait_for(reader.read(), 20.0)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        writer.close()
        assert await product.stop() == 0, product.log_tail()
        assert not any(map(alive, children.values()))
        await product.start()
        await product.settled("hook", "files")
        expected = [f"u{number % 5}-{number}" for number in range(40)] + ["late-0"]
        in_order_of_first_arrival(expected, sink)
        assert_exactly_once(expected, ids(archived(product.data_dir)), "archive")


async def test_orphans_end_by_themselves_and_the_next_start_goes_on(tmp_path: Path) -> None:
    async with Sink() as sink, serving(tmp_path, workspace(sink.url), settings=_SETTINGS) as product:
        await product.send([track("u", number) for number in range(50)])
        children = product.children()
        assert sorted(children) == ["gateway-0", "worker-0"]
        os.kill(product.pid, signal.SIGKILL)
        await until("the orphans have ended", lambda: not any(map(alive, children.values())), timeout_s=40.0)
        await product.kill9()
        await product.start()
        await product.send([track("u", number) for number in range(50, 60)])
        await product.settled("hook", "files")
        in_order_of_first_arrival([f"u-{number}" for number in range(60)], sink)


def in_order_of_first_arrival(expected: Sequence[str], sink: Sink) -> None:
    """Everything came, each user's events in order. What was delivered above an unfinished event comes twice."""
    first: dict[str, Any] = {}
    for event in accepted(sink.requests):
        first.setdefault(event["messageId"], event)
    assert_exactly_once(expected, list(first), "sink")
    assert_in_order(
        list(first.values()),
        user=lambda event: str(event["userId"]),
        number=lambda event: int(event["properties"]["n"]),
        where="sink",
    )


async def test_a_port_in_use_is_said_in_words(tmp_path: Path) -> None:
    for setting in ("port", "ops_port"):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            product = Serving(tmp_path / setting, workspace("http://127.0.0.1:1"), settings={setting: port})
            result = await product.cli("serve")
            assert result.returncode == 2
            assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in result.stderr
            assert "--port" in result.stderr
            assert "Traceback" not in result.stderr


async def test_the_partitions_of_a_dead_worker_are_taken_over(tmp_path: Path) -> None:
    # The dead one would be started again at once: let that take long enough to see the other do all the work.
    settings = {**_SETTINGS, "workers": 2, "gateways": 2, "restart_delay_max_s": 60}
    async with Sink() as sink, serving(tmp_path, workspace(sink.url), settings=settings) as product:
        await until("both work", lambda: share(product))
        async with Load(product.port, persons=16) as load:
            await until("events flow", lambda: load.count > 100)
            os.kill((await product.child("worker-1")), signal.SIGKILL)
            at = load.count
            await until("events flow", lambda: load.count > at + 100)
        books = await product.settled("hook", "files")
        judge(load, sink.requests, product, books)
        assert not load.errors, load.errors


async def share(product: Serving) -> bool:
    """Whether each of two workers owns half of the partitions."""
    by_process = (await product.ask("/v1/destinations")).get("files", {})
    return [len(status["partitions"]) for status in by_process.values()] == [2, 2]


def replaced(product: Serving, before: dict[str, int]) -> bool:
    now = product.children()
    return now.keys() == before.keys() and not any(alive(pid) for pid in before.values())
