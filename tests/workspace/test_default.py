"""The first start's workspace, and opening a location."""

from pathlib import Path

import pytest

from mainstem.clock import SystemClock
from mainstem.secret import Secret
from mainstem.workspace.control_plane import ControlPlane
from mainstem.workspace.default import create_default_workspace, new_write_key
from mainstem.workspace.errors import WorkspaceInvalid
from mainstem.workspace.files import FileSource
from mainstem.workspace.model import WorkspaceSource
from mainstem.workspace.open import open_workspace
from mainstem.workspace.yaml_file import format_document
from tests.workspace.support import CHECKS, parse


def opened(location: str, data_dir: Path) -> WorkspaceSource:
    return open_workspace(
        location, env={}, data_dir=data_dir, checks=CHECKS, clock=SystemClock(), token=Secret("t")
    )


def test_a_write_key_has_the_form_of_a_cuid() -> None:
    keys = {new_write_key() for _ in range(200)}
    assert len(keys) == 200
    assert all(len(key) == 25 and key[0] == "c" and key.isalnum() and key == key.lower() for key in keys)


async def test_the_default_workspace_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "data" / "workspace.yaml"
    made = create_default_workspace(path)
    assert made is not None
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.write_key not in repr(made)
    parsed = parse(text)
    assert parsed.warnings == ()
    (source,), (archive,) = parsed.workspace.sources, parsed.workspace.destinations
    assert source.write_keys == (made.write_key,)
    assert (archive.type, archive.raw_config) == ("ARCHIVE", {"url": "archive"})
    assert [(item.source_id, item.destination_id) for item in parsed.workspace.connections] == [
        (source.id, archive.id)
    ]
    assert format_document(text) == text
    assert create_default_workspace(path) is None
    assert path.read_text() == text


def test_the_suggested_destination_is_right_once_uncommented(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    create_default_workspace(path)
    lines = path.read_text().splitlines()
    start = lines.index("  # - id: hook")
    end = lines.index("connections:")
    lines[start:end] = [line.replace("  # ", "  ", 1) for line in lines[start:end]]
    filters = lines.index("    # filters:")
    lines[filters:] = [line.replace("    # ", "    ", 1) for line in lines[filters:]]
    parsed = parse("\n".join(lines).replace("[archive]", "[archive, hook]"), HOOK_TOKEN="t")
    assert [item.id for item in parsed.workspace.destinations] == ["archive", "hook"]
    assert all(item.filters[0].name == "only-orders" for item in parsed.workspace.connections)


async def test_a_location_is_a_file_or_an_url(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    create_default_workspace(path)
    for location in (str(path), f"file:{path}", f"file://{path}"):
        source = opened(location, tmp_path / "data")
        assert isinstance(source, FileSource)
        assert (await source.current()).id == "default"
    assert len(list((tmp_path / "data" / "workspace").iterdir())) == 1
    assert isinstance(opened("https://cp.example/workspaceConfig", tmp_path), ControlPlane)
    with pytest.raises(WorkspaceInvalid):
        opened("https://user:pw@cp.example/", tmp_path)
