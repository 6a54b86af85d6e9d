"""Transformations on disk: drafts, what is wrong with them, new ones."""

from pathlib import Path

import pytest

from mainstem.secret import Secret
from mainstem.transformations.cases import read_cases, run_cases, runner
from mainstem.transformations.folder import (
    DraftDocument,
    FolderInvalid,
    draft_transformation,
    folders_in,
    open_draft,
    scaffold,
    versions_of,
)
from mainstem.transformations.ready import catalog
from tests.transformations.plain_runtime import PlainRuntime


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_draft_is_code_with_what_it_imports(tmp_path: Path) -> None:
    write(
        tmp_path,
        mask__code_dot_js="import { day } from 'dates'\nexport const transformEvent = day\n",
        mask__transformation_dot_yaml="description: Days\nsettings: {a: '${KEY}'}\ncode_version: '1'\n",
        libraries__dates_dot_js="export const day = (event) => event\n",
        libraries__other_dot_js="",
        libraries__dates_dot_py="",
    )
    draft = open_draft(tmp_path / "mask")
    assert (draft.name, draft.kind, draft.document.description) == ("mask", "javascript", "Days")
    assert [(library.name, library.language) for library in draft.libraries] == [("dates", "javascript")]
    made = draft_transformation(draft, {"KEY": "s3cret"}, {"b": 1})
    assert (made.id, made.settings) == ("mask@draft", {"a": Secret("s3cret"), "b": 1})
    assert open_draft(tmp_path / "mask" / "code.js") == draft
    with pytest.raises(FolderInvalid, match="environment variable KEY is not set"):
        draft_transformation(draft, {})
    assert folders_in(tmp_path) == [tmp_path / "mask"]
    assert versions_of(tmp_path / "mask") == ()


def test_a_file_alone_is_a_draft(tmp_path: Path) -> None:
    write(tmp_path, days_dot_py="def transformEvent(event, metadata): ...\n", other_dot_py="")
    draft = open_draft(tmp_path / "days.py")
    assert (draft.name, draft.kind, draft.document) == ("days", "python", DraftDocument())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "there is no such file or folder"),
        ({"mask__readme_dot_md": ""}, "neither code.js nor code.py"),
        ({"mask__code_dot_js": "", "mask__code_dot_py": ""}, "both code.js and code.py"),
        (
            {"mask__code_dot_js": "", "mask__transformation_dot_yaml": "ready: drop_bots"},
            "code.js: .*transformation.yaml says it is the ready-made 'drop_bots'",
        ),
        (
            {"mask__code_dot_js": "import x from 'dat'", "libraries__dates_dot_js": ""},
            "imports 'dat', which is not in .*; did you mean 'dates'?",
        ),
        ({"mask__code_dot_js": "x" * 1_100_000}, "code.js: is longer than 1048576 bytes"),
        (
            {"mask__code_dot_js": "", "mask__transformation_dot_yaml": "setings: {}"},
            "did you mean 'settings'?",
        ),
        ({"mask__code_dot_js": "", "mask__transformation_dot_yaml": "a: ["}, "is not YAML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(FolderInvalid, match=expected):
        open_draft(tmp_path / "mask")


def test_code_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "code.js").write_bytes(b"// \xe4")
    with pytest.raises(FolderInvalid, match="is not UTF-8 text"):
        open_draft(tmp_path / "code.js")
    (tmp_path / "code.rb").write_text("")
    with pytest.raises(FolderInvalid, match=r"ends in \.js or \.py"):
        open_draft(tmp_path / "code.rb")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ready: drop_botz", "there is no ready-made transformation 'drop_botz'; did you mean 'drop_bots'?"),
        ("ready: sample_users\nsettings: {percnt: '${KEY}'}", "settings.percnt: "),
    ],
)
def test_ready_made_settings_are_checked_without_showing_secrets(
    tmp_path: Path, text: str, expected: str
) -> None:
    draft = open_draft(write(tmp_path, mask__transformation_dot_yaml=text) / "mask")
    with pytest.raises(FolderInvalid, match=expected) as raised:
        draft_transformation(draft, {"KEY": "s3cret-value"})
    assert "s3cret-value" not in str(raised.value)


# ---------------------------------------------------------------- new ones


@pytest.mark.parametrize("name", catalog.names())
async def test_a_new_ready_made_one_passes_its_cases(tmp_path: Path, name: str) -> None:
    paths = scaffold(tmp_path, "mine", "ready", name)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "mine/transformation.yaml",
        "mine/cases/examples.json",
    ]
    draft = open_draft(tmp_path / "mine")
    cases = read_cases(draft)
    verdicts = [verdict async for verdict in run_cases(draft, cases, runner(PlainRuntime()), {})]
    assert cases
    assert [verdict.problem for verdict in verdicts if not verdict.passed] == []


async def test_new_python_code_passes_its_cases(tmp_path: Path) -> None:
    scaffold(tmp_path, "mask", "python")
    draft = open_draft(tmp_path / "mask")
    verdicts = [each async for each in run_cases(draft, read_cases(draft), runner(PlainRuntime()), {})]
    assert [(each.passed, each.problem) for each in verdicts] == [(True, ""), (True, "")]


def test_a_new_one_overwrites_nothing(tmp_path: Path) -> None:
    scaffold(tmp_path, "mask", "javascript")
    assert open_draft(tmp_path / "mask").kind == "javascript"
    for name, expected in (("mask", "is there already"), ("../x", "is no name"), ("libraries", "is no name")):
        with pytest.raises(FolderInvalid, match=expected):
            scaffold(tmp_path, name, "python")
    with pytest.raises(FolderInvalid, match="there is no ready-made transformation"):
        scaffold(tmp_path, "other", "ready", "nonsense")
    assert not (tmp_path / "other").exists()
