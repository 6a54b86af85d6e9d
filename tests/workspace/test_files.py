"""A real file, watched: reloads, refusals, the last good copy."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from mainstem.clock import SystemClock
from mainstem.telemetry.metrics import REGISTRY
from mainstem.workspace.errors import WorkspaceInvalid, WorkspaceUnavailable
from mainstem.workspace.files import FileSource
from mainstem.workspace.last_good import write_private
from mainstem.workspace.model import Workspace
from tests.workspace.published_folder import publish
from tests.workspace.support import CHECKS, document


def source(path: Path, state: Path, **env: str) -> FileSource:
    return FileSource(
        path, env=env, checks=CHECKS, clock=SystemClock(), state_dir=state, poll_interval_s=0.01
    )


def count(result: str) -> float:
    return REGISTRY.get_sample_value("mainstem_workspace_reloads_total", {"result": result}) or 0.0


async def until_counted(result: str, beyond: float) -> None:
    async with asyncio.timeout(20):
        while count(result) <= beyond:
            await asyncio.sleep(0.005)


async def following(changes: AsyncIterator[Workspace]) -> Workspace:
    async with asyncio.timeout(20):
        return await anext(changes)


async def test_a_changed_file_is_a_new_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(document())
    files = source(path, tmp_path / "state")
    assert (await files.current()).id == "acme"
    changes = files.changes()
    path.write_text(document("second"))
    assert (await following(changes)).id == "second"
    swapped = tmp_path / "fresh"
    swapped.write_text(document("third"))
    swapped.replace(path)
    assert (await following(changes)).id == "third"
    await files.close()
    with pytest.raises(StopAsyncIteration):
        await following(changes)


async def test_a_change_between_current_and_changes_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(document())
    files = source(path, tmp_path)
    await files.current()
    path.write_text(document("second"))
    assert (await following(files.changes())).id == "second"


async def test_a_broken_file_keeps_the_snapshot_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(document())
    files = source(path, tmp_path)
    await files.current()
    changes = files.changes()
    waiting = asyncio.ensure_future(following(changes))
    refused, unavailable = count("refused"), count("unavailable")
    with structlog.testing.capture_logs() as logs:
        path.write_text("workspace: {id: w}\nsurces: []\npassword: s3cret\n")
        await until_counted("refused", refused)
        path.unlink()
        await until_counted("unavailable", unavailable)
        assert not waiting.done()
        path.write_text(document("mended"))
        assert (await waiting).id == "mended"
    told = [entry for entry in logs if entry["event"] == "workspace problem"]
    assert [(entry["path"], entry["log_level"]) for entry in told] == [
        ("surces (line 2)", "error"),
        ("password (line 3)", "error"),
    ]
    assert "s3cret" not in str(logs)
    assert count("refused") == refused + 1
    assert count("unavailable") == unavailable + 1


async def test_new_comments_are_no_new_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(document())
    files = source(path, tmp_path)
    await files.current()
    changes = files.changes()
    applied = count("applied")
    waiting = asyncio.ensure_future(following(changes))
    path.write_text("# only a comment\n" + document())
    saved = next(tmp_path.glob("workspace-*.json"))
    before = saved.stat().st_ino
    async with asyncio.timeout(20):
        while saved.stat().st_ino == before:
            await asyncio.sleep(0.005)
    path.write_text(document("second"))
    assert (await waiting).id == "second"
    assert count("applied") == applied + 1


async def test_at_start_a_broken_file_gives_way_to_the_last_good_copy(tmp_path: Path) -> None:
    path, state = tmp_path / "w.yaml", tmp_path / "state"
    path.write_text(document().replace("web-key", "'${KEY}'"))
    await source(path, state, KEY="s3cret-key").current()
    (copy,) = state.iterdir()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert b"s3cret" not in copy.read_bytes()
    for broken in ("workspace: [", None):
        if broken is None:
            path.unlink()
        else:
            path.write_text(broken)
        with structlog.testing.capture_logs() as logs:
            workspace = await source(path, state, KEY="s3cret-key").current()
        assert workspace.sources[0].write_keys == ("s3cret-key",)
        assert any("LAST GOOD COPY" in entry["event"] for entry in logs)


async def test_at_start_without_a_copy_the_error_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    with pytest.raises(WorkspaceUnavailable, match="No such file"):
        await source(path, tmp_path).current()
    path.write_text("workspace: [")
    with pytest.raises(WorkspaceInvalid):
        await source(path, tmp_path).current()
    path.write_text(document().replace("web-key", "'${KEY}'"))
    await source(path, tmp_path, KEY="k").current()
    with pytest.raises(WorkspaceInvalid, match="KEY is not set"):
        await source(path, tmp_path).current()


async def test_the_copy_of_another_file_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(document())
    await source(path, tmp_path).current()
    with pytest.raises(WorkspaceUnavailable):
        await source(tmp_path / "other.yaml", tmp_path).current()


async def test_a_damaged_copy_is_as_none(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(document())
    await source(path, tmp_path).current()
    (copy,) = tmp_path.glob("workspace-*.json")
    copy.write_bytes(copy.read_bytes()[:-20])
    path.unlink()
    with pytest.raises(WorkspaceUnavailable):
        await source(path, tmp_path).current()


async def test_a_copy_that_cannot_be_saved_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(document())
    (tmp_path / "file").write_text("")
    assert (await source(path, tmp_path / "file" / "state").current()).id == "acme"


def test_a_private_file_is_replaced_whole_or_not(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "f"
    write_private(path, b"one")
    write_private(path, b"two")
    with pytest.raises(FileExistsError):
        write_private(path, b"three", replace=False)
    assert path.read_bytes() == b"two"
    assert [item.name for item in path.parent.iterdir()] == ["f"]


TRANSFORMED = document().replace("to: hook}", "to: hook, transformations: [mask]}") + (
    "transformations: [{name: mask, folder: transformations/mask}]\n"
)


def codes(workspace: Workspace) -> list[str]:
    return [f"{item.id} {item.code}" for item in workspace.transformations]


async def test_a_version_published_beside_the_file_is_a_new_snapshot(tmp_path: Path) -> None:
    folder = tmp_path / "transformations" / "mask"
    publish(folder, 1, "// one")
    path = tmp_path / "w.yaml"
    path.write_text(TRANSFORMED)
    files = source(path, tmp_path / "state")
    first = await files.current()
    assert codes(first) == ["mask@1 // one"]
    changes = files.changes()
    waiting = asyncio.ensure_future(following(changes))
    publish(tmp_path / "made", 2, "// two").rename(folder / "versions" / "2")
    second = await waiting
    assert codes(second) == ["mask@2 // two"]
    assert second.version != first.version
    refused = count("refused")
    waiting = asyncio.ensure_future(following(changes))
    code = folder / "versions" / "2" / "code.js"
    code.write_text("// edited")
    await until_counted("refused", refused)
    assert not waiting.done()
    code.write_text("// two")  # as it was: nothing new
    path.write_text(TRANSFORMED.replace("[mask]", "[mask@1]"))
    assert codes(await waiting) == ["mask@1 // one"]


async def test_the_last_good_copy_holds_the_code_too(tmp_path: Path) -> None:
    folder = tmp_path / "transformations" / "mask"
    place = publish(folder, 1, "// one")
    path = tmp_path / "w.yaml"
    path.write_text(TRANSFORMED)
    await source(path, tmp_path / "state").current()
    (place / "code.js").write_text("// edited")
    assert codes(await source(path, tmp_path / "state").current()) == ["mask@1 // one"]
    path.unlink()
    folder.rename(tmp_path / "gone")
    assert codes(await source(path, tmp_path / "state").current()) == ["mask@1 // one"]


async def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(document())
    files = source(path, tmp_path / "state")
    await files.current()
    waiting = asyncio.ensure_future(following(files.changes()))
    refused = count("refused")
    text = TRANSFORMED.replace("folder: transformations/mask", "file: code/mask.js")
    path.write_text(text)
    await until_counted("refused", refused)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mask.js").write_text("// here")
    assert [item.code for item in (await waiting).transformations] == ["// here"]
