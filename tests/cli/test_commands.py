"""The command as users run it: exit codes, words instead of tracebacks, nothing made by looking."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from mainstem.ledger.base import DeadLetter, Settlement
from mainstem.ledger.sqlite import open_ledger

_GOLDEN = Path(__file__).parent / "dry_run"
_SECRETS = {"HOOK_TOKEN": "t0ken-t0ken", "HOOK_SECRET": "s3cr3t-s3cr3t"}


def run(cwd: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAINSTEM_")}
    return subprocess.run(
        [sys.executable, "-m", "mainstem", *arguments],
        cwd=cwd,
        env={**clean, **_SECRETS, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def dry_run(cwd: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    files = ("--workspace", str(_GOLDEN / "workspace.yaml"), "--events", str(_GOLDEN / "events.jsonl"))
    return run(cwd, "dry-run", *files, *arguments, **env)


def test_a_dry_run_gives_the_same_bytes_every_time_without_secrets(tmp_path: Path) -> None:
    expected = (_GOLDEN / "expected.jsonl").read_text()
    first, second = dry_run(tmp_path), dry_run(tmp_path, PYTHONHASHSEED="7", TZ="Asia/Tokyo")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == expected
    assert second.stdout == expected
    assert not any(secret in expected for secret in _SECRETS.values())
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_one_destination_tells_what_became_of_each_line(tmp_path: Path) -> None:
    result = dry_run(tmp_path, "--destination", "hook", "--now", "2026-11-23T08:00:00Z")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["line"], row["outcome"]) for row in rows] == [
        (1, "send"),
        (3, "filtered"),
        (4, "rejected"),
        (5, "send"),
        (6, "rejected"),
    ]
    assert rows[0]["requests"][0]["body"]["receivedAt"] == "2026-11-23T08:00:00.000Z"
    assert rows[1]["reason"] == "filter:no tests"


def test_a_dry_run_transforms_and_gives_the_same_bytes_every_time(tmp_path: Path) -> None:
    javascript = """
export function transformEvent(event, metadata) {
  if (event.event === "Unwanted") return
  if (event.event === "Broken") throw new Error("no total")
  log("seen", event.userId)
  return [{...event, chance: Math.random(), at: Date.now(), to: metadata(event).destinationId}, event]
}
"""
    python = """
import random, time

def transformEvent(event, metadata):
    event["chances"] = [random.random(), time.time()]
    return event
"""
    document = {
        "workspace": {"id": "w", "name": "W"},
        "sources": [{"id": "web", "name": "Web", "write_key": "wk", "type": "http"}],
        "transformations": [
            {"name": "split", "code": javascript},
            {"name": "mark", "language": "python", "code": python},
        ],
        "destinations": [
            {"id": "hook", "name": "Hook", "type": "webhook", "config": {"webhookUrl": "https://x.test/in"}}
        ],
        "connections": [{"from": "web", "to": ["hook"], "transformations": ["split", "mark"]}],
    }
    (tmp_path / "workspace.json").write_text(json.dumps(document))
    names = ("Order", "Unwanted", "Broken")
    events = [
        {"type": "track", "messageId": name, "userId": "ann", "event": name, "properties": {}}
        for name in names
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, events)))
    files = ("--workspace", "workspace.json", "--events", "events.jsonl")
    first, second = run(tmp_path, "dry-run", *files), run(tmp_path, "dry-run", *files, PYTHONHASHSEED="7")
    assert (first.returncode, first.stderr) == (0, "")
    assert second.stdout == first.stdout
    sent, dropped, broken = (json.loads(line) for line in first.stdout.splitlines())
    assert [request["body"]["messageId"] for request in sent["requests"]] == ["Order", "Order:1"]
    bodies = [request["body"] for request in sent["requests"]]
    assert bodies[0]["to"] == "hook"
    assert bodies[0]["at"] == 1_577_836_800_000  # the clock of the dry run
    assert bodies[0]["chances"] != bodies[1]["chances"]
    split, mark = sent["transformations"]
    assert (split["result"], split["events"], mark["result"]) == ("expanded", 2, "changed")
    assert any("seen" in line for line in split["logs"])
    assert (dropped["outcome"], dropped["reason"]) == ("filtered", "dropped by transformation split")
    assert (broken["outcome"], broken["reason"]) == ("dead", "transformation split failed")
    assert "no total" in broken["detail"]


_WORKSPACE = str(_GOLDEN / "workspace.yaml")
_SAYS: dict[tuple[str, ...], tuple[int, str]] = {
    ("nonsense",): (2, "Unknown command"),
    ("explain", "m1", "--data-dir", "typo"): (2, "data folder typo: there is none"),
    ("books", "--data-dir", "typo"): (2, "data folder typo: there is none"),
    ("redrive", "--list", "--data-dir", "typo"): (2, "data folder typo: there is none"),
    ("replay", "--status", "--data-dir", "typo"): (2, "data folder typo: there is none"),
    ("replay", "--data-dir", "."): (2, "replay needs --destination and --from"),
    ("replay", "--data-dir", ".", "--destination", "hook", "--from", "yesterday"): (
        2,
        "--from yesterday: not an ISO 8601 time",
    ),
    ("dry-run", "--workspace", "no.yaml", "--events", "no.jsonl"): (2, "--workspace no.yaml: No such file"),
    ("dry-run", "--workspace", _WORKSPACE, "--events", "no.jsonl"): (2, "--events no.jsonl: No such file"),
    ("serve", "--set", "wrokers=2"): (2, "did you mean `workers`?"),
    ("serve", "--workspace", "no.yaml", "--port", "0", "--ops-port", "0"): (1, "no.yaml: No such file"),
    ("worker", "--workspace", "no.yaml", "--ops-port", "0"): (1, "no.yaml: No such file"),
    ("workspace", "check", "no.yaml"): (2, "no.yaml: No such file"),
    ("workspace", "check", "broken.yaml"): (2, "write_kye"),
    ("serve", "--workspace", "broken.yaml", "--port", "0", "--ops-port", "0"): (2, "line 3"),
}

# One process for all of them: most of a command's time is importing.
_MANY = """
import contextlib, io, json, sys, traceback
from mainstem.cli import main

said = []
for arguments in json.load(sys.stdin):
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    sys.argv = ["mainstem", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main()
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = -1
    said.append([status, out.buffer.getvalue().decode()])
json.dump(said, sys.stdout)
"""


def run_many(cwd: Path, commands: list[tuple[str, ...]]) -> list[tuple[int, str]]:
    """Run them in one process; return the exit code and all that was said, of each."""
    result = subprocess.run(
        [sys.executable, "-c", _MANY],
        cwd=cwd,
        env={**os.environ, **_SECRETS},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return [(ended, text) for ended, text in json.loads(result.stdout)]


def test_what_a_user_did_wrong_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(
        "workspace: {id: w}\nsources:\n  - {id: web, name: Web, write_kye: x}\n"
    )
    many = run_many(tmp_path, list(_SAYS))
    for (arguments, (status, words)), (ended, text) in zip(_SAYS.items(), many, strict=True):
        said = " ".join(text.split())  # the terminal's boxes break lines
        assert words in said, (arguments, said)
        assert ended == status, (arguments, said)
        assert "Traceback" not in said, (arguments, said)
    assert not (tmp_path / "typo").exists()


async def test_doctor_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    ports = ("--set", "port=0", "--set", "ops_port=0")
    secret = tmp_path / "secret.yaml"
    secret.write_text(
        (_GOLDEN / "workspace.yaml").read_text().replace("https://off.example.com/", "http://10.0.0.1/")
    )
    good, missing, refused = await asyncio.gather(
        asyncio.to_thread(run, tmp_path, "doctor", "--workspace", _WORKSPACE, *ports),
        asyncio.to_thread(run, tmp_path, "doctor", "--workspace", "no.yaml", *ports),
        asyncio.to_thread(run, tmp_path, "doctor", "--workspace", str(secret), *ports),
    )
    assert good.returncode == 0, good.stdout + good.stderr
    assert "1 sources, 3 destinations" in good.stdout
    assert missing.returncode == 1
    assert "FAIL workspace: no.yaml: No such file" in missing.stdout
    assert refused.returncode == 1
    assert "FAIL off: " in refused.stdout
    assert "10.0.0.1" in refused.stdout
    for result in (good, missing, refused):
        assert not any(value in result.stdout + result.stderr for value in _SECRETS.values())
        assert "Traceback" not in result.stderr


def test_dead_letters_of_an_archive_are_not_redriven_into_a_park_that_nothing_empties(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()

    async def bury() -> None:
        ledger = await open_ledger(data / "ledger.db")
        try:
            await ledger.put_status("files", b'{"kind":"files"}')
            await ledger.put_status("hook", b'{"kind":"lanes"}')
            for offset, destination in enumerate(("files", "hook")):
                await ledger.open_cursor(destination, {0: offset})
                dead = DeadLetter(
                    cursor=destination,
                    destination_id=destination,
                    key="s:u:1",
                    sequence=offset,
                    partition=0,
                    offset=offset,
                    value=b"",
                    source_id="s",
                    message_id=f"m{offset}",
                    event_type="track",
                    event_name="e",
                    received_at_ms=0,
                    died_at_ms=0,
                    reason="filter",
                )
                step = Settlement(
                    cursor=destination, partition=0, from_offset=offset, next_offset=offset + 1, bury=[dead]
                )
                await ledger.settle([step])
        finally:
            await ledger.close()

    async def parked() -> list[int]:
        ledger = await open_ledger(data / "ledger.db")
        try:
            return [len(await ledger.parked(destination)) for destination in ("files", "hook")]
        finally:
            await ledger.close()

    asyncio.run(bury())
    result = run(tmp_path, "redrive", "--yes", "--data-dir", str(data))
    assert result.returncode == 0, result.stderr
    assert "1 dead letters of archives stay" in result.stdout
    assert "1 events are due again" in result.stdout
    assert asyncio.run(parked()) == [0, 1]
