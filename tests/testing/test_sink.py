"""The scripted destination, alone: what tests of delivery rely on."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mainstem.testing.sink import Answer, Cut, Never, Sink, always, in_turn

REQUEST = b"POST /a?b=1 HTTP/1.1\r\nHost: x\r\nX-User: u1\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}'


async def exchange(sink: Sink, request: bytes = REQUEST) -> bytes:
    """Return the head and body of the answer; empty when the connection was cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        return head + await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return b""
    finally:
        writer.close()


async def test_it_records_and_answers() -> None:
    async with Sink() as sink:
        assert (await exchange(sink)).startswith(b"HTTP/1.1 200 ")
        (request,) = sink.requests
        assert (request.method, request.path, request.headers["x-user"]) == ("POST", "/a?b=1", "u1")
        assert (request.json(), request.status) == ({"a": 1}, 200)


async def test_it_misbehaves_by_script() -> None:
    async with Sink() as sink:
        slow = Answer(429, (("retry-after", "3"),), b"slow", after_s=0.001)
        sink.script = in_turn(lambda request: request.headers["x-user"], {"u1": [500, Cut(), slow]})
        assert (await exchange(sink)).startswith(b"HTTP/1.1 500 ")
        assert await exchange(sink) == b""
        assert (
            await exchange(sink)
            == b"HTTP/1.1 429 Scripted\r\ncontent-length: 4\r\nretry-after: 3\r\n\r\nslow"
        )
        assert (await exchange(sink)).startswith(b"HTTP/1.1 200 ")
        sink.script = always(Never())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(exchange(sink), 0.02)
        assert [request.status for request in sink.requests] == [500, 0, 429, 200, 0]
        assert sink.most_open == 1


async def test_what_is_not_http_is_cut_and_the_port_stays() -> None:
    sink = Sink()
    await sink.start()
    port = sink.port
    assert await exchange(sink, b"nonsense\r\n\r\n") == b""
    await sink.stop()
    with pytest.raises(ConnectionRefusedError):
        await exchange(sink)
    await sink.start()
    assert sink.port == port
    assert (await exchange(sink)).startswith(b"HTTP/1.1 200 ")
    await sink.stop()


async def test_as_a_program_it_records_lines(tmp_path: Path) -> None:
    file = tmp_path / "got.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-m", "mainstem.testing.sink", "--record", str(file)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    address = await asyncio.to_thread(child.stdout.readline)
    elsewhere = Sink(port=int(address.rsplit(":", 1)[1]))
    await exchange(elsewhere)
    child.send_signal(signal.SIGTERM)
    assert (await asyncio.to_thread(child.stdout.read)).strip() == "received 1"
    assert child.wait() == 0
    child.stdout.close()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"path": "/a?b=1", "body": {"a": 1}}
    ]
