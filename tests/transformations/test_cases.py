"""Cases: what passes, what does not, and what is shown of it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstem.transformations.base import BatchRun, Dropped, Failed, Kept, Result
from mainstem.transformations.cases import (
    Case,
    Verdict,
    coverage,
    judge,
    label_of,
    read_cases,
    read_lines,
    run_cases,
    runner,
    same,
    show_events,
)
from mainstem.transformations.folder import Draft, FolderInvalid, draft_transformation, open_draft
from tests.transformations.plain_runtime import PlainRuntime

CODE = """\
def transformEvent(event, metadata):
    told = metadata(event)
    log("saw", told["eventName"], told["messageId"])
    name = event.get("event")
    if name == "Drop":
        return None
    if name == "Throw":
        raise ValueError("no such thing")
    if name == "Split":
        return [{**event, "part": 1}, {**event, "part": 2}]
    event["seen"] = [told["sourceId"], settings.get("colour"), getCredential("key")]
    return event
"""


def draft(tmp_path: Path, *cases: Any, code: str = CODE) -> Draft:
    folder = tmp_path / "mask"
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    (folder / "code.py").write_text(code)
    (folder / "cases" / "all.json").write_text(json.dumps(cases))
    return open_draft(folder)


async def verdicts(made: Draft) -> list[Verdict]:
    return [each async for each in run_cases(made, read_cases(made), runner(PlainRuntime()), {})]


def track(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "track", "event": name, "messageId": "m1"} | more


async def test_cases_pass_and_say_how_their_events_end(tmp_path: Path) -> None:
    made = draft(
        tmp_path,
        {"name": "dropped", "input": track("Drop"), "dropped": True},
        {"name": "nothing", "input": track("Drop"), "output": []},
        {"name": "thrown", "input": track("Throw"), "error": "no such thing"},
        {
            "name": "split",
            "input": track("Split"),
            "output": [track("Split", part=1), track("Split", part=2)],
        },
        {
            "name": "told",
            "input": track("Keep"),
            "output": track("Keep", seen=["web", "red", "k"]),
            "metadata": {"sourceId": "web"},
            "settings": {"colour": "red"},
            "credentials": {"key": "k"},
        },
        {
            "name": "together",
            "input": [track("Drop"), track("Throw"), track("Keep")],
            "error": "ValueError",
            "output": [track("Keep", seen=["source", None, None])],
        },
    )
    found = await verdicts(made)
    assert [(each.name, each.problem) for each in found if not each.passed] == []
    assert [each.outcomes for each in found] == [
        ("dropped",),
        ("dropped",),
        ("failed",),
        ("expanded",),
        ("kept",),
        ("dropped", "failed", "kept"),
    ]
    assert found[0].logs == ("saw Drop m1",)
    covered = coverage(read_cases(made), found)
    assert covered.outcomes == {"dropped": 3, "failed": 2, "expanded": 1, "kept": 2}
    assert covered.labels == ("track Drop", "track Keep", "track Split", "track Throw")


async def test_what_differs_is_shown(tmp_path: Path) -> None:
    expected = track("Keep", seen=["source", None, "other"])
    (found,) = await verdicts(draft(tmp_path, {"name": "wrong", "input": track("Keep"), "output": expected}))
    assert (found.passed, found.problem) == (False, "differs")
    assert found.diff.splitlines()[:2] == ["--- expected", "+++ came out"]
    assert [line for line in found.diff.splitlines()[2:] if line[0] in "+-"] == ['-    "other"', "+    null"]


KEPT: Result = Kept(({"type": "track"},))


@pytest.mark.parametrize(
    ("case", "results", "problem"),
    [
        ({"dropped": True}, [KEPT], "expected nothing to come out, got one event"),
        ({"output": {"type": "track"}}, [Dropped()], "expected one event, got no event"),
        ({"output": []}, [Kept(({}, {}))], "expected no event, got 2 events"),
        ({"output": {"type": "track"}}, [Failed("E: bad")], "it failed: E: bad"),
        ({"dropped": True}, [Failed("E: bad")], "it failed: E: bad"),
        (
            {"error": "worse"},
            [Failed("E: bad")],
            "expected an error that says 'worse', but it failed: E: bad",
        ),
        ({"error": "bad"}, [Dropped()], "expected an error that says 'bad', but nothing failed"),
        ({"error": "bad"}, [Failed("bad"), KEPT], "expected nothing to come out, got one event"),
        ({"error": "bad", "output": [{"type": "page"}]}, [Failed("bad"), KEPT], "differs"),
        ({"error": "bad", "output": [{"type": "track"}]}, [Failed("bad"), KEPT], ""),
    ],
)
def test_verdicts(case: dict[str, Any], results: list[Result], problem: str) -> None:
    made = msgspec.convert({"name": "n", "input": [{}] * len(results)} | case, Case)
    assert judge(made, BatchRun(tuple(results))).problem == problem


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True),
        ({"a": True}, {"a": 1}, False),
        ([1, {"a": None}], [1, {"a": None}], True),
        ([1], [1, 2], False),
        ({"a": None}, {}, False),
        ("1", 1, False),
    ],
)
def test_the_same_json(left: Any, right: Any, equal: bool) -> None:
    assert same(left, right) is equal


def test_cases_are_gathered_from_all_their_files(tmp_path: Path) -> None:
    made = draft(tmp_path, {"name": "a", "input": {}, "dropped": True})
    folder = tmp_path / "mask"
    (folder / "cases" / "one.json").write_text('{"name": "b", "input": {}, "dropped": true}')
    (folder / "cases.jsonl").write_text('\n{"name": "c", "input": {}, "dropped": true}\n')
    (folder / "code.cases.jsonl").write_text('{"name": "d", "input": {}, "dropped": true}')
    assert [case.name for case in read_cases(made)] == ["a", "b", "c", "d"]
    (folder / "cases.jsonl").write_text('{"name": "a", "input": {}, "dropped": true}')
    with pytest.raises(FolderInvalid, match="there are 2 cases 'a'"):
        read_cases(made)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", r"cases.jsonl:1: is not JSON"),
        ("[]", r"cases.jsonl:1: expected a JSON object"),
        (
            '{"name": "x", "input": {}}',
            "cases.jsonl:1: 'x': expects nothing; give `output`, `dropped` or `error`",
        ),
        ('{"name": "x", "input": {}, "outptu": {}}', "unknown field `outptu`"),
        ('{"name": "x", "input": [], "dropped": true}', "`input` has 0 events"),
        ('{"name": "x", "input": {}, "dropped": true, "output": {}}', "both `output` and `dropped`"),
        ('{"name": "x", "input": 1, "dropped": true}', "input"),
    ],
)
def test_a_mistaken_case_is_told_with_its_place(tmp_path: Path, line: str, expected: str) -> None:
    made = draft(tmp_path)
    (tmp_path / "mask" / "cases.jsonl").write_text(line)
    with pytest.raises(FolderInvalid, match=expected):
        read_cases(made)


async def test_events_are_shown_before_and_after(tmp_path: Path) -> None:
    made = draft(
        tmp_path,
        {"name": "kept", "input": track("Keep"), "output": track("Keep", seen=["source", None, None])},
    )
    path = tmp_path / "events.jsonl"
    same_as = track("Keep", seen=["source", None, None])
    events = [
        track("Keep"),
        same_as,
        track("Drop"),
        track("Throw"),
        track("Split"),
        {"type": "page", "name": "Home"},
    ]
    path.write_text("\n\n".join(json.dumps(event) for event in events))
    transformation = draft_transformation(made, {})
    shown = [each async for each in show_events(transformation, read_lines(path), runner(PlainRuntime()))]
    assert [(each.line, each.label, each.outcome, bool(each.diff)) for each in shown] == [
        (1, "track Keep", "kept", True),
        (3, "track Keep", "kept", False),
        (5, "track Drop", "dropped", True),
        (7, "track Throw", "failed", True),
        (9, "track Split", "expanded", True),
        (11, "page Home", "kept", True),
    ]
    assert shown[3].reason == "ValueError: no such thing"
    assert '+  "seen": [' in shown[0].diff
    covered = coverage(read_cases(made), await verdicts(made), shown)
    assert covered.uncovered_outcomes == {"dropped": 1, "failed": 1, "expanded": 1}
    assert covered.uncovered_labels == {"track Drop": 1, "track Throw": 1, "track Split": 1, "page Home": 1}


async def test_an_event_without_an_id_is_told_of_all_the_same(tmp_path: Path) -> None:
    code = """\
def transformEvent(event, metadata):
    event["told"] = metadata(event)["sourceType"] if event["messageId"] else "nothing"
    return [event, {"messageId": "own"}]
"""
    case = {
        "name": "a",
        "input": {"type": "track"},
        "output": [{"type": "track", "told": "web"}, {"messageId": "own"}],
        "metadata": {"sourceType": "web"},
    }
    (found,) = await verdicts(draft(tmp_path, case, code=code))
    assert (found.passed, found.diff) == (True, "")


def test_labels() -> None:
    events: list[dict[str, Any]] = [
        {},
        {"type": "identify", "name": "x"},
        {"type": "screen", "name": "S"},
        {"type": "track"},
    ]
    assert [label_of(event) for event in events] == ["no type", "identify", "screen S", "track"]
