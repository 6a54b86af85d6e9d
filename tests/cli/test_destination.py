"""`mainstem destination …` as people run it."""

import asyncio
import json
from pathlib import Path

from mainstem.destinations import catalog
from mainstem.testing.sink import Sink
from tests.cli.test_commands import run

WORKSPACE = """
workspace: {id: w}
sources: [{id: web, write_key: key}]
destinations:
  - {id: hook, type: webhook, config: {url: "%s/in", headers: {X-Token: "${HOOK_SECRET}"}}}
  - {id: files, type: archive, config: {url: "%s/archive"}}
  - {id: table, type: iceberg_archive}
connections: [{from: web, to: [hook, files]}]
"""


def test_every_type_is_listed(tmp_path: Path) -> None:
    listed = run(tmp_path, "destination", "list", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [row["type"].upper() for row in rows] == catalog.names()
    people = run(tmp_path, "destination", "list")
    assert all(row["title"] in people.stdout for row in rows)


def test_show_is_the_reference(tmp_path: Path) -> None:
    shown = run(tmp_path, "destination", "show", "keen")
    assert shown.returncode == 0
    assert "`projectID`" in shown.stdout
    unknown = run(tmp_path, "destination", "show", "kene")
    assert unknown.returncode == 2
    assert "did you mean `KEEN`?" in unknown.stderr


def test_test_shows_what_differs(tmp_path: Path) -> None:
    cases = [
        {
            "name": "wrong",
            "config": {"projectID": "p", "writeKey": "wwwww"},
            "message": {"type": "track", "userId": "u"},
            "refusal": "another",
        }
    ]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = run(tmp_path, "destination", "test", "keen", "cases.json")
    assert done.returncode == 1
    assert '-  "refusal": "another"' in done.stdout
    assert "1 cases, 1 failed" in done.stdout
    (tmp_path / "cases.json").write_text('{"no": "list"}')
    assert run(tmp_path, "destination", "test", "keen", "cases.json").returncode == 2


def test_new_makes_no_package_twice(tmp_path: Path) -> None:
    assert run(tmp_path, "destination", "new", "Acme").returncode == 0
    assert (tmp_path / "acme" / "pyproject.toml").is_file()
    again = run(tmp_path, "destination", "new", "acme")
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert run(tmp_path, "destination", "new", "../acme").returncode == 2


async def test_verify_sends_a_canary(tmp_path: Path) -> None:
    async with Sink() as sink:
        (tmp_path / "w.yaml").write_text(WORKSPACE % (sink.url, tmp_path))
        base = ("destination", "verify", "hook", "--workspace", "w.yaml", "--data-dir", "data")
        env = {"MAINSTEM_ALLOW_PRIVATE_DESTINATIONS": "true"}
        done = await asyncio.to_thread(run, tmp_path, *base, **env)
        assert (done.returncode, done.stderr) == (0, "")
        [request] = sink.requests
        assert request.json()["userId"] == "mainstem-canary"
        assert "s3cr3t-s3cr3t" not in done.stdout
        assert "unverifiable" in done.stdout
        dry = await asyncio.to_thread(run, tmp_path, *base, "--no-send", "--json", **env)
        assert [json.loads(line)["level"] for line in dry.stdout.splitlines()][-1] == "skipped"
        assert len(sink.requests) == 1
        guarded = await asyncio.to_thread(run, tmp_path, *base)
        assert guarded.returncode == 1
        assert "address refused" in guarded.stdout
    for archive, place in (("files", "/archive"), ("table", "table archive.events")):
        found = await asyncio.to_thread(
            run, tmp_path, "destination", "verify", archive, "--workspace", "w.yaml", "--data-dir", "data"
        )
        assert found.returncode == 0, found.stderr
        assert f"{place} can be written" in found.stdout
