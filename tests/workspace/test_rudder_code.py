"""The code of RudderStack's transformations: from files beside the document, and from the control plane."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstem.secret import Secret
from mainstem.workspace.beside import FilesBeside, FolderBeside
from mainstem.workspace.export import export_yaml
from mainstem.workspace.model import Workspace
from mainstem.workspace.parse import parse_workspace
from mainstem.workspace.report import Parsed
from mainstem.workspace.rudder_code import _import_name, code_url_path
from tests.workspace.support import CHECKS, parse
from tests.workspace.test_control_plane import Server, control_plane, count, following, running, until
from tests.workspace.test_rudder_config import config, hook

CODE = "\n  import { f } from 'myDates';\n  export function transformEvent(event) { return f(event); }\n  "
ANSWER = {
    "versionId": "v1",
    "name": "Mask e-mails!",
    "code": CODE,
    "codeVersion": "1",
    "language": "javascript",
}
LIBRARY = {
    "versionId": "l1",
    "name": "My dates",
    "code": "export const f = (event) => event;",
    "language": "javascript",
}
DOCUMENT = config(
    hook(transformations=[{"versionId": "v1", "id": "t1", "config": {}}]),
    libraries=[{"versionId": "l1"}],
    credentials={"c1": {"key": "api", "value": "s3cret-value", "isSecret": True}},
)
FILES = {"transformations/v1.json": ANSWER, "transformations/libraries/l1.json": LIBRARY}


def load(files: dict[str, Any], document: Any = DOCUMENT) -> Parsed:
    beside = FilesBeside({path: msgspec.json.encode(value) for path, value in files.items()})
    return parse_workspace(
        msgspec.json.encode(document), origin="c.json", env={}, checks=CHECKS, beside=beside
    )


def reason(files: dict[str, Any], document: Any = DOCUMENT) -> str:
    workspace = load(files, document).workspace
    (destination,) = workspace.destinations
    assert not workspace.transformations
    assert not destination.transformations
    assert destination.enabled == (not destination.disabled_reason)
    return destination.disabled_reason


def test_code_is_read_from_the_folder_beside_the_document(tmp_path: Path) -> None:
    for path, value in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(msgspec.json.encode(value))
    beside = FolderBeside(tmp_path)
    parsed = parse_workspace(msgspec.json.encode(DOCUMENT), origin="c", env={}, checks=CHECKS, beside=beside)
    workspace = parsed.workspace
    (made,) = workspace.transformations
    assert (made.id, made.name, made.version, made.kind) == ("t1@v1", "Mask e-mails!", "v1", "javascript")
    assert (made.code, made.code_version, made.geolocation, made.allow_hosts) == (CODE, "1", True, ())
    assert [(each.name, each.code) for each in made.libraries] == [("myDates", LIBRARY["code"])]
    assert made.credentials == {"api": Secret("s3cret-value")}
    (destination,) = workspace.destinations
    assert (destination.enabled, destination.transformations) == (True, ("t1@v1",))
    assert parsed.warnings == ()
    assert workspace.version != load({}).workspace.version


def test_it_goes_out_as_yaml() -> None:
    before = load(FILES).workspace
    text, variables = export_yaml(before)
    assert "s3cret" not in text
    after = parse(text, **dict.fromkeys(variables, "s3cret-value")).workspace
    (made,) = after.transformations
    assert (made.id, made.code, made.geolocation) == ("Mask-e-mails@v1", CODE, True)
    assert made.credentials == {"api": Secret("s3cret-value")}
    assert made.libraries[0].code == LIBRARY["code"]
    assert after.destinations[0].transformations == (made.id,)


def test_code_in_the_document_itself_is_used_and_legacy_code_known() -> None:
    given = {
        "versionId": "v0",
        "id": "t",
        "code": "function transform(events) { return events }",
        "codeVersion": "0",
    }
    (made,) = load({}, config(hook(transformations=[given]))).workspace.transformations
    assert (made.id, made.code_version, made.kind) == ("t@v0", "0", "javascript")


@pytest.mark.parametrize("language", ["pythonfaas", "python"])
def test_python_is_known_by_both_names(language: str) -> None:
    answer = ANSWER | {
        "code": "import json\ndef transformEvent(event, metadata): return event",
        "language": language,
    }
    (made,) = load(FILES | {"transformations/v1.json": answer}).workspace.transformations
    assert (made.kind, made.libraries) == ("python", ())


def test_rudderstacks_own_libraries_are_known_by_name_and_version() -> None:
    answer = ANSWER | {"code": "import { sha } from '@rs/hash/v2';\nexport const transformEvent = sha;"}
    path = "transformations/rudderstack/hash/v2.json"
    files = {"transformations/v1.json": answer, path: {"code": "export const sha = (x) => x"}}
    (made,) = load(files).workspace.transformations
    assert [(each.name, each.version) for each in made.libraries] == [("@rs/hash/v2", "v2")]
    del files[path]
    assert path in reason(files)


@pytest.mark.parametrize(
    ("path", "answer", "expected"),
    [
        (
            "transformations/v1.json",
            None,
            "the code of its transformation is not there: transformations/v1.json",
        ),
        ("transformations/libraries/l1.json", None, "the code of a library is not there"),
        (
            "transformations/libraries/l1.json",
            LIBRARY | {"name": "Other"},
            "imports 'myDates', which is not there",
        ),
        (
            "transformations/v1.json",
            {"error": "x"},
            "is not what the control plane says of its transformation",
        ),
        ("transformations/v1.json", ANSWER | {"code": " "}, "transformations/v1.json has no code"),
        ("transformations/v1.json", ANSWER | {"language": "ruby"}, "is written in 'ruby'"),
        ("transformations/v1.json", ANSWER | {"codeVersion": "2"}, "has codeVersion '2'"),
        ("transformations/v1.json", ANSWER | {"code": "await fetchV2('https://x')"}, "calls other hosts"),
        (
            "transformations/v1.json",
            ANSWER | {"code": "import requests", "language": "python"},
            "calls other hosts",
        ),
        ("transformations/v1.json", ANSWER | {"code": "x" * 1_100_000}, "is longer than 1048576 bytes"),
    ],
)
def test_without_its_code_a_destination_is_switched_off(path: str, answer: Any, expected: str) -> None:
    files = {key: value for key, value in (FILES | {path: answer}).items() if value is not None}
    assert expected in reason(files)


def test_python_with_a_library_that_is_not_there_is_switched_off() -> None:
    answer = ANSWER | {"code": "import json\ndef transformEvent(event, metadata): ...", "language": "python"}
    assert "the code of a library is not there" in reason({"transformations/v1.json": answer})


def test_of_several_transformations_the_first_is_run() -> None:
    listed = [{"versionId": "v1", "id": "t1"}, {"versionId": "v2", "id": "t2"}]
    parsed = load(FILES, DOCUMENT | config(hook(transformations=listed), libraries=[{"versionId": "l1"}]))
    assert parsed.workspace.destinations[0].transformations == ("t1@v1",)
    assert [problem.path for problem in parsed.warnings] == ["sources[0].destinations[0].transformations[1]"]


def test_another_transformation_under_another_source_is_refused() -> None:
    document = config(
        hook(transformations=[{"versionId": "v1", "id": "t1"}]), libraries=[{"versionId": "l1"}]
    )
    document["sources"][1]["destinations"] = [hook(transformations=[])]
    assert reason(FILES, document) == "it has another transformation under each of its sources"


def test_names_of_libraries_are_made_camel_case() -> None:
    names = {"My dates": "myDates", "lodash": "lodash", "URL parse-2": "urlParse2", "jsLib2": "jsLib2"}
    assert {name: _import_name(name) for name in names} == names


def test_only_code_is_asked_for() -> None:
    assert code_url_path("transformations/v1.json") == "/transformation/getByVersionId?versionId=v1"
    assert (
        code_url_path("transformations/rudderstack/a/v1.json")
        == "/rudderstackTransformationLibraries/a?version=v1"
    )
    assert code_url_path("code/v1.json") is None


# ---------------------------------------------------------------- from the control plane


class CodeServer(Server):
    """Serves the document, and the answers by their paths; what is not there is 404, or what `code_status` says."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Any] = {}
        self.code_status = 404

    def answer(self, asked: dict[str, str]) -> bytes:
        target = asked["line"].split()[1]
        if target.startswith("/workspaceConfig"):
            return super().answer(asked)
        found = self.answers.get(target)
        if found is None:
            return b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % self.code_status
        body = msgspec.json.encode(found)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def asked_for(self, part: str) -> int:
        return sum(part in asked["line"] for asked in self.seen)


ANSWERS = {
    "/transformation/getByVersionId?versionId=v1": ANSWER,
    "/transformationLibrary/getByVersionId?versionId=l1": LIBRARY,
}


@pytest.fixture
async def server() -> AsyncIterator[CodeServer]:
    server = CodeServer()
    server.serve(msgspec.json.encode(DOCUMENT))
    async with running(server):
        yield server


def ids(workspace: Workspace) -> list[str]:
    return [item.id for item in workspace.transformations]


async def test_code_is_fetched_once_with_the_token(server: CodeServer, tmp_path: Path) -> None:
    server.answers = dict(ANSWERS)
    plane = control_plane(server, tmp_path)
    workspace = await plane.current()
    assert ids(workspace) == ["t1@v1"]
    assert workspace.destinations[0].enabled
    assert len({asked["authorization"] for asked in server.seen}) == 1
    changed = DOCUMENT | {"workspaceId": "ws2"}
    server.serve(msgspec.json.encode(changed))
    assert ids(await following(plane.changes())) == ["t1@v1"]
    assert server.asked_for("/transformation/") == 1
    assert server.asked_for("/transformationLibrary/") == 1


async def test_code_comes_from_the_copy_when_the_server_is_down(tmp_path: Path) -> None:
    server = CodeServer()
    server.serve(msgspec.json.encode(DOCUMENT))
    server.answers = dict(ANSWERS)
    async with running(server):
        await control_plane(server, tmp_path).current()
    assert ids(await control_plane(server, tmp_path).current()) == ["t1@v1"]


@pytest.mark.parametrize("status", [404, 503])
async def test_what_is_lacking_is_asked_for_until_it_comes(
    server: CodeServer, tmp_path: Path, status: int
) -> None:
    server.code_status = status
    plane = control_plane(server, tmp_path)
    workspace = await plane.current()
    (destination,) = workspace.destinations
    assert not destination.enabled
    assert destination.disabled_reason.endswith(
        f"/transformation/getByVersionId?versionId=v1 answered {status}"
    )
    waiting = asyncio.ensure_future(following(plane.changes()))
    before = server.asked_for("/transformation/")
    await until(lambda: server.asked_for("/transformation/") >= before + 2)
    assert not waiting.done()
    server.answers = dict(ANSWERS)
    workspace = await waiting
    assert ids(workspace) == ["t1@v1"]
    assert workspace.destinations[0].enabled
    # And a process that starts now has it from the copy.
    server.answers = {}
    assert ids(await control_plane(server, tmp_path).current()) == ["t1@v1"]


async def test_an_error_page_is_no_code(server: CodeServer, tmp_path: Path) -> None:
    server.answers = {"/transformation/getByVersionId?versionId=v1": {"error": "no"}}
    workspace = await control_plane(server, tmp_path).current()
    assert workspace.destinations[0].disabled_reason.endswith("answered 200 without code")


async def test_a_dead_code_service_is_not_asked_a_thousand_times(server: CodeServer, tmp_path: Path) -> None:
    server.code_status = 500
    listed = [
        hook(id=f"d{number}", transformations=[{"versionId": f"v{number}", "id": "t"}])
        for number in range(60)
    ]
    server.serve(msgspec.json.encode(config(*listed)))
    applied = count("applied")
    workspace = await control_plane(server, tmp_path).current()
    assert not any(destination.enabled for destination in workspace.destinations)
    assert server.asked_for("/transformation/") < 20
    assert count("applied") == applied + 1
