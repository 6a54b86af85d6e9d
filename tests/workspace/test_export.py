"""A snapshot as YAML: what is written reads back the same, and no secret is in it."""

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from mainstem.secret import Secret
from mainstem.workspace.export import export_yaml
from mainstem.workspace.model import (
    Connection,
    ConsentRule,
    DeliveryPolicy,
    Destination,
    Filter,
    Source,
    Transformation,
    WebhookMapping,
    Workspace,
)
from mainstem.workspace.settings_check import with_secrets
from mainstem.workspace.yaml_file import format_document, parse_yaml_workspace
from tests.workspace.support import CHECKS, ROOT, check_config, parse
from tests.workspace.test_rudder_config import config, hook, load

CONFIG = {"webhookUrl": "https://x.example/h"}


def hidden(value: Any) -> Iterator[str]:
    """The secrets in the order of the settings, as the variables are given their names."""
    if isinstance(value, Secret):
        if value:
            yield value.reveal()
    elif isinstance(value, dict):
        for item in value.values():
            yield from hidden(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from hidden(item)


def exported(workspace: Workspace) -> tuple[str, Workspace]:
    text, variables = export_yaml(workspace)
    loadable = [item for item in workspace.destinations if item.config is not None]
    values = [secret for item in loadable for secret in hidden(item.raw_config)]
    assert len(values) == len(variables)
    env = dict(zip(variables, values, strict=True))
    return text, parse_yaml_workspace(text, origin="out.yaml", env=env, checks=CHECKS).workspace


def assert_same(before: Workspace, after: Workspace) -> None:
    assert after.sources == before.sources
    kept = [item for item in before.destinations if item.config is not None]
    assert list(after.destinations) == [msgspec.structs.replace(item, disabled_reason="") for item in kept]
    for source in before.sources:
        pairs = {item.destination_id: item for item in before.connections_from(source.id)}
        expected = {key: item for key, item in pairs.items() if key in {one.id for one in kept}}
        assert {item.destination_id: item for item in after.connections_from(source.id)} == expected
    assert after.suppressed_user_ids == before.suppressed_user_ids


def destination(raw: dict[str, Any] | None = None, **fields: Any) -> Destination:
    given_raw = CONFIG | (raw or {})
    check = check_config("WEBHOOK", given_raw)
    made: dict[str, Any] = {
        "id": "hook",
        "name": "hook",
        "type": "WEBHOOK",
        "config": check.config,
        "raw_config": with_secrets(given_raw, check.secret_fields),
    }
    return Destination(**(made | fields))


def workspace(*destinations: Destination, **fields: Any) -> Workspace:
    made: dict[str, Any] = {
        "id": "acme",
        "version": "1",
        "sources": (Source(id="web", name="web", write_keys=("web-key",)),),
        "destinations": destinations,
        "connections": tuple(Connection(source_id="web", destination_id=item.id) for item in destinations),
    }
    return Workspace(**(made | fields))


def test_only_what_differs_from_the_defaults_is_written() -> None:
    text, variables = export_yaml(workspace(destination()))
    assert variables == {}
    assert text == (
        "# Every field: docs/reference/workspace.md\n"
        "\n"
        "workspace:\n"
        "  id: acme\n"
        "\n"
        "sources:\n"
        "  - id: web\n"
        "    write_key: web-key\n"
        "\n"
        "destinations:\n"
        "  - id: hook\n"
        "    type: webhook\n"
        "    config:\n"
        "      webhookUrl: https://x.example/h\n"
        "\n"
        "connections:\n"
        "  - from: web\n"
        "    to: hook\n"
    )


def test_secrets_become_references_that_say_what_they_are() -> None:
    raw = {"apiKey": "s3cr3t-key", "headers": [{"from": "Authorization", "to": Secret("Bearer s3cr3t")}]}
    text, variables = export_yaml(workspace(destination(raw), destination({"apiKey": "other"}, id="my.hook")))
    assert variables == {
        "HOOK_API_KEY": "config.apiKey of destination hook",
        "HOOK_HEADERS_0_TO": "config.headers[0].to of destination hook",
        "MY_HOOK_API_KEY": "config.apiKey of destination my.hook",
    }
    assert "s3cr3t" not in text
    assert "other" not in text
    assert "apiKey: ${HOOK_API_KEY}\n" in text


def test_variable_names_are_valid_and_unique() -> None:
    ids = ("9to5", "a-b", "a.b", "mainstem", "a_b")
    _, variables = export_yaml(
        workspace(*(destination({"apiKey": f"secret-{each}"}, id=each, name=each) for each in ids))
    )
    assert list(variables) == [
        "DESTINATION_9TO5_API_KEY",
        "A_B_API_KEY",
        "A_B_API_KEY_2",
        "DESTINATION_MAINSTEM_API_KEY",
        "A_B_API_KEY_3",
    ]


def test_an_empty_secret_needs_no_variable() -> None:
    before = workspace(destination({"apiKey": ""}))
    text, after = exported(before)
    assert "apiKey: ${HOOK_API_KEY:-}\n" in text
    assert_same(before, after)


def test_text_with_a_reference_in_it_stays_text() -> None:
    before = workspace(
        destination({"webhookUrl": "https://x.example/${HOME}"}, name="$${ ${", client_config={"a": "${B}"})
    )
    assert_same(before, exported(before)[1])


def test_a_destination_that_is_off_says_why() -> None:
    before = workspace(destination(enabled=False, disabled_reason="it has\na transformation"))
    text, after = exported(before)
    assert "  # Off: it has a transformation\n  - id: hook\n" in text
    assert_same(before, after)


def test_a_destination_that_could_not_be_read_back_stands_in_comments() -> None:
    gone = destination({"apiKey": "s3cr3t"}, id="am", type="AM", config=None, enabled=False)
    before = workspace(destination(), gone)
    text, after = exported(before)
    assert "  # Left out: its settings are not accepted, or there is no such type\n  # - id: am\n" in text
    assert "  # - from: web\n  #   to: am\n" in text
    assert "s3cr3t" not in text
    assert_same(before, after)
    alone, empty = exported(workspace(gone))
    assert "destinations: []\n" in alone
    assert empty.destinations == ()


def test_connections_with_the_same_rules_are_one_item() -> None:
    rules = (Filter(name="orders", types=("track",), where='event.event == "it\'s"'),)
    before = workspace(
        *(destination(id=each, name=each) for each in ("a", "b", "c")),
        connections=(
            Connection(source_id="web", destination_id="a"),
            Connection(source_id="web", destination_id="b", filters=rules),
            Connection(source_id="web", destination_id="c"),
        ),
    )
    text, after = exported(before)
    assert "to: [a, c]\n" in text
    assert text.count("from: web") == 2
    assert_same(before, after)


def test_a_source_without_a_key_gets_one_from_the_environment() -> None:
    keyless = workspace(sources=(Source(id="sPay", name="sPay", write_keys=()),))
    text, variables = export_yaml(keyless)
    assert variables == {"SPAY_WRITE_KEY": "a write key for source sPay, which had none"}
    assert parse(text, SPAY_WRITE_KEY="k").workspace.sources[0].write_keys == ("k",)


@pytest.mark.parametrize(
    ("given_id", "written"),
    [("acme", "acme"), ("Our shop!", "Our-shop-"), ("", "workspace"), ("—", "workspace")],
)
def test_a_workspace_id_that_is_no_id_of_ours_is_made_one(given_id: str, written: str) -> None:
    assert parse(export_yaml(workspace(id=given_id))[0]).workspace.id == written


def test_rudderstacks_document_goes_over() -> None:
    parsed = load(
        config(
            hook(
                {"headers": [{"from": "Authorization", "to": "Bearer s3cr3t"}]}
                | {"eventFilteringOption": "blacklistedEvents"}
                | {"blacklistedEvents": [{"eventName": 'Log "out"'}, {"eventName": "It's"}]}
            ),
            hook(id="dTransformed", transformations=[{"id": "t"}]),
            hook(id="dOff", enabled=False),
            hook(id="dUnknown", destinationDefinition={"name": "AM"}),
            hook({"webhookUrl": "nonsense"}, id="dRefused"),
        )
    )
    text, after = exported(parsed.workspace)
    assert "s3cr3t" not in text
    assert "# Off: it has a transformation" in text
    assert "# Left out: there is no destination type AM yet" in text
    assert_same(parsed.workspace, after)


def test_the_example_goes_round() -> None:
    text = (ROOT / "examples" / "workspace.yaml").read_text("utf-8")
    before = parse(text, WEB_WRITE_KEY="w", SERVER_WRITE_KEY="s", HOOK_TOKEN="token").workspace
    assert_same(before, exported(before)[1])


# ---------------------------------------------------------------- any code

LINES = st.lists(
    st.text(st.sampled_from("ab{}$:#'\"\\- \t"), max_size=8)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    max_size=6,
)


@given(lines=LINES, end=st.sampled_from(["", "\n", "\n\n", "\n  "]))
@settings(max_examples=150)
def test_any_code_goes_round(lines: list[str], end: str) -> None:
    code = "\n".join(lines) + end
    if not code:
        return
    made = Transformation(id="t@1", name="t", version="1", kind="python", code=code, settings={})
    before = Workspace(
        id="w",
        version="v",
        sources=(Source(id="s", name="s", write_keys=("k",)),),
        destinations=(destination(transformations=("t@1",)),),
        transformations=(made, Transformation(id="u@1", name="u", version="1", kind="python", code="x")),
    )
    _, after = exported(before)
    assert after.transformations == (made,)


# ---------------------------------------------------------------- any workspace

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "true",
        "No",
        "1",
        "1e3",
        "0o7",
        "~",
        "null",
        "- a",
        "a: b",
        "a #b",
        "${X}",
        "$${",
        'it\'s "so"',
        "<<",
        "=",
    ]
)
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=16)
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.text("abcXYZ0", min_size=1, max_size=8).map(lambda text: Secret("secret " + text)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
TEXT_LISTS = st.lists(TEXTS, max_size=3).map(tuple)
FILTERS = st.builds(
    Filter,
    name=TEXTS,
    types=TEXT_LISTS,
    allow=TEXT_LISTS,
    deny=TEXT_LISTS,
    where=st.sampled_from(["", "true", 'event.type != "identify"', "event.event == 'it' + \"s\""]),
    sample_percent=st.floats(0, 100),
)
DESTINATIONS = st.builds(
    destination,
    raw=st.dictionaries(TEXTS.map("extra {}".format), VALUES, max_size=3),
    id=IDS,
    name=TEXTS.filter(bool),
    display_name=TEXTS,
    enabled=st.booleans(),
    disabled_reason=TEXTS,
    client_config=st.dictionaries(TEXTS, TEXTS, max_size=2),
    message_types=st.lists(st.sampled_from(["track", "identify", "alias"]), max_size=2).map(tuple),
    consent=st.lists(st.builds(ConsentRule, provider=TEXTS, consents=TEXT_LISTS), max_size=2).map(tuple),
    one_trust_categories=TEXT_LISTS,
    ketch_purposes=TEXT_LISTS,
    delivery=st.builds(DeliveryPolicy, rate_per_s=st.floats(0, 1e9), window=st.integers(1, 2**40)),
    start=st.sampled_from(["latest", "earliest", "2026-01-01T00:00:00Z"]),
)
WEBHOOKS = st.none() | st.builds(WebhookMapping, event=TEXTS, user_id=TEXTS)


@st.composite
def workspaces(draw: st.DrawFn) -> Workspace:
    destinations = draw(st.lists(DESTINATIONS, max_size=3, unique_by=lambda item: item.id))
    keys = draw(st.lists(KEYS, min_size=3, max_size=3, unique=True))
    sources = [
        draw(
            st.builds(
                Source,
                id=st.just(f"source-{index}"),
                name=TEXTS.filter(bool),
                write_keys=st.just(own),
                type=TEXTS,
                enabled=st.booleans(),
                origins=TEXT_LISTS,
                webhook=WEBHOOKS,
                geo_enrichment=st.booleans(),
                bots=st.sampled_from(["pass", "flag", "drop"]),
            )
        )
        for index, own in enumerate([(keys[0],), (keys[1], keys[2])])
    ]
    pairs = [(source.id, item.id) for source in sources for item in destinations]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    rules = st.lists(FILTERS, max_size=2, unique_by=lambda item: item.name).map(tuple)
    return Workspace(
        id=draw(IDS),
        version="1",
        sources=tuple(sources),
        destinations=tuple(destinations),
        connections=tuple(
            Connection(source_id=a, destination_id=b, enabled=draw(st.booleans()), filters=draw(rules))
            for a, b in chosen
        ),
        suppressed_user_ids=draw(st.frozensets(TEXTS, max_size=3)),
    )


@settings(max_examples=60, deadline=None)
@given(workspaces())
def test_what_is_written_reads_back_the_same(before: Workspace) -> None:
    text, after = exported(before)
    assert_same(before, after)
    assert "secret " not in text
    assert parse_yaml_workspace(
        format_document(text),
        origin="out.yaml",
        env=dict.fromkeys(export_yaml(before)[1], "x"),
        checks=CHECKS,
    ).workspace.sources == (before.sources)
