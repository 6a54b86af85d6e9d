"""Transformations of our own document: from names to exact versions, with their code and checked settings.

`transformations:` says what there is; `connections`, `destinations` and `sources` refer to it by `name` (the
latest version) or `name@version`. The snapshot holds each version that something refers to. Published versions
are read from their folder and proved by their hash (`published.py`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from mainstem.secret import Secret
from mainstem.workspace.beside import MAX_FILE_BYTES, Beside, inside
from mainstem.workspace.checks import Checks, ReadyCheck
from mainstem.workspace.content import content_version
from mainstem.workspace.document import LibraryDocument, TransformationDocument, is_id
from mainstem.workspace.errors import VersionRefused
from mainstem.workspace.imports import libraries_of, not_there
from mainstem.workspace.model import CodeLibrary, Transformation
from mainstem.workspace.published import SUFFIXES, Language, published_versions, read_published
from mainstem.workspace.report import Path, Report, nearest, path_of
from mainstem.workspace.settings_check import check_settings, hide_secrets
from mainstem.workspace.tree import resolve_references

_HOST: Final = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_LIBRARY_NAME: Final = re.compile(r"[^\s'\"\\]{1,128}")


class Declared(msgspec.Struct, frozen=True):
    """An item of `transformations:` and its place."""

    path: Path
    item: TransformationDocument


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    """What one version does, wherever it came from."""

    kind: Literal["javascript", "python", "ready"]
    code: str = ""
    code_version: Literal["0", "1"] = "1"
    libraries: tuple[CodeLibrary, ...] = ()
    ready: str = ""
    settings: Mapping[str, Any] = {}


class Transformations:
    """Every transformation of a document; answers references and remembers which."""

    def __init__(
        self,
        report: Report,
        checks: Checks,
        beside: Beside,
        env: Mapping[str, str],
        libraries: Sequence[CodeLibrary],
    ) -> None:
        self._report = report
        self._checks = checks
        self._beside = beside
        self._env = env
        self._libraries = libraries
        self._items: dict[str, list[Declared]] = {}
        self._made: dict[tuple[Path, str], Transformation | None] = {}
        self._edge: set[str] = set()
        self._used: dict[str, Transformation] = {}
        self._names: frozenset[str] = frozenset()

    def declare(self, declared: Sequence[Declared], names: frozenset[str]) -> None:
        """Take all items and check each, used or not. `names` are all that were given, also with mistakes."""
        self._names = names
        for each in declared:
            self._items.setdefault(each.item.name, []).append(each)
        for name, same in self._items.items():
            seen: set[str] = set()
            for each in same:
                version = str(each.item.version)
                if len(same) > 1 and (not version or version in seen):
                    self._report.error(
                        (*each.path, "version"),
                        f"there are {len(same)} transformations {name!r}; each needs a version of its own",
                    )
                seen.add(version)
                self._own(each)

    def refer(self, path: Path, reference: str) -> str:
        """Return the id of what a reference means, an empty text if nothing (which is reported)."""
        name, _, version = reference.partition("@")
        same = self._items.get(name)
        if same is None:
            if name not in self._names:  # else its own mistake was reported
                self._report.error(path, f"there is no transformation {name!r}{nearest(name, self._names)}")
            return ""
        made = self._version(same, version, path, reference) if version else self._own(_latest(same))
        if made is None:
            return ""
        self._used[made.id] = made
        return made.id

    def refer_edge(self, path: Path, reference: str) -> str:
        """As `refer`, for a source's `edge`: only what the gateway can run."""
        found = self.refer(path, reference)
        if not found:
            return ""
        made = self._used[found]
        if made.kind != "ready":
            self._report.error(
                path, f"{reference!r} is code; only ready-made transformations run in the gateway"
            )
        elif made.ready not in self._edge:
            self._report.error(
                path, f"{made.ready!r} can't run in the gateway; give it to connections instead"
            )
        return found

    def used(self) -> tuple[Transformation, ...]:
        """Return the versions that something referred to, in the order of their first reference."""
        return tuple(self._used.values())

    # ------------------------------------------------------------ versions

    def _own(self, declared: Declared) -> Transformation | None:
        """Return what an item means by itself: its only version, or the published one that its name means."""
        item = declared.item
        if not item.folder:
            return self._make(declared, str(item.version))
        folder = self._inside(declared, "folder", item.folder)
        if folder is None:
            return None
        there = published_versions(self._beside, folder)
        if not there:
            self._once(
                declared,
                "folder",
                f"there is no published version in {folder} yet: mainstem transformation publish",
            )
            return None
        return self._make(declared, str(item.version or there[-1]))

    def _version(
        self, same: Sequence[Declared], version: str, path: Path, reference: str
    ) -> Transformation | None:
        for each in same:
            if each.item.folder:
                folder = inside(each.item.folder)
                if folder is not None and version in map(str, published_versions(self._beside, folder)):
                    return self._make(each, version)
            else:
                made = self._own(each)
                if made is None:
                    return None  # reported with the item
                if made.version == version:
                    return made
        known = ", ".join(self._known(same)) or "none is published"
        self._report.error(
            path, f"there is no version {version!r} of {reference.partition('@')[0]!r}; known: {known}"
        )
        return None

    def _known(self, same: Sequence[Declared]) -> list[str]:
        versions: list[str] = []
        for each in same:
            if each.item.folder:
                versions += map(str, published_versions(self._beside, inside(each.item.folder) or ""))
            elif (made := self._own(each)) is not None:
                versions.append(made.version)
        return versions

    def _make(self, declared: Declared, version: str) -> Transformation | None:
        key = (declared.path, version)
        if key not in self._made:
            self._made[key] = self._new(declared, version)
        return self._made[key]

    def _new(self, declared: Declared, version: str) -> Transformation | None:
        path, item = declared.path, declared.item
        if version and not is_id(version):
            self._report.error((*path, "version"), "expected 1 to 128 letters, digits, '.', '_' or '-'")
            return None
        credentials = self._credentials((*path, "credentials"), item.credentials)
        self._check_hosts((*path, "allow_hosts"), item.allow_hosts)
        content = self._content(declared, version)
        if content is None:
            return None
        settings: Any = content.settings
        if content.kind == "ready":
            check = self._check_ready(path, content)
            if check.config is None:
                return None
            settings = check.config
        elif missing := not_there(content.code, content.kind, content.libraries):
            known = [library.name for library in self._libraries if library.language == content.kind]
            self._report.error(
                path, f"imports {missing[0]!r}, and there is no such library{nearest(missing[0], known)}"
            )
            return None
        hide_secrets(content.settings, self._report)
        version = version or content_version(_plain(content))
        return Transformation(
            id=f"{item.name}@{version}",
            name=item.name,
            version=version,
            kind=content.kind,
            code=content.code,
            code_version=content.code_version,
            libraries=content.libraries,
            ready=content.ready,
            settings=settings,
            credentials=credentials,
            allow_hosts=item.allow_hosts,
            geolocation=item.geolocation,
            seeded=item.seeded,
            limits=item.limits,
        )

    # ------------------------------------------------------------ what a version does

    def _content(self, declared: Declared, version: str) -> _Content | None:
        path, item = declared.path, declared.item
        given = [name for name in ("folder", "file", "code", "ready") if getattr(item, name)]
        if len(given) != 1:
            what = f"has {' and '.join(given)}" if given else "does nothing"
            self._report.error(path, f"{what}; give one of `folder`, `file`, `code` and `ready`")
            return None
        if item.folder:
            return self._published(declared, version)
        if item.ready:
            return _Content(kind="ready", ready=item.ready, settings=item.settings)
        language: Language = item.language or "javascript"
        code = item.code
        if item.file:
            found = read_code(self._beside, (*path, "file"), item.file, self._report)
            if found is None:
                return None
            language, code = found
        return _Content(
            kind=language,
            code=code,
            code_version=item.code_version,
            libraries=libraries_of(code, language, self._libraries),
            settings=item.settings,
        )

    def _published(self, declared: Declared, version: str) -> _Content | None:
        path, item = declared.path, declared.item
        folder = inside(item.folder) or ""
        if not version.isdigit() or int(version) not in published_versions(self._beside, folder):
            there = ", ".join(map(str, published_versions(self._beside, folder)))
            self._report.error(
                (*path, "version"), f"there is no published version {version!r}; there are {there}"
            )
            return None
        try:
            published = read_published(self._beside, folder, int(version))
        except VersionRefused as error:
            self._report.error((*path, "folder"), str(error))
            return None
        manifest = published.manifest
        settings = resolve_references(manifest.settings, self._env, self._report, (*path, "settings"))
        return _Content(
            kind=manifest.kind,
            code=published.code,
            code_version=manifest.code_version,
            libraries=published.libraries,
            ready=manifest.ready,
            settings={**settings, **item.settings},
        )

    def _check_ready(self, path: Path, content: _Content) -> ReadyCheck:
        check = check_settings(self._checks.ready, content.ready, content.settings, self._report)
        if not check.known:
            hint = nearest(content.ready, check.names)
            self._report.error(
                (*path, "ready"), f"there is no ready-made transformation {content.ready!r}{hint}"
            )
        for problem in check.problems:
            tell = self._report.warning if problem.severity == "warning" else self._report.error
            tell((*path, "settings", *path_of(problem.path)), problem.message)
        if check.edge:
            self._edge.add(content.ready)
        return check

    def _credentials(self, path: Path, given: Mapping[str, Any]) -> dict[str, Secret]:
        made: dict[str, Secret] = {}
        for key, value in given.items():
            if isinstance(value, Secret):
                made[key] = value
            elif isinstance(value, str):
                made[key] = Secret(value)
                self._report.hide(value)
            else:
                self._report.error((*path, key), "expected text; numbers go in quotes")
        return made

    def _check_hosts(self, path: Path, hosts: Sequence[str]) -> None:
        for index, host in enumerate(hosts):
            if _HOST.fullmatch(host) is None:
                self._report.error((*path, index), "expected a host name: api.example.com or *.example.com")

    def _inside(self, declared: Declared, field: str, given: str) -> str | None:
        found = inside(given)
        if found is None:
            self._once(declared, field, "expected a relative path that stays in the document's folder")
        return found

    def _once(self, declared: Declared, field: str, message: str) -> None:
        """Report what is asked again with every reference."""
        key = (declared.path, f"!{field}")
        if key not in self._made:
            self._made[key] = None
            self._report.error((*declared.path, field), message)


def make_libraries(
    declared: Sequence[tuple[Path, LibraryDocument]], beside: Beside, report: Report
) -> tuple[CodeLibrary, ...]:
    """Return the document's libraries; what is wrong with them is reported."""
    made: dict[tuple[str, str], CodeLibrary] = {}
    for path, item in declared:
        if _LIBRARY_NAME.fullmatch(item.name) is None:
            report.error((*path, "name"), "expected 1 to 128 characters without spaces and quotes")
        if bool(item.file) == bool(item.code):
            report.error(path, "give either `file` or `code`")
            continue
        language: Language = item.language or "javascript"
        code = item.code
        if item.file:
            found = read_code(beside, (*path, "file"), item.file, report)
            if found is None:
                continue
            language, code = found
        if (item.name, language) in made:
            report.error((*path, "name"), f"there are two libraries {item.name!r}")
        made[item.name, language] = CodeLibrary(
            name=item.name, code=code, language=language, version=content_version(code)
        )
    return tuple(made.values())


def read_code(beside: Beside, path: Path, given: str, report: Report) -> tuple[Language, str] | None:
    """Return a file's language and text; None if it can't be used, which is reported."""
    plain = inside(given)
    if plain is None:
        report.error(path, "expected a relative path that stays in the document's folder")
        return None
    language: Language | None = None
    for name, suffix in SUFFIXES.items():
        if plain.endswith((suffix, ".mjs") if name == "javascript" else suffix):
            language = "python" if name == "python" else "javascript"
    if language is None:
        report.error(path, "expected a file whose name ends in .js or .py")
        return None
    data = beside.read(plain)
    if data is None:
        report.error(path, beside.absent(plain))
        return None
    if len(data) > MAX_FILE_BYTES:
        report.error(path, f"{plain} is longer than {MAX_FILE_BYTES} bytes")
        return None
    try:
        return language, data.decode("utf-8-sig")
    except UnicodeDecodeError:
        report.error(path, f"{plain} is not UTF-8 text")
        return None


def _latest(same: Sequence[Declared]) -> Declared:
    """Return the item of the highest version; of versions that are no numbers the last one given."""
    versions = [str(each.item.version) for each in same]
    if all(version.isascii() and version.isdigit() for version in versions):
        return max(same, key=lambda each: int(each.item.version))
    return same[-1]


def _plain(content: _Content) -> Any:
    """Return what a version's hash is made of."""
    libraries = [[library.name, library.code] for library in content.libraries]
    return [
        content.kind,
        content.code,
        content.code_version,
        libraries,
        content.ready,
        dict(content.settings),
    ]
