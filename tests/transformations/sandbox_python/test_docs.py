"""The reference page lists the modules that there are, and its example runs."""

import re
from pathlib import Path

from tests.transformations.sandbox_python.conftest import LoadCode

from mainstem.transformations.sandbox.python.imports import MODULES
from mainstem.transformations.sandbox.python.seeded import MODULES as SEEDED

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "transformations-python.md").read_text("utf-8")


def test_every_module_is_listed_and_no_other() -> None:
    section = PAGE.partition("### Modules\n")[2].partition("Any other import")[0]
    listed = set(re.findall(r"`([\w.]+)`", section)) - {"StringIO", "BytesIO"}
    tops = {name.partition(".")[0] for name in MODULES} - {"urllib"}
    assert listed == {*tops, *SEEDED, "urllib.parse", "requests", "io"}


def test_the_example_runs(load: LoadCode) -> None:
    code = PAGE.partition("```python\n")[2].partition("```")[0]
    kept, dropped = load(code).run({"type": "page"}, {"type": "track", "event": "Heartbeat"})
    assert kept[0]["context"] == {"sourceName": "Web shop"}
    assert dropped is None
