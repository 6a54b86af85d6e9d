"""What RudderStack shows in its samples and templates, written anew, in both languages, through the real sandbox.

One folder a sample: `transformation.js` and `transformation.py` do the same, and `cases.json` says what: events in,
and for each what comes out (messages, null for dropped, `{"failed": words}`). The samples were found in
https://www.rudderstack.com/docs/transformations/templates/ and https://github.com/rudderlabs/sample-user-transformers.
"""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from mainstem.secret import Secret
from mainstem.transformations.base import Dropped, Failed, Given, Kept, Result
from mainstem.transformations.sandbox.runtime import SandboxRuntime
from mainstem.workspace.model import CodeLibrary, Transformation

Language = Literal["javascript", "python"]
FOLDER = Path(__file__).parent
SUFFIXES: dict[Language, str] = {"javascript": "js", "python": "py"}
BERLIN = {
    "ip": "192.0.2.7",
    "city": "Berlin",
    "country": "DE",
    "region": "State of Berlin",
    "postal": "10115",
    "location": "52.5,13.25",
    "timezone": "Europe/Berlin",
}


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    events: list[dict[str, Any]]
    results: list[list[dict[str, Any]] | dict[str, str] | None]
    metadata: dict[str, Any] = {}
    logs: list[str] | None = None
    languages: tuple[Language, ...] = ("javascript", "python")


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    about: str
    cases: list[Case]
    code_version: Literal["0", "1"] = "1"
    libraries: dict[str, dict[Language, str]] = {}
    credentials: dict[str, str] = {}
    settings: dict[str, Any] = {}
    geolocation: bool = False


SAMPLES = {
    path.parent.name: msgspec.json.decode(path.read_bytes(), type=Sample)
    for path in sorted(FOLDER.glob("*/cases.json"))
}


def _cases() -> list[Any]:
    return [
        pytest.param(name, language, case, id=f"{name} {language}: {case.name}")
        for name, sample in SAMPLES.items()
        for language, suffix in SUFFIXES.items()
        if (FOLDER / name / f"transformation.{suffix}").exists()
        for case in sample.cases
        if language in case.languages
    ]


@pytest.fixture
async def runtime() -> AsyncIterator[SandboxRuntime]:
    runtime = SandboxRuntime(locate={BERLIN["ip"]: BERLIN}.get)
    yield runtime
    await runtime.close()


def _shown(result: Result) -> Any:
    match result:
        case Kept(messages):
            return list(messages)
        case Failed(reason):
            return {"failed": reason}
        case Dropped():
            return None


def _transformation(name: str, language: Language) -> Transformation:
    sample = SAMPLES[name]
    code = (FOLDER / name / f"transformation.{SUFFIXES[language]}").read_text()
    return Transformation(
        id=f"{name}@{language}",
        name=name,
        version="1",
        kind=language,
        code=code,
        code_version=sample.code_version,
        libraries=tuple(
            CodeLibrary(name=library, code=codes[language], language=language)
            for library, codes in sample.libraries.items()
        ),
        settings=sample.settings,
        credentials={key: Secret(value) for key, value in sample.credentials.items()},
        geolocation=sample.geolocation,
    )


def _given(message: dict[str, Any], metadata: Mapping[str, Any]) -> Given:
    return Given(
        message=message,
        metadata={"messageId": message["messageId"], **metadata},
        seed=message["messageId"],
        now_ms=1_790_000_000_000,
    )


@pytest.mark.parametrize(("name", "language", "case"), _cases())
async def test_sample(name: str, language: Language, case: Case, runtime: SandboxRuntime) -> None:
    run = await runtime.run(
        _transformation(name, language), [_given(event, case.metadata) for event in case.events], logs=True
    )
    assert len(run.results) == len(case.results)
    for result, expected in zip(run.results, case.results, strict=True):
        if isinstance(expected, dict):
            assert isinstance(result, Failed), result
            assert expected["failed"] in result.reason
            assert not any(value in result.reason for value in SAMPLES[name].credentials.values())
        else:
            assert _shown(result) == expected
    if case.logs is not None:
        assert list(run.logs) == case.logs


def test_every_sample_is_there_in_both_languages_or_says_why_not() -> None:
    assert len(SAMPLES) >= 20
    for name, sample in SAMPLES.items():
        there = {
            language
            for language, suffix in SUFFIXES.items()
            if (FOLDER / name / f"transformation.{suffix}").exists()
        }
        assert there == set(SUFFIXES) or "(JavaScript only)" in sample.about or "Python has" in sample.about
        assert sample.cases


def test_the_page_shows_them_all_and_the_code_that_is_tested() -> None:
    page = (FOLDER.parents[2] / "docs" / "reference" / "transformation-samples.md").read_text()
    for name, sample in SAMPLES.items():
        assert f"| {name} | {sample.about} |" in page
    for suffix in SUFFIXES.values():
        assert (FOLDER / "batch_events" / f"transformation.{suffix}").read_text() in page
