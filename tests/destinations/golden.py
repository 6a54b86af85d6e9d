"""Golden cases: `tests/golden/<type>.json`, an event and what exactly is sent; and the reference pages made of them.

`python -m tests.destinations.golden [TYPE …]` writes both again: read the difference before committing it.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mainstem.destinations import catalog
from mainstem.destinations.base import DestinationSpec, Refusal, Skip
from mainstem.destinations.reference import index_page, page
from mainstem.destinations.render import rendered, secrets_in
from tests.destinations.events import config_of, mapped

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
PAGES = ROOT / "docs" / "reference" / "destinations"


def cases(type_name: str) -> list[dict[str, Any]]:
    """The cases of a type: name, config, message and payloads (or refusal); none if it writes files."""
    path = GOLDEN / f"{type_name.lower()}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return found


def outcome(type_name: str, case: dict[str, Any]) -> dict[str, Any]:
    """What the mapping makes of a case now, in the words of the case."""
    result = mapped(type_name, case["config"], case["message"])
    if isinstance(result, Refusal):
        return {"refusal": result.reason}
    if isinstance(result, Skip):
        return {"skip": result.rule}
    secrets = secrets_in(config_of(type_name, case["config"]))
    return {"payloads": [rendered(payload, secrets) for payload in result]}


def page_of(spec: DestinationSpec) -> str:
    """The reference page, with the first golden case as its example."""
    return page(spec, next(iter(cases(spec.name)), None))


def index() -> str:
    """The page that lists all types."""
    return index_page([spec for name in catalog.names() if (spec := catalog.find_spec(name)) is not None])


def write(names: Sequence[str] = ()) -> None:
    """Write the golden outcomes and the pages again, of these types or of all."""
    PAGES.mkdir(parents=True, exist_ok=True)
    for name in [name.upper() for name in names] or catalog.names():
        spec = catalog.find_spec(name)
        assert spec is not None
        inputs = [{key: case[key] for key in ("name", "config", "message")} for case in cases(name)]
        if inputs:
            done = [{**case, **outcome(name, case)} for case in inputs]
            text = json.dumps(done, indent=2, ensure_ascii=False)
            (GOLDEN / f"{name.lower()}.json").write_text(text + "\n")
        (PAGES / f"{name.lower()}.md").write_text(page_of(spec))
    (PAGES / "index.md").write_text(index())


if __name__ == "__main__":
    write(sys.argv[1:])
