"""What every destination type must hold, whoever wrote it."""

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstem.destinations import catalog
from mainstem.destinations.base import Call, DestinationSpec, Dialogue, Refusal, Request, Skip, StreamMessage
from mainstem.destinations.kit.call import encode
from mainstem.destinations.reference import settings_of
from mainstem.destinations.render import rendered, secrets_in
from mainstem.destinations.schemas import compile_check
from mainstem.events.canonical import Event, canonical_event
from mainstem.events.stored import StoredEvent
from mainstem.secret import Secret
from tests.destinations.events import CONTEXT, config_of, event_of
from tests.destinations.golden import PAGES, cases, index, outcome, page_of

NAMES = catalog.names()
MAPPED = [name for name in NAMES if (spec := catalog.find_spec(name)) is not None and spec.mapper is not None]
# Documented by RudderStack; ours only in that they are understood.
_RUDDER_STORAGE = {"AZURE_BLOB", "DIGITAL_OCEAN_SPACES", "GCS", "MINIO", "S3"}
SECRET = "s3cr3t-v4lue-of-a-customer"
TYPES = ("identify", "track", "page", "screen", "group", "alias", "merge", "record", "audiencelist")

_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(st.characters(categories=["Cs", "Cc", "Zs", "Lu"]), max_size=3)
)
_json = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_fields = ["userId", "anonymousId", "event", "name", "properties", "traits", "context", "integrations"]
_fields += ["header", "appendPath", "request_ip", "groupId", "previousId", "messageId"]
_messages = st.builds(
    lambda kind, known, other: {**other, **known, "type": kind},
    st.sampled_from(TYPES),
    st.dictionaries(st.sampled_from(_fields), _json, max_size=8),
    st.dictionaries(st.text(max_size=8), _json, max_size=2),
)


def _spec(name: str) -> DestinationSpec:
    spec = catalog.find_spec(name)
    assert spec is not None
    return spec


def _shown(mapped: Any) -> str:
    """What a mapping gave, with the first thing a dialogue does in its place."""
    if isinstance(mapped, tuple):
        return repr([rendered(one) if isinstance(one, Dialogue) else one for one in mapped])
    return repr(mapped)


@pytest.mark.parametrize("name", NAMES)
def test_the_spec_is_whole(name: str) -> None:
    spec = _spec(name)
    assert spec.name == name
    assert spec.title
    assert spec.doc_url
    assert spec.message_types <= set(TYPES)
    assert spec.kind in ("files", "tables") or spec.mapper is not None
    assert catalog.find_spec(name.lower()) is spec


@pytest.mark.parametrize("name", sorted(set(NAMES) - _RUDDER_STORAGE))
def test_every_setting_is_documented(name: str) -> None:
    assert [setting.name for setting in settings_of(_spec(name).config) if not setting.text] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_page_is_current(name: str) -> None:
    page = PAGES / f"{name.lower()}.md"
    assert page.exists(), "write the pages: python -m tests.destinations.golden"
    assert page.read_text() == page_of(_spec(name)), (
        "write the pages again: python -m tests.destinations.golden"
    )


def test_the_list_of_types_is_current() -> None:
    assert (PAGES / "index.md").read_text() == index(), "write it again: python -m tests.destinations.golden"


@pytest.mark.parametrize("name", MAPPED)
def test_there_are_golden_cases(name: str) -> None:
    assert cases(name)


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name}: {case['name']}") for name in MAPPED for case in cases(name)],
)
def test_golden(name: str, case: dict[str, Any]) -> None:
    expected = {key: case[key] for key in ("payloads", "refusal", "skip") if key in case}
    assert outcome(name, case) == expected


@pytest.mark.parametrize("name", MAPPED)
@given(message=_messages)
@settings(max_examples=60, deadline=None)
def test_any_event_is_mapped_without_raising_changing_it_or_chance(
    name: str, message: dict[str, Any]
) -> None:
    spec = _spec(name)
    assert spec.mapper is not None
    before = repr(message)
    for case in cases(name):
        mapper = spec.mapper(config_of(name, case["config"]))
        event = event_of(message)
        first = mapper(event, CONTEXT)
        again = spec.mapper(config_of(name, case["config"]))(event_of(copy.deepcopy(message)), CONTEXT)
        assert _shown(first) == _shown(again)
        assert isinstance(first, tuple | Refusal | Skip)
        if isinstance(first, tuple):
            for payload in first:
                assert isinstance(payload, Request | Call | StreamMessage | Dialogue)
                if isinstance(payload, Call):
                    payload = encode(payload)
                if isinstance(payload, Request):
                    payload.url.encode()
                    assert "\n" not in "".join(part for pair in payload.headers for part in pair)
                rendered(payload)
    assert repr(message) == before


def _canonical(message: dict[str, Any]) -> Event | None:
    """The event as the pipeline has it; None where the gateway would not have taken it."""
    try:
        raw = msgspec.json.encode(message)
        stored = StoredEvent("s1", "m1", message["type"], CONTEXT.now_ms, raw)
        return canonical_event(stored)
    except (UnicodeEncodeError, OverflowError, msgspec.DecodeError):
        return None


@pytest.mark.parametrize("name", [name for name in MAPPED if _spec(name).schemas])
@given(message=_messages)
@settings(max_examples=40, deadline=None)
def test_the_requests_of_any_event_fit_the_vendors_documentation(name: str, message: dict[str, Any]) -> None:
    spec = _spec(name)
    check = compile_check(spec)
    assert spec.mapper is not None
    assert check is not None
    event = _canonical(message)
    if event is None or event.type not in spec.message_types:
        return
    for case in cases(name):
        mapped = spec.mapper(config_of(name, case["config"]))(event, CONTEXT)
        for payload in mapped if isinstance(mapped, tuple) else ():
            assert not isinstance(payload, Call) or check(payload) is None


@pytest.mark.parametrize("name", MAPPED)
@pytest.mark.parametrize("field", ["properties", "traits", "context", "header"])
def test_a_very_deep_event_is_mapped_or_refused(name: str, field: str) -> None:
    deep: Any = {}
    for _ in range(5_000):
        deep = {"a": [deep]}
    spec = _spec(name)
    assert spec.mapper is not None
    for kind in ("identify", "track"):
        for case in cases(name):
            event = event_of({"type": kind, "userId": "u", field: deep})
            mapped = spec.mapper(config_of(name, case["config"]))(event, CONTEXT)
            assert isinstance(mapped, tuple | Refusal | Skip)


@pytest.mark.parametrize("name", NAMES)
def test_secrets_show_neither_in_settings_nor_in_what_is_rendered(name: str) -> None:
    spec = _spec(name)
    fields = [field for field in msgspec.structs.fields(spec.config) if field.type is Secret]
    listed: frozenset[str] = getattr(spec.config, "SECRET_FIELDS", frozenset())
    assert {field.encode_name for field in fields} | listed == catalog.secret_fields(spec.config)
    for case in cases(name) or [{"config": {}}]:
        raw = dict(case["config"])
        for field in fields:
            raw[field.encode_name] = f"{SECRET}-{field.name}"
        if "headers" in listed:
            raw["headers"] = {"X-Anything": SECRET, "X-Mixed": SECRET + "{{ userId || 'x' }}"}
        result = catalog.check_config(name, raw)
        if result.config is None:
            assert not cases(name)
            continue
        assert SECRET not in repr(result.config)
        if spec.mapper is None:
            continue
        for auth in (
            ("basicAuth", "bearerTokenAuth", "apiKeyAuth")
            if "auth" in spec.config.__struct_fields__
            else (None,)
        ):
            extra = {} if auth is None else {"auth": auth, "username": "u", "apiKeyName": "X-Plain"}
            config = config_of(name, {**raw, **extra})
            mapped = spec.mapper(config)(event_of(case["message"]), CONTEXT)
            for payload in mapped if isinstance(mapped, tuple) else ():
                sent = repr(payload)
                text = json.dumps(rendered(payload))
                assert SECRET not in text
                assert SECRET not in json.dumps(rendered(payload, secrets_in(config)))
                if auth == "apiKeyAuth":
                    assert SECRET in sent, "the test must have something to hide"


@pytest.mark.parametrize("name", NAMES)
def test_wrong_settings_are_named(name: str) -> None:
    for field in msgspec.structs.fields(_spec(name).config):
        if field.type is Any:
            continue
        result = catalog.check_config(name, {field.encode_name: {"no": {"such": object}}})
        wrong = {path.partition("[")[0].partition(".")[0] for path, _ in result.errors}
        assert field.encode_name in wrong or field.encode_name in ("headers", "queryParams", "excludeWindow")
    required = [field.encode_name for field in msgspec.structs.fields(_spec(name).config) if field.required]
    errors = dict(catalog.check_config(name, {}).errors)
    assert set(required) <= set(errors)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_is_a_warning_with_its_name(name: str) -> None:
    result = catalog.check_config(name, {"noSuchThing": 1})
    assert "noSuchThing" in dict(result.warnings)
