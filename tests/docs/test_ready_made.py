"""The reference of ready-made transformations says what is there."""

from pathlib import Path

from mainstem.transformations.ready import catalog
from mainstem.transformations.ready.reference import PAGE, page

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / PAGE).read_text("utf-8") == page(), (
        "run: .venv/bin/python -m mainstem.transformations.ready.reference"
    )


def test_every_one_has_a_section_with_an_example() -> None:
    text = (ROOT / PAGE).read_text("utf-8")
    for name in catalog.names():
        _, found, after = text.partition(f"\n## {name}\n")
        assert found
        assert "```json" in after.partition("\n## ")[0]


def test_the_index_leads_to_it() -> None:
    assert "reference/ready-made-transformations.md" in (ROOT / "docs" / "index.md").read_text("utf-8")
