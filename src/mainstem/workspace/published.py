"""Published versions of a transformation on disk: written once, never changed, each proved by its hash.

    transformations/NAME/versions/3/version.json      what it is, and the SHA-256 of every file of it
                                    code.js           or code.py; none for a ready-made one
                                    libraries/x.js    what the code imports, as it was then

`transformations.publish` writes them, the loaders of the workspace read them here. A file that differs from
its hash is refused: events must not change their form because somebody edited a version that is in use.
"""

import hashlib
import json
from pathlib import PurePosixPath
from typing import Any, Final, Literal

import msgspec

from mainstem.workspace.beside import MAX_FILE_BYTES, Beside, inside
from mainstem.workspace.errors import VersionRefused
from mainstem.workspace.model import CodeLibrary

VERSIONS: Final = "versions"
MANIFEST: Final = "version.json"
LIBRARIES: Final = "libraries"
SUFFIXES: Final = {"javascript": ".js", "python": ".py"}

Language = Literal["javascript", "python"]


class PublishedVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `version.json` holds."""

    version: int
    published_at: str
    """RFC 3339, UTC."""
    kind: Literal["javascript", "python", "ready"]
    code_version: Literal["0", "1"] = "1"
    ready: str = ""
    settings: dict[str, Any] = {}
    """As written in `transformation.yaml`: `${NAME}` is still a reference."""
    cases: int = 0
    """How many cases it passed when it was published."""
    files: dict[str, str] = {}
    """SHA-256 of each file, by its path in the version's folder."""
    sha256: str = ""
    """Of all the fields above: `seal`."""


class Published(msgspec.Struct, frozen=True):
    """A version that was read and is as it was published."""

    manifest: PublishedVersion
    code: str
    libraries: tuple[CodeLibrary, ...]


def code_file(language: Language) -> str:
    """Return the name of the code's file."""
    return "code" + SUFFIXES[language]


def seal(manifest: PublishedVersion) -> str:
    """Return the hash over everything a manifest says, and through `files` over every file."""
    fields = msgspec.to_builtins(manifest)
    del fields["sha256"]
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def published_versions(beside: Beside, folder: str) -> tuple[int, ...]:
    """Return the numbers of a transformation's versions, lowest first."""
    names = beside.names(f"{folder}/{VERSIONS}")
    return tuple(sorted(int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0"))


def read_published(beside: Beside, folder: str, version: int) -> Published:
    """Return one version.

    Raises:
        VersionRefused: a file is missing, or is not what was published.
    """
    place = f"{folder}/{VERSIONS}/{version}"
    manifest = _manifest(beside, f"{place}/{MANIFEST}", version)
    code_name = code_file(manifest.kind) if manifest.kind != "ready" else ""
    for name in manifest.files:
        if inside(name) != name or (name != code_name and not name.startswith(f"{LIBRARIES}/")):
            raise VersionRefused(f"{place}/{MANIFEST} names a file that is neither code nor library: {name}")
    texts = {
        name: _text(beside, f"{place}/{name}", digest, manifest) for name, digest in manifest.files.items()
    }
    code = texts.pop(code_name, "")
    libraries = tuple(_library(name, text, manifest) for name, text in sorted(texts.items()))
    return Published(manifest, code, libraries)


def _manifest(beside: Beside, path: str, version: int) -> PublishedVersion:
    data = beside.read(path)
    if data is None:
        raise VersionRefused(beside.absent(path))
    try:
        manifest = msgspec.json.decode(data, type=PublishedVersion)
    except (msgspec.DecodeError, RecursionError) as error:
        raise VersionRefused(f"{path} is not what publishing wrote: {error}") from None
    if manifest.sha256 != seal(manifest):
        raise VersionRefused(_changed(path, manifest))
    if manifest.version != version:
        raise VersionRefused(f"{path} is of version {manifest.version}, in the folder of version {version}")
    return manifest


def _text(beside: Beside, path: str, digest: str, manifest: PublishedVersion) -> str:
    data = beside.read(path)
    if data is None:
        raise VersionRefused(beside.absent(path))
    if len(data) > MAX_FILE_BYTES or hashlib.sha256(data).hexdigest() != digest:
        raise VersionRefused(_changed(path, manifest))
    return data.decode("utf-8", "replace")  # publishing takes UTF-8 only


def _changed(path: str, manifest: PublishedVersion) -> str:
    return (
        f"{path} was changed after it was published ({manifest.published_at}); a published version stays as it is: "
        "restore the file, change the code beside `versions` and publish it as a new version"
    )


def _library(name: str, text: str, manifest: PublishedVersion) -> CodeLibrary:
    plain = PurePosixPath(name).relative_to(LIBRARIES).with_suffix("")
    language: Language = "python" if manifest.kind == "python" else "javascript"
    return CodeLibrary(name=str(plain), code=text, language=language, version=str(manifest.version))
