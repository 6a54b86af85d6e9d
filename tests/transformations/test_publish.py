"""Publishing: cases first, versions whole and for ever."""

import asyncio
import json
from pathlib import Path

import pytest

from mainstem.clock import FixedClock
from mainstem.errors import MainstemError
from mainstem.transformations.cases import Run, Verdict, runner
from mainstem.transformations.folder import open_draft, scaffold, versions_of
from mainstem.transformations.publish import NotPublished, Publication, publish
from mainstem.workspace.beside import FolderBeside
from mainstem.workspace.errors import VersionRefused
from mainstem.workspace.published import read_published
from tests.transformations.plain_runtime import PlainRuntime
from tests.workspace.support import document, parse

RUN: Run = runner(PlainRuntime())


async def published(folder: Path, now_ms: int = 0, run: Run = RUN) -> Publication:
    return await publish(open_draft(folder), run, {}, FixedClock(now_ms))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scaffold(tmp_path / "transformations", "mask", "python")
    return tmp_path / "transformations" / "mask"


async def test_a_draft_becomes_the_next_version_and_the_workspace_runs_it(folder: Path) -> None:
    assert await published(folder, 1_790_000_000_000) == Publication(1, True, 2)
    text = document().replace("to: hook}", "to: hook, transformations: [mask]}")
    text += "transformations: [{name: mask, folder: transformations/mask}]\n"
    (first,) = parse(text, FolderBeside(folder.parents[1])).workspace.transformations
    assert (first.id, first.code) == ("mask@1", (folder / "code.py").read_text())
    manifest = json.loads((folder / "versions" / "1" / "version.json").read_text())
    assert (manifest["published_at"], manifest["cases"]) == ("2026-09-21T14:13:20.000Z", 2)
    (folder / "code.py").write_text((folder / "code.py").read_text() + "# more\n")
    assert await published(folder) == Publication(2, True, 2)
    (second,) = parse(text, FolderBeside(folder.parents[1])).workspace.transformations
    assert (second.id, second.code) == ("mask@2", first.code + "# more\n")
    assert versions_of(folder) == (1, 2)
    assert not list((folder / "versions").glob(".*"))


async def test_the_same_again_is_nothing(folder: Path) -> None:
    await published(folder)
    assert await published(folder) == Publication(1, False, 2)
    (folder / "transformation.yaml").write_text("settings: {a: 1}\n")
    assert await published(folder) == Publication(2, True, 2)
    (folder.parent / "libraries").mkdir()
    library = folder.parent / "libraries" / "math.py"
    library.write_text("x = 1\n")
    (folder / "code.py").write_text("import math\n" + (folder / "code.py").read_text())
    assert (await published(folder)).version == 3
    library.write_text("x = 2\n")
    assert (await published(folder)).version == 4
    kept = read_published(FolderBeside(folder), ".", 3)
    assert [(each.name, each.code) for each in kept.libraries] == [("math", "x = 1\n")]


async def test_cases_that_fail_publish_nothing(folder: Path) -> None:
    (folder / "code.py").write_text("def transformEvent(event, metadata): return None\n")
    told: list[Verdict] = []
    with pytest.raises(NotPublished, match="mask: 2 of 2 cases fail, first 'the e-mail address is masked'"):
        await publish(open_draft(folder), RUN, {}, FixedClock(), told.append)
    assert [verdict.passed for verdict in told] == [False, False]
    assert not (folder / "versions").exists()
    (folder / "cases" / "examples.json").unlink()
    with pytest.raises(NotPublished, match="has no cases"):
        await published(folder)


async def test_a_version_that_was_edited_stops_the_next(folder: Path) -> None:
    await published(folder)
    code = folder / "versions" / "1" / "code.py"
    assert code.stat().st_mode & 0o222 == 0
    code.chmod(0o644)
    code.write_text("# edited\n")
    with pytest.raises(VersionRefused, match="was changed after it was published"):
        await published(folder)


async def test_of_two_at_once_one_wins(folder: Path) -> None:
    both = asyncio.Barrier(2)

    async def together(*arguments: object) -> object:
        found = await RUN(*arguments)  # type: ignore[arg-type]
        await both.wait()
        return found

    tries = [published(folder, run=together) for _ in range(2)]  # type: ignore[arg-type]
    ended = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(each).__name__ for each in ended) == ["NotPublished", "Publication"]
    assert "by somebody else just now" in str(next(each for each in ended if isinstance(each, MainstemError)))
    assert versions_of(folder) == (1,)
    assert not list((folder / "versions").glob(".*"))


async def test_a_ready_made_one_is_published_with_its_settings(tmp_path: Path) -> None:
    scaffold(tmp_path, "few", "ready", "sample_users")
    (tmp_path / "few" / "transformation.yaml").write_text("ready: sample_users\nsettings: {percent: 100}\n")
    (tmp_path / "few" / "cases" / "examples.json").write_text(
        '{"name": "a", "input": {"userId": "u"}, "output": {"userId": "u"}}'
    )
    assert await published(tmp_path / "few") == Publication(1, True, 1)
    kept = read_published(FolderBeside(tmp_path), "few", 1)
    assert (kept.manifest.kind, kept.manifest.ready, kept.manifest.settings) == (
        "ready",
        "sample_users",
        {"percent": 100},
    )
