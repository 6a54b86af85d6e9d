"""Code written for Segment's and RudderStack's libraries runs unchanged but for the import, and says the same.

Each program of `examples/` is run with the published library it was written for and, with its imports replaced, with
ours; what a collector gets from both is compared, event by event.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.components.install import REPOSITORY
from tests.components.python_sdks import PythonSdks
from tests.sdks.python.collector import Collector

EXAMPLES = Path(__file__).parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
_THEIRS = re.compile(r"\b(?:segment|rudderstack)\.analytics\b")


def ours(name: str) -> str:
    """An example with our import: nothing else differs."""
    theirs = (EXAMPLES / f"{name}.py").read_text()
    code = _THEIRS.sub("mainstem_analytics", theirs)
    changed = [
        line for line, before in zip(code.splitlines(), theirs.splitlines(), strict=True) if line != before
    ]
    assert changed
    assert all(re.match(r"(import|from) mainstem_analytics", line) for line in changed)
    return code


def run(python: Path | str, code: str, collector: Collector, home: Path) -> list[Mapping[str, Any]]:
    """Run a program against the collector; returns what arrived, comparable."""
    done = subprocess.run(
        [python, "-c", code, collector.url],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/sdks/python/src", "XDG_STATE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [comparable(event) for event in collector.arrived]


def comparable(event: Mapping[str, Any]) -> dict[str, Any]:
    """What the caller said, without what every library adds in its own way.

    Nulls mean absent; RudderStack's library puts an identify's traits into the context, adds `{"All": true}` and
    leaves no traits elsewhere.
    """
    kept = {name: value for name, value in event.items() if value is not None}
    for name in ("originalTimestamp", "channel", "sentAt"):
        kept.pop(name, None)
    if kept["messageId"] != "own-id":
        kept["messageId"] = "made"
    if not kept["timestamp"].startswith("2538"):
        kept["timestamp"] = "now"
    context = dict(kept["context"])
    context.pop("library", None)
    traits = context.pop("traits", None)
    if traits and not kept.get("traits"):
        kept["traits"] = traits
    kept["context"] = context
    kept["timestamp"] = re.sub(r"(\.000)?(\+00:00|Z)$", "", kept["timestamp"])
    if kept.get("integrations") == {"All": True}:
        kept["integrations"] = {}
    return kept


@pytest.mark.parametrize("name", NAMES)
def test_the_same_events_arrive(name: str, python_sdks: PythonSdks, tmp_path: Path) -> None:
    theirs = python_sdks.segment if name.startswith("segment") else python_sdks.rudder
    with Collector() as collector:
        expected = run(theirs, (EXAMPLES / f"{name}.py").read_text(), collector, tmp_path)
    with Collector() as collector:
        found = run(sys.executable, ours(name), collector, tmp_path)
    assert len(found) >= 5
    # Of several clients in a program, each has an order of its own.
    key = (lambda event: str(event["userId"])) if name == "segment_client" else (lambda _: "")
    assert sorted(found, key=key) == sorted(expected, key=key)


@pytest.mark.parametrize("name", NAMES)
def test_without_the_published_libraries_too(name: str, tmp_path: Path) -> None:
    with Collector() as collector:
        assert len(run(sys.executable, ours(name), collector, tmp_path)) >= 5
