"""The reference page and the JSON Schema are the code's."""

import msgspec
import pytest
from jsonschema_rs import validator_for

from mainstem.workspace import schema
from mainstem.workspace.tree import parse_yaml
from tests.workspace.support import ROOT
from tests.workspace.test_yaml_file import FULL

KINDS = [kind for _, kind in schema._SECTIONS]


@pytest.mark.parametrize("name", ["workspace.md", "workspace.schema.json"])
def test_the_reference_is_up_to_date(name: str) -> None:
    """When this fails: `python -m mainstem.workspace.schema`."""
    assert (ROOT / "docs/reference" / name).read_text() == schema.reference_files()[name]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_documented(kind: type[msgspec.Struct]) -> None:
    assert [name for name, text in schema.field_docs(kind).items() if not text] == []


def test_every_struct_of_the_document_has_its_section() -> None:
    assert {kind.__name__ for kind in KINDS} == set(schema.json_schema()["$defs"])


def test_the_schema_accepts_what_the_loader_accepts() -> None:
    validator = validator_for(schema.json_schema())
    for text in ((ROOT / "examples/workspace.yaml").read_text(), FULL):
        assert validator.is_valid(parse_yaml(text, "w")[0].value)


@pytest.mark.parametrize(
    "text",
    [
        "workspace: {}",
        "workspace: {id: w}\nsurces: []",
        "workspace: {id: w}\nsources: [{id: a b}]",
        "workspace: {id: w}\ndestinations: [{id: a, type: t, delivery: {rate_per_s: -1}}]",
        "workspace: {id: w}\nconnections: [{from: a, to: 1}]",
    ],
)
def test_the_schema_refuses_mistakes(text: str) -> None:
    assert not validator_for(schema.json_schema()).is_valid(parse_yaml(text, "w")[0].value)
