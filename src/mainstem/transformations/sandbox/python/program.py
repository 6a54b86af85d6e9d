"""A Python transformation, loaded: from code to a function, and from a batch to one result an event.

host -> **program** -> the user's function. Contract: RudderStack's (`docs/reference/transformations-python.md`). Runs
in the jail; outside of it only in tests.
"""

import builtins
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from time import monotonic
from types import CoroutineType, GeneratorType, ModuleType
from typing import Any, Final

import msgspec

from mainstem.transformations.sandbox.attribution import Origins
from mainstem.transformations.sandbox.child import CodeWrong, Parent
from mainstem.transformations.sandbox.python import faults, web
from mainstem.transformations.sandbox.python.deadline import Deadline, TookTooLong
from mainstem.transformations.sandbox.python.imports import Importer
from mainstem.transformations.sandbox.python.metadata import Metadata, Sight
from mainstem.transformations.sandbox.python.seeded import Surroundings
from mainstem.transformations.sandbox.wire import Done, Load, Overflow, Run, Stopped

ENTRIES: Final = ("transformEvent", "transformBatch")
_WITHHELD: Final = frozenset(
    {"open", "exec", "eval", "compile", "input", "breakpoint", "help", "exit", "quit", "copyright", "credits"}
    | {"license", "__loader__", "__spec__", "__debug__", "_"}
)
_GRACE_S: Final = 0.2
"""For the events after one that used up the batch's time; the parent waits longer than this before it kills."""
_RESERVE_BYTES: Final = 1 << 20
"""Given up when memory is used up, so that there is some to say so with."""
_DROPPED: Final = b"null"


class GeolocationFailed(Exception):
    """The address could not be located."""


class Program:
    """User code, ready to run."""

    def __init__(self, load: Load, deadline: Deadline, surroundings: Surroundings) -> None:
        """Compile the code and run what stands outside of its functions.

        Raises:
            CodeWrong: it can't be used.
        """
        self._load = load
        self._deadline = deadline
        self._surroundings = surroundings
        self._hidden = tuple(value for value in load.credentials.values() if len(value) >= 4)
        self._libraries = {library.name: library.code for library in load.libraries}
        self._loaded: dict[str, ModuleType] = {}
        self._parent: Parent | None = None
        self._run: Run | None = None
        self._messages: Sequence[dict[str, Any]] = ()
        self._first = 0
        self._index = 0
        self._fields: list[dict[str, Any]] | None = None
        self._ids: dict[str, int] = {}
        self._sight = Sight()
        self._handed: list[Metadata] = []
        self._logs: list[str] = []
        self._log_room = 0
        self._reserve = bytearray(_RESERVE_BYTES)
        self._importer = Importer(
            made={**surroundings.modules, **web.modules(self._fetch)},
            library_names=tuple(self._libraries),
            load_library=self._library,
            on_random=surroundings.uses_random,
        )
        self._builtins = self._reduced_builtins()
        deadline.start(load.timeout_s)
        try:
            self._function, self._entry = deadline.call(self._start)
        except TookTooLong:
            reason = f"what stands outside of functions took longer than {load.timeout_s:g} s"
            raise CodeWrong(reason) from None
        except CodeWrong:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever user code raises
            raise CodeWrong(self._describe(error)) from None
        finally:
            deadline.stop()

    # ── a batch ──────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, run: Run, parent: Parent) -> Done | Overflow | Stopped:
        """Run one batch.

        Never raises for what the code does. `Overflow` when there was not time for all events; `Stopped` when the
        code keeps so much memory that not even starting it afresh helps.
        """
        self._run = run
        self._parent = parent
        self._sight = Sight()
        self._fields = None
        self._logs = []
        self._log_room = self._load.max_log_bytes if run.logs else 0
        self._deadline.start(self._load.timeout_s)
        try:
            results = self._each(run) if self._entry == "transformEvent" else self._together(run)
        except _Poisoned:
            return Stopped("memory", self._index)
        finally:
            self._deadline.stop()
            self._parent = None
            self._messages = ()
            self._handed.clear()
        if results is None or sum(map(len, results)) + len(results) > self._load.max_answer_bytes:
            return Overflow()
        return Done(b"[" + b",".join(results) + b"]", self._sight.destination, tuple(self._logs))

    def _each(self, run: Run) -> list[bytes] | None:
        """Run `transformEvent` for each; None: there was no time for all."""
        results: list[bytes] = []
        messages = self._messages = _decode_messages(run.events)
        call, event, set_surroundings = self._deadline.call, self._event, self._surroundings.set
        blamed = False
        for index, message in enumerate(messages):
            self._index = index
            set_surroundings(run.seeds[index], run.now_ms[index])
            begun_s = monotonic()
            try:
                result = call(event, message)
            except TookTooLong:
                result = b""  # see below
            except MemoryError as error:
                result = self._once_more(error, index, run)
            except BaseException as error:  # noqa: BLE001 - whatever user code raises fails this event only
                result = _failed(self._describe(error))
            if self._deadline.passed:
                # An event that had the batch's time for itself has failed. One that only came late has not: the
                # batch is too long, and is run again in smaller parts.
                took_s = monotonic() - begun_s
                if len(messages) > 1 and (blamed or took_s < 0.9 * self._load.timeout_s):
                    return None
                blamed = True
                self._deadline.start(_GRACE_S)
                result = _failed(self._too_long())
            results.append(result)
        return results

    def _together(self, run: Run) -> list[bytes] | None:
        """Run `transformBatch`; None: there was no time for all."""
        raws = _decode_raws(run.events)
        try:
            return self._part(run, raws, 0)
        except TookTooLong:
            return [_failed(self._too_long())] if len(raws) == 1 else None

    def _part(self, run: Run, raws: Sequence[msgspec.Raw], first: int) -> list[bytes]:
        """Run `transformBatch` on some. When it fails, on each half, so that one event costs no other its result."""
        messages = [_decode_message(raw) for raw in raws]
        origins = Origins(messages)
        self._first = self._index = first
        self._messages = messages
        self._ids = {str(message.get("messageId")): index for index, message in enumerate(messages)}
        self._surroundings.set(run.seeds[first], run.now_ms[first])
        logged = len(self._logs)
        try:
            # A list of its own: what the code takes out of it must stay findable.
            return self._deadline.call(self._batch, list(messages), origins)
        except TookTooLong:
            raise
        except MemoryError as error:
            reason = self._out_of_memory(error)
            self._restart()
        except BaseException as error:  # noqa: BLE001 - whatever user code raises
            reason = self._describe(error)
        if len(raws) == 1:
            return [_failed(reason)]
        del self._logs[logged:]
        half = len(raws) // 2
        return self._part(run, raws[:half], first) + self._part(run, raws[half:], first + half)

    def _event(self, message: dict[str, Any]) -> bytes:
        return self._kept(self._function(message, self._metadata_of_event))

    def _batch(self, messages: list[dict[str, Any]], origins: Origins) -> list[bytes]:
        return self._kept_together(self._function(messages, self._metadata_of_any), origins)

    def _once_more(self, error: MemoryError, index: int, run: Run) -> bytes:
        """Give an event that found no memory a second chance: what earlier ones left behind is not its fault."""
        self._out_of_memory(error)
        self._restart()
        self._surroundings.set(run.seeds[index], run.now_ms[index])
        message = _decode_message(_decode_raws(run.events)[index])
        try:
            return self._deadline.call(self._event, message)
        except TookTooLong:
            return _failed(self._too_long())
        except MemoryError as again:
            reason = self._out_of_memory(again)
            self._restart()
            return _failed(reason)
        except BaseException as other:  # noqa: BLE001 - whatever user code raises fails this event only
            return _failed(self._describe(other))

    # ── what it returned ─────────────────────────────────────────────────────────────────────────────────────────

    def _kept(self, value: Any) -> bytes:
        """Return the JSON of what one event became."""
        if self._handed:
            self._reveal_kept_metadata()
        if type(value) is dict:
            return self._array((value,))
        if value is None:
            return _DROPPED
        if type(value) is CoroutineType:
            return self._kept(_finish(value))
        if isinstance(value, dict):
            return self._array((value,))
        if isinstance(value, list):
            self._all_dicts(value)
            return self._array(value) if value else _DROPPED
        raise _NoEventError(f"{self._entry} returned {_a(value)}, not a dict, a list of dicts or None")

    def _kept_together(self, value: Any, origins: Origins) -> list[bytes]:
        if type(value) is CoroutineType:
            value = _finish(value)
        self._reveal_kept_metadata()
        if value is None:
            value = []
        if not isinstance(value, list):
            raise _NoEventError(f"{self._entry} returned {_a(value)}, not a list of dicts or None")
        self._all_dicts(value)
        results = []
        for group in origins.group(value):
            if not group:
                results.append(_DROPPED)
                continue
            try:
                results.append(self._array([value[number] for number in group]))
            except _NoEventError as error:
                results.append(_failed(self._describe(error)))
        return results

    def _all_dicts(self, values: Sequence[Any]) -> None:
        for number, each in enumerate(values):
            if not isinstance(each, dict):
                raise _NoEventError(
                    f"{self._entry} returned a list with {_a(each)} at {number}, not only dicts"
                )

    def _array(self, messages: Sequence[dict[str, Any]]) -> bytes:
        most = self._load.max_result_bytes
        parts: list[bytes] = []
        size = 2
        try:
            for message in messages:
                part = _encode(message)
                size += len(part) + 1
                if size > most:
                    raise _NoEventError(f"{self._entry} returned more than {most:,} bytes for one event")
                parts.append(part)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            text = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise _NoEventError(f"{self._entry} returned what can't be written as JSON: {text}") from None
        return b"[" + b",".join(parts) + b"]"

    # ── what it may call ─────────────────────────────────────────────────────────────────────────────────────────

    def _metadata_of_event(self, event: Any = None) -> Metadata:
        return self._metadata(self._index)

    def _metadata_of_any(self, event: Any) -> dict[str, Any]:
        for index, message in enumerate(self._messages):
            if message is event:
                return self._metadata(self._first + index)
        message_id = event.get("messageId") if isinstance(event, dict) else None
        index = self._ids.get(message_id, -1) if isinstance(message_id, str) else -1
        return {} if index < 0 else self._metadata(self._first + index)

    def _metadata(self, index: int) -> Metadata:
        if self._fields is None:
            if self._run is None:
                raise RuntimeError("metadata() works within the function only")
            self._fields = _decode_metadata(self._run.metadata)
        made = Metadata(self._fields[index], self._sight)
        self._handed.append(made)
        return made

    def _reveal_kept_metadata(self) -> None:
        # What the code still holds (in the event it returns, in a global) can be read without our noticing.
        while self._handed:
            made, references = _last(self._handed)
            if references > _UNKEPT:
                made.reveal()

    def _log(self, *values: Any) -> None:
        if self._log_room <= 0:
            return
        line = " ".join([_text(value) for value in values])
        for word in self._hidden:
            line = line.replace(word, "***")
        encoded = line.encode("utf-8", "replace")[: self._log_room]
        self._log_room -= len(encoded) + 1
        self._logs.append(encoded.decode("utf-8", "ignore"))

    def _print(self, *values: Any, **_: Any) -> None:
        self._log(*values)

    def _get_credential(self, key: Any) -> str | None:
        if key is None:
            raise TypeError("getCredential takes the key of a credential, not None")
        return self._load.credentials.get(key) if isinstance(key, str) else None

    def _geolocation(self, *arguments: Any) -> Any:
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise TypeError("geolocation takes a single string argument, the IP address")
        if not self._load.geolocation:
            raise GeolocationFailed("geolocation is off for this transformation")
        answer, error = self._ask("geolocation", arguments[0])
        if error:
            raise GeolocationFailed(error)
        return answer

    def _fetch(self, asked: dict[str, Any]) -> dict[str, Any]:
        if not self._load.fetch:
            raise web.FetchFailed("HTTP is off for this transformation: it names no hosts that it may reach")
        answer, error = self._ask("fetch", asked)
        if error:
            raise web.FetchFailed(error)
        return dict(answer)

    def _ask(self, what: str, argument: Any) -> tuple[Any, str]:
        """Return the parent's answer, and the text of its refusal."""
        if self._parent is None:
            raise RuntimeError(f"{what} works within the function only")
        with self._deadline.suspended():
            self._parent.ask(what, argument)
            answer = self._parent.answer()
        value = msgspec.json.decode(answer.value)
        if not answer.error:
            return value, ""
        return None, str(value.get("message") or value) if isinstance(value, dict) else str(value)

    # ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> tuple[Callable[..., Any], str]:
        """Run the code itself; return the function to call and its name."""
        self._surroundings.set("", 0)
        self._names = self._execute("transformation", self._load.code, faults.FILENAME)
        found = [name for name in ENTRIES if callable(self._names.get(name))]
        if len(found) != 1:
            what = " and ".join(found) or "neither"
            raise CodeWrong(f"the code must define one of {' and '.join(ENTRIES)}; it defines {what}")
        return self._names[found[0]], found[0]

    def _execute(self, name: str, code: str, filename: str) -> dict[str, Any]:
        module = ModuleType(name)
        names = vars(module)
        names["__builtins__"] = self._builtins
        # Where `dataclasses` and `typing` look for a class's module.
        sys.modules[name] = module
        if filename != faults.FILENAME:
            self._loaded[name] = module
        exec(compile(code, filename, "exec", dont_inherit=True), names)  # noqa: S102 - what this process is for
        return names

    def _library(self, name: str) -> ModuleType:
        full = f"library {name}"
        if full not in self._loaded:
            try:
                self._execute(full, self._libraries[name], faults.library_filename(name))
            except BaseException:
                self._loaded.pop(full, None)
                raise
        return self._loaded[full]

    def _restart(self) -> None:
        """Forget all that the code kept, and run it anew.

        Raises:
            _Poisoned: that gave no memory back.
        """
        for module in self._loaded.values():
            vars(module).clear()
        self._loaded.clear()
        self._names.clear()
        self._builtins = self._reduced_builtins()
        self._messages = ()
        gc.collect()
        try:
            # Untouched, it costs no more than the promise of it.
            bytearray(self._load.memory_bytes // 4)
            self._reserve = bytearray(_RESERVE_BYTES)
            self._function, self._entry = self._deadline.call(self._start)
        except BaseException:  # noqa: BLE001 - there is nothing to go on with; the parent starts another process
            raise _Poisoned from None

    def _reduced_builtins(self) -> dict[str, Any]:
        reduced = {name: value for name, value in vars(builtins).items() if name not in _WITHHELD}
        reduced.update(web.fetch_functions(self._fetch))
        reduced["__import__"] = self._importer
        reduced["print"] = self._print
        reduced["log"] = self._log
        reduced["getCredential"] = self._get_credential
        reduced["geolocation"] = self._geolocation
        return reduced

    # ── what people read ─────────────────────────────────────────────────────────────────────────────────────────

    def _describe(self, error: BaseException) -> str:
        if type(error) is _NoEventError:
            return faults.bounded(str(error), self._hidden)
        try:
            return self._deadline.call(faults.describe, error, self._hidden)
        except (TookTooLong, Exception):  # noqa: BLE001 - the error's own text is user code
            return faults.bounded(faults.class_name(error), self._hidden)

    def _out_of_memory(self, error: MemoryError) -> str:
        self._reserve = bytearray()
        try:
            place = faults.describe(error).removesuffix("MemoryError").rstrip(": ")
        except MemoryError:
            place = ""
        # The frames hold what filled the memory.
        error.__traceback__ = error.__context__ = None
        reason = f"MemoryError: it took more than {self._load.memory_bytes >> 20} MB"
        return f"{place}: {reason}" if place else reason

    def _too_long(self) -> str:
        return f"{self._entry} took longer than {self._load.timeout_s:g} s"


class _Poisoned(Exception):
    """The process has no memory left that the code could be given."""


class _NoEventError(Exception):
    """What was returned is no event; the text says why."""


def _last(handed: list[Metadata]) -> tuple[Metadata, int]:
    """Take out the last, and count who refers to it."""
    made = handed.pop()
    return made, sys.getrefcount(made)


_UNKEPT: Final = _last([Metadata({}, Sight())])[1]
"""The count when nobody else does, which differs between versions of Python."""


def _finish(coroutine: "CoroutineType[Any, Any, Any]") -> Any:
    """Run an `async def` to its end. Nothing in the sandbox makes it wait, so it ends at once."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("it awaits something that doesn't exist here; what is called here answers at once")


def _a(value: object) -> str:
    if isinstance(value, GeneratorType):
        return "a generator (it uses yield; return a list instead)"
    name = faults.class_name(value)
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        try:
            return _encode(value).decode()
        except (TypeError, ValueError, OverflowError, RecursionError):
            return repr(value)
    return str(value)


def _as_json(value: Any) -> Any:
    """Return what msgspec can write for a value of a class that it doesn't know."""
    if type(value) in (list, tuple, dict):
        raise TypeError(f"{_a(value)} can't be a key")  # as values it knows them
    if isinstance(value, datetime):
        clock = time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold)
        return datetime.combine(date(value.year, value.month, value.day), clock)
    if isinstance(value, date):
        return date(value.year, value.month, value.day)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"there is {_a(value)} in it")


def _failed(reason: str) -> bytes:
    return msgspec.json.encode(reason)


_encode: Final = msgspec.json.Encoder(enc_hook=_as_json, decimal_format="number").encode
_decode_messages: Final = msgspec.json.Decoder(list[dict[str, Any]]).decode
_decode_message: Final = msgspec.json.Decoder(dict[str, Any]).decode
_decode_raws: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_metadata: Final = msgspec.json.Decoder(list[dict[str, Any]]).decode
