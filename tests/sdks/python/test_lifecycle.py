"""Forks, signals and ends of processes: nothing is lost, nothing is sent twice, nobody's handler is forgotten."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from tests.components.install import REPOSITORY
from tests.sdks.python.collector import Collector, Reply

HEAD = """
import os, signal, sys, threading, time
from mainstem_analytics import Client
client = Client("key", host={url!r}, store_dir={store!r}, upload_interval=3600, retry_most_s=0.05, **{settings!r})
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


def start(collector: Collector, store: Path, program: str, **settings: object) -> "subprocess.Popen[str]":
    head = HEAD.format(url=collector.url, store=str(store), settings=settings)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", head + textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/sdks/python/src"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    collector: Collector, store: Path, program: str, *, expected: int = 0, **settings: object
) -> list[str]:
    process = start(collector, store, program, **settings)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == expected, errors
    # An outage is logged.
    assert re.sub("events can't be sent at the moment.*\n", "", errors) == ""
    return out.splitlines()


def until_it_says(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


def end(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    out, errors = process.communicate(timeout=60)
    assert errors == ""
    return process.returncode, out.splitlines()


# ---- the end of a process


def test_what_was_called_just_before_the_end_arrives(collector: Collector, tmp_path: Path) -> None:
    run(collector, tmp_path, "client.track('u', 'Last words')")
    assert [event["event"] for event in collector.arrived] == ["Last words"]


@pytest.mark.parametrize("ending", ["sys.exit(3)", "raise SystemExit(3)"])
def test_the_exit_status_is_the_programs(ending: str, collector: Collector, tmp_path: Path) -> None:
    run(collector, tmp_path, f"client.track('u', 'E'); {ending}", expected=3)
    assert len(collector.arrived) == 1


def test_the_end_waits_no_longer_than_told_and_the_next_process_sends(
    collector: Collector, tmp_path: Path
) -> None:
    collector.stop()
    run(collector, tmp_path, "for n in range(50): client.track('u', 'E', {'n': n})", exit_timeout_s=0.2)
    collector.start()
    run(collector, tmp_path, "assert client.flush(20)")
    assert [event["properties"]["n"] for event in collector.arrived] == list(range(50))


def test_os_exit_loses_nothing_that_is_on_the_disk(collector: Collector, tmp_path: Path) -> None:
    run(collector, tmp_path, "client.track('u', 'E'); os._exit(0)", durability="call")
    assert collector.arrived == []
    run(collector, tmp_path, "assert client.flush(20)")
    assert len(collector.arrived) == 1


def test_kill_9_loses_nothing_that_is_older_than_the_window(collector: Collector, tmp_path: Path) -> None:
    """Ten times the 50 ms that `durability="batch"` promises; the collector is away, so that the store alone counts."""
    collector.stop()
    program = """
    for n in range(500): client.track("u", "E", {"n": n})
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    run(collector, tmp_path, program, expected=-signal.SIGKILL)
    collector.start()
    run(collector, tmp_path, "assert client.flush(20)")
    assert [event["properties"]["n"] for event in collector.arrived] == list(range(500))


# ---- SIGTERM


def test_sigterm_sends_and_then_ends_the_process_by_the_signal(collector: Collector, tmp_path: Path) -> None:
    process = start(collector, tmp_path, "client.track('u', 'E'); say('ready'); time.sleep(60)")
    until_it_says(process, "ready")
    process.terminate()
    assert end(process)[0] == -signal.SIGTERM
    assert len(collector.arrived) == 1


def test_sigterm_calls_the_handler_that_was_there_before(collector: Collector, tmp_path: Path) -> None:
    head = HEAD.format(url=collector.url, store=str(tmp_path), settings={})
    before = """
import signal, sys
def mine(number, frame):
    say("mine", number, client.status().sent)
    sys.exit(7)
signal.signal(signal.SIGTERM, mine)
"""
    after = "client.track('u', 'E'); say('ready'); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", before + head + after],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/sdks/python/src"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until_it_says(process, "ready")
    process.terminate()
    assert end(process) == (7, [f"mine {int(signal.SIGTERM)} 1"])


def test_a_handler_that_is_installed_later_is_left_alone(collector: Collector, tmp_path: Path) -> None:
    program = """
    signal.signal(signal.SIGTERM, lambda *_: (say("later"), sys.exit(4)))
    client.track("u", "E"); say("ready"); time.sleep(60)
    """
    process = start(collector, tmp_path, program)
    until_it_says(process, "ready")
    process.terminate()
    assert end(process) == (4, ["later"])
    assert len(collector.arrived) == 1, "the end of the process has sent it"


def test_no_handler_outside_the_main_thread_or_where_it_is_not_wanted(
    collector: Collector, tmp_path: Path
) -> None:
    program = """
    say(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
    def elsewhere():
        Client("key", store_dir={store!r})
        say(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
    thread = threading.Thread(target=elsewhere); thread.start(); thread.join()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Client("key", store_dir={store!r})
    say(signal.getsignal(signal.SIGTERM) == signal.SIG_IGN)
    """.format(store=str(tmp_path))
    assert run(collector, tmp_path, program, handle_sigterm=False) == ["True"] * 3


def test_sigterm_in_the_middle_of_calls(collector: Collector, tmp_path: Path) -> None:
    """Whatever the signal interrupts: no deadlock, and every call that returned arrives."""
    program = """
    say("ready")
    for number in range(1_000_000):
        client.track("u", "E", {"n": number}, message_id=str(number))
        say(number)
    """
    for durability in ("call", "batch"):
        process = start(collector, tmp_path, program, durability=durability, exit_timeout_s=20)
        until_it_says(process, "ready")
        assert process.stdout is not None
        for _ in range(40):
            process.stdout.readline()
        process.terminate()
        status, returned = end(process)
        assert status == -signal.SIGTERM
        assert {int(number) for number in returned} <= {
            event["properties"]["n"] for event in collector.arrived
        }


def test_a_call_that_a_signals_handler_ends_by_raising_loses_nothing(
    collector: Collector, tmp_path: Path
) -> None:
    """As Celery's soft time limit does. Another connection keeps the store from being written meanwhile."""
    program = """
    import sqlite3
    class TimeIsOver(Exception): pass
    def over(*_): raise TimeIsOver
    signal.signal(signal.SIGALRM, over)
    client.track("u", "E", {"n": 0})
    other = sqlite3.connect(client._queue.store.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        client.track("u", "E", {"n": 1})
    except TimeIsOver:
        say("over")
    other.execute("ROLLBACK")
    say(client.track("u", "E", {"n": 2})[0], client.status().unstored)
    assert client.flush(20)
    """
    assert run(collector, tmp_path, program, durability="call") == ["over", "True 0"]
    assert [event["properties"]["n"] for event in collector.arrived] == [0, 1, 2]


def test_sigterm_is_bounded_while_the_server_is_silent(collector: Collector, tmp_path: Path) -> None:
    release = threading.Event()
    collector.script = lambda _: Reply(503, wait=release)
    process = start(
        collector, tmp_path, "client.track('u', 'E'); say('ready'); time.sleep(60)", exit_timeout_s=0.3
    )
    until_it_says(process, "ready")
    process.terminate()
    assert end(process)[0] == -signal.SIGTERM
    release.set()
    collector.script = lambda _: Reply()
    run(collector, tmp_path, "assert client.flush(20)")
    assert len(collector.arrived) == 1


# ---- forks


def test_fork_after_use_parent_and_children_go_on(collector: Collector, tmp_path: Path) -> None:
    program = """
    client.track("parent", "before", message_id="before")
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            for n in range(25):
                client.track(f"child-{number}", "E", {"n": n})
            client.close(20)
            os._exit(0)
        children.append(child)
    for n in range(25):
        client.track("parent", "E", {"n": n})
    say([os.waitpid(child, 0)[1] for child in children])
    assert client.flush(20)
    """
    assert run_allowing_fork_warning(collector, tmp_path, program) == ["[0, 0, 0, 0]"]
    found: dict[str, list[int]] = {}
    for event in collector.arrived:
        found.setdefault(event["userId"], []).append(event["properties"].get("n", -1))
    assert found == {
        "parent": [-1, *range(25)],
        **{f"child-{number}": list(range(25)) for number in range(4)},
    }
    sent = [message_id for request in collector.requests for message_id in request.ids]
    assert len(sent) == len(set(sent)), "what was pending at the fork is the parent's alone"


def test_fork_while_a_batch_is_under_way(collector: Collector, tmp_path: Path) -> None:
    release = threading.Event()
    collector.script = lambda _: Reply(wait=release)
    program = """
    client.track("u", "E", {"n": 0})
    flush = client._sender.flush()
    say("sending")
    sys.stdin.readline()
    child = os.fork()
    if not child:
        # The parent holds the lease, and has the connection.
        client.track("child", "E", {"n": 1})
        say(client.flush(20))
        os._exit(0)
    say("forked")
    sys.stdin.readline()
    say(flush.done.wait(20))
    os.waitpid(child, 0)
    """
    process = start(collector, tmp_path, program)
    until_it_says(process, "sending")
    collector.until(lambda c: len(c.requests) == 1)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    until_it_says(process, "forked")
    release.set()
    assert end_with_input(process) == (0, ["True", "True"])
    assert [event["userId"] for event in collector.arrived] == ["u", "child"]
    assert len(collector.requests) == 2


def test_a_child_keeps_no_dead_parents_lease(collector: Collector, tmp_path: Path) -> None:
    release = threading.Event()
    collector.script = lambda request: Reply(wait=release) if request.number == 0 else Reply()
    program = """
    client.track("u", "E", message_id="first")
    client._sender.flush()
    time.sleep(0.2)
    if not os.fork():
        time.sleep(60)
    say(os.getpid())
    time.sleep(60)
    """
    process = start(collector, tmp_path, program, durability="call")
    collector.until(lambda c: len(c.requests) == 1)
    assert process.stdout is not None
    parent = int(process.stdout.readline())
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    os.kill(parent, signal.SIGKILL)
    try:
        run(collector, tmp_path, "assert client.flush(20)")
        assert collector.ids == ["first"]
    finally:
        release.set()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        end(process)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method: str, collector: Collector, tmp_path: Path) -> None:
    """Its children end without atexit; what they called within the last 50 ms arrives all the same."""
    (tmp_path / "work.py").write_text(
        textwrap.dedent(
            """
            import multiprocessing, sys
            import mainstem_analytics as analytics
            analytics.write_key, analytics.host, analytics.store_dir = "key", sys.argv[1], sys.argv[2]
            analytics.upload_interval = 3600
            def work(number):
                analytics.track(f"user-{number}", "Worked")
            if __name__ == "__main__":
                context = multiprocessing.get_context(sys.argv[3])
                analytics.track("main", "Began")
                workers = [context.Process(target=work, args=(number,)) for number in range(3)]
                for worker in workers: worker.start()
                for worker in workers: worker.join()
                assert [worker.exitcode for worker in workers] == [0, 0, 0]
            """
        )
    )
    subprocess.run(
        [sys.executable, tmp_path / "work.py", collector.url, str(tmp_path / "store"), method],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/sdks/python/src"},
        check=True,
        timeout=60,
    )
    assert {event["userId"] for event in collector.arrived} == {"main", "user-0", "user-1", "user-2"}


def run_allowing_fork_warning(collector: Collector, store: Path, program: str) -> list[str]:
    """Python 3.12 warns of any fork with threads; it does not know that ours is prepared for it."""
    return run(
        collector, store, "import warnings; warnings.simplefilter('ignore')\n" + textwrap.dedent(program)
    )


def end_with_input(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    out, errors = process.communicate("\n", timeout=60)
    assert errors == ""
    return process.returncode, sorted(out.splitlines())
