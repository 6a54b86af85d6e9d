"""RudderStack's transformer, answered by our sandboxes: the open vectors, and the shapes of every route.

The vectors lie beside the repository; where they are not, that is said loudly, and only our own cases run.
"""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mainstem.testing.conformance.imports import imported_names
from mainstem.testing.conformance.user_transformation import FEATURE, Transformer
from mainstem.transformations.sandbox.runtime import SandboxRuntime
from mainstem.workspace.model import TransformationLimits

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "open" / FEATURE
RANDOM_ID = "the peer makes a random messageId where the metadata has none"
EXPLAINED = {
    f"{FEATURE}/http/0daee693fb9c": RANDOM_ID,
    f"{FEATURE}/http/60d9923146c9": RANDOM_ID,
    f"{FEATURE}/http/59d11c485878": RANDOM_ID,
    f"{FEATURE}/transformRoutine/d66b0b3aaa84": RANDOM_ID,
    f"{FEATURE}/http/3999ff9d4d2d": "the text holds the port of the recording's control plane",
    f"{FEATURE}/userTransformHandler/884af3a52870": "the text holds the peer's own source files",
    f"{FEATURE}/userTransformHandler/bd8e4d4b39b3-2": (
        "the peer forgets `log` when its cache is on and nothing is tested; its contract gives `log` always"
    ),
}
"""Vectors whose expected answer can't, or must not, be repeated, and why."""
ANOTHER_OUTCOME = {f"{FEATURE}/userTransformHandler/bd8e4d4b39b3-2"}
"""Those of them where not only the wording differs."""


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "conformance-transformations.md"


def test_the_reference_names_what_is_explained_and_nothing_else() -> None:
    named = re.findall(
        r"`((?:http|transformRoutine|userTransformHandler)/[0-9a-f]{12}(?:-\d+)?)`", PAGE.read_text()
    )
    assert sorted(f"{FEATURE}/{name}" for name in named) == sorted(EXPLAINED)


def _vectors() -> list[dict[str, Any]]:
    return [vector for path in sorted(VECTORS.glob("*.json")) for vector in json.loads(path.read_text())]


def _embedded(value: Any) -> Any:
    """Like the measure: JSON inside texts is compared as JSON."""
    if isinstance(value, dict):
        return {key: _embedded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_embedded(item) for item in value]
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        try:
            return {"$json": _embedded(json.loads(value))}
        except ValueError:
            return value
    return value


def _without_words(value: Any) -> Any:
    """Errors as such, and messageIds that are random left out."""
    if isinstance(value, dict):
        return {
            key: "an error" if key == "error" and item else _without_words(item)
            for key, item in value.items()
            if not (
                key == "messageId" and re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(item))
            )
        }
    return [_without_words(item) for item in value] if isinstance(value, list) else value


def _expected(vector: dict[str, Any]) -> Any:
    output = vector["output"]
    return output["body"] if isinstance(output, dict) and "body" in output else output


def test_the_vectors_are_here() -> None:
    if not VECTORS.is_dir():
        pytest.skip(
            f"CONFORMANCE VECTORS ABSENT: no {VECTORS}; user transformations are not compared with them"
        )
    ids = {vector["id"] for vector in _vectors()}
    assert len(ids) >= 60
    assert set(EXPLAINED) <= ids


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["id"]) for vector in _vectors()])
async def test_vector(vector: dict[str, Any]) -> None:
    answer = await Transformer(_vectors(), SandboxRuntime).answer(vector)
    assert answer is not None
    if "output" not in vector:
        assert answer["error"]
        assert "body" not in answer
        return
    same = _embedded(answer["body"]) == _embedded(_expected(vector))
    # A vector that is explained and agrees after all must be taken off the list.
    assert same is (vector["id"] not in EXPLAINED)
    if vector["id"] not in ANOTHER_OUTCOME:
        assert _without_words(answer["body"]) == _without_words(_expected(vector))


# ---------------------------------------------------------------- our own cases

KEEP = "export function transformEvent(event) { event.seen = true; return event; }"
META = {"sourceId": "s", "destinationId": "d", "messageId": "m1"}


def message(number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"messageId": f"m{number}", "type": "track", "event": "A", **fields}


def event(number: int = 1, version: str = "v", **fields: Any) -> dict[str, Any]:
    return {
        "message": message(number, **fields),
        "metadata": {**META, "messageId": f"m{number}"},
        "destination": {"Transformations": [{"VersionID": version}]},
    }


def handler(code: str, *events: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "kind": "userTransformHandler",
        "input": {"events": list(events or (event(),)), "libraryVersionIDs": more.pop("versions", [])},
        "transformation": {"code": code, "codeVersion": "1", "name": "T"},
        **more,
    }


def http(route: str, body: Any, headers: Any = None, **more: Any) -> dict[str, Any]:
    return {"kind": "http", "route": route, "input": {"body": body, "headers": headers or {}}, **more}


async def answered(vector: dict[str, Any], *others: dict[str, Any]) -> Any:
    return await Transformer([vector, *others], SandboxRuntime).answer(vector)


async def test_each_output_has_its_inputs_metadata() -> None:
    code = (
        "export function transformEvent(event, metadata) {"
        " if (event.messageId === 'm2') return; return [event, {source: metadata(event).sourceId}]; }"
    )
    assert (await answered(handler(code, event(1), event(2))))["body"] == [
        {"transformedEvent": message(1), "metadata": META},
        {"transformedEvent": {"source": "s"}, "metadata": META},
    ]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("export function other() {}", "Expected one of transformEvent,transformBatch"),
        ("import { a } from 'nowhere'; " + KEEP, "import from nowhere failed. Module not found."),
        ("export function transformEvent(event) { return ( }", ""),
        ("throw new Error('at once'); " + KEEP, "at once"),
    ],
)
async def test_code_that_can_not_be_used_fails_the_call(code: str, words: str) -> None:
    answer = await answered(handler(code))
    assert words in answer["error"]
    assert "body" not in answer


async def test_code_that_never_ends_fails_the_call() -> None:
    vector = handler("export function transformEvent(event) { for (;;); }")
    limits = TransformationLimits(timeout_s=0.3)
    answer = await Transformer([vector], SandboxRuntime, limits).answer(vector)
    assert answer == {"error": "took longer than 0.3 s", "status": 400}


async def test_an_event_that_throws_fails_alone() -> None:
    code = (
        "export function transformEvent(event) {\n"
        "  if (event.messageId === 'm1') JSON.parse('{');\n  return event;\n}"
    )
    first, second = (await answered(handler(code, event(1), event(2))))["body"]
    assert first["error"].startswith("SyntaxError")
    assert "transformEvent (T:2:" in first["error"]
    assert second["transformedEvent"] == message(2)
    (alone,) = (await answered(handler(code, event(1))))["body"]
    assert alone == first


async def test_a_batch_that_throws_is_one_error_and_one_that_throws_for_some_is_not() -> None:
    code = (
        "export function transformBatch(events) {"
        " if (events.some((event) => event.bad)) throw new Error('no'); return events; }"
    )
    everything = (await answered(handler(code, event(1, bad=True), event(2, bad=True))))["body"]
    assert [item["metadata"] for item in everything] == [{}]
    first, second = (await answered(handler(code, event(1, bad=True), event(2))))["body"]
    assert "error" in first
    assert second["transformedEvent"] == message(2)


@pytest.mark.parametrize(
    ("body", "errors"), [("return events.length;", 1), ("return events.map(() => 1);", 2)]
)
async def test_a_batch_that_returns_what_it_must_not(body: str, errors: int) -> None:
    code = f"export function transformBatch(events) {{ {body} }}"
    items = (await answered(handler(code, event(1), event(2))))["body"]
    assert [item["metadata"] for item in items] == [{}] * errors
    assert all("from transformBatch(event) is not an" in item["error"] for item in items)


async def test_the_legacy_script_has_no_metadata_on_its_outputs_and_no_credentials() -> None:
    code = "function transform(events) { return events.map((e) => ({ ...e, from: metadata(e).sourceId })); }"
    vector = handler(code, event(1), event(2))
    vector["transformation"]["codeVersion"] = "0"
    assert (await answered(vector))["body"] == [
        {"transformedEvent": message(number, **{"from": "s"}), "metadata": {}} for number in (1, 2)
    ]
    vector["transformation"]["code"] = "function transform(events) { return getCredential('k'); }"
    assert "getCredential is not defined" in (await answered(vector))["error"]


async def test_rudderstacks_own_libraries() -> None:
    code = "import { value } from '@rs/sums/v2';\nexport function transformEvent() { return { value }; }"
    library = {"name": "sums", "version": "v2", "response": {"code": "export const value = 2;"}}
    answer = await answered(handler(code, rudder_libraries=[library]))
    assert answer["body"][0]["transformedEvent"] == {"value": 2}


async def test_libraries_by_version_by_the_same_code_and_by_name() -> None:
    def library(version: str, name: str, value: int) -> dict[str, Any]:
        response = {"name": name, "code": f"export const value = {value};"}
        return {"versionId": version, "response": response}

    def code(number: int) -> str:
        return (
            "import { value } from 'myLib';\n"
            f"export function transformEvent(event) {{ return {{ value, n: {number} }}; }}"
        )

    told = handler(code(1), versions=["l1"], libraries=[library("l1", "my lib", 1)])
    other = handler(code(2), versions=["l2"], libraries=[library("l2", "my lib", 2)])

    async def value(vector: dict[str, Any], *others: dict[str, Any]) -> Any:
        answer = await answered(vector, *others)
        return answer["body"][0]["transformedEvent"]["value"] if "body" in answer else answer["error"]

    assert await value(told, other) == 1
    assert await value(handler(code(3), versions=["l2"]), told, other) == 2
    assert await value(handler(code(1), versions=["unknown"]), told, other) == 1
    assert await value(handler(code(3), versions=["unknown"]), told) == 1
    not_found = "import from myLib failed. Module not found."
    assert not_found in await value(handler(code(3), versions=["unknown"]), told, other)
    assert not_found in await value(handler(code(1)), told)


async def test_credentials_are_those_of_the_first_event() -> None:
    code = "export function transformEvent(event) { return { value: getCredential('k') }; }"
    with_credentials = {**event(), "credentials": [{"key": "k", "value": "v", "isSecret": True}]}
    body = (await answered(handler(code, with_credentials, event(2))))["body"]
    assert [item["transformedEvent"] for item in body] == [{"value": "v"}, {"value": "v"}]


async def test_python_as_well() -> None:
    vector = handler("def transformEvent(event, metadata):\n    event['py'] = True\n    return event")
    vector["transformation"]["language"] = "pythonfaas"
    assert (await answered(vector))["body"] == [{"transformedEvent": message(py=True), "metadata": META}]


async def test_custom_transform() -> None:
    code = "export function transformEvent(event) { return event.messageId === 'm2' ? null : event; }"
    events = [event(1), event(2), event(3, version="")]
    events[2]["metadata"]["sourceId"] = "other"
    vector = http("/customTransform", events, transformation={"code": code, "codeVersion": "1"})
    kept = {"output": message(1), "metadata": META, "statusCode": 200}
    missing = {
        "statusCode": 400,
        "error": "Transformation VersionID not found",
        "metadata": {"sourceId": "other", "destinationId": "d", "messageIds": ["m3"]},
    }
    assert await answered(vector) == {"status": 200, "body": [kept, missing]}
    vector["input"]["headers"] = {"X-Feature-Filter-Code": "?1"}
    dropped = {"statusCode": 298, "metadata": {**META, "messageId": "m2", "messageIds": None}}
    assert (await answered(vector))["body"] == [dropped, kept, missing]


async def test_a_version_that_is_not_there_is_404() -> None:
    (item,) = (await answered(http("/customTransform", [event()])))["body"]
    assert (item["statusCode"], item["error"]) == (404, "Error: Transformation not found")


async def test_the_test_routes() -> None:
    code = (
        "export function transformEvent(event) {"
        " log('a', { b: 1 }); if (event.bad) throw new Error('no'); return event; }"
    )
    revision = {"code": code, "codeVersion": "1", "language": "javascript"}
    body = {"events": [event(1), event(2, bad=True)], "trRevCode": revision, "libraryVersionIDs": []}
    answer = await answered(http("/transformation/test", body))
    first, second = answer["body"]["transformedEvents"]
    assert first == message(1)
    assert list(second) == ["error"]
    assert answer["body"]["logs"] == ['Log: a {"b":1}'] * 2
    run = {
        "input": [event(1)],
        "codeRevision": revision,
        "dependencies": {"libraries": [], "credentials": []},
    }
    answer = await answered(http("/transformation/testRun", run))
    assert answer["body"]["transformedEvents"] == [{"transformedEvent": message(1), "metadata": META}]


async def test_what_is_not_ours_stays_unanswered() -> None:
    assert await answered({"kind": "setupUserTransformHandler", "input": {}}) is None
    assert await answered(http("/transformation/sethandle", {})) is None


@pytest.mark.parametrize(
    ("code", "language", "found"),
    [
        ("import a, { b as c, d } from 'x';", "javascript", {"x": ["a", "b", "d"]}),
        ("import * as a from 'x'; import 'y'; import {b} from 'x'", "javascript", {"x": ["b"], "y": []}),
        ("// import a from 'x'\nconst s = \"import b from 'y'\";", "javascript", {}),
        ("import { from 'x'", "javascript", None),
        ("import a.b as c, d\nfrom e import f as g\n", "pythonfaas", {"a.b": [], "d": [], "e": ["f"]}),
        ("import (", "python", None),
    ],
)
def test_imports(code: str, language: str, found: Any) -> None:
    assert imported_names(code, language) == found


async def test_extract_libraries() -> None:
    body = {"code": "import { a } from 'x';"}
    assert await answered(http("/extractLibs", body)) == {"status": 200, "body": {"x": ["a"]}}
    assert (await answered(http("/extractLibs", {**body, "validateImports": True})))["status"] == 400
    known = {**body, "validateImports": True, "additionalLibraries": ["x"]}
    assert (await answered(http("/extractLibs", known)))["status"] == 200


async def test_the_command(tmp_path: Path) -> None:
    vectors = [
        {"id": "1", "feature": FEATURE, **handler(KEEP)},
        {"id": "2", "feature": FEATURE, **http("/transformation/sethandle", {})},
        {"id": "3", "feature": "processor", "input": {}},
    ]
    (tmp_path / "in.json").write_text(json.dumps(vectors))
    files = (str(tmp_path / "in.json"), str(tmp_path / "out.json"))
    command = (sys.executable, "-m", "mainstem.testing.conformance", *files)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert said == b"3 vectors, 2 of them not answered\n"
    answers = json.loads((tmp_path / "out.json").read_text())
    assert answers == {"1": {"body": [{"transformedEvent": message(seen=True), "metadata": META}]}}
