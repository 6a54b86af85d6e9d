"""`mainstem transformation …` as people run it."""

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import run, run_many


def ready(folder: Path, *cases: object) -> Path:
    """A transformation that needs no sandbox."""
    (folder / "cases").mkdir(parents=True)
    (folder / "transformation.yaml").write_text("ready: keep_event_names\nsettings: {names: [A, B]}\n")
    (folder / "cases" / "all.json").write_text(json.dumps(list(cases)))
    return folder


DROPPED = {"name": "others are dropped", "input": {"type": "track", "event": "C"}, "dropped": True}
KEPT = {
    "name": "A is kept",
    "input": {"type": "track", "event": "A"},
    "output": {"type": "track", "event": "A"},
}
WRONG = {"name": "wrong", "input": {"type": "track", "event": "A"}, "output": {"type": "track", "event": "Z"}}


def test_new_makes_what_passes_and_can_be_published(tmp_path: Path) -> None:
    made = run(tmp_path, "transformation", "new", "mine", "--ready", "drop_event_names")
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.splitlines() == [
        "transformations/mine/transformation.yaml",
        "transformations/mine/cases/examples.json",
        "Now: mainstem transformation test mine",
    ]
    published = run(tmp_path, "transformation", "publish", "mine")
    assert (published.returncode, published.stderr) == (0, "")
    assert published.stdout.splitlines()[-1].startswith("mine@1 is published; ")
    (tmp_path / "w.yaml").write_text(
        "workspace: {id: w}\n"
        "sources: [{id: web, write_key: key}]\n"
        "destinations: [{id: files, type: archive, config: {url: archive}, transformations: [mine]}]\n"
        "connections: [{from: web, to: files, transformations: [mine@1]}]\n"
        "transformations: [{name: mine, folder: transformations/mine}]\n"
    )
    checked = run(tmp_path, "workspace", "check", "w.yaml")
    assert (checked.returncode, checked.stderr) == (0, "")
    listed = run(tmp_path, "transformation", "list", "--workspace", "w.yaml", "--json")
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert rows[0] == {
        "name": "mine",
        "kind": "drop_event_names",
        "versions": ["1"],
        "draft": "published",
        "used_by": ["web -> files (1)", "files (1)"],
    }
    assert {"mine", "drop_bots"} <= {row.get("name") or row["ready"] for row in rows}


def test_a_failing_case_is_shown_and_publishes_nothing(tmp_path: Path) -> None:
    ready(tmp_path / "transformations" / "few", DROPPED, KEPT, WRONG)
    tested = run(tmp_path, "transformation", "test", "few")
    assert (tested.returncode, tested.stderr) == (1, "")
    assert tested.stdout.splitlines() == [
        "ok   others are dropped",
        "ok   A is kept",
        "FAIL wrong: differs",
        "    --- expected",
        "    +++ came out",
        "    @@ -1,4 +1,4 @@",
        "     {",
        '    -  "event": "Z",',
        '    +  "event": "A",',
        '       "type": "track"',
        "     }",
        "3 cases, 1 failed",
        "The cases show: dropped 1, kept 2; of track A, track C",
    ]
    published = run(tmp_path, "transformation", "publish", "few")
    assert published.returncode == 1
    assert published.stderr == "mainstem: few: 1 of 3 cases fail, first 'wrong'\n"
    assert not (tmp_path / "transformations" / "few" / "versions").exists()


def test_events_are_shown_with_what_no_case_covers(tmp_path: Path) -> None:
    ready(tmp_path / "few", KEPT)
    events = [{"type": "track", "event": "A"}, {"type": "track", "event": "C"}, {"type": "identify"}]
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, events)))
    shown = run(tmp_path, "transformation", "test", "./few", "--events", "events.jsonl", "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(row["kind"], row.get("outcome")) for row in rows] == [
        ("case", None),
        ("event", "kept"),
        ("event", "dropped"),
        ("event", "kept"),
        ("coverage", None),
    ]
    assert rows[-1]["uncovered_labels"] == {"track C": 1, "identify": 1}
    assert rows[-1]["uncovered_outcomes"] == {"dropped": 1}
    words = run(tmp_path, "transformation", "test", "./few", "--events", "events.jsonl").stdout.splitlines()
    assert words[1:4] == ["1: track A: unchanged", "2: track C: dropped", "3: identify: unchanged"]
    assert words[-2:] == [
        "No case shows an event dropped; 1 events were",
        "No case has: track C (1), identify (1)",
    ]


_SAYS: dict[tuple[str, ...], str] = {
    ("new", "a b"): "'a b' is no name",
    ("new", "x", "--ready", "drop_botz"): "did you mean 'drop_bots'?",
    ("test", "nowhere"): "transformations/nowhere: there is no such file or folder",
    ("test", "./empty.js"): "empty has no cases",
    ("test", "./empty.js", "--events", "no.jsonl"): "no.jsonl: No such file",
    ("publish", "./empty.js"): "is a file; what is published has a folder",
    ("list", "--workspace", "no.yaml"): "--workspace no.yaml: No such file",
}


def test_what_a_user_did_wrong_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "empty.js").write_text("export const transformEvent = (event) => event\n")
    many = run_many(tmp_path, [("transformation", *arguments) for arguments in _SAYS])
    for (arguments, words), (status, text) in zip(_SAYS.items(), many, strict=True):
        assert status == 2, (arguments, text)
        assert words in text
        assert "Traceback" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["empty.js"]


@pytest.mark.parametrize("language", ["javascript", "python"])
def test_code_runs_in_its_sandbox(tmp_path: Path, language: str) -> None:
    made = run(tmp_path, "transformation", "new", "mask", "--language", language)
    assert (made.returncode, made.stderr) == (0, "")
    tested = run(tmp_path, "transformation", "test", "mask")
    assert (tested.returncode, tested.stderr) == (0, "")
    assert tested.stdout.splitlines()[:3] == [
        "ok   the e-mail address is masked",
        "ok   an event without one stays as it is",
        "2 cases, 0 failed",
    ]
