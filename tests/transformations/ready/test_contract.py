"""What every ready-made transformation keeps, whoever wrote it: documented, pure, unmoved by any message."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstem.destinations.reference import settings_of
from mainstem.secret import Secret
from mainstem.transformations.base import About, Dropped, Failed, Kept, Result
from mainstem.transformations.ready import catalog
from mainstem.transformations.ready.base import ReadySpec, Tools
from mainstem.transformations.ready.reference import Case, cases_of
from mainstem.workspace.model import Transformation

SPECS: list[ReadySpec] = [spec for name in catalog.names() if (spec := catalog.find_spec(name))]
CASES = [(spec, case) for spec in SPECS for case in cases_of(spec.name)]

each_spec = pytest.mark.parametrize("spec", SPECS, ids=[spec.name for spec in SPECS])
each_case = pytest.mark.parametrize(
    ("spec", "case"), CASES, ids=[f"{spec.name}: {case.name}" for spec, case in CASES]
)

TEXTS = st.one_of(
    st.text(st.characters(), max_size=12),
    st.sampled_from(
        (
            *(
                "jane@example.com",
                "4111 1111 1111 1111",
                "+49 30 901820",
                "203.0.113.7",
                "2001:db8::1",
                "\ud800",
            ),
            *(
                "track",
                "identify",
                "Order Completed",
                "EUR",
                "12.50",
                "Jane Doe",
                "Mozilla/5.0",
                "\0",
                "-0",
                "NaN",
            ),
        )
    ),
)
NAMES = st.one_of(
    TEXTS,
    st.sampled_from(
        (
            *(
                "type",
                "event",
                "name",
                "userId",
                "anonymousId",
                "messageId",
                "context",
                "traits",
                "properties",
            ),
            *(
                "email",
                "phone",
                "ip",
                "request_ip",
                "userAgent",
                "firstName",
                "currency",
                "price",
                "products",
            ),
        )
    ),
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        TEXTS,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=5)),
    max_leaves=12,
)
MESSAGES = st.dictionaries(NAMES, JSON, max_size=6)
ABOUT = About(source_id="web", message_id="m", ordering_key="web:u:1", received_at_ms=1_790_000_000_000)


def bound(spec: ReadySpec, case: Case) -> Any:
    checked = catalog.validate_settings(spec.name, case.settings)
    assert checked.errors == ()
    return checked.config


def messages_of(result: Result) -> list[dict[str, Any]]:
    return list(result.messages) if isinstance(result, Kept) else []


def nested(depth: int) -> Any:
    value: Any = "jane@example.com"
    for _ in range(depth):
        value = {"properties": [value]}
    return value


# ---------------------------------------------------------------- words


@each_spec
def test_it_is_documented(spec: ReadySpec) -> None:
    assert spec.name == spec.name.lower().replace("-", "_")
    assert spec.title.strip()
    assert not spec.title.endswith(".")
    assert len(spec.text.split()) >= 8
    assert [setting.name for setting in settings_of(spec.settings) if not setting.text] == []


@each_spec
def test_it_has_cases_and_they_show_something(spec: ReadySpec) -> None:
    cases = cases_of(spec.name)
    assert len(cases) >= 2
    assert any(case.shown for case in cases)
    assert any(case.output != (case.input,) for case in cases)
    assert len({case.name for case in cases}) == len(cases)


@each_spec
def test_secrets_do_not_show(spec: ReadySpec) -> None:
    for case in cases_of(spec.name):
        secrets = [case.settings[name] for name in spec.secret_fields if name in case.settings]
        assert not any(secret in repr(bound(spec, case)) for secret in secrets)


@each_spec
def test_an_unknown_setting_is_an_error(spec: ReadySpec) -> None:
    raw = {**cases_of(spec.name)[0].settings, "no_such_setting": 1}
    checked = catalog.validate_settings(spec.name, raw)
    assert checked.config is None
    assert "no_such_setting" in [path for path, _ in checked.errors]


@each_spec
def test_secrets_may_come_as_secrets(spec: ReadySpec) -> None:
    case = cases_of(spec.name)[0]
    raw = {key: Secret(value) if isinstance(value, str) else value for key, value in case.settings.items()}
    assert catalog.validate_settings(spec.name, raw).config == bound(spec, case)


# ---------------------------------------------------------------- cases


@each_case
def test_case(spec: ReadySpec, case: Case) -> None:
    before = copy.deepcopy(case.input)
    result = case.run(spec)
    assert case.input == before
    if case.failed:
        assert result == Failed(case.failed)
    else:
        assert result == (Kept(case.output) if case.output else Dropped())
        # Equal is not the same in JSON: 1 == True == 1.0.
        assert msgspec.json.encode(messages_of(result)) == msgspec.json.encode(list(case.output))
    if case.texts:
        assert spec.make_text is not None
        change = spec.make_text(bound(spec, case))
        assert {text: change(text) for text in case.texts} == case.texts


@each_case
def test_twice_is_once_where_promised(spec: ReadySpec, case: Case) -> None:
    if spec.idempotent:
        change = spec.make(bound(spec, case), Tools(locate=case.geo.get))
        for message in messages_of(change(case.input, case.about)):
            assert change(message, case.about) == Kept((message,))


# ---------------------------------------------------------------- any message


@each_spec
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(message=MESSAGES)
def test_any_message_gives_a_result_and_stays_as_it_was(spec: ReadySpec, message: dict[str, Any]) -> None:
    for case in cases_of(spec.name):
        mixed = {**case.input, **message}
        before = copy.deepcopy(mixed)
        change = spec.make(bound(spec, case), Tools(locate=case.geo.get))
        result = change(mixed, ABOUT)
        assert mixed == before
        assert isinstance(result, Kept | Dropped | Failed)
        assert result == spec.make(bound(spec, case), Tools(locate=case.geo.get))(mixed, ABOUT)
        if isinstance(result, Kept):
            assert result.messages
            assert all(type(item) is dict for item in result.messages)
            assert len(result.messages) == 1 or not spec.edge
        if isinstance(result, Failed):
            assert 0 < len(result.reason) <= 500


@each_spec
@pytest.mark.parametrize("depth", [200, 3_000])
def test_depth_ends_in_a_result(spec: ReadySpec, depth: int) -> None:
    for case in cases_of(spec.name):
        change = spec.make(bound(spec, case), Tools(locate=case.geo.get))
        message = {**case.input, "properties": nested(depth), "traits": nested(depth)}
        assert isinstance(change(message, ABOUT), Kept | Dropped | Failed)


@each_spec
def test_a_number_that_python_cannot_write_in_decimal_gives_a_result(spec: ReadySpec) -> None:
    huge = 10**5000
    for case in cases_of(spec.name):
        change = spec.make(bound(spec, case), Tools(locate=case.geo.get))
        for message in (
            dict.fromkeys((*case.input, "email"), huge),
            {**case.input, "properties": {"email": huge, "price": [huge]}, "traits": {"firstName": huge}},
        ):
            assert isinstance(change(message, ABOUT), Kept | Dropped | Failed)


@each_spec
@settings(max_examples=60, deadline=None)
@given(text=st.one_of(TEXTS, st.text(max_size=300)))
def test_any_text_beside_the_message_gives_a_text(spec: ReadySpec, text: str) -> None:
    if spec.make_text is not None:
        for case in cases_of(spec.name):
            change = spec.make_text(bound(spec, case))
            assert isinstance(change(text), str)
            assert change(text) == change(text)


# ---------------------------------------------------------------- the catalog


def test_names_are_those_of_the_specs() -> None:
    assert [spec.name for spec in SPECS] == catalog.names()


def test_a_name_that_is_not_there() -> None:
    assert catalog.find_spec("mask_everything") is None
    [(path, text)] = catalog.validate_settings("mask_pi", {}).errors
    assert (path, text) == ("ready", "no ready-made transformation `mask_pi`; did you mean `mask_pii`?")


def test_a_transformation_is_bound_to_its_settings() -> None:
    checked = catalog.validate_settings("remove_fields", {"paths": ["context.ip"]})
    version = Transformation(
        id="x@1", name="x", version="1", kind="ready", ready="remove_fields", settings=checked.config
    )
    change = catalog.change_for(version)
    assert change({"type": "track", "context": {"ip": "203.0.113.7"}}, ABOUT) == Kept(
        ({"type": "track", "context": {}},)
    )
    assert catalog.text_change_for(version)("203.0.113.7") == "203.0.113.7"
    with pytest.raises(KeyError):
        catalog.change_for(msgspec.structs.replace(version, ready="no_such"))
