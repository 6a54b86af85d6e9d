"""The process that runs JavaScript: V8 by mini-racer, driven by `driver.js`.

Started by `process.py`, led by `child.py`. V8 gets no Python function: it is called with a batch, and polled for what
the code asks of the world. User code is compiled and run in the jail only.
"""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from py_mini_racer import (
    JSArray,
    JSEvalException,
    JSFunction,
    JSOOMException,
    MiniRacer,
    init_mini_racer,
)

from mainstem.transformations.sandbox.child import CodeWrong, Parent, main
from mainstem.transformations.sandbox.javascript.modules import (
    LINES_BEFORE,
    ModuleInvalid,
    camel_case,
    rewrite,
    rewrite_script,
)
from mainstem.transformations.sandbox.wire import Done, Load, Overflow, Run, Stopped

_PLACE: Final = re.compile(r"<anonymous>:([0-9]+): ")
_LOOKS: Final = 10
"""How often in its time limit a batch is looked at: an event seen all the while is surely the slow one."""


class JavaScriptHost:
    """See `child.Host`."""

    syscalls: tuple[str, ...] = ()
    executable_memory = True
    spare_bytes = 96 * 1024 * 1024
    """The heap has its own limit inside V8, which is told of in words. This room lets V8 get there: young generation,
    machine code, and the batch on its way in and out. Buffers outside of the heap may fill it."""

    def __init__(self) -> None:
        self._driver = ""
        self._loop: asyncio.AbstractEventLoop
        self._v8: MiniRacer

    def warm(self, load: Load) -> None:
        """Load V8 and its data."""
        init_mini_racer()
        self._driver = Path(__file__).with_name("driver.js").read_text()

    def start(self, load: Load) -> None:
        """Start V8's thread, and the loop that hands calls to it."""
        self._loop = asyncio.new_event_loop()
        self._v8 = self._loop.run_until_complete(_new_v8())

    def load(self, load: Load) -> "JavaScriptProgram":
        """Compile the code and its libraries, and run it once to see what it exports."""
        body, bodies = _bodies(load)
        program = JavaScriptProgram(self._loop, self._v8, self._driver, load)
        program.load(body, bodies)
        return program


async def _new_v8() -> MiniRacer:
    return MiniRacer()  # takes the running loop


def _bodies(load: Load) -> tuple[str, list[tuple[str, str]]]:
    """The code and the libraries it imports, as functions' bodies."""
    if load.code_version == "0":
        return rewrite_script(load.code), []
    libraries = {library.name: library.code for library in load.libraries}
    by_camel_case = {camel_case(library.name): library.code for library in load.libraries}
    try:
        module = rewrite(load.code)
    except ModuleInvalid as error:
        raise CodeWrong(f"SyntaxError: {error}") from None
    bodies: dict[str, str] = {}
    wanted = list(module.imports)
    while wanted:
        name = wanted.pop()
        if name in bodies:
            continue
        code = libraries.get(name, by_camel_case.get(name))
        if code is None:
            raise CodeWrong(f"import from {name} failed. Module not found.")
        try:
            library = rewrite(code)
        except ModuleInvalid as error:
            raise CodeWrong(f"library {name}: SyntaxError: {error}") from None
        bodies[name] = library.body
        wanted += library.imports
    return module.body, list(bodies.items())


class _TimeOver(Exception):
    """The batch used up its time."""


class _MemoryOver(Exception):
    """The batch used up its memory; V8 is of no more use."""


class _Looks:
    """Looks from time to time at which event runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, progress: memoryview, every_s: float) -> None:
        self._loop = loop
        self._progress = progress
        self._every_s = every_s
        self._seen: set[int] = set()
        self._timer = loop.call_later(every_s, self._look)

    def _look(self) -> None:
        self._seen.add(self._progress[0])
        self._timer = self._loop.call_later(self._every_s, self._look)

    def saw_one_only(self) -> bool:
        """Whether it was the same event at each look, and is still."""
        return self._seen == {self._progress[0]} and self._progress[0] > 0

    def end(self) -> None:
        self._timer.cancel()


class JavaScriptProgram:
    """See `child.Program`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, v8: MiniRacer, driver: str, load: Load) -> None:
        config = {
            "name": load.name,
            "codeVersion": load.code_version,
            "credentials": load.credentials,
            "settings": load.settings.decode(),
            "seeded": load.seeded,
            "fetch": load.fetch,
            "geolocation": load.geolocation,
            "maxResultBytes": load.max_result_bytes,
            "maxAnswerBytes": load.max_answer_bytes,
            "maxLogBytes": load.max_log_bytes,
            "linesBefore": LINES_BEFORE,
        }
        self._loop = loop
        self._timeout_s = load.timeout_s
        self._name = load.name
        made = loop.run_until_complete(_eval(v8, f"({driver})({msgspec.json.encode(config).decode()})"))
        assert isinstance(made, JSArray)  # noqa: S101 - driver.js is ours
        self._v8 = v8
        self._load, self._run, self._poll, self._answer, self._logs, progress = made
        assert isinstance(progress, memoryview)  # noqa: S101
        self._progress = progress.cast("I")
        v8.set_hard_memory_limit(load.memory_bytes)

    def load(self, body: str, bodies: list[tuple[str, str]]) -> None:
        """Compile.

        Raises:
            CodeWrong: it doesn't compile, throws, takes too long, or exports not what it should.
        """
        try:
            libraries = [{"name": name, "body": text} for name, text in bodies]
            why = self._loop.run_until_complete(
                self._in_time(self._call(self._load, body, msgspec.json.encode(libraries).decode()))
            )
        except _TimeOver:
            raise CodeWrong(f"took longer than {self._timeout_s:g} s to load") from None
        except _MemoryOver:
            raise CodeWrong("used more memory than it may while it was loaded") from None
        if why:
            file, reason = str(why).split("\n", 1)
            raise CodeWrong(self._with_place(file, reason, body, dict(bodies)))

    def _with_place(self, file: str, reason: str, body: str, bodies: Mapping[str, str]) -> str:
        """`Function` doesn't say where a syntax error is; the compiler of scripts does."""
        if not file:
            return reason
        text = body if file == "transformation" else bodies[file.removeprefix("library ")]
        try:
            self._loop.run_until_complete(_eval(self._v8, f"(async function ($import) {{\n\n{text}\n}})"))
        except JSEvalException as error:
            if place := _PLACE.match(str(error)):
                line = int(place[1]) - LINES_BEFORE
                return f"{reason}\n    at {self._name if file == 'transformation' else file}:{line}"
        return reason if file == "transformation" else f"{file}: {reason}"

    def run(self, run: Run, parent: Parent) -> Done | Overflow | Stopped:
        """Run one batch."""
        return self._loop.run_until_complete(self._watched(run, parent))

    async def _watched(self, run: Run, parent: Parent) -> Done | Overflow | Stopped:
        looks = _Looks(self._loop, self._progress, self._timeout_s / _LOOKS)
        try:
            said = await self._in_time(self._batch(run, parent))
        except _TimeOver:
            return Stopped("time", self._progress[0] - 1, looks.saw_one_only())
        except _MemoryOver:
            return Stopped("memory", self._progress[0] - 1)
        except JSEvalException:
            # driver.js catches whatever this batch does. An earlier one can reach how its arguments are handed over.
            return Stopped("spoilt")
        finally:
            looks.end()
        if said == "O":
            return Overflow()
        if said == "R":
            return Stopped("spoilt")
        logs = tuple(msgspec.json.decode(await self._call(self._logs), type=list[str])) if run.logs else ()
        return Done(said[1:].encode(), said[0] == "S", logs)

    async def _batch(self, run: Run, parent: Parent) -> str:
        extra = msgspec.json.encode((run.seeds, run.now_ms, run.logs)).decode()
        numbers: dict[int, int] = {}
        said: str = await self._call(self._run, run.events.decode(), run.metadata.decode(), extra)
        while said[0] in "PAW":
            if said[0] == "A":
                for number, what, argument in msgspec.json.decode(said[1:]):
                    numbers[parent.ask(what, argument)] = number
            elif said[0] == "W":
                answer = parent.answer()
                if (number := numbers.pop(answer.id, None)) is not None:
                    await self._call(self._answer, number, answer.value.decode(), answer.error)
            said = await self._call(self._poll)
        return said

    async def _in_time(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work
        except TimeoutError:
            raise _TimeOver from None
        except JSOOMException:
            raise _MemoryOver from None
        except JSEvalException:
            # V8 does not always name the reason why it was ended.
            if self._v8.was_hard_memory_limit_reached():
                raise _MemoryOver from None
            raise

    async def _call(self, function: Any, *arguments: Any) -> Any:
        assert isinstance(function, JSFunction)  # noqa: S101 - driver.js is ours
        return await function.cancelable()(*arguments)


async def _eval(v8: MiniRacer, code: str) -> Any:
    return await v8.eval_cancelable(code)


if __name__ == "__main__":
    main(JavaScriptHost())
