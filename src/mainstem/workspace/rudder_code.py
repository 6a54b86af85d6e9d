"""Code of RudderStack's transformations, which its `workspaceConfig.json` only names by version.

The code comes from the control plane, one JSON answer a version: `/transformation/getByVersionId?versionId=`,
`/transformationLibrary/getByVersionId?versionId=` and `/rudderstackTransformationLibraries/NAME?version=`. Here it
is read from files that hold those answers: beside the document (`transformations/VERSION.json`), or fetched by
`code_fetch`. A version never changes, so what was had once is good for ever.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from mainstem.secret import Secret
from mainstem.workspace.beside import MAX_FILE_BYTES, Beside
from mainstem.workspace.document import is_id
from mainstem.workspace.imports import imported, libraries_of
from mainstem.workspace.model import CodeLibrary, Transformation
from mainstem.workspace.published import Language

TRANSFORMATIONS: Final = "transformations"
LIBRARIES: Final = f"{TRANSFORMATIONS}/libraries"
RUDDER_LIBRARIES: Final = f"{TRANSFORMATIONS}/rudderstack"

_RUDDER_LIBRARY: Final = re.compile(r"@rs/([A-Za-z0-9_-]{1,100})/(v[0-9]{1,9})")
_FETCHES: Final = {
    "javascript": re.compile(r"\bfetch(?:V2)?\s*\("),
    "python": re.compile(
        r"^[ \t]*(?:import|from)[ \t]+(?:requests|urllib\.request|http\.client)\b", re.MULTILINE
    ),
}
_LONGEST_WHY: Final = 300


class CodeMissing(msgspec.Struct, frozen=True):
    """Why a transformation can't be run, for people: `its code (version x) …`."""

    why: str


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of the control plane's answer that count."""

    code: str
    name: str = ""
    code_version: str | int = "1"
    language: str | None = None
    import_name: str | None = None


class RudderCode:
    """Makes transformations of version ids, once each."""

    def __init__(
        self, beside: Beside, library_versions: Sequence[str], credentials: Mapping[str, Secret]
    ) -> None:
        """`library_versions`: the workspace's; which of them a code imports is known from their names only."""
        self._beside = beside
        self._library_versions = library_versions
        self._credentials = credentials
        self._libraries: tuple[CodeLibrary, ...] | None = None
        self._missing_library = ""
        self._made: dict[str, Transformation | CodeMissing] = {}

    def transformation(
        self, version: str, transformation_id: str, given: Mapping[str, Any]
    ) -> Transformation | CodeMissing:
        """Return the transformation of a version. `given` is how the document names it; where its maker has put
        the code there, nothing else is asked."""
        found = self._made.get(version)
        if found is None:
            found = self._made[version] = self._new(version, transformation_id, given)
        return found

    def _new(
        self, version: str, transformation_id: str, given: Mapping[str, Any]
    ) -> Transformation | CodeMissing:
        if not is_id(version):
            return CodeMissing("it has a transformation without a version")
        answer = self._given(given) or self._answer(f"{TRANSFORMATIONS}/{version}.json", "its transformation")
        if isinstance(answer, CodeMissing):
            return answer
        language = _language(answer.language or str(given.get("language") or ""))
        if language is None:
            return CodeMissing(f"its transformation is written in {answer.language!r}")
        if str(answer.code_version) not in ("0", "1"):
            return CodeMissing(
                f"its transformation has codeVersion {answer.code_version!r}, which is not known"
            )
        code_version: Literal["0", "1"] = "0" if str(answer.code_version) == "0" else "1"
        libraries = self._libraries_for(answer.code, language)
        if isinstance(libraries, CodeMissing):
            return libraries
        texts = [answer.code, *(library.code for library in libraries)]
        if any(_FETCHES[language].search(text) for text in texts):
            return CodeMissing(
                "its transformation calls other hosts, which is allowed for named hosts only: turn the document into "
                "YAML (`mainstem workspace import`) and give the transformation its `allow_hosts`"
            )
        return Transformation(
            id=f"{transformation_id if is_id(transformation_id) else version}@{version}",
            name=answer.name or transformation_id or version,
            version=version,
            kind=language,
            code=answer.code,
            code_version=code_version,
            libraries=libraries,
            credentials=self._credentials,
            geolocation=True,
        )

    def _libraries_for(self, code: str, language: Language) -> tuple[CodeLibrary, ...] | CodeMissing:
        names = imported(code, language)
        if not names:
            return ()
        ours = self._workspace_libraries()
        theirs = []
        for match in filter(None, (_RUDDER_LIBRARY.fullmatch(name) for name in sorted(names))):
            answer = self._answer(f"{RUDDER_LIBRARIES}/{match[1]}/{match[2]}.json", f"library {match[0]}")
            if isinstance(answer, CodeMissing):
                return answer
            theirs.append(CodeLibrary(name=match[0], code=answer.code, language=language, version=match[2]))
        chosen = libraries_of(code, language, (*ours, *theirs))
        unknown = sorted(names - {library.name for library in chosen}) if language == "javascript" else ()
        if unknown:
            return CodeMissing(
                self._missing_library or f"its transformation imports {unknown[0]!r}, which is not there"
            )
        # What Python imports may be a standard module as well: with every library at hand, the sandbox tells.
        return (
            CodeMissing(self._missing_library) if self._missing_library and language == "python" else chosen
        )

    def _workspace_libraries(self) -> tuple[CodeLibrary, ...]:
        if self._libraries is None:
            made = []
            for version in self._library_versions:
                path = f"{LIBRARIES}/{version}.json"
                answer = (
                    self._answer(path, "a library")
                    if is_id(version)
                    else CodeMissing("a library has no version")
                )
                if isinstance(answer, CodeMissing):
                    self._missing_library = answer.why
                    continue
                language = _language(answer.language or "")
                if language is not None:
                    name = answer.import_name or _import_name(answer.name)
                    made.append(CodeLibrary(name=name, code=answer.code, language=language, version=version))
            self._libraries = tuple(made)
        return self._libraries

    def _given(self, given: Mapping[str, Any]) -> _Answer | None:
        code = given.get("code")
        if not isinstance(code, str) or not code.strip():
            return None
        try:
            return msgspec.convert(given, _Answer)
        except msgspec.ValidationError:
            return _Answer(code=code)

    def _answer(self, path: str, what: str) -> _Answer | CodeMissing:
        data = self._beside.read(path)
        if data is None:
            return CodeMissing(f"the code of {what} is not there: {self._beside.absent(path)}"[:_LONGEST_WHY])
        if len(data) > MAX_FILE_BYTES:
            return CodeMissing(f"the code of {what} is longer than {MAX_FILE_BYTES} bytes ({path})")
        try:
            answer = msgspec.json.decode(data, type=_Answer)
        except (msgspec.DecodeError, RecursionError) as error:
            return CodeMissing(f"{path} is not what the control plane says of {what}: {error}"[:_LONGEST_WHY])
        if not answer.code.strip():
            return CodeMissing(f"{path} has no code")
        return answer


def code_url_path(path: str) -> str | None:
    """Return where the control plane answers for a path, from its root; None for paths of another kind."""
    folder, _, name = path.removesuffix(".json").rpartition("/")
    if folder == TRANSFORMATIONS:
        return f"/transformation/getByVersionId?versionId={name}"
    if folder == LIBRARIES:
        return f"/transformationLibrary/getByVersionId?versionId={name}"
    above, _, library = folder.rpartition("/")
    if above == RUDDER_LIBRARIES:
        return f"/rudderstackTransformationLibraries/{library}?version={name}"
    return None


def _language(text: str) -> Language | None:
    folded = text.lower()
    if folded in ("", "javascript"):
        return "javascript"
    return "python" if folded in ("python", "pythonfaas") else None


def _import_name(name: str) -> str:
    """Return a library's name as code imports it: in camel case."""
    words = re.findall(r"[A-Za-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name))
    return "".join(
        word.lower() if index == 0 else word[:1].upper() + word[1:].lower()
        for index, word in enumerate(words)
    )
