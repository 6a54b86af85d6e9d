"""The YAML document: what it becomes, and every mistake with its place."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstem.secret import Secret
from mainstem.workspace.errors import WorkspaceInvalid
from mainstem.workspace.model import (
    Connection,
    ConsentRule,
    DeliveryPolicy,
    Filter,
    WebhookMapping,
)
from mainstem.workspace.parse import parse_workspace
from mainstem.workspace.yaml_file import format_document
from tests.workspace.support import CHECKS, ROOT, HookConfig, document, parse, problems

FULL = """\
workspace: {id: acme, name: Acme}
sources:
  - id: web
    name: Website
    write_key: ${WEB_KEY}
    type: web
    origins: ["https://a.example"]
    geo_enrichment: true
    bots: flag
  - id: pay
    write_keys: [old-key, new-key]
    type: webhook
    enabled: false
    webhook: {event: body.type, user_id: body.customer.id}
destinations:
  - id: hook
    name: Orders
    type: webhook
    display_name: Webhook
    config:
      webhookUrl: https://${HOST:-x.example}/h
      apiKey: literal-api-key
      headers: [{from: Authorization, to: "Bearer ${TOKEN}"}]
    message_types: [track]
    consent: [{provider: custom, strategy: or, consents: [c1]}]
    delivery: {rate_per_s: 50, retry_window_s: "${WINDOW}"}
    start: 2026-01-01T00:00:00Z
  - {id: archive, type: archive}
connections:
  - from: web
    to: [hook, archive]
    filters:
      - {name: only-orders, types: [track], allow: ["Order *"], where: 'event.properties.total > 0', sample_percent: 10}
  - {from: pay, to: archive, enabled: false}
suppressed_user_ids: [u1]
"""
ENV = {"WEB_KEY": "cwebkey", "TOKEN": "t0ken-of-hook", "WINDOW": "60"}


def test_a_full_document_becomes_the_snapshot() -> None:
    workspace = parse(FULL, **ENV).workspace
    web, pay = workspace.sources
    assert (web.id, web.name, web.write_keys, web.type) == ("web", "Website", ("cwebkey",), "web")
    assert (web.origins, web.geo_enrichment, web.bots) == (("https://a.example",), True, "flag")
    assert (pay.write_keys, pay.enabled) == (("old-key", "new-key"), False)
    assert pay.webhook == WebhookMapping(event="body.type", user_id="body.customer.id")
    hook, archive = workspace.destinations
    assert (hook.type, hook.display_name, hook.message_types) == ("WEBHOOK", "Webhook", ("track",))
    assert hook.consent == (ConsentRule(provider="custom", strategy="or", consents=("c1",)),)
    assert hook.delivery == DeliveryPolicy(rate_per_s=50.0, retry_window_s=60.0)
    assert hook.start == "2026-01-01T00:00:00Z"
    assert hook.config == HookConfig(
        webhook_url="https://x.example/h",
        api_key=Secret("literal-api-key"),
        headers=({"from": "Authorization", "to": "Bearer t0ken-of-hook"},),
    )
    assert hook.raw_config == {
        "webhookUrl": Secret("https://x.example/h"),
        "apiKey": Secret("literal-api-key"),
        "headers": [{"from": "Authorization", "to": Secret("Bearer t0ken-of-hook")}],
    }
    assert (archive.name, archive.delivery) == ("archive", DeliveryPolicy())
    rule = Filter(
        name="only-orders",
        types=("track",),
        allow=("Order *",),
        where="event.properties.total > 0",
        sample_percent=10.0,
    )
    assert workspace.connections == (
        Connection(source_id="web", destination_id="hook", filters=(rule,)),
        Connection(source_id="web", destination_id="archive", filters=(rule,)),
        Connection(source_id="pay", destination_id="archive", enabled=False),
    )
    assert workspace.suppressed_user_ids == {"u1"}


def test_look_ups() -> None:
    workspace = parse(FULL, **ENV).workspace
    assert workspace.source_by_write_key("new-key") is workspace.sources[1]
    assert workspace.source_by_write_key("none") is None
    assert workspace.source("web") is workspace.sources[0]
    assert workspace.destination("archive") is workspace.destinations[1]
    assert workspace.connections_from("web") == workspace.connections[:2]
    assert workspace.connections_to("archive") == workspace.connections[1:]
    assert workspace.connection("pay", "archive") is workspace.connections[2]
    assert workspace.connections_to("none") == ()
    assert workspace.connection("pay", "hook") is None


def test_the_version_follows_the_content_not_the_layout() -> None:
    version = parse(document()).workspace.version
    assert parse("# a comment\n" + format_document(document())).workspace.version == version
    assert parse(document("other")).workspace.version != version
    assert parse(FULL, **ENV).workspace.version != parse(FULL, **ENV | {"TOKEN": "x"}).workspace.version


HEAD = "workspace: {id: w}\n"

BAD = [
    ("", "document: is empty; it needs at least `workspace: {id: …}`"),
    ("- a", "document (line 1): expected a mapping, got a list"),
    ("workspace: {}", "workspace.id (line 1): is missing"),
    (
        "workspace: {id: w}\nworkspace: {id: v}",
        "workspace (line 1): is given twice, in line 1 and again in line 2",
    ),
    (HEAD + "surces: []", "surces (line 2): is an unknown field; did you mean 'sources'?"),
    (
        HEAD + "qqq: 1",
        "qqq (line 2): is an unknown field; known: connections, destinations, libraries, sources, suppressed_user_ids,",
    ),
    (HEAD + "sources: {a: b}", "sources (line 2): expected a list, got a mapping"),
    (
        HEAD + "sources:\n  - id: 7\n    write_key: k",
        "sources[0].id (line 3): expected text, got a number; put it in quotes",
    ),
    (
        HEAD + "sources:\n  - id: a b\n    write_key: k",
        "sources[0].id (line 3): is not an id: 1 to 128 letters, digits, '.', '_' or '-', first a letter or digit",
    ),
    (HEAD + "sources:\n  - id: a", "sources[0] (line 3): has no write key; give `write_key` or `write_keys`"),
    (
        HEAD + "sources:\n  - id: a\n    write_key: a b",
        "sources[0] (line 3): has a write key that is not 1 to 256 printable ASCII characters without spaces",
    ),
    (
        HEAD + "sources:\n  - {id: a, write_key: k}\n  - {id: a, write_key: l}",
        "sources[1].id (line 4): 'a' is already the id of sources[0]",
    ),
    (
        HEAD + "sources:\n  - {id: a, write_key: same-key}\n  - {id: b, write_keys: [x, same-key]}",
        "sources[1] (line 4): has a write key that source 'a' has already",
    ),
    (
        HEAD + "sources:\n  - {id: a, write_key: k, bots: drp}",
        "sources[0].bots (line 3): 'drp' is not one of drop, flag, pass; did you mean 'drop'?",
    ),
    (
        HEAD + "sources:\n  - {id: a, write_key: k, geo_enrichment: yes}",
        "sources[0].geo_enrichment (line 3): expected true or false, got the text 'yes'",
    ),
    (
        HEAD + "destinations:\n  - id: d\n    type: webhok",
        "destinations[0].type (line 4): there is no destination type 'webhok'; did you mean 'webhook'?",
    ),
    (
        HEAD + "destinations:\n  - id: d\n    type: webhook\n    config:\n      webhookUrl: nope",
        "destinations[0].config.webhookUrl (line 6): nope is no URL",
    ),
    (
        HEAD
        + "destinations:\n  - id: d\n    type: webhook\n    config:\n      webhookUrl: http://x\n      color: red",
        "destinations[0].config.color (line 7): no such setting",
    ),
    (
        HEAD + "destinations:\n  - {id: d, type: archive, delivery: {rate_per_s: -1}}",
        "destinations[0].delivery.rate_per_s (line 3): must be at least 0",
    ),
    (
        HEAD + "destinations:\n  - {id: d, type: archive, delivery: {window: 1.5}}",
        "destinations[0].delivery.window (line 3): expected a whole number, got a number",
    ),
    (
        HEAD + "destinations:\n  - {id: d, type: archive, start: tomorrow}",
        "destinations[0].start (line 3): expected latest, earliest, or an ISO 8601 time with its zone",
    ),
    (
        HEAD + "destinations:\n  - {id: d, type: archive, config: !env X}",
        "destinations[0].config (line 3): has the tag '!env', which means nothing here",
    ),
    (HEAD + "sources: &a [*a]", "sources[0][0][0] (line 2): is nested too deeply, or contains itself"),
    ("a: [", "line 1: is not YAML: expected the node content, but found '<stream end>'"),
    (
        HEAD + "sources: [{id: a, write_key: ${KEY}}]",
        "line 2: is not YAML: expected ',' or '}', but got '{'; inside {…} and […] a reference needs quotes",
    ),
    ("a: *b", "line 1: is not YAML: found undefined alias 'b'"),
    ("a: 1\nb: 'x\x01'", "line 2: is not YAML: special characters are not allowed"),
    ("[" * 1500, "document: is nested too deeply"),
    (HEAD + "a: ${", "a (line 2): is an unknown field"),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_mistake_is_told_with_its_place(text: str, expected: str) -> None:
    told = problems(text)
    assert any(line.startswith(expected) for line in told), told


CONNECTED = document() + "  # more\n"


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        (
            "{from: wb, to: hook}",
            "connections[0].from (line 4): there is no source 'wb'; did you mean 'web'?",
        ),
        (
            "{from: web, to: [hok]}",
            "connections[0].to[0] (line 4): there is no destination 'hok'; did you mean 'hook'?",
        ),
        (
            "{from: web, to: [hook, hook]}",
            "connections[0].to[1] (line 4): 'web' is already connected to 'hook'",
        ),
        ("{from: web}", "connections[0].to (line 4): is missing"),
        (
            "{from: web, to: hook, filters: [{name: f, where: 'a +'}]}",
            "connections[0].filters[0].where (line 4): is not a CEL expression",
        ),
        (
            "{from: web, to: hook, filters: [{name: f}, {name: f}]}",
            "connections[0].filters[1].name (line 4): there are two filters 'f'",
        ),
        (
            "{from: web, to: hook, filters: [{name: f, sample_percent: 101}]}",
            "connections[0].filters[0].sample_percent (line 4): must be at most 100",
        ),
    ],
)
def test_a_mistake_in_a_connection(connection: str, expected: str) -> None:
    text = document().rpartition("connections:")[0] + f"connections: [{connection}]\n"
    assert problems(text) == [expected]


def test_all_mistakes_are_told_at_once() -> None:
    text = """\
workspace: {id: w, nam: x}
sources:
  - {id: a, write_key: 1}
destinations:
  - {id: d, type: nope, delivery: {windw: 1}}
connections:
  - {from: b, to: e}
"""
    assert [line.partition(" ")[0] for line in problems(text)] == [
        "workspace.nam",
        "sources[0].write_key",
        "destinations[0].delivery.windw",
        "destinations[0].type",
        "connections[0].from",
        "connections[0].to",
    ]


@pytest.mark.parametrize(
    ("value", "env", "expected"),
    [
        ("${NOPE}", {}, "the environment variable NOPE is not set"),
        ("${NOPE}", {"NOPE": ""}, "the environment variable NOPE is empty"),
        ("${a-b}", {}, "has a malformed reference; write ${NAME}, ${NAME:-default}, or $${ for a plain ${"),
        ("${NOPE}", {"NOPE": "\udcff"}, "the environment variable NOPE is not UTF-8 text"),
    ],
)
def test_an_environment_reference_that_fails(value: str, env: dict[str, str], expected: str) -> None:
    told = problems(HEAD + f'sources: [{{id: a, write_key: "{value}"}}]', **env)
    assert told[0] == f"sources[0].write_key (line 2): {expected}"


def test_environment_references() -> None:
    text = HEAD + "sources: [{id: a, write_keys: ['${A}', 'x-${A}', '${B:-fallback}', '$${A}', '${E:-e}']}]"
    assert parse(text, A="key", E="").workspace.sources[0].write_keys == (
        "key",
        "x-key",
        "fallback",
        "${A}",
        "e",
    )


def test_no_secret_shows() -> None:
    secrets = ("s3cret-write-key", "s3cret-token", "literal-api-key")
    text = FULL.replace("${HOST:-x.example}/h", "x.example").replace(
        "apiKey: literal", "color: 1\n      apiKey: literal"
    )
    parsed = parse(text, WEB_KEY=secrets[0], TOKEN=secrets[1], WINDOW="60")
    shown = f"{parsed!r} {parsed} {[repr(item) for item in parsed.workspace.sources]}"
    told = problems(
        FULL.replace("https://${HOST:-x.example}/h", "${TOKEN} literal-api-key")
        .replace("bots: flag", "bots: ${TOKEN}")
        .replace("from: web", "from: '${TOKEN}'")
        .replace("id: web\n", "id: '${WEB_KEY}'\n"),
        WEB_KEY=secrets[0],
        TOKEN=secrets[1],
        WINDOW="x",
    )
    assert len(told) >= 4
    for secret in secrets:
        assert secret not in shown
        assert secret not in "".join(told)


def test_a_yaml_error_does_not_quote_the_line() -> None:
    with pytest.raises(WorkspaceInvalid) as caught:
        parse('a: 1\npassword: "s3cret\n')
    assert "s3cret" not in str(caught.value)


def test_aliases_and_merges() -> None:
    text = (
        HEAD + "sources: [{id: a, write_key: k}]\n"
        "destinations:\n"
        "  - &base {id: d, type: archive, delivery: &slow {rate_per_s: 5, window: 9}}\n"
        "  - {<<: *base, id: e, delivery: {<<: *slow, window: 10}}\n"
    )
    first, second = parse(text).workspace.destinations
    assert (first.delivery.rate_per_s, first.delivery.window) == (5.0, 9)
    assert (second.id, second.delivery.rate_per_s, second.delivery.window) == ("e", 5.0, 10)


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert any("is too large" in line for line in problems("\n".join(lines)))


def test_the_same_document_as_json() -> None:
    text = msgspec.json.encode(
        {"workspace": {"id": "w"}, "sources": [{"id": "a", "write_key": "k", "bot": 1}]}
    )
    with pytest.raises(WorkspaceInvalid) as caught:
        parse_workspace(text, origin="w", env={}, checks=CHECKS)
    assert [str(problem) for problem in caught.value.problems] == [
        "sources[0].bot: is an unknown field; did you mean 'bots'?"
    ]
    good = text.replace(b',"bot":1', b"")
    assert parse_workspace(good, origin="w", env={}, checks=CHECKS).workspace.sources[0].id == "a"


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"{", b"[1]", b"{" * 9000, b'{"a": NaN}', b"\xef\xbb\xbf", b'["\\ud800"]']
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WorkspaceInvalid):
        parse_workspace(data, origin="w", env={}, checks=CHECKS)


def test_the_example_is_right() -> None:
    env = {"WEB_WRITE_KEY": "w", "SERVER_WRITE_KEY": "s", "HOOK_TOKEN": "t"}
    parsed = parse((ROOT / "examples/workspace.yaml").read_text(), **env)
    assert parsed.warnings == ()
    assert len(parsed.workspace.connections) == 5


# ---------------------------------------------------------------- layout

UNTIDY = """\
# top
workspace:   {id: w}   # inline
sources:
# before the first
-   id: a
    write_key: 'k'   # the key

    # inside
    origins:
    - "https://a.example"
# last
"""
TIDY = """\
# top
workspace: {id: w}     # inline
sources:
# before the first
  - id: a
    write_key: 'k'   # the key

    # inside
    origins:
      - "https://a.example"
# last
"""


def test_formatting_keeps_comments_and_values() -> None:
    assert format_document(UNTIDY) == TIDY
    assert format_document(TIDY) == TIDY


def test_a_formatted_example_is_as_it_was() -> None:
    text = (ROOT / "examples/workspace.yaml").read_text()
    assert format_document(text) == text


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2"])
def test_a_broken_document_is_not_formatted(text: str) -> None:
    with pytest.raises(WorkspaceInvalid):
        format_document(text)


def test_formatting_leaves_long_expressions_in_one_line() -> None:
    text = "where: " + "event.properties.total > 0 && " * 20 + "true\n"
    assert format_document(text) == text


# ---------------------------------------------------------------- any text

YAML_BITS = st.lists(
    st.sampled_from(
        ["workspace:", "sources:", "\n", "  ", "- ", "id: a", "write_key", ": ", "{", "}", "[", "]", "&a", "*a",
         "!!int ", "!x", "<<", "? ", "|", ">", "'", '"', "${A}", "${", "#", "---", "...", "%YAML 1.1\n", "0x1",
         "1e9", "\\ud800", "\t", ",", "~", "on", "2020-01-01", "destinations:", "type: webhook", "config:", "delivery:"]
    )
).map("".join)  # fmt: skip


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.text(), YAML_BITS))
def test_any_text_is_a_snapshot_or_refused(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    with suppress(WorkspaceInvalid):
        parse_workspace(data, origin="w", env={"A": "a"}, checks=CHECKS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["workspace", "sources", "Destinations", "id", "name", "writeKey", "config", "settings", "connections",
             "destinationDefinition", "enabled", "consentManagement", "consents", "eventBlocking", "events", "track"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=15,
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(["workspace", "sources", "settings", "x"]), JSON))
def test_any_json_is_a_snapshot_or_refused(value: object) -> None:
    with suppress(WorkspaceInvalid):
        parse_workspace(msgspec.json.encode(_small(value)), origin="w", env={}, checks=CHECKS)


def _small(value: object) -> object:
    """Cut integers to what msgspec writes; JSON itself has no bound."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value % 2**63
    if isinstance(value, list):
        return [_small(item) for item in value]
    if isinstance(value, dict):
        return {key: _small(item) for key, item in value.items()}
    return value


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.text(), YAML_BITS))
def test_formatting_any_text_is_stable_or_refused(text: str) -> None:
    try:
        once = format_document(text)
    except WorkspaceInvalid:
        return
    assert format_document(once) == once
