"""Hostile code in the real process: each attempt ends in a clear failure of its event, and the next batch works.

The code reaches `os` and the rest as attackers do, through the classes that the interpreter has; what stops it is the
kernel. What ends the process here (`os._exit`), or loops where no signal is looked at, is the parent's to repair.
"""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import mainstem
from mainstem.transformations.sandbox import wire
from mainstem.transformations.sandbox.wire import Answer, Ask, Done, Load, Loaded, NotLoaded, Run, ToParent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the jail is Linux's")

TIMEOUT_S = 0.5
MEMORY_BYTES = 64 << 20
REACH = """
OS = next(c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "_wrap_close").__init__.__globals__
SYS = OS["sys"]
KEPT = []

def libc():
    return SYS.modules["ctypes"].CDLL(None, use_errno=True)

def checked(answer):
    if answer < 0:
        raise OSError(SYS.modules["ctypes"].get_errno(), "refused")
    return answer

def transformEvent(event, metadata):
    if event.get("attack"):
        return attack(event)
    event["seen"] = True
    return event

def attack(event):
"""


class Child:
    """A host process and the parent's end of its socket."""

    def __init__(self, code: str, **changes: Any) -> None:
        self._end, theirs = socket.socketpair()
        self._end.settimeout(60)
        with theirs:
            self.process = subprocess.Popen(
                # Not -I, which would have each process hash strings in its own way.
                [
                    sys.executable,
                    "-s",
                    "-P",
                    "-m",
                    "mainstem.transformations.sandbox.python.host",
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                env={
                    "PYTHONHASHSEED": "0",
                    "TZ": "UTC",
                    "PYTHONPATH": str(Path(mainstem.__file__).parents[1]),
                },
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        given: dict[str, Any] = {
            "transformation_id": "t@1",
            "name": "t",
            "code": code,
            "code_version": "1",
            "libraries": (),
            "credentials": {},
            "settings": b"{}",
            "seeded": True,
            "fetch": False,
            "geolocation": False,
            "memory_bytes": MEMORY_BYTES,
            "timeout_s": TIMEOUT_S,
            "max_result_bytes": 1 << 20,
            "max_answer_bytes": 1 << 24,
            "max_log_bytes": 1000,
            "allow_weak": True,
        }
        self._send(Load(**given | changes))
        self.loaded = self._receive()

    def run(self, *events: Mapping[str, Any]) -> Any:
        self._send(self._batch(events))
        answer = self._receive()
        return msgspec.json.decode(answer.results) if isinstance(answer, Done) else answer

    def start_run(self, *events: Mapping[str, Any]) -> ToParent:
        """Send a batch; return what the child says first."""
        self._send(self._batch(events))
        return self._receive()

    def answer_in_bites(self, answer: Answer, bites: int, silent_s: float) -> ToParent:
        """Send the answer in parts with `silent_s` between, in which the child must say nothing."""
        frame = wire.pack(answer)
        size = len(frame) // bites + 1
        for start in range(0, len(frame), size):
            self._end.sendall(frame[start : start + size])
            if start + size < len(frame):
                assert not select.select([self._end], [], [], silent_s)[0]
        return self._receive()

    def close(self) -> None:
        self._end.close()
        self.process.kill()
        self.process.wait()

    def _batch(self, events: Sequence[Mapping[str, Any]]) -> Run:
        messages = [{"messageId": f"m{number}", **event} for number, event in enumerate(events)]
        encoded = msgspec.json.encode
        ids = tuple(str(each["messageId"]) for each in messages)
        return Run(encoded(messages), encoded([{}] * len(ids)), ids, (1_770_000_000_000,) * len(ids), True)

    def _send(self, message: wire.ToChild) -> None:
        self._end.sendall(wire.pack(message))

    def _receive(self) -> ToParent:
        return wire.parse_for_parent(self._exactly(wire.length_of(self._exactly(4))))

    def _exactly(self, length: int) -> bytes:
        read = b""
        while len(read) < length:
            part = self._end.recv(length - len(read))
            if not part:
                raise EOFError
            read += part
        return read


Start = Callable[..., Child]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[Child] = []

    def _start(code: str, **changes: Any) -> Child:
        children.append(Child(code, **changes))
        return children[-1]

    yield _start
    for child in children:
        child.close()


def attacked(start: Start, body: str, **changes: Any) -> tuple[Child, Any]:
    """Run the attack between two harmless events, then a harmless batch; return what became of the attack."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    child = start(REACH + lines, **changes)
    assert isinstance(child.loaded, Loaded), child.loaded
    before, attack, after = child.run({}, {"attack": True}, {})
    assert before == [{"messageId": "m0", "seen": True}]
    assert after == [{"messageId": "m2", "seen": True}]
    assert child.run({}) == [[{"messageId": "m0", "seen": True}]]
    return child, attack


@pytest.fixture(scope="module")
def layers() -> Sequence[str]:
    """The layers that this kernel lacks."""
    child = Child("def transformEvent(event, metadata): return event")
    try:
        assert isinstance(child.loaded, Loaded), child.loaded
        return child.loaded.missing_layers
    finally:
        child.close()


REFUSED = {
    "read a file": 'return {"got": OS["open"]("/etc/passwd", 0)}',
    "read a file through io": 'return {"got": SYS.modules["io"].open("/etc/passwd").read()}',
    "write a file": 'OS["open"]("/tmp/escaped", OS["O_CREAT"] | OS["O_WRONLY"])',
    "list a folder": 'return {"got": OS["listdir"]("/")}',
    "read another process": 'return {"got": SYS.modules["io"].open("/proc/1/environ", "rb").read()}',
    "import from a file": "return {'got': str(SYS.modules['importlib'].import_module('sqlite3'))}",
    "open a socket": "SYS.modules['socket'].socket()",
    "make a socket pair": "SYS.modules['socket'].socketpair()",
    "fork": 'return {"got": OS["fork"]()}',
    "run a program": 'OS["execv"]("/bin/sh", ["sh", "-c", "true"])',
    "start a program": 'OS["posix_spawn"]("/bin/sh", ["sh"], {})',
    "start a shell": 'checked(-1 if OS["system"]("true") else 0)',
    "kill": 'OS["kill"](1, 0)',
    "make a pipe": 'OS["pipe"]()',
    "change the handlers of signals": "SYS.modules['signal'].signal(14, lambda *a: None)",
    "start a thread": "SYS.modules['_thread'].start_new_thread(print, ())",
    "trace": "checked(libc().ptrace(16, 1, 0, 0))",
    "a system call by number": "checked(libc().syscall(257, -100, b'/etc/passwd', 0))",
    "io_uring": "checked(libc().syscall(425, 8, b'0' * 256))",
    "more limits": "SYS.modules['resource'].setrlimit(SYS.modules['resource'].RLIMIT_DATA, (1 << 40, 1 << 40))",
    "memory that can be executed": "KEPT.append(SYS.modules['ctypes'].CFUNCTYPE(None)(print)); checked(-1)",
    "the files of the parent": 'return {"got": OS["read"](0, 10).decode() or checked(-1)}',
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_kernel_refuses(start: Start, layers: Sequence[str], name: str) -> None:
    if layers:
        pytest.skip(f"this kernel lacks {layers}")
    _, attack = attacked(start, REFUSED[name])
    assert isinstance(attack, str), attack
    assert attack.startswith(("attack, line", "checked, line", "libc, line")), attack
    assert not Path("/tmp/escaped").exists()


def test_the_environment_tells_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSTEM_SECRET", "secret")
    _, attack = attacked(start, 'return {"got": dict(OS["environ"])}')
    assert set(attack[0]["got"]) <= {"PYTHONHASHSEED", "TZ", "PYTHONPATH", "LC_CTYPE"}


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "while True:\n    try:\n        while True: pass\n    except Exception: pass",
        "__import__('re').match('(a|a)+$', 'a' * 60 + 'b')",
        "__import__('time').sleep(60)",
        # What is raised in a destructor is dropped, and the code goes on when it ends.
        "class D:\n    def __del__(self):\n        while True: pass\nD()\nreturn event",
    ],
)
def test_what_does_not_end_is_ended(start: Start, body: str) -> None:
    _, attack = attacked(start, body)
    assert attack == "transformEvent took longer than 0.5 s"


@pytest.mark.parametrize(
    "body",
    [
        "return {'x': bytearray(10**9).hex()}",
        "mine = []\nwhile True: mine.append('x' * 10**6)",
        "while True: KEPT.append('x' * 10**6)",
        "return {'x': 'x' * 10**10}",
        "mine = {}\nfor n in range(10**9): mine[n] = str(n)",
        "text = 'x'\nwhile True: text += text",
    ],
)
def test_too_much_memory_fails_its_event(start: Start, body: str) -> None:
    _, attack = attacked(start, body, timeout_s=20.0)
    assert attack.startswith("attack, line"), attack
    assert attack.endswith("MemoryError: it took more than 64 MB")


def test_what_earlier_events_leave_behind_costs_later_ones_nothing(start: Start) -> None:
    child = start(REACH + "    KEPT.append('x' * (30 << 20))\n    return {'kept': len(KEPT)}\n")
    results = [child.run({"attack": True}) for _ in range(6)]
    # When the memory is full the code starts afresh, its globals empty, and the event is tried again.
    assert [result[0][0]["kept"] for result in results] == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def down(n): return down(n + 1)\nreturn down(0)", "RecursionError"),
        ("deep = []\nfor _ in range(10**5): deep = [deep]\nreturn {'deep': deep}", "nested too deeply"),
        ("deep = []\nfor _ in range(10**5): deep = [deep]\nreturn {'x': repr(deep)}", "RecursionError"),
        ("import json\nreturn json.loads('[' * 10**6)", "RecursionError"),
        ("import re\nre.compile('(' * 10**5 + ')' * 10**5)", "RecursionError"),
        ("return {'x': 'x' * (2 << 20)}", "returned more than 1,048,576 bytes for one event"),
        ("return [{'x': 1}] * 10**6", "returned more than 1,048,576 bytes for one event"),
    ],
)
def test_what_is_too_deep_or_too_large(start: Start, body: str, reason: str) -> None:
    _, attack = attacked(start, body, timeout_s=20.0)
    assert reason in attack


def test_floods(start: Start) -> None:
    _, attack = attacked(
        start,
        "async def wait(): pass\n"
        "for n in range(20_000):\n    wait()\n    log('x' * 1000)\n    print(n)\n"
        "return {'ok': True}",
        timeout_s=20.0,
    )
    assert attack == [{"ok": True}]


def test_recursion_in_c_code_is_no_way_out(start: Start) -> None:
    # Whatever it ends in - a failure, or the end of the process - the parent isn't misled.
    child = start(REACH + "    x = ()\n    for _ in range(10**6): x = (x,)\n    hash(x)\n")
    try:
        results = child.run({"attack": True})
    except EOFError:
        assert child.process.wait(timeout=30) < 0
    else:
        assert results[0] is None or isinstance(results[0], str)


def test_an_answer_that_comes_too_late_is_read_whole(start: Start) -> None:
    code = """
def transformEvent(event, metadata):
    return {"got": fetchV2("https://api.example.com")["body"]} if event.get("ask") else event
"""
    child = start(code, fetch=True)
    asked = child.start_run({"ask": True})
    assert isinstance(asked, Ask)
    # The time is up while half of the answer is there: the rest must not be taken for the next batch.
    answer = Answer(asked.id, msgspec.json.encode({"url": "", "status": 200, "headers": {}, "body": "late"}))
    done = child.answer_in_bites(answer, 3, TIMEOUT_S * 0.8)
    assert isinstance(done, Done)
    assert msgspec.json.decode(done.results) == ["transformEvent took longer than 0.5 s"]
    assert child.run({}) == [[{"messageId": "m0"}]]


def test_the_end_of_the_process_is_seen(start: Start) -> None:
    child = start(REACH + '    OS["_exit"](7)\n')
    with pytest.raises(EOFError):
        child.run({"attack": True})
    assert child.process.wait(timeout=30) == 7


def test_code_that_cannot_be_loaded_ends_the_process_with_the_reason(start: Start) -> None:
    child = start("import os")
    assert isinstance(child.loaded, NotLoaded)
    assert child.loaded.code_is_wrong
    assert child.loaded.reason.startswith("line 1: ModuleNotFoundError: no 'os' here")


def test_two_processes_give_the_same_bytes(start: Start) -> None:
    code = """
import random, uuid
def transformEvent(event, metadata):
    return {"order": list(set("abcdefgh")), "x": random.random(), "id": str(uuid.uuid4()), "hash": hash("x")}
"""
    assert start(code).run({}, {}) == start(code).run({}, {})


def test_modules_work_in_the_jail(start: Start) -> None:
    code = """
import datetime, hashlib, random, uuid, zoneinfo
from dateutil import parser, tz
from decimal import Decimal

def transformEvent(event, metadata):
    return {
        "berlin": datetime.datetime.now(zoneinfo.ZoneInfo("Europe/Berlin")).isoformat(),
        "york": parser.parse("10:30").replace(tzinfo=tz.gettz("America/New_York")).isoformat(),
        "stripped": datetime.datetime.strptime("2 January 2026", "%d %B %Y").isoformat(),
        "idna": "bücher.example".encode("idna").decode(),
        "sjis": "\\u30c6".encode("shift_jis").hex(),
        "hash": hashlib.new("sha3_256", b"").hexdigest()[:6],
        "name": "\\N{BULLET}",
        "price": Decimal("1.1") * 3,
    }
"""
    for seeded in (True, False):
        child = start(code, seeded=seeded)
        assert isinstance(child.loaded, Loaded), child.loaded
        (result,) = child.run({})
        assert isinstance(result, list), result
        if seeded:
            assert result[0] == {
                "berlin": "2026-02-02T03:40:00+01:00",
                "york": "2026-02-02T10:30:00-05:00",
                "stripped": "2026-01-02T00:00:00",
                "idna": "xn--bcher-kva.example",
                "sjis": "8365",
                "hash": "a7ffc6",
                "name": "•",
                "price": 3.3,
            }


def test_nothing_of_the_test_process_is_inherited(start: Start) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    try:
        child, attack = attacked(start, f'OS["read"]({reader}, 1)')
        assert "OSError" in attack
        assert child.process.poll() is None
    finally:
        os.close(reader)
        os.close(writer)
