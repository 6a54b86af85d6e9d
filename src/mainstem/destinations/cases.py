"""Cases of a destination: an event under settings, and what exactly is sent. Its golden tests, and a third party's.

A case is a JSON object in a list:

    {"name": "a track", "config": {…}, "message": {…}, "payloads": [{method, url, headers, body}]}

In place of `payloads` it may have `refusal` (a dead letter, with this reason) or `skip` (filtered, by this rule).
`mainstem destination test` runs them; with `--write` it writes what came out into the file, to be read before it is
kept.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from mainstem.destinations.base import Call, DestinationSpec, MapContext, Mapped, Refusal, Skip
from mainstem.destinations.catalog import check_config
from mainstem.destinations.render import rendered, secrets_in
from mainstem.destinations.schemas import compile_check
from mainstem.errors import SettingsError
from mainstem.events.canonical import Event, id_text

CONTEXT: Final = MapContext(now_ms=1_700_000_000_000, destination_id="d1", source_name="site")
"""What cases are mapped with: 2023-11-14T22:13:20Z."""
_EXPECTED: Final = ("payloads", "refusal", "skip")


class CaseResult(msgspec.Struct, frozen=True):
    """What became of a case."""

    name: str
    outcome: dict[str, Any]
    """`payloads`, `refusal` or `skip`, as a case has them; `invalid` when the settings are wrong."""
    diff: str = ""
    """Expected against what came; empty when they are equal or nothing was expected."""
    problem: str = ""
    """Why a request does not fit the vendor's documentation."""

    @property
    def passed(self) -> bool:
        return not self.diff and not self.problem and "invalid" not in self.outcome


def event_of(message: dict[str, Any]) -> Event:
    """Return the canonical event that holds a case's message."""
    kind = message.get("type")
    name = message.get("event") if kind == "track" else message.get("name")
    return Event(
        message=message,
        source_id="s1",
        message_id=id_text(message.get("messageId")) or "m1",
        type=kind if isinstance(kind, str) else "track",
        name=name if isinstance(name, str) else "",
        user_id=id_text(message.get("userId")),
        anonymous_id=id_text(message.get("anonymousId")),
        received_at_ms=CONTEXT.now_ms,
        raw=b"",
    )


def read_cases(path: Path) -> list[dict[str, Any]]:
    """Return the cases of a file.

    Raises:
        SettingsError: it can't be read, or is no list of cases.
    """
    try:
        cases = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}") from None
    except msgspec.DecodeError as error:
        raise SettingsError(f"{path}: {error}") from None
    for index, case in enumerate(cases if isinstance(cases, list) else [None]):
        if not isinstance(case, dict) or not isinstance(case.get("message"), dict):
            raise SettingsError(f"{path}: [{index}]: expected an object with `name`, `config` and `message`")
    return list(cases)


def run_case(spec: DestinationSpec, case: Mapping[str, Any]) -> CaseResult:
    """Map a case's event and compare."""
    name = str(case.get("name", ""))
    checked = check_config(spec.name, case.get("config") or {}, to_send=False)
    if checked.errors or spec.mapper is None:
        told = (
            "; ".join(f"`{path}` {text}" for path, text in checked.errors) or "it writes events as they are"
        )
        return CaseResult(name, {"invalid": told})
    mapped = spec.mapper(checked.config)(event_of(case["message"]), CONTEXT)
    outcome = _outcome(mapped, checked.config)
    expected = {key: case[key] for key in _EXPECTED if key in case}
    diff = _diff(expected, outcome) if expected and expected != outcome else ""
    return CaseResult(name, outcome, diff, _problem(spec, mapped))


def written(cases: Sequence[Mapping[str, Any]], results: Sequence[CaseResult]) -> str:
    """Return a file's text with what came out in place of what was expected."""
    made = [
        {**{key: value for key, value in case.items() if key not in _EXPECTED}, **result.outcome}
        for case, result in zip(cases, results, strict=True)
    ]
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _outcome(mapped: Mapped, config: Any) -> dict[str, Any]:
    if isinstance(mapped, Refusal):
        return {"refusal": mapped.reason}
    if isinstance(mapped, Skip):
        return {"skip": mapped.rule}
    secrets = secrets_in(config)
    # Through JSON, so that it compares with what a file holds.
    shown: Any = json.loads(json.dumps([rendered(payload, secrets) for payload in mapped]))
    return {"payloads": shown}


def _problem(spec: DestinationSpec, mapped: Mapped) -> str:
    check = compile_check(spec)
    if check is None or not isinstance(mapped, tuple):
        return ""
    problems = (check(payload) for payload in mapped if isinstance(payload, Call))
    return next((problem for problem in problems if problem), "")


def _diff(expected: dict[str, Any], found: dict[str, Any]) -> str:
    before, after = (
        json.dumps(side, indent=2, ensure_ascii=False).splitlines() for side in (expected, found)
    )
    return "\n".join(list(difflib.unified_diff(before, after, "expected", "found", lineterm=""))[2:])
