"""All sandboxes of a process: which batch goes to which child, and what becomes of it when a child breaks.

pipeline/transform.py -> **runtime** -> process.py -> child. Each transformation version has processes of its own:
no code shares one with other code. They are started before they are needed (`prepare`), kept while they are used, and
bounded in number; who finds none free waits.

A batch that breaks its process (time, memory, crash) is taken apart until the guilty events stand alone; those fail,
the others get their results. Code runs again for that: `fetch` may be called twice for the same event.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from mainstem.clock import Clock, SystemClock
from mainstem.secret import Secret
from mainstem.telemetry import log
from mainstem.transformations.base import (
    BatchRun,
    Dropped,
    Failed,
    Given,
    Kept,
    Result,
    SandboxUnavailable,
)
from mainstem.transformations.sandbox.process import Died, NotStarted, SandboxProcess
from mainstem.transformations.sandbox.wire import Answer, Ask, Done, Library, Load, Overflow, Run
from mainstem.workspace.checks import revealed
from mainstem.workspace.model import Transformation

_log = log.logger(__name__)

MAX_RESULT_BYTES: Final = 1024 * 1024
"""JSON of all that one event becomes."""
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Of a batch; more is run again in smaller parts."""
MAX_LOG_BYTES: Final = 64 * 1024
MAX_MESSAGES: Final = 1000
"""What one event may become."""
MAX_REQUEST_BYTES: Final = 1024 * 1024
MAX_RESPONSE_BYTES: Final = 1024 * 1024
_REASON_CHARACTERS: Final = 500
_FETCH_SHARE: Final = 0.9
"""Of a batch's time limit: an answer that comes later would find nobody."""
_START_BACKOFF_S: Final = (0.5, 30.0)
_RETRY_LOAD_S: Final = 30.0
"""Code whose process died while it was loaded is tried again after this: it may have been the machine."""


class FetchFailed(Exception):
    """A request of user code got no answer; the text says why, for the code to read."""


class FetchRequest(msgspec.Struct, frozen=True):
    """What user code asks of a host that the transformation allows."""

    url: str
    method: str
    headers: dict[str, str]
    body: str | None


class FetchResponse(msgspec.Struct, frozen=True):
    """What the host said."""

    url: str
    status: int
    headers: dict[str, str]
    body: str


Fetch = Callable[[FetchRequest, float], Awaitable[FetchResponse]]
"""Sends one request within so many seconds, through the address guard, without following a redirect to another host,
with the body cut at `MAX_RESPONSE_BYTES`. Raises FetchFailed."""
Locate = Callable[[str], Mapping[str, Any] | None]
"""`events.geo.GeoDatabase.locate`."""


class SandboxLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of all sandboxes together; those of one version are `TransformationLimits`."""

    processes: int = 8
    """Alive at once at most. With more versions in use than this they take turns, at the price of starts."""
    processes_per_version: int = 2
    idle_s: float = 300.0
    """A process that was not used for so long ends."""
    isolation_factor: float = 8.0
    """Looking for the guilty events of one batch takes at most so many of its time limits; then the rest of what still
    breaks fails together."""


class _Broken(msgspec.Struct, frozen=True):
    """A batch that broke its process."""

    reason: str
    suspect: int = -1
    certain: bool = False
    blameless: bool = False
    """The batch did not even run."""


class _CodeWrong(Exception):
    """The version can't be used; every event fails with the text."""


class _Pool:
    """The processes of one version."""

    def __init__(self, transformation: Transformation, most: int) -> None:
        self.transformation = transformation
        self.idle: list[tuple[SandboxProcess, float]] = []
        """And since when, the longest first."""
        self.slots = asyncio.Semaphore(most)
        self.wrong = ""
        self.wrong_until = 0.0
        self.starts_failed = 0
        self.not_before = 0.0
        self.why_not = ""
        self.closed = False
        self.busy = 0
        """Callers that wait for a process or have one."""


class SandboxRuntime:
    """See `transformations.base.Runtime`."""

    def __init__(
        self,
        *,
        fetch: Fetch | None = None,
        locate: Locate | None = None,
        clock: Clock | None = None,
        limits: SandboxLimits | None = None,
        allow_weak_sandbox: bool = False,
    ) -> None:
        """Start nothing yet.

        Args:
            fetch: sends requests for code that may; None = every `fetch` fails.
            locate: answers `geolocation(ip)`; None = it always fails.
            clock: for waiting and idling.
            limits: of all sandboxes together.
            allow_weak_sandbox: run code even where the kernel lacks a layer of the jail, and warn.
        """
        self._fetch = fetch
        self._locate = locate
        self._clock = clock or SystemClock()
        self._limits = limits or SandboxLimits()
        self._allow_weak = allow_weak_sandbox
        self._pools: dict[str, _Pool] = {}
        self._room = asyncio.Semaphore(self._limits.processes)
        self._waiting_for_room = 0
        self._alive: set[SandboxProcess] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._warned = False
        self._turned_out: set[str] | None = set()
        """Versions whose process ended although it was in use; None: it was said that they take turns."""
        self._closed = False

    async def prepare(self, transformation: Transformation) -> None:
        """Start a process for the version if it has none, so that its first batch does not wait.

        Raises:
            SandboxUnavailable: the machine can't run it now. Code that can't be used is no error here: its events fail.
        """
        pool = self._pool(transformation)
        try:
            process = await self._take(pool)
        except _CodeWrong:
            return
        self._give_back(pool, process)

    async def run(
        self, transformation: Transformation, given: Sequence[Given], *, logs: bool = False
    ) -> BatchRun:
        """Run one batch; see `Runtime.run`."""
        batch = _Batch(self, self._pool(transformation), given, logs=logs)
        return await batch.run()

    async def close(self) -> None:
        """End all processes; batches under way raise SandboxUnavailable."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for pool in self._pools.values():
            pool.idle.clear()
        await asyncio.gather(*(self._end(process) for process in tuple(self._alive)))

    def processes(self) -> tuple[SandboxProcess, ...]:
        """Return those alive, for measuring."""
        return tuple(self._alive)

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────

    def _pool(self, transformation: Transformation) -> _Pool:
        pool = self._pools.get(transformation.id)
        if pool is not None and pool.transformation is not transformation:
            if pool.transformation == transformation:
                pool.transformation = transformation  # a new snapshot with the same version in it
            else:
                self._retire(pool)  # drafts keep their id while they change
                pool = None
        if pool is None:
            pool = _Pool(transformation, self._limits.processes_per_version)
            self._pools[transformation.id] = pool
        return pool

    def _retire(self, pool: _Pool) -> None:
        pool.closed = True
        while pool.idle:
            self._end_soon(pool.idle.pop()[0])

    async def _take(self, pool: _Pool) -> SandboxProcess:
        """Return a process of the version, for the caller alone until `_give_back` or `_drop`.

        Raises:
            SandboxUnavailable: none can be started.
            _CodeWrong: the code can't be used.
        """
        self._refuse_if_closed()
        self._refuse_wrong(pool)
        pool.busy += 1
        try:
            await pool.slots.acquire()
        except BaseException:
            pool.busy -= 1
            raise
        try:
            while pool.idle:
                process, _ = pool.idle.pop()
                if process.is_alive():
                    return process
                await self._end(process)
            return await self._start(pool)
        except BaseException:
            self._leave(pool)
            raise

    def _give_back(self, pool: _Pool, process: SandboxProcess) -> None:
        if self._waiting_for_room or pool.closed or self._closed:
            if not pool.closed:
                self._note_turned_out(pool)
            self._end_soon(process)
        else:
            pool.idle.append((process, self._clock.monotonic()))
            if self._sweeper is None:
                self._sweeper = asyncio.create_task(self._sweep())
        self._leave(pool)

    async def _drop(self, pool: _Pool, process: SandboxProcess) -> None:
        try:
            await self._end(process)
        finally:
            self._leave(pool)

    def _leave(self, pool: _Pool) -> None:
        pool.slots.release()
        pool.busy -= 1

    async def _start(self, pool: _Pool) -> SandboxProcess:
        if self._clock.monotonic() < pool.not_before:
            raise SandboxUnavailable(pool.why_not)
        await self._find_room()
        self._say_if_back(pool)
        try:
            process = await SandboxProcess.start(
                _language(pool.transformation), self._load_of(pool.transformation)
            )
        except NotStarted as error:
            self._room.release()
            self._note_failed_start(pool, error)
            if error.code_is_wrong:
                raise _CodeWrong(str(error)) from None
            raise SandboxUnavailable(f"the sandbox can't start: {error}") from None
        except BaseException:
            self._room.release()
            raise
        pool.starts_failed = 0
        self._alive.add(process)
        if self._closed:
            await self._end(process)
            self._refuse_if_closed()
        if process.missing_layers and not self._warned:
            self._warned = True
            _log.critical(
                "user code runs in a WEAK sandbox: this machine lacks layers of the jail",
                missing=", ".join(process.missing_layers),
                setting="allow_weak_sandbox",
            )
        return process

    async def _find_room(self) -> None:
        """Wait until one more process may live; one that idles, of any version, ends for it."""
        if self._room.locked():
            idle = [(pool.idle[0][1], pool) for pool in self._pools.values() if pool.idle]
            if idle:
                _, pool = min(idle, key=lambda each: each[0])
                self._note_turned_out(pool)
                await self._end(pool.idle.pop(0)[0])
        self._waiting_for_room += 1
        try:
            await self._room.acquire()
        finally:
            self._waiting_for_room -= 1

    def _note_turned_out(self, pool: _Pool) -> None:
        if self._turned_out is not None:
            self._turned_out.add(pool.transformation.id)

    def _say_if_back(self, pool: _Pool) -> None:
        """Say, once, that versions take turns: one that made room for another is needed again. Of a version that is
        no longer used nothing is said, its process ends for good."""
        if self._turned_out is None or pool.transformation.id not in self._turned_out:
            return
        self._turned_out = None
        _log.warning(
            "user code in use needs more sandboxes than may live at once: they take turns, each time at the price "
            "of a start",
            most=self._limits.processes,
            setting="sandbox_max_processes",
        )

    def _note_failed_start(self, pool: _Pool, error: NotStarted) -> None:
        now = self._clock.monotonic()
        if error.code_is_wrong:
            pool.wrong = str(error)
            pool.wrong_until = float("inf") if error.for_ever else now + _RETRY_LOAD_S
            return
        least, most = _START_BACKOFF_S
        pool.not_before = now + min(most, least * 2**pool.starts_failed)
        pool.starts_failed += 1
        pool.why_not = f"the sandbox can't start: {error}"
        _log.error("a sandbox can't start", transformation=pool.transformation.id, error=str(error))

    def _refuse_wrong(self, pool: _Pool) -> None:
        if pool.wrong and self._clock.monotonic() < pool.wrong_until:
            raise _CodeWrong(pool.wrong)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise SandboxUnavailable("the process is stopping")

    async def _end(self, process: SandboxProcess) -> None:
        if process in self._alive:
            self._alive.discard(process)
            try:
                await process.close()
            finally:
                self._room.release()

    def _end_soon(self, process: SandboxProcess) -> None:
        task = asyncio.create_task(self._end(process))
        _ending.add(task)
        task.add_done_callback(_ending.discard)

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(self._limits.idle_s / 4)
            before = self._clock.monotonic() - self._limits.idle_s
            for key, pool in tuple(self._pools.items()):
                while pool.idle and pool.idle[0][1] < before:
                    await self._end(pool.idle.pop(0)[0])
                if not pool.idle and not pool.busy and not pool.wrong and self._pools.get(key) is pool:
                    del self._pools[key]  # its version may be gone; if not, it comes back

    def _load_of(self, transformation: Transformation) -> Load:
        limits = transformation.limits
        return Load(
            transformation_id=transformation.id,
            name=transformation.name,
            code=transformation.code,
            code_version=transformation.code_version,
            libraries=tuple(
                Library(library.name, library.code)
                for library in transformation.libraries
                if library.language == transformation.kind
            ),
            credentials={
                key: secret.reveal() if isinstance(secret, Secret) else str(secret)
                for key, secret in transformation.credentials.items()
            },
            settings=msgspec.json.encode(revealed(transformation.settings) or {}),
            seeded=transformation.seeded,
            fetch=self._fetch is not None and bool(transformation.allow_hosts),
            geolocation=self._locate is not None and transformation.geolocation,
            memory_bytes=limits.memory_mb * 1024 * 1024,
            timeout_s=limits.timeout_s,
            max_result_bytes=MAX_RESULT_BYTES,
            max_answer_bytes=MAX_ANSWER_BYTES,
            max_log_bytes=MAX_LOG_BYTES,
            allow_weak=self._allow_weak,
        )

    # ── what the code asks ───────────────────────────────────────────────────────────────────────────────────────

    async def _answer(self, transformation: Transformation, ask: Ask, until: float) -> Answer:
        try:
            if ask.what == "fetch":
                value = await self._fetched(transformation, ask.argument, until - self._clock.monotonic())
                return Answer(ask.id, msgspec.json.encode(value))
            if ask.what == "geolocation":
                place = self._located(transformation, ask.argument)
                return Answer(ask.id, msgspec.json.encode(place))
        except FetchFailed as error:
            return Answer(ask.id, msgspec.json.encode(str(error)[:_REASON_CHARACTERS]), error=True)
        except (msgspec.MsgspecError, UnicodeError):
            return Answer(ask.id, b'"the request can\'t be read"', error=True)
        return Answer(ask.id, b'"there is no such question"', error=True)

    def _located(self, transformation: Transformation, argument: bytes) -> Mapping[str, Any]:
        address = msgspec.json.decode(argument, type=str)
        if self._locate is None or not transformation.geolocation:
            raise FetchFailed("geolocation is not enabled for this transformation")
        place = self._locate(address)
        if place is None:
            raise FetchFailed("the address is not in the geo database")
        return place

    async def _fetched(self, transformation: Transformation, argument: bytes, left_s: float) -> FetchResponse:
        request = msgspec.json.decode(argument, type=FetchRequest)
        if self._fetch is None:
            raise FetchFailed("fetch is not available here")
        if refusal := refused_url(request.url, transformation.allow_hosts):
            raise FetchFailed(refusal)
        if request.body is not None and len(request.body) > MAX_REQUEST_BYTES:
            raise FetchFailed(f"a body of more than {MAX_REQUEST_BYTES:,} bytes is not sent")
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                response = await self._fetch(request, max(0.001, left_s))
        except TimeoutError:
            raise FetchFailed("no answer within the time limit of the batch") from None
        if len(response.body) > MAX_RESPONSE_BYTES:
            raise FetchFailed(f"the answer is longer than {MAX_RESPONSE_BYTES:,} bytes")
        return response


_ending: Final[set["asyncio.Task[None]"]] = set()
"""asyncio holds tasks weakly; these end processes that nobody waits for."""


class _Batch:
    """One call of `run`: parts of the batch are run until each event has its result."""

    def __init__(self, runtime: SandboxRuntime, pool: _Pool, given: Sequence[Given], *, logs: bool) -> None:
        self._runtime = runtime
        self._pool = pool
        self._transformation = pool.transformation
        self._given = given
        self._logs = logs
        self._results: list[Result | None] = [None] * len(given)
        self._lines: list[tuple[int, tuple[str, ...]]] = []
        self._saw_destination = False
        self._lost_s = 0.0

    async def run(self) -> BatchRun:
        limits = self._runtime._limits
        timeout_s = self._transformation.limits.timeout_s
        todo = [(0, len(self._given))] if self._given else []
        spoilt = 0
        try:
            while todo:
                start, stop = todo.pop()
                begun = self._runtime._clock.monotonic()
                ended = await self._part(start, stop)
                if ended is None:
                    continue
                if ended.blameless and spoilt < 2:
                    spoilt += 1
                    todo.append((start, stop))
                    continue
                self._lost_s += self._runtime._clock.monotonic() - begun
                todo += self._taken_apart(
                    start, stop, ended, give_up=self._lost_s > limits.isolation_factor * timeout_s
                )
        except _CodeWrong as error:
            reason = str(error)[:_REASON_CHARACTERS]
            for index, result in enumerate(self._results):
                if result is None:
                    self._results[index] = Failed(reason)
        results = tuple(result if result is not None else Failed("not run") for result in self._results)
        lines = tuple(line for _, part in sorted(self._lines) for line in part)
        return BatchRun(results, lines, self._saw_destination)

    def _taken_apart(self, start: int, stop: int, broken: _Broken, *, give_up: bool) -> list[tuple[int, int]]:
        """Return what to run next, last first; an event that stood alone has failed."""
        count = stop - start
        if count == 1:
            self._results[start] = Failed(broken.reason[:_REASON_CHARACTERS])
            return []
        if give_up:
            reason = f"{broken.reason}, together with {count - 1} other events of its batch"
            self._results[start:stop] = [Failed(reason[:_REASON_CHARACTERS])] * count
            return []
        if not 0 <= broken.suspect < count:
            middle = (start + stop) // 2
            return [(middle, stop), (start, middle)]
        suspect = start + broken.suspect
        parts = [(suspect + 1, stop), (suspect, suspect + 1), (start, suspect)]
        if broken.certain:
            self._results[suspect] = Failed(broken.reason[:_REASON_CHARACTERS])
            del parts[1]
        return [(first, last) for first, last in parts if first < last]

    async def _part(self, start: int, stop: int) -> _Broken | None:
        """Run a part of the batch; None: each of its events has its result."""
        runtime, pool = self._runtime, self._pool
        given = self._given[start:stop]
        try:
            run = _run_of(given, self._logs)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            return _Broken(f"the event can't be handed over: {error}")
        process = await runtime._take(pool)
        whole = False
        try:
            ended = await process.run(run, self._answer_within())
            whole = True
        except Died as error:
            runtime._refuse_if_closed()
            return _Broken(str(error))
        finally:
            if whole and isinstance(ended, Done | Overflow):
                runtime._give_back(pool, process)
            else:
                await runtime._drop(pool, process)
        if isinstance(ended, Overflow):
            return _Broken("took too long, or returned too much")
        if not isinstance(ended, Done):
            return _Broken(self._words(ended.cause), ended.suspect, ended.certain, ended.cause == "spoilt")
        try:
            decoded = _decode(ended.results, len(given))
        except ValueError as error:
            return _Broken(f"the sandbox answered nonsense: {error}")
        self._results[start:stop] = [self._result(value) for value in decoded]
        self._saw_destination = self._saw_destination or ended.saw_destination
        if self._logs:
            self._lines.append((start, ended.logs))
        return None

    def _answer_within(self) -> Callable[[Ask], Awaitable[Answer]]:
        until = self._runtime._clock.monotonic() + self._transformation.limits.timeout_s * _FETCH_SHARE

        async def answer(ask: Ask) -> Answer:
            return await self._runtime._answer(self._transformation, ask, until)

        return answer

    def _words(self, cause: Literal["time", "memory", "spoilt"]) -> str:
        limits = self._transformation.limits
        match cause:
            case "time":
                return f"took longer than {limits.timeout_s:g} s"
            case "memory":
                return f"used more than {limits.memory_mb} MB"
            case "spoilt":
                return "the code changed builtins in a way that can't be undone"

    def _result(self, value: Any) -> Result:
        if value is None:
            return Dropped()
        if isinstance(value, str):
            return Failed(value[:_REASON_CHARACTERS])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            return Failed("what was returned is no event: toJSON, most likely, made something else of it")
        if not value:
            return Dropped()
        if len(value) > MAX_MESSAGES:
            return Failed(f"returned more than {MAX_MESSAGES:,} events for one")
        return Kept(tuple(value))


_results_decoder: Final = msgspec.json.Decoder(list[Any])


def _decode(results: bytes, count: int) -> list[Any]:
    try:
        decoded = _results_decoder.decode(results)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if len(decoded) != count:
        raise ValueError(f"{len(decoded)} results for {count} events")
    return decoded


def _run_of(given: Sequence[Given], logs: bool) -> Run:
    seeds = tuple(each.seed for each in given)
    "".join(seeds).encode()  # lone surrogates are in no UTF-8: said here, before a process is taken
    return Run(
        msgspec.json.encode([each.message for each in given]),
        msgspec.json.encode([each.metadata for each in given]),
        seeds,
        tuple(each.now_ms for each in given),
        logs,
    )


def refused_url(url: str, allow_hosts: Sequence[str]) -> str:
    """Return why user code may not reach the URL, "" when it may. Addresses are the guard's business."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError:
        return "the URL can't be read"
    if parts.scheme.lower() not in ("http", "https"):
        return "only http and https can be fetched"
    if not host or parts.username is not None or parts.password is not None:
        return "the URL must name a host, and no user"
    for allowed in allow_hosts:
        name = allowed.lower()
        if host == name or (name.startswith("*.") and host.endswith(name[1:])):
            return ""
    return f"{host} is not among the hosts that the transformation may reach (allow_hosts)"


def _language(transformation: Transformation) -> Literal["javascript", "python"]:
    return "python" if transformation.kind == "python" else "javascript"
