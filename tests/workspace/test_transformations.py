"""Transformations of the workspace document: names become exact versions, mistakes are told with their place."""

from pathlib import Path

import msgspec
import pytest

from mainstem.secret import Secret
from mainstem.workspace.beside import NOTHING_BESIDE, FolderBeside, inside
from mainstem.workspace.content import content_version
from mainstem.workspace.export import export_yaml
from mainstem.workspace.imports import imported
from mainstem.workspace.model import CodeLibrary, Transformation, TransformationLimits
from mainstem.workspace.tree import parse_yaml
from mainstem.workspace.yaml_file import format_document
from tests.workspace.published_folder import publish
from tests.workspace.support import MaskConfig, document, parse, problems

CODE = "export function transformEvent(event) {\n  event.note = `${event.userId}`\n  return event\n}\n"


def doc(transformations: str, uses: str = "[mask]", more: str = "") -> str:
    """The document with one connection that uses these."""
    base = document().replace("to: hook}", f"to: hook, transformations: {uses}}}")
    return f"{base}transformations:\n{transformations}{more}"


def made(text: str, beside: FolderBeside | None = None, **env: str) -> tuple[Transformation, ...]:
    return parse(text, beside or NOTHING_BESIDE, **env).workspace.transformations


def inline(name: str = "mask", more: str = "") -> str:
    code = "".join(f"      {line}\n" for line in CODE.splitlines())
    return f"  - name: {name}\n    language: javascript\n    code: |\n{code}{more}"


# ---------------------------------------------------------------- what there can be


def test_inline_code_is_a_version_of_its_content_and_its_dollar_braces_are_code() -> None:
    more = (
        "    credentials: {KEY: '${KEY}', plain: text}\n    allow_hosts: [api.example.com, '*.example.org']\n"
        "    geolocation: true\n    seeded: false\n    limits: {timeout_s: 1, batch_events: 10}\n"
        "    settings: {a: 1}\n    code_version: '0'\n"
    )
    workspace = parse(doc(inline(more=more)), KEY="s3cret-key").workspace
    (found,) = workspace.transformations
    assert found == Transformation(
        id=f"mask@{found.version}",
        name="mask",
        version=found.version,
        kind="javascript",
        code=CODE,
        code_version="0",
        settings={"a": 1},
        credentials={"KEY": Secret("s3cret-key"), "plain": Secret("text")},
        allow_hosts=("api.example.com", "*.example.org"),
        geolocation=True,
        seeded=False,
        limits=TransformationLimits(timeout_s=1.0, batch_events=10),
    )
    assert len(found.version) == 12
    assert workspace.connections[0].transformations == (found.id,)
    assert workspace.transformation(found.id) is found
    changed = parse(doc(inline(more=more)).replace("event.note", "event.rest"), KEY="s3cret-key").workspace
    assert changed.transformations[0].version != found.version


def test_a_ready_made_one_has_its_settings_checked_and_runs_at_the_edge() -> None:
    text = doc("  - {name: mask, version: 2, ready: mask, settings: {keys: [email], salt: '${SALT}'}}\n")
    text = text.replace("write_key: web-key", "write_key: web-key, edge: [mask]")
    text = text.replace("type: webhook,", "type: webhook, transformations: [mask@2],")
    workspace = parse(text, SALT="s4lt-s4lt").workspace
    (found,) = workspace.transformations
    assert (found.id, found.kind, found.ready) == ("mask@2", "ready", "mask")
    assert found.settings == MaskConfig(keys=("email",), salt=Secret("s4lt-s4lt"))
    assert workspace.sources[0].edge == ("mask@2",)
    assert workspace.destinations[0].transformations == ("mask@2",)
    assert workspace.connections[0].transformations == ("mask@2",)
    assert "s4lt" not in repr(workspace)


def test_a_file_is_read_with_the_libraries_it_imports(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mask.py").write_text("from dates import day\nimport re, math\n")
    (tmp_path / "code" / "dates.py").write_text("import zones\ndef day(): ...\n")
    libraries = (
        "libraries:\n  - {name: dates, file: code/dates.py}\n  - {name: zones, language: python, code: 'x = 1'}\n"
        "  - {name: unused, language: python, code: 'y = 1'}\n  - {name: dates, code: 'export const x = 1'}\n"
    )
    text = doc("  - {name: mask, file: code/mask.py}\n", more=libraries)
    (found,) = made(text, FolderBeside(tmp_path))
    assert found.kind == "python"
    assert [(library.name, library.language) for library in found.libraries] == [
        ("dates", "python"),
        ("zones", "python"),
    ]
    before = found.version
    (tmp_path / "code" / "dates.py").write_text("import zones\ndef day(): return 1\n")
    assert made(text, FolderBeside(tmp_path))[0].version != before


def test_the_snapshots_version_changes_with_the_code_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text(CODE)
    text = doc("  - {name: mask, version: 1, file: a.js}\n")
    first = parse(text, FolderBeside(tmp_path)).workspace
    (tmp_path / "a.js").write_text(CODE + "// changed\n")
    second = parse(text, FolderBeside(tmp_path)).workspace
    assert first.transformations[0].id == second.transformations[0].id == "mask@1"
    assert first.version != second.version


def test_only_what_is_referred_to_is_in_the_snapshot() -> None:
    text = doc(inline() + inline("other"))
    assert [item.name for item in made(text)] == ["mask"]


def test_of_several_items_of_one_name_the_name_alone_is_the_highest_version() -> None:
    items = "".join(inline(more=f"    version: {version}\n") for version in (2, 10, 9))
    (ten,) = made(doc(items))
    assert ten.id == "mask@10"
    assert [item.id for item in made(doc(items, "[mask@2, mask@10]"))] == ["mask@2", "mask@10"]


# ---------------------------------------------------------------- published versions


def test_the_name_alone_is_the_latest_published_version_and_others_can_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "transformations" / "mask"
    for version in (1, 2, 10):
        publish(folder, version, f"// {version}", settings={"depth": version, "kept": "${KEY}"})
    (folder / "versions" / ".11.tmp").mkdir()
    item = "  - {name: mask, folder: transformations/mask, settings: {depth: 7}}\n"
    latest, second = made(doc(item, "[mask, mask@2]"), FolderBeside(tmp_path), KEY="s3cret")
    assert (latest.id, latest.code) == ("mask@10", "// 10")
    assert (second.id, second.code) == ("mask@2", "// 2")
    assert latest.settings == {"depth": 7, "kept": Secret("s3cret")}
    pinned = item.replace("settings", "version: 2, settings")
    assert [found.id for found in made(doc(pinned), FolderBeside(tmp_path), KEY="s3cret")] == ["mask@2"]


def test_a_published_version_holds_its_libraries_and_a_ready_made_one_its_settings(tmp_path: Path) -> None:
    publish(tmp_path / "t", 1, "// code", libraries={"libraries/dates.js": "y"})
    publish(tmp_path / "r", 1, kind="ready", ready="mask", settings={"keys": ["a"]})
    items = "  - {name: mask, folder: t}\n  - {name: other, folder: r}\n"
    code, ready = made(doc(items, "[mask, other]"), FolderBeside(tmp_path))
    assert code.libraries == (CodeLibrary(name="dates", code="y", version="1"),)
    assert ready.settings == MaskConfig(keys=("a",))


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        (
            "code.js",
            "// edited",
            "t/versions/1/code.js was changed after it was published (2026-01-01T00:00:00.000Z)",
        ),
        ("code.js", None, "there is no file t/versions/1/code.js beside the document that can be read"),
        ("version.json", None, "there is no file t/versions/1/version.json"),
        ("version.json", "{", "t/versions/1/version.json is not what publishing wrote"),
    ],
)
def test_a_published_version_that_was_changed_is_refused(
    tmp_path: Path, file: str, text: str | None, expected: str
) -> None:
    place = publish(tmp_path / "t", 1, "// code")
    if text is None:
        (place / file).unlink()
    else:
        (place / file).write_text(text)
    (told,) = problems(doc("  - {name: mask, folder: t}\n"), FolderBeside(tmp_path))
    assert told.startswith("transformations[0].folder (line 6): ")
    assert expected in told


def test_a_manifest_that_was_edited_is_refused(tmp_path: Path) -> None:
    place = publish(tmp_path / "t", 1, kind="ready", ready="mask", settings={"keys": ["email"]})
    manifest = place / "version.json"
    manifest.write_text(manifest.read_text().replace("email", "phone"))
    (told,) = problems(doc("  - {name: mask, folder: t}\n"), FolderBeside(tmp_path))
    assert "version.json was changed after it was published" in told
    place.rename(place.with_name("2"))
    manifest = place.with_name("2") / "version.json"
    manifest.write_text(manifest.read_text().replace("phone", "email"))
    (told,) = problems(doc("  - {name: mask, folder: t}\n"), FolderBeside(tmp_path))
    assert "is of version 1, in the folder of version 2" in told


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("items", "uses", "expected"),
    [
        (
            inline(),
            "[msak]",
            "connections[0].transformations[0] (line 4): there is no transformation 'msak'; did you mean 'mask'?",
        ),
        (
            inline(more="    version: 1\n"),
            "[mask@2]",
            "connections[0].transformations[0] (line 4): there is no version '2' of 'mask'; known: 1",
        ),
        ("  - {name: mask}\n", "[mask]", "transformations[0] (line 6): does nothing; give one of"),
        (
            "  - {name: mask, code: x, ready: mask}\n",
            "[mask]",
            "transformations[0] (line 6): has code and ready",
        ),
        (
            "  - {name: mask, ready: msk}\n",
            "[]",
            "transformations[0].ready (line 6): there is no ready-made transformation 'msk'; did you mean 'mask'?",
        ),
        (
            "  - {name: mask, ready: mask, settings: {kyes: 1, salt: s3cr3t}}\n",
            "[]",
            "transformations[0].settings.kyes (line 6): no such setting; salt is ***",
        ),
        (
            "  - {name: mask, folder: nowhere}\n",
            "[mask]",
            "transformations[0].folder (line 6): there is no published version in nowhere",
        ),
        (
            "  - {name: mask, folder: ../up}\n",
            "[mask]",
            "transformations[0].folder (line 6): expected a relative path",
        ),
        (
            "  - {name: mask, folder: t, version: 4}\n",
            "[mask]",
            "transformations[0].version (line 6): there is no published version '4'; there are 1",
        ),
        ("  - {name: mask, folder: t}\n", "[mask@4]", "there is no version '4' of 'mask'; known: 1"),
        (
            "  - {name: mask, file: /etc/passwd.js}\n",
            "[]",
            "transformations[0].file (line 6): expected a relative path",
        ),
        (
            "  - {name: mask, file: code.rb}\n",
            "[]",
            "transformations[0].file (line 6): expected a file whose name ends in .js or .py",
        ),
        (
            "  - {name: mask, file: no.js}\n",
            "[]",
            "transformations[0].file (line 6): there is no file no.js beside the document",
        ),
        (
            "  - {name: mask, file: latin.js}\n",
            "[]",
            "transformations[0].file (line 6): latin.js is not UTF-8 text",
        ),
        (
            "  - {name: mask, code: x, allow_hosts: ['https://x']}\n",
            "[]",
            "transformations[0].allow_hosts[0] (line 6): expected a host name",
        ),
        (
            "  - {name: mask, code: x, credentials: {k: 1}}\n",
            "[]",
            "transformations[0].credentials.k (line 6): expected text",
        ),
        (
            "  - {name: mask, code: x, version: a b}\n",
            "[]",
            "transformations[0].version (line 6): expected 1 to 128",
        ),
        (
            "  - {name: mask, code: x, limits: {memory_mb: 1}}\n",
            "[]",
            "transformations[0].limits.memory_mb (line 6): must be at least 16",
        ),
        (
            "  - {name: mask, code: x, version: 1}\n  - {name: mask, code: y}\n",
            "[]",
            "transformations[1].version (line 7): there are 2 transformations 'mask'",
        ),
        (
            "  - {name: mask, code: \"import {f} from 'dat'\"}\n",
            "[]",
            "transformations[0] (line 6): imports 'dat', and there is no such library",
        ),
        (
            "  - {nam: mask, code: x}\n",
            "[mask]",
            "transformations[0].nam (line 6): is an unknown field; did you mean 'name'?",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, items: str, uses: str, expected: str) -> None:
    publish(tmp_path / "t", 1)
    (tmp_path / "latin.js").write_bytes(b"// \xe4")
    told = problems(doc(items, uses), FolderBeside(tmp_path))
    assert any(expected in line for line in told), told
    assert len(told) == len(set(told))
    assert "s3cr3t" not in str(told)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (inline(), "'mask' is code; only ready-made transformations run in the gateway"),
        (
            "  - {name: mask, ready: sample}\n",
            "'sample' can't run in the gateway; give it to connections instead",
        ),
    ],
)
def test_what_the_gateway_can_not_run_is_refused_at_the_edge(item: str, expected: str) -> None:
    text = doc(item, "[]").replace("write_key: web-key", "write_key: web-key, edge: [mask]")
    assert problems(text) == [f"sources[0].edge[0] (line 2): {expected}"]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("{name: x, file: a.js, code: x}", "give either `file` or `code`"),
        ("{name: 'a b', code: x}", "expected 1 to 128 characters without spaces and quotes"),
        ("{name: x, file: no.js}", "there is no file no.js"),
        ("{name: y, code: x}, {name: y, code: z}", "there are two libraries 'y'"),
    ],
)
def test_a_mistaken_library_is_told(tmp_path: Path, item: str, expected: str) -> None:
    told = problems(f"{document()}libraries: [{item}]\n", FolderBeside(tmp_path))
    assert len(told) == 1
    assert expected in told[0]


@pytest.mark.parametrize("path", ["/a", "../a", "a/../../b", "a\\b", "", ".", "a\0b"])
def test_no_path_leads_out(path: str) -> None:
    assert inside(path) is None


def test_paths_are_made_plain() -> None:
    assert inside("./a//b/") == "a/b"


@pytest.mark.parametrize(
    ("code", "language", "names"),
    [
        (
            "import { a,\n  b } from 'x';\nimport y from \"@rs/y/v1\"\nimport 'z'",
            "javascript",
            {"x", "@rs/y/v1", "z"},
        ),
        ("import {\n  a, // the a\n  b /* the b */ } from 'x'\nexport * from 'y'", "javascript", {"x", "y"}),
        ("export function f(e) {\n  // taken from 'x'\n  return e\n}", "javascript", set()),
        ("/* import a from 'x'\nimport b from 'y'\n*/", "javascript", set()),
        ("import a\n" * 2_000, "javascript", set()),
        ("// import a from 'x'\nconst s = \"import b from 'y'\"", "javascript", set()),
        ("import a, b.c as d\nfrom e.f import g\n  import h # i", "python", {"a", "b", "e", "h"}),
        ("# import a\nx = 'import b'", "python", set()),
    ],
)
def test_imports_are_read_off_the_text(code: str, language: str, names: set[str]) -> None:
    assert imported(code, language) == names


# ---------------------------------------------------------------- and out again


def test_transformations_go_out_as_yaml_and_come_back(tmp_path: Path) -> None:
    publish(
        tmp_path / "t",
        3,
        "\n      import d from 'd'\n\n    // indented\n  ",
        libraries={"libraries/d.js": "\n  export default 1"},
    )
    items = (
        "  - {name: code, folder: t, credentials: {api: '${KEY}'}, allow_hosts: [x.example], limits: {timeout_s: 2}}\n"
        "  - {name: ready, version: a1, ready: mask, settings: {keys: [email], salt: '${KEY}'}}\n"
        "  - {name: py, version: 1, language: python, code: \"x = '\\u2028'\", settings: {a: {b: '${KEY}'}}}\n"
    )
    text = doc(items, "[code, py]").replace("write_key: web-key", "write_key: web-key, edge: [ready]")
    text = text.replace("type: webhook,", "type: webhook, transformations: [ready],")
    before = parse(text, FolderBeside(tmp_path), KEY="s3cret-key").workspace
    written, variables = export_yaml(before)
    assert "s3cret" not in written
    assert "code: |2-\n" in written
    assert set(variables) == {"CODE_CREDENTIALS_API", "READY_SETTINGS_SALT", "PY_SETTINGS_A_B"}
    after = parse(written, **dict.fromkeys(variables, "s3cret-key")).workspace
    assert {item.id: item for item in after.transformations} == {
        item.id: rewritten(item) for item in before.transformations
    }
    assert (after.sources, after.connections) == (before.sources, before.connections)
    assert after.destinations[0].transformations == before.destinations[0].transformations
    assert parse_yaml(format_document(written), "w")[0].value == parse_yaml(written, "w")[0].value


def rewritten(item: Transformation) -> Transformation:
    """As it comes back: libraries get versions of their content on the way."""
    libraries = tuple(
        msgspec.structs.replace(each, version=content_version(each.code)) for each in item.libraries
    )
    return msgspec.structs.replace(item, libraries=libraries)
