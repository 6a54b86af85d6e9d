"""What holds the process tree together: the channel between parent and child, metrics of many as one page, sockets."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import uvloop
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mainstem.clock import SystemClock
from mainstem.errors import SettingsError
from mainstem.roles.channel import ChildChannel
from mainstem.roles.exposition import exposition, families
from mainstem.roles.supervisor import Child, ServeFailed, listen
from mainstem.settings import Settings, load_settings

_CHILD = """
import asyncio, sys
from mainstem.roles.channel import ParentChannel

async def fail():
    raise ValueError("no")

async def number():
    return 7

async def never():
    await asyncio.Event().wait()

async def main():
    channel = await ParentChannel.open()
    settings = await channel.settings()
    sys.stdout.write("a stray line\\n"); sys.stdout.flush()
    channel.ready({"settings": settings.decode().strip()})
    await channel.answer_until_closed({"number": number, "fail": fail, "never": never})
    sys.exit(3)

asyncio.run(main())
"""


async def spawn(code: str) -> tuple[asyncio.subprocess.Process, ChildChannel, "asyncio.Task[None]"]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    channel = ChildChannel(process.stdin, process.stdout)
    return process, channel, channel.start(b'{"port":1}')


async def test_settings_go_in_questions_are_answered_and_the_end_of_input_ends_the_child() -> None:
    process, channel, reading = await spawn(_CHILD)
    assert await channel.ready == {"settings": '{"port":1}'}
    assert await channel.ask("number", timeout_s=20) == 7
    with pytest.raises(ConnectionError, match="ValueError: no"):
        await channel.ask("fail", timeout_s=20)
    with pytest.raises(ConnectionError, match="no answer to `weather`"):
        await channel.ask("weather", timeout_s=20)
    assert await asyncio.gather(*(channel.ask("number", timeout_s=20) for _ in range(20))) == [7] * 20
    with pytest.raises(TimeoutError):
        await channel.ask("never", timeout_s=0.01)
    assert await channel.ask("number", timeout_s=20) == 7  # one that waits keeps no other from its answer
    channel.close()
    assert await process.wait() == 3
    await reading


async def test_a_child_that_dies_fails_whoever_waits_for_it() -> None:
    process, channel, reading = await spawn(_CHILD.replace("return 7", "import os; os._exit(9)"))
    await channel.ready
    with pytest.raises(ConnectionError, match="the process ended"):
        await channel.ask("number", timeout_s=20)
    assert await process.wait() == 9
    await reading
    process, channel, reading = await spawn("raise SystemExit(4)")
    with pytest.raises(ConnectionError, match="the process ended"):
        await channel.ready
    assert await process.wait() == 4
    await reading


async def test_a_child_that_cannot_start_is_an_error_with_its_exit_code(tmp_path: Path) -> None:
    broken = tmp_path / "w.yaml"
    broken.write_text("nonsense: [")
    settings = load_settings({"data_dir": str(tmp_path / "d"), "workspace": str(broken)}, environ={})
    child = Child("worker", 0, settings, None, SystemClock())
    with pytest.raises(ServeFailed, match=r"worker-0 did not start \(exit code 1\)"):
        await child.start()
    await child.stop(1)


async def test_a_process_that_answers_no_more_is_ended_and_started_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "w.yaml"
    document.write_text("workspace: {id: w}\n")
    given = {"data_dir": str(tmp_path / "d"), "workspace": str(document), "silence_limit_s": 1.2}
    child = Child("worker", 0, load_settings(given, environ={}), None, SystemClock())
    await child.start()
    try:
        # What it is asked before it is ended: it tells where it stands, and goes on.
        os.kill(child.pid, signal.SIGUSR1)
        told = ""
        async with asyncio.timeout(20):
            while "most recent call first" not in told:
                await asyncio.sleep(0.01)
                told += capfd.readouterr().err
        assert await child.ask("alive") is True
        assert child.restarts == 0
        first = child.pid
        os.kill(first, signal.SIGSTOP)
        async with asyncio.timeout(60):
            while child.restarts == 0 or child.pid in (0, first):
                await asyncio.sleep(0.02)
            while True:
                try:
                    assert await child.ask("alive") is True
                    break
                except (ConnectionError, TimeoutError):
                    await asyncio.sleep(0.02)  # it is being started
    finally:
        await child.stop(10)
    assert child.restarts == 1


def test_metrics_of_several_processes_become_one_page_with_a_label() -> None:
    pages = {}
    for process, amount in (("gateway-0", 2), ("worker-0", 3)):
        registry = CollectorRegistry()
        Counter("things", "Things.", ["kind"], registry=registry).labels("a").inc(amount)
        Gauge("level", "Level.", registry=registry).set(amount)
        Histogram("wait", "Wait.", buckets=(1.0,), registry=registry).observe(amount)
        pages[process] = families(registry)
    text = exposition(pages).decode()
    assert 'things_total{kind="a",process="gateway-0"} 2.0' in text
    assert 'things_total{kind="a",process="worker-0"} 3.0' in text
    assert 'level{process="worker-0"} 3.0' in text
    assert 'wait_bucket{le="+Inf",process="gateway-0"} 1.0' in text
    assert text.count("# HELP things_total Things.") == 1
    assert text.count("# TYPE wait histogram") == 1


def test_a_port_that_is_taken_says_what_to_change() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*--port"):
            listen("127.0.0.1", port)


def test_an_address_that_is_not_ours_says_what_to_change() -> None:
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1:"):
        listen("192.0.2.1", 0)


@pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_it_listens_on_ipv6_too() -> None:
    with listen("::1", 0) as sock:
        assert sock.family == socket.AF_INET6


def test_a_restart_waits_longer_each_time_up_to_the_bound() -> None:
    child = Child("worker", 0, Settings(restart_delay_max_s=1.0), None, SystemClock())
    delays = [0.0]
    while len(delays) < 7:
        delays.append(child._longer(delays[-1]))
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert child.pid == 0
    assert os.getpid() != child.pid


def test_a_child_that_is_gone_before_its_settings_is_an_error_and_no_crash() -> None:
    """On uvloop, where writing to a pipe without a reader raises RuntimeError."""

    async def run() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        await process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        while not process.stdin.transport.is_closing():
            process.stdin.write(b"x")
            await asyncio.sleep(0)
        channel = ChildChannel(process.stdin, process.stdout)
        with pytest.raises(ConnectionError):
            channel.start(b"{}")
        with pytest.raises(ConnectionError):
            await channel.ask("health", timeout_s=10.0)

    uvloop.run(run())
