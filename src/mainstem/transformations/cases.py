"""Cases: what goes into a transformation and what has to come out; kept beside the code, run before publishing.

cases, **run** -> verdicts with diffs, and what the cases do not cover. A case is a JSON object:

    {"name": "the e-mail address is masked", "input": {…}, "output": {…}}

`input` is an event, or a list of events that are handed over together. What is expected is one or more of:
`output` (an event, or a list of all events that come out, in order), `dropped` (true: nothing comes out), `error`
(a text that the reason of a failure contains). `metadata`, `settings` and `credentials` are what the code is told
besides.
"""

import difflib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from mainstem.events.canonical import id_text, parse_time_ms
from mainstem.events.ordering import ordering_key
from mainstem.secret import Secret
from mainstem.transformations.base import About, BatchRun, Dropped, Failed, Given, Kept, Result, Runtime
from mainstem.transformations.folder import (
    CASES_FILE,
    CASES_FOLDER,
    Draft,
    FolderInvalid,
    draft_transformation,
)
from mainstem.transformations.ready.base import NO_TOOLS, Tools
from mainstem.transformations.ready.catalog import change_for
from mainstem.workspace.model import Transformation

Outcome = Literal["kept", "expanded", "dropped", "failed"]
Run = Callable[[Transformation, Sequence[Given]], Awaitable[BatchRun]]
"""Runs one batch of a transformation of any kind."""

_NOW_MS: Final = 1_577_836_800_000
"""2020-01-01: the clock inside, for events without `receivedAt`."""
_MADE_ID: Final = "without messageId: "
_LONGEST_LIST: Final = 10_000


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One case, as it is written."""

    name: str
    input: dict[str, Any] | list[dict[str, Any]]
    output: dict[str, Any] | list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    dropped: bool = False
    error: str = ""
    metadata: dict[str, Any] = {}
    """On top of what `metadata(event)` tells by itself."""
    settings: dict[str, Any] = {}
    """On top of the transformation's own."""
    credentials: dict[str, str] = {}

    @property
    def events(self) -> list[dict[str, Any]]:
        """The input as a list."""
        return self.input if isinstance(self.input, list) else [self.input]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a case."""

    name: str
    passed: bool
    problem: str = ""
    """Why not, in a line."""
    diff: str = ""
    """Expected against what came, as a unified diff; empty where there is nothing to compare."""
    outcomes: tuple[Outcome, ...] = ()
    """One an event of the input."""
    logs: tuple[str, ...] = ()


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a transformation does with an event."""

    line: int
    """Of the file of events."""
    label: str
    outcome: Outcome
    reason: str = ""
    """Why it failed."""
    diff: str = ""
    """Before against after; empty when it goes on unchanged."""
    output: tuple[dict[str, Any], ...] = ()
    logs: tuple[str, ...] = ()


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """What the cases show. Lines of code are not counted: neither sandbox lets anybody look inside."""

    outcomes: Mapping[Outcome, int]
    """How many events of cases end so; outcomes that none has are missing."""
    labels: tuple[str, ...]
    """Types, and names, of the cases' events."""
    uncovered_labels: Mapping[str, int] = {}
    """Of the events that were shown: those that no case has, with how many there are."""
    uncovered_outcomes: Mapping[Outcome, int] = {}
    """Outcomes of the events that were shown that no case has."""


def read_cases(draft: Draft) -> tuple[Case, ...]:
    """Return the cases beside a draft: `cases/*.json` by name, then `cases.jsonl`.

    For a draft of one file `NAME.cases.jsonl` counts as well.

    Raises:
        FolderInvalid: a file is not what it should be.
    """
    found: list[tuple[Path, Case]] = []
    folder = draft.folder / CASES_FOLDER
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        value = _json(path, _content(path))
        found += [(path, _case(path, item)) for item in (value if isinstance(value, list) else [value])]
    lines = [draft.folder / CASES_FILE]
    if draft.code_path is not None:
        lines.append(draft.code_path.with_suffix(f".{CASES_FILE}"))
    for path in lines:
        if path.is_file():
            found += [(path, _case(path, value, number)) for number, value in read_lines(path)]
    names = Counter(case.name for _, case in found)
    for path, case in found:
        if names[case.name] > 1:
            raise FolderInvalid(f"{path}: there are {names[case.name]} cases {case.name!r}")
    return tuple(case for _, case in found)


def read_lines(path: Path) -> list[tuple[int, Any]]:
    """Return the values of a file of JSON lines, each with its line.

    Raises:
        FolderInvalid: it can't be read, or a line is not a JSON object.
    """
    rows = []
    for number, line in enumerate(_content(path).split(b"\n"), 1):
        if line.strip():
            value = _json(path, line, number)
            if not isinstance(value, dict):
                raise FolderInvalid(f"{path}:{number}: expected a JSON object")
            rows.append((number, value))
    return rows


def runner(runtime: Runtime | None, tools: Tools = NO_TOOLS) -> Run:
    """Return what runs transformations: code in the runtime (None = none will come), ready-made ones here."""

    async def run(transformation: Transformation, given: Sequence[Given]) -> BatchRun:
        if transformation.kind != "ready":
            assert runtime is not None  # noqa: S101 - said above
            return await runtime.run(transformation, given, logs=True)
        change = change_for(transformation, tools)
        return BatchRun(tuple(change(each.message, _about(each)) for each in given))

    return run


async def run_cases(
    draft: Draft, cases: Sequence[Case], run: Run, env: Mapping[str, str]
) -> AsyncIterator[Verdict]:
    """Run the cases and yield a verdict each, in their order.

    Raises:
        FolderInvalid: the draft's settings are wrong.
        SandboxUnavailable: code can't be run on this machine.
    """
    for case in cases:
        made = draft_transformation(draft, env, case.settings)
        secrets = {key: Secret(value) for key, value in case.credentials.items()}
        transformation = msgspec.structs.replace(made, credentials=secrets)
        given = [_given(event, case.name, index, case.metadata) for index, event in enumerate(case.events)]
        yield judge(case, await _in_batches(run, transformation, given))


def judge(case: Case, batch: BatchRun) -> Verdict:
    """Return whether what came is what the case expects."""
    came = [message for result in batch.results if isinstance(result, Kept) for message in result.messages]
    failures = [result.reason for result in batch.results if isinstance(result, Failed)]
    expects_output = case.output is not msgspec.UNSET
    expected = [] if case.output is msgspec.UNSET else case.output
    listed = expected if isinstance(expected, list) else [expected]
    problem = ""
    if case.error and not any(case.error in reason for reason in failures):
        told = f"it failed: {failures[0]}" if failures else "nothing failed"
        problem = f"expected an error that says {case.error!r}, but {told}"
    elif failures and not case.error:
        problem = f"it failed: {failures[0]}"
    elif expects_output and not same(listed, came):
        problem = (
            f"expected {_count(len(listed))}, got {_count(len(came))}"
            if len(listed) != len(came)
            else "differs"
        )
    elif came and not expects_output:
        problem = f"expected nothing to come out, got {_count(len(came))}"
    differs = bool(problem) and (expects_output or bool(came))
    diff = (
        unified(_one(listed, case.output), _one(came, case.output), "expected", "came out") if differs else ""
    )
    return Verdict(
        name=case.name,
        passed=not problem,
        problem=problem,
        diff=diff,
        outcomes=tuple(outcome_of(result) for result in batch.results),
        logs=batch.logs,
    )


async def show_events(
    transformation: Transformation, events: Sequence[tuple[int, dict[str, Any]]], run: Run
) -> AsyncIterator[Shown]:
    """Run events from a file, and yield what becomes of each, in their order.

    Raises:
        SandboxUnavailable: code can't be run on this machine.
    """
    for number, event in events:
        batch = await _in_batches(run, transformation, [_given(event, "event", number, {})])
        (result,) = batch.results
        output = result.messages if isinstance(result, Kept) else ()
        after: Any = output[0] if len(output) == 1 else list(output)
        changed = not same([event], list(output))
        yield Shown(
            line=number,
            label=label_of(event),
            outcome=outcome_of(result),
            reason=result.reason if isinstance(result, Failed) else "",
            diff=unified(event, after if output else None, "before", "after") if changed else "",
            output=output,
            logs=batch.logs,
        )


def coverage(cases: Sequence[Case], verdicts: Sequence[Verdict], shown: Sequence[Shown] = ()) -> Coverage:
    """Return what the cases show, and what of the shown events they do not."""
    outcomes = Counter(outcome for verdict in verdicts for outcome in verdict.outcomes)
    labels = {label_of(event) for case in cases for event in case.events}
    return Coverage(
        outcomes=dict(outcomes),
        labels=tuple(sorted(labels)),
        uncovered_labels=dict(
            Counter(each.label for each in shown if each.label not in labels).most_common()
        ),
        uncovered_outcomes=dict(Counter(each.outcome for each in shown if each.outcome not in outcomes)),
    )


def outcome_of(result: Result) -> Outcome:
    """Return the word for a result."""
    match result:
        case Kept(messages):
            return "kept" if len(messages) == 1 else "expanded" if messages else "dropped"
        case Dropped():
            return "dropped"
        case Failed():
            return "failed"


def label_of(event: Mapping[str, Any]) -> str:
    """Return an event's type, with the name where it has one: `track Order Completed`."""
    kind = event.get("type")
    name = (
        event.get("event") if kind == "track" else event.get("name") if kind in ("page", "screen") else None
    )
    words = [kind if isinstance(kind, str) else "no type", name if isinstance(name, str) else ""]
    return " ".join(word for word in words if word)


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same JSON: the order of keys does not count, 1 is 1.0, true is not 1."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def unified(left: Any, right: Any, left_name: str, right_name: str) -> str:
    """Return a unified diff of two values as sorted, indented JSON; None is nothing at all."""
    before, after = ([] if value is None else _pretty(value).splitlines() for value in (left, right))
    return "\n".join(difflib.unified_diff(before, after, left_name, right_name, lineterm="", n=2))


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def _one(listed: list[dict[str, Any]], given: Any) -> Any:
    """Return the only event where the case says one, so that the diff has no brackets."""
    return listed[0] if len(listed) == 1 and not isinstance(given, list) else listed or None


def _count(number: int) -> str:
    return {0: "no event", 1: "one event"}.get(number, f"{number} events")


async def _in_batches(run: Run, transformation: Transformation, given: Sequence[Given]) -> BatchRun:
    size = transformation.limits.batch_events
    batches = [await run(transformation, given[start : start + size]) for start in range(0, len(given), size)]
    results = [result for batch in batches for result in batch.results]
    return BatchRun(
        tuple(map(_without_made_ids, results)), tuple(line for batch in batches for line in batch.logs)
    )


def _without_made_ids(result: Result) -> Result:
    if not isinstance(result, Kept):
        return result
    return Kept(
        tuple(
            {key: value for key, value in message.items() if key != "messageId"}
            if str(message.get("messageId", "")).startswith(_MADE_ID)
            else message
            for message in result.messages
        )
    )


def _given(event: dict[str, Any], name: str, index: int, metadata: Mapping[str, Any]) -> Given:
    # In the log every event has an id, and code is told of an event by it. One that a case leaves out is given here,
    # and taken away from what comes out.
    message_id = id_text(event.get("messageId"))
    if not message_id:
        message_id = f"{_MADE_ID}{name} {index}"
        event = event | {"messageId": message_id}
    kind, received = event.get("type"), parse_time_ms(event.get("receivedAt"))
    named = event.get("event") if kind == "track" else event.get("name")
    told = {
        "sourceId": "source",
        "sourceName": "source",
        "sourceType": "http",
        "destinationId": "destination",
        "destinationName": "destination",
        "destinationType": "WEBHOOK",
        "messageId": message_id,
        "eventType": kind if isinstance(kind, str) else "",
        "eventName": named if isinstance(named, str) else "",
    }
    return Given(event, told | dict(metadata), message_id, _NOW_MS if received is None else received)


def _about(given: Given) -> About:
    source_id = str(given.metadata.get("sourceId", "source"))
    user_id, anonymous_id = (id_text(given.message.get(field)) for field in ("userId", "anonymousId"))
    return About(source_id, given.seed, ordering_key(source_id, user_id, anonymous_id), given.now_ms)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FolderInvalid(f"{path}: {error.strerror or error}") from None


def _json(path: Path, data: bytes, number: int = 0) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FolderInvalid(f"{path}{f':{number}' if number else ''}: is not JSON: {error}") from None


def _case(path: Path, value: Any, number: int = 0) -> Case:
    where = f"{path}:{number}" if number else str(path)
    named = value.get("name") if isinstance(value, dict) else None
    if isinstance(named, str):
        where += f": {named!r}"
    try:
        case = msgspec.convert(value, Case)
    except msgspec.ValidationError as error:
        raise FolderInvalid(f"{where}: {error}") from None
    if len(case.events) > _LONGEST_LIST or not case.events:
        raise FolderInvalid(f"{where}: `input` has {len(case.events)} events; 1 to {_LONGEST_LIST} are run")
    if case.output is msgspec.UNSET and not case.dropped and not case.error:
        raise FolderInvalid(f"{where}: expects nothing; give `output`, `dropped` or `error`")
    if case.dropped and case.output is not msgspec.UNSET:
        raise FolderInvalid(f"{where}: has both `output` and `dropped`")
    return case
