"""User transformations in the shapes of RudderStack's transformer: a vector's input in, its answer out.

vector -> **this** -> `transformations.sandbox` (the real processes) -> answer. Nothing is decided here but shapes:
which code, libraries and credentials an input means, and how the results of our runtime are written in the peer's
answer. What differs by design:

* A failed event costs no other event its result, in `transformBatch` neither; one error for the whole batch is
  answered only where every event of it failed for the same reason.
* Output keeps the order of the input, whatever completes first.

Recordings made with the peer's cache of compiled code leave out the libraries that had been fetched before. A
version never changes, so a library is taken from any other vector that tells that version. Versions are new in
each recording: where none tells one, the library of a call of the very same code is taken, by the name it is
imported under; else the one of that name, if there is one only.
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, cast

import msgspec

from mainstem.secret import Secret
from mainstem.testing.conformance.imports import imported_names
from mainstem.transformations.base import Dropped, Failed, Given, Kept, Result, Runtime
from mainstem.transformations.sandbox.javascript.modules import ModuleInvalid, camel_case, rewrite
from mainstem.workspace.model import CodeLibrary, Transformation, TransformationLimits

FEATURE: Final = "user_transformation"
Json = Any
Answer = dict[str, Json]

_NOW_MS: Final = 1_790_000_000_000
_METADATA: Final = frozenset(
    (
        *("sourceId", "sourceName", "workspaceId", "sourceType", "sourceCategory", "destinationId"),
        *("destinationType", "destinationName", "namespace", "originalSourceId", "trackingPlanId"),
        *(
            "trackingPlanVersion",
            "sourceTpConfig",
            "mergedTpConfig",
            "jobId",
            "sourceJobId",
            "sourceJobRunId",
        ),
        *("sourceTaskRunId", "recordId", "messageId", "messageIds", "rudderId", "receivedAt", "eventName"),
        *("eventType", "sourceDefinitionId", "destinationDefinitionId", "transformationId"),
        "transformationVersionId",
    )
)
_BASE_NAME: Final = "base transformation"
_CALLED: Final = re.compile(r"\n    at (?:async )?(?:transformEvent|transformBatch) ")
_WHOLE_CALL: Final = re.compile(
    r"(?:Error: )?(?:Expected one of transform|import from )|SyntaxError|took longer than "
)
_LIMITS: Final = TransformationLimits()
"""Ours are the peer's: 4 s, 128 MB."""
_FILTER_CODE: Final = "filter-code"
_NOT_FOUND: Final = "Transformation not found"


class _Refused(Exception):
    """The call as a whole fails, as the peer's handler throws; the text says why."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


class _Handled(msgspec.Struct, frozen=True):
    """What became of a group of events."""

    items: tuple[dict[str, Any], ...]
    """In the input's order: {transformedEvent, metadata} or {error, metadata}."""
    logs: tuple[str, ...] = ()
    dropped: tuple[dict[str, Any], ...] = ()
    """The metadata of events that the code dropped."""


class _Libraries:
    """All libraries that the vectors tell."""

    def __init__(self, vectors: Sequence[Mapping[str, Any]]) -> None:
        self._by_version: dict[str, CodeLibrary] = {}
        self._by_name: dict[str, set[str]] = {}
        self._by_code: dict[tuple[str, str], set[str]] = {}
        for vector in vectors:
            code = str((vector.get("transformation") or {}).get("code"))
            for version, library in told_libraries(vector).items():
                self._by_version.setdefault(version, library)
                self._by_name.setdefault(library.name, set()).add(library.code)
                self._by_code.setdefault((code, library.name), set()).add(library.code)

    def wanted(
        self, vector: Mapping[str, Any], versions: Sequence[str], code: str, language: str
    ) -> tuple[CodeLibrary, ...]:
        """Return the libraries that a call with these library versions means."""
        told = told_libraries(vector)
        found = {version: told.get(version) or self._by_version.get(version) for version in versions}
        libraries = {library.name: library for library in found.values() if library is not None}
        # RudderStack's own (`@rs/name/v1`) are not among the versions.
        libraries |= {library.name: library for library in told.values() if library.name.startswith("@rs/")}
        if None in found.values():
            for name in imported_names(code, language) or ():
                codes = self._by_code.get((code, name)) or self._by_name.get(name, set())
                if name not in libraries and len(codes) == 1:
                    (only,) = codes
                    libraries[name] = CodeLibrary(name=name, code=only, language=_language(language))
        return tuple(libraries.values())


def told_libraries(vector: Mapping[str, Any]) -> dict[str, CodeLibrary]:
    """Return the libraries that a vector tells, by version id."""
    told = {}
    for entry in vector.get("libraries") or ():
        answer = entry.get("response") or {}
        if isinstance(answer.get("code"), str):
            name = answer.get("importName") or camel_case(str(answer.get("name", "")))
            told[str(entry.get("versionId"))] = CodeLibrary(
                name=name, code=answer["code"], language=_language(answer.get("language"))
            )
    for entry in vector.get("rudder_libraries") or ():
        answer = entry.get("response") or {}
        if isinstance(answer.get("code"), str):
            version = str(entry.get("version", "")).removeprefix("v")
            name = answer.get("importName") or f"@rs/{entry.get('name')}/v{version}"
            told[name] = CodeLibrary(name=name, code=answer["code"])
    return told


class Transformer:
    """Answers vectors. Each call has a runtime of its own, so that no state of one is left to the next."""

    def __init__(
        self,
        vectors: Sequence[Mapping[str, Any]],
        runtime: Callable[[], Runtime],
        limits: TransformationLimits = _LIMITS,
    ) -> None:
        """`vectors`: all of them, for the libraries that they tell; `runtime` makes one for a call."""
        self._libraries = _Libraries(vectors)
        self._runtime = runtime
        self._limits = limits
        self._calls = 0

    async def answer(self, vector: Mapping[str, Any]) -> Answer | None:
        """Return `{body}`, or `{error}` where the call as a whole fails; None for a kind that is not ours."""
        given = vector["input"]
        try:
            match vector.get("kind"):
                case "parserForImport":
                    return _parsed(given)
                case "userTransformHandler":
                    return await self._handler(vector, given)
                case "transformRoutine":
                    items = await self._customs(vector, given["events"], given.get("features") or {})
                    return {"body": {"transformedEvents": items, "retryStatus": 200}}
                case "http":
                    return await self._http(vector, given)
                case _:
                    return None
        except _Refused as refused:
            return {"error": str(refused), "status": refused.status}

    # ---- the service's routes ----

    async def _http(self, vector: Mapping[str, Any], given: Mapping[str, Any]) -> Answer | None:
        body = given.get("body")
        headers = {str(key).lower(): str(value) for key, value in (given.get("headers") or {}).items()}
        match vector.get("route"):
            case "/customTransform" if isinstance(body, list):
                asks = headers.get("x-feature-filter-code", "").lower() in ("true", "?1")
                return {
                    "status": 200,
                    "body": await self._customs(vector, body, {_FILTER_CODE: asks}),
                }
            case "/transformation/test" if isinstance(body, dict):
                handled = await self._run(
                    vector,
                    _events(body.get("events")),
                    body.get("trRevCode"),
                    body.get("libraryVersionIDs") or (),
                    logs=True,
                    credentials=body.get("credentials") or (),
                )
                return {"status": 200, "body": _tested(handled)}
            case "/transformation/testRun" if isinstance(body, dict):
                needs = body.get("dependencies") or {}
                handled = await self._run(
                    vector,
                    _events(body.get("input")),
                    body.get("codeRevision"),
                    [library.get("versionId") for library in needs.get("libraries") or ()],
                    logs=True,
                    credentials=needs.get("credentials") or (),
                )
                return {
                    "status": 200,
                    "body": {
                        "transformedEvents": list(handled.items),
                        "logs": [f"Log: {line}" for line in handled.logs],
                    },
                }
            case "/extractLibs" if isinstance(body, dict):
                parsed = _parsed(
                    [
                        body.get("code"),
                        body.get("validateImports"),
                        body.get("additionalLibraries"),
                        body.get("language"),
                    ]
                )
                return {"status": 400 if "error" in parsed else 200, **parsed}
            case _:
                return None

    async def _customs(
        self, vector: Mapping[str, Any], events: Sequence[dict[str, Any]], features: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        groups: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
        for event in events:
            metadata = event.get("metadata") or {}
            groups.setdefault((metadata.get("destinationId"), metadata.get("sourceId")), []).append(event)
        libraries = [item.get("VersionID") for item in (events[0].get("libraries") or ())] if events else []
        items: list[dict[str, Any]] = []
        for group in groups.values():
            common = _common(group)
            transformations = (group[0].get("destination") or {}).get("Transformations") or ()
            version = transformations[0].get("VersionID") if transformations else None
            if not version:
                items.append(
                    {
                        "statusCode": 400,
                        "error": "Transformation VersionID not found",
                        "metadata": common,
                    }
                )
                continue
            try:
                handled = await self._run(vector, group, vector.get("transformation"), libraries)
            except _Refused as refused:
                items.append({"statusCode": refused.status, "error": f"Error: {refused}", "metadata": common})
                continue
            if features.get(_FILTER_CODE):
                items += [
                    {"statusCode": 298, "metadata": {**metadata, "messageIds": None}}
                    for metadata in handled.dropped
                ]
            items += [_service_item(item, group[0], common) for item in handled.items]
        return items

    async def _handler(self, vector: Mapping[str, Any], given: Mapping[str, Any]) -> Answer:
        tested = bool(given.get("testMode"))
        revision = given.get("trRevCode") if tested else vector.get("transformation")
        handled = await self._run(
            vector,
            _events(given.get("events")),
            revision or vector.get("transformation") or given.get("trRevCode"),
            given.get("libraryVersionIDs") or (),
            logs=tested,
        )
        return {"body": _tested(handled) if tested else list(handled.items)}

    # ---- one group of events ----

    async def _run(
        self,
        vector: Mapping[str, Any],
        events: Sequence[dict[str, Any]],
        revision: Mapping[str, Any] | None,
        library_versions: Sequence[Any],
        *,
        logs: bool = False,
        credentials: Sequence[Mapping[str, Any]] | None = None,
    ) -> _Handled:
        if revision is None:
            raise _Refused(_NOT_FOUND, 404)
        code, language = str(revision.get("code", "")), str(revision.get("language") or "javascript")
        told = credentials if credentials is not None else events[0].get("credentials") if events else ()
        self._calls += 1
        transformation = Transformation(
            id=f"conformance@{self._calls}",
            name=str(revision.get("name") or _BASE_NAME),
            version=str(self._calls),
            kind="python" if language.startswith("python") else "javascript",
            code=code,
            code_version="0" if str(revision.get("codeVersion")) == "0" else "1",
            libraries=self._libraries.wanted(
                vector, [str(version) for version in library_versions], code, language
            ),
            credentials={str(item.get("key")): Secret(str(item.get("value"))) for item in told or ()},
            limits=self._limits,
        )
        given = [
            Given(
                message=event["message"],
                metadata={
                    key: value for key, value in (event.get("metadata") or {}).items() if key in _METADATA
                },
                seed=str(event["message"].get("messageId")),
                now_ms=_NOW_MS,
            )
            for event in events
        ]
        results: list[Result] = []
        lines: list[str] = []
        runtime = self._runtime()
        try:
            step = transformation.limits.batch_events
            for start in range(0, len(given), step):
                run = await runtime.run(transformation, given[start : start + step], logs=logs)
                results += run.results
                lines += run.logs
        finally:
            await runtime.close()
        return _handled(transformation, events, results, tuple(lines))


def _handled(
    transformation: Transformation,
    events: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    logs: tuple[str, ...],
) -> _Handled:
    reasons = {result.reason for result in results if isinstance(result, Failed)}
    all_failed = len(reasons) == 1 and all(isinstance(result, Failed) for result in results)
    if all_failed:
        (reason,) = reasons
        if transformation.code_version == "0" or _is_of_the_code(reason):
            raise _Refused(reason)
        if _called_by_batch(transformation.code):
            # An array with what is no event in it: an error for each. All else: one for the batch.
            errors = len(results) if reason.startswith("returned event in events array") else 1
            return _Handled(({"error": reason, "metadata": {}},) * errors, logs)
    legacy = transformation.code_version == "0"
    items: list[dict[str, Any]] = []
    dropped = []
    for event, result in zip(events, results, strict=True):
        metadata = {} if legacy else dict(event.get("metadata") or {})
        match result:
            case Kept(messages):
                items += [{"transformedEvent": message, "metadata": metadata} for message in messages]
            case Failed(reason):
                items.append({"error": reason, "metadata": metadata})
            case Dropped():
                dropped.append(dict(event.get("metadata") or {}))
    return _Handled(tuple(items), logs, tuple(dropped))


def _called_by_batch(code: str) -> bool:
    try:
        return "transformBatch" in rewrite(code).exports
    except ModuleInvalid:
        return False


def _is_of_the_code(reason: str) -> bool:
    """Whether the code as such can't be used, or ran out of time: the peer fails the whole call then."""
    if _CALLED.search(reason):
        return False
    return _WHOLE_CALL.match(reason) is not None or "\n    at " in reason


def _tested(handled: _Handled) -> dict[str, Any]:
    return {
        "transformedEvents": [
            item["transformedEvent"] if "transformedEvent" in item else {"error": item["error"]}
            for item in handled.items
        ],
        "logs": [f"Log: {line}" for line in handled.logs],
    }


def _service_item(
    item: Mapping[str, Any], first: Mapping[str, Any], common: dict[str, Any]
) -> dict[str, Any]:
    if "error" in item:
        return {"statusCode": 400, "error": item["error"], "metadata": item["metadata"] or common}
    output, metadata = item["transformedEvent"], item["metadata"]
    if not metadata.get("messageId"):
        told = {
            "messageId": str(uuid.uuid4()),
            "eventName": output.get("event"),
            "eventType": output.get("type"),
        }
        metadata = {
            **(first.get("metadata") or {}),
            **{key: value for key, value in told.items() if value is not None},
        }
    return {"output": output, "metadata": metadata, "statusCode": 200}


def _common(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the metadata of a whole group: the first event's, and the ids of all."""
    all_metadata = [event.get("metadata") or {} for event in group]
    common = {key: value for key, value in all_metadata[0].items() if key != "messageId"}
    ids = [metadata["messageId"] for metadata in all_metadata if "messageId" in metadata]
    return {**common, "messageIds": ids} if ids else common


def _events(given: Json) -> list[dict[str, Any]]:
    """Return the events of a call; in tests a bare message may stand for one."""
    return [event if "message" in event else {"message": event} for event in given or ()]


def _language(language: Json) -> Literal["javascript", "python"]:
    return "python" if str(language or "").startswith("python") else "javascript"


def _parsed(given: Sequence[Json]) -> Answer:
    """`(code, validateImports, additionalLibraries, language)` -> {module: [names]}."""
    code, validate, additional, language, *_ = [*given, None, None, None, None]
    found = imported_names(str(code or ""), str(language or "javascript"))
    if found is None:
        return {"error": "the code's imports can't be read"}
    if validate:
        known = {str(name) for name in cast("Sequence[Json]", additional or ())}
        unknown = sorted(set(found) - known)
        if unknown:
            return {"error": f"import from {unknown[0]} failed. Module not found."}
    return {"body": found}
