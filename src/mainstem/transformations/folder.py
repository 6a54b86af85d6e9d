"""A transformation on disk, as people write it, and the new ones they begin with.

    transformations/
      NAME/
        code.js                or code.py; none when it is ready-made
        transformation.yaml    optional: description, settings, ready-made one, code version
        cases/*.json           or cases.jsonl: inputs, and what has to come out (`cases.py`)
        versions/3/…           published, never changed again (`publish.py`, `workspace/published.py`)
      libraries/NAME.js        what the code of all of them may import

What lies beside `versions` is a draft: only `mainstem transformation test` runs it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from mainstem.errors import SettingsError
from mainstem.transformations.ready import catalog
from mainstem.workspace.beside import MAX_FILE_BYTES, FolderBeside
from mainstem.workspace.decode import decode
from mainstem.workspace.document import is_id
from mainstem.workspace.errors import WorkspaceInvalid
from mainstem.workspace.imports import libraries_of, not_there
from mainstem.workspace.model import CodeLibrary, Transformation
from mainstem.workspace.published import LIBRARIES, SUFFIXES, Language, code_file, published_versions
from mainstem.workspace.report import Report, nearest
from mainstem.workspace.tree import parse_yaml, resolve_references

ROOT: Final = "transformations"
"""The folder of all of them, beside the workspace document."""
DOCUMENT: Final = "transformation.yaml"
CASES_FOLDER: Final = "cases"
CASES_FILE: Final = "cases.jsonl"
DRAFT: Final = "draft"
"""The version of what is not published."""


class FolderInvalid(SettingsError):
    """A transformation on disk can't be used; the text names the file."""


class DraftDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What `transformation.yaml` holds."""

    description: str = ""
    """For people."""
    ready: str = ""
    """The name of a ready-made transformation, in place of code."""
    settings: dict[str, Any] = {}
    """Of the ready-made one, or what Segment's functions get as `settings`. `${NAME}` stays a reference until the
    workspace is loaded."""
    code_version: Literal["0", "1"] = "1"
    """`0`: RudderStack's legacy JavaScript, `function transform(events)`."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A transformation as it lies on disk now."""

    name: str
    folder: Path
    kind: Literal["javascript", "python", "ready"]
    document: DraftDocument = DraftDocument()
    code: str = ""
    code_path: Path | None = None
    libraries: tuple[CodeLibrary, ...] = ()


def open_draft(place: Path) -> Draft:
    """Return the draft in a folder, or of one file of code (its cases lie beside it).

    Raises:
        FolderInvalid: there is none, or it can't be used.
    """
    if place.is_file():
        language = _language_of(place)
        folder, paths = place.parent, [place]
        name = place.parent.name if place.name == code_file(language) else place.stem
    elif place.is_dir():
        folder, name = place, place.resolve().name
        paths = [
            folder / code_file(language)
            for language in _LANGUAGES
            if (folder / code_file(language)).is_file()
        ]
    else:
        raise FolderInvalid(f"{place}: there is no such file or folder")
    document = _document(folder / DOCUMENT)
    if document.ready:
        if paths:
            raise FolderInvalid(
                f"{paths[0]}: {folder / DOCUMENT} says it is the ready-made {document.ready!r}"
            )
        return Draft(name=name, folder=folder, kind="ready", document=document)
    if len(paths) != 1:
        what = "both code.js and code.py" if paths else "neither code.js nor code.py, and no ready-made one"
        raise FolderInvalid(f"{folder}: has {what}")
    language = _language_of(paths[0])
    code = _text(paths[0])
    known = _libraries(folder.parent / LIBRARIES)
    libraries = libraries_of(code, language, known)
    if missing := not_there(code, language, libraries):
        hint = nearest(missing[0], [library.name for library in known])
        raise FolderInvalid(
            f"{paths[0]}: imports {missing[0]!r}, which is not in {folder.parent / LIBRARIES}{hint}"
        )
    return Draft(
        name=name,
        folder=folder,
        kind=language,
        document=document,
        code=code,
        code_path=paths[0],
        libraries=libraries,
    )


def draft_transformation(
    draft: Draft, env: Mapping[str, str], settings: Mapping[str, Any] | None = None
) -> Transformation:
    """Return what the draft would be in a snapshot, with id `NAME@draft`; it reaches no host.

    Args:
        env: answers `${NAME}` in its settings.
        settings: on top of the draft's own.

    Raises:
        FolderInvalid: its settings are wrong, or refer to a variable that is not set.
    """
    given = draft.document.settings | dict(settings or {})
    report = Report(str(draft.folder / DOCUMENT))
    resolved: Any = resolve_references(given, env, report, ("settings",))
    try:
        report.raise_if_failed()
    except WorkspaceInvalid as error:
        raise FolderInvalid(str(error)) from None
    if draft.kind == "ready":
        if catalog.find_spec(draft.document.ready) is None:
            hint = nearest(draft.document.ready, catalog.names())
            raise FolderInvalid(
                f"{draft.folder / DOCUMENT}: there is no ready-made transformation {draft.document.ready!r}{hint}"
            )
        checked = catalog.validate_settings(draft.document.ready, resolved)
        if checked.errors:
            told = "; ".join(f"settings.{path}: {text}" for path, text in checked.errors)
            raise FolderInvalid(f"{draft.folder / DOCUMENT}: {report.clean(told)}")
        resolved = checked.config
    return Transformation(
        id=f"{draft.name}@{DRAFT}",
        name=draft.name,
        version=DRAFT,
        kind=draft.kind,
        code=draft.code,
        code_version=draft.document.code_version,
        libraries=draft.libraries,
        ready=draft.document.ready,
        settings=resolved,
        geolocation=True,
    )


def versions_of(folder: Path) -> tuple[int, ...]:
    """Return the numbers of the published versions, lowest first."""
    return published_versions(FolderBeside(folder), ".")


def folders_in(root: Path) -> list[Path]:
    """Return the folders of transformations, sorted by name; none if there is no such root."""
    if not root.is_dir():
        return []
    return sorted(
        path for path in root.iterdir() if path.is_dir() and path.name != LIBRARIES and is_id(path.name)
    )


def scaffold(
    root: Path, name: str, kind: Literal["javascript", "python", "ready"], ready: str = ""
) -> list[Path]:
    """Make a new transformation with a case that passes; return the files.

    Raises:
        FolderInvalid: the name is none, or is taken; there is no such ready-made one.
        OSError: the disk refuses.
    """
    if not is_id(name) or name == LIBRARIES:
        raise FolderInvalid(f"{name!r} is no name: letters, digits, '.', '_', '-', and not {LIBRARIES!r}")
    folder = root / name
    if folder.exists():
        raise FolderInvalid(f"{folder}: is there already")
    files = _new_ready(ready) if kind == "ready" else _NEW[kind]
    (folder / CASES_FOLDER).mkdir(parents=True)
    for path, text in files.items():
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in files]


def _document(path: Path) -> DraftDocument:
    if not path.exists():
        return DraftDocument()
    try:
        tree, report = parse_yaml(_text(path), str(path))
        decoded = decode(DraftDocument, {} if tree.value is None else tree.value, report)
        report.raise_if_failed()
    except WorkspaceInvalid as error:
        raise FolderInvalid(str(error)) from None
    found = decoded[()]
    assert isinstance(found, DraftDocument)  # noqa: S101 - the whole document, and no error
    return found


def _libraries(folder: Path) -> list[CodeLibrary]:
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.rglob("*")):
        language = next((name for name in _LANGUAGES if path.name.endswith(SUFFIXES[name])), None)
        if language is not None and path.is_file():
            name = path.relative_to(folder).as_posix().removesuffix(SUFFIXES[language])
            found.append(CodeLibrary(name=name, code=_text(path), language=language))
    return found


_LANGUAGES: Final[tuple[Language, ...]] = ("javascript", "python")


def _language_of(path: Path) -> Language:
    for language in _LANGUAGES:
        if path.name.endswith(SUFFIXES[language]):
            return language
    raise FolderInvalid(f"{path}: expected a file whose name ends in .js or .py, or a folder")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FolderInvalid(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise FolderInvalid(f"{path}: is longer than {MAX_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FolderInvalid(f"{path}: is not UTF-8 text") from None


# ---------------------------------------------------------------- what a new one begins with

_JAVASCRIPT: Final = """\
// Called once for each event. Return the event (changed or not) to let it go on, nothing to drop it, an array to
// make several of it. What it throws makes this event fail, and no other.
export function transformEvent(event, metadata) {
  if (event.context?.traits?.email) {
    event.context.traits.email = "***";
  }
  return event;
}
"""
_PYTHON: Final = '''\
def transformEvent(event, metadata):
    """Called once for each event.

    Return the event (changed or not) to let it go on, None to drop it, a list to make several of it. What it
    raises makes this event fail, and no other.
    """
    traits = event.get("context", {}).get("traits", {})
    if traits.get("email"):
        traits["email"] = "***"
    return event
'''
_CASES: Final = """\
[
  {
    "name": "the e-mail address is masked",
    "input": {"type": "track", "event": "Signed Up", "context": {"traits": {"email": "jane@example.com"}}},
    "output": {"type": "track", "event": "Signed Up", "context": {"traits": {"email": "***"}}}
  },
  {
    "name": "an event without one stays as it is",
    "input": {"type": "page", "name": "Home"},
    "output": {"type": "page", "name": "Home"}
  }
]
"""
_NEW: Final[Mapping[str, Mapping[str, str]]] = {
    "javascript": {"code.js": _JAVASCRIPT, f"{CASES_FOLDER}/examples.json": _CASES},
    "python": {"code.py": _PYTHON, f"{CASES_FOLDER}/examples.json": _CASES},
}


_UNCHANGED: Final[Mapping[str, Any]] = {
    "name": "an event that has nothing of it stays as it is",
    "input": {"type": "track", "event": "Example", "userId": "u1"},
    "output": {"type": "track", "event": "Example", "userId": "u1"},
}


def _new_ready(name: str) -> dict[str, str]:
    """Return a ready-made one with the settings and the first example of its own reference."""
    # Reads every ready-made one's cases' module; nobody but a new scaffold needs it.
    from mainstem.transformations.ready.reference import cases_of

    if catalog.find_spec(name) is None:
        raise FolderInvalid(f"there is no ready-made transformation {name!r}{nearest(name, catalog.names())}")
    cases = cases_of(name)
    # What depends on the operator's GeoIP database, or fails, is no place to begin.
    plain = [case for case in cases if not case.geo and not case.failed]
    chosen = (plain or cases)[0].settings
    examples: list[Mapping[str, Any]] = []
    for case in plain:
        if case.settings == chosen:
            output: Any = case.output[0] if len(case.output) == 1 else case.output
            expected = {"output": output} if case.output else {"dropped": True}
            examples.append({"name": case.name, "input": case.input} | expected)
    # JSON is YAML.
    lines = "".join(f"  {key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in chosen.items())
    settings = f"\n{lines}" if lines else " {}\n"
    document = f"description: {name} as we want it\nready: {name}\nsettings:{settings}"
    written = json.dumps(examples or [_UNCHANGED], indent=2, ensure_ascii=False) + "\n"
    return {DOCUMENT: document, f"{CASES_FOLDER}/examples.json": written}
