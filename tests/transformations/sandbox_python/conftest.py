"""A program outside of the jail, in this process: the contract needs no kernel. The jail has its own tests."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from mainstem.transformations.sandbox.python import imports
from mainstem.transformations.sandbox.python.deadline import Deadline
from mainstem.transformations.sandbox.python.program import Program
from mainstem.transformations.sandbox.python.seeded import Surroundings
from mainstem.transformations.sandbox.wire import Answer, Done, Library, Load, Run

NOW_MS = 1_770_000_000_123
METADATA = {
    "sourceId": "web",
    "sourceName": "Web shop",
    "destinationId": "hook",
    "destinationName": "Hook",
    "destinationType": "WEBHOOK",
}


class World:
    """The parent's side: answers what the code asks, in order, and remembers the questions."""

    def __init__(self, *answers: Any) -> None:
        self.asked: list[tuple[str, Any]] = []
        self._answers = list(answers)

    def ask(self, what: str, argument: Any) -> int:
        self.asked.append((what, argument))
        return len(self.asked)

    def answer(self) -> Answer:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            return Answer(len(self.asked), msgspec.json.encode(str(answer)), error=True)
        return Answer(len(self.asked), msgspec.json.encode(answer))


class Loaded:
    """A program, and the words of the pipeline for what comes out of it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.done: Done | None = None

    def raw(
        self,
        events: Sequence[Mapping[str, Any]],
        world: World | None = None,
        *,
        seed: str = "",
        logs: bool = False,
    ) -> Any:
        messages = [{"messageId": f"m{number}", **event} for number, event in enumerate(events)]
        return self.program.run(
            Run(
                msgspec.json.encode(messages),
                msgspec.json.encode([{**METADATA, "messageId": each["messageId"]} for each in messages]),
                tuple(seed + str(each["messageId"]) for each in messages),
                tuple(NOW_MS + number for number in range(len(messages))),
                logs,
            ),
            world or World(),
        )

    def run(
        self, *events: Mapping[str, Any], world: World | None = None, seed: str = "", logs: bool = False
    ) -> Any:
        """Return one item an event: a list of messages, None (dropped) or a text (failed)."""
        done = self.raw(events, world, seed=seed, logs=logs)
        assert isinstance(done, Done), done
        self.done = done
        return msgspec.json.decode(done.results)

    def one(self, event: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """Return what became of one event; its only message where there is one."""
        (result,) = self.run(event or {}, **kwargs)
        return result[0] if isinstance(result, list) and len(result) == 1 else result


LoadCode = Callable[..., Loaded]


@pytest.fixture(scope="session")
def warm() -> None:
    imports.warm()


@pytest.fixture
def load(warm: None) -> Iterator[LoadCode]:
    # pytest-timeout has the same signal: give it back.
    handler = signal.getsignal(signal.SIGALRM)
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)

    def _load(code: str, libraries: Mapping[str, str] | None = None, **changes: Any) -> Loaded:
        given = Load(
            **{
                "transformation_id": "t@1",
                "name": "t",
                "code": code,
                "code_version": "1",
                "libraries": tuple(Library(name, text) for name, text in (libraries or {}).items()),
                "credentials": {"token": "very-secret", "empty": ""},
                "settings": b"{}",
                "seeded": True,
                "fetch": True,
                "geolocation": True,
                "memory_bytes": 128 << 20,
                "timeout_s": 30.0,
                "max_result_bytes": 1 << 20,
                "max_answer_bytes": 1 << 24,
                "max_log_bytes": 10_000,
                "allow_weak": True,
                **changes,
            }
        )
        return Loaded(Program(given, Deadline(), Surroundings(seeded=given.seeded)))

    yield _load
    signal.setitimer(signal.ITIMER_REAL, left_s)
    signal.signal(signal.SIGALRM, handler)
