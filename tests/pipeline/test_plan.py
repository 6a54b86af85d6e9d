"""The plan of a destination: the order of the rules, one outcome each, nothing changed, nothing raised."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstem.destinations.base import MapContext, Mapped, Mapper, Refusal, Request, Skip
from mainstem.events.canonical import Event
from mainstem.pipeline.errors import PlanInvalid
from mainstem.pipeline.explain import explain_one
from mainstem.pipeline.outcome import Dead, Filtered, Refused, Send
from mainstem.pipeline.plan import compile_plan
from mainstem.workspace.model import Connection, ConsentRule, Destination, Filter, Source, Workspace
from tests.pipeline.sandboxes import NOTHING
from tests.pipeline.world import (
    DESTINATION,
    RECEIVED_MS,
    SOURCE,
    event,
    plan,
    spec,
    workspace,
    write_json,
)

GOOGLEBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"

# An event that breaks every rule, and what sets each rule right, in the order in which they apply.
BREAKS_ALL: dict[str, Any] = {
    "type": "merge",
    "userId": "hidden",
    "context": {"userAgent": GOOGLEBOT, "consentManagement": {"deniedConsentIds": ["A"]}},
    "integrations": {"All": False},
}
STRICT = workspace(
    Filter(name="f1", types=("page",)),
    Filter(name="f2", where="event.type == 'alias'"),
    source=Source(id="shop", name="Shop", write_keys=("key",), bots="drop"),
    destination=Destination(id="d1", name="crm", type="WEBHOOK", consent=(ConsentRule(consents=("A",)),)),
    suppressed=frozenset(("hidden",)),
)
ORDER: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "suppressed"),
    ({"userId": "user-1"}, "bot"),
    ({"context": {"consentManagement": {"deniedConsentIds": ["A"]}}}, "message type not supported"),
    ({"type": "track"}, "integrations"),
    ({"integrations": {}}, "consent"),
    ({"context": {}}, "filter:f1"),
    ({"type": "page"}, "filter:f2"),
)


def test_the_rules_apply_in_their_order() -> None:
    message = dict(BREAKS_ALL)
    strict = plan(STRICT)
    for change, rule in ORDER:
        message.update(change)
        outcome = strict.evaluate(event(message))
        assert isinstance(outcome, Filtered)
        assert outcome.rule == rule


def test_a_rejected_event_is_refused_whatever_else_it_is() -> None:
    rejected = event(BREAKS_ALL, kind="rejected", reason="type: unknown")
    assert plan(STRICT).evaluate(rejected) == Refused("type: unknown")
    assert plan(workspace(connected=False)).evaluate(rejected) == Refused("type: unknown")


def test_where_an_event_may_not_go_at_all() -> None:
    cases = (
        (workspace(), "gone", "source not configured"),
        (workspace(), "other", "not connected"),
        (workspace(connected=False), "shop", "not connected"),
        (workspace(enabled=False), "shop", "connection disabled"),
    )
    for snapshot, source_id, rule in cases:
        assert plan(snapshot).evaluate(event(source_id=source_id)) == Filtered(rule)


def test_the_first_enabled_connection_of_a_pair_counts() -> None:
    off = Connection(source_id="shop", destination_id="d1", enabled=False)
    on = Connection(source_id="shop", destination_id="d1", filters=(Filter(name="on", types=("page",)),))
    later = Connection(source_id="shop", destination_id="d1")
    elsewhere = Connection(source_id="shop", destination_id="d2")
    dangling = Connection(source_id="gone", destination_id="d1")
    snapshot = msgspec.structs.replace(workspace(), connections=(elsewhere, dangling, off, on, later))
    assert plan(snapshot).evaluate(event()) == Filtered("filter:on", "type track")


def test_a_disabled_source_has_its_acknowledged_events_delivered() -> None:
    disabled = msgspec.structs.replace(SOURCE, enabled=False)
    assert isinstance(plan(workspace(source=disabled)).evaluate(event()), Send)


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        ({"userId": "hidden"}, "userId is on the suppression list"),
        ({"userId": " hidden "}, "userId is on the suppression list"),
        ({"anonymousId": "hidden"}, "anonymousId is on the suppression list"),
        ({"userId": None, "anonymousId": "hidden"}, "anonymousId is on the suppression list"),
        ({"type": "alias", "previousId": "hidden"}, "previousId is on the suppression list"),
        ({"userId": 42}, "userId is on the suppression list"),
    ],
)
def test_suppressed_people(message: dict[str, Any], detail: str) -> None:
    snapshot = workspace(suppressed=frozenset(("hidden", "42")))
    assert plan(snapshot).evaluate(event(message)) == Filtered("suppressed", detail)
    assert isinstance(plan(snapshot).evaluate(event()), Send)


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (GOOGLEBOT, "Googlebot"),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/120.0.0.0", "HeadlessChrome"),
    ],
)
def test_bots_are_dropped_only_where_the_source_says_so(agent: str, name: str) -> None:
    message = {"context": {"userAgent": agent}}
    dropping = workspace(source=msgspec.structs.replace(SOURCE, bots="drop"))
    assert plan(dropping).evaluate(event(message)) == Filtered("bot", name)
    assert isinstance(plan().evaluate(event(message)), Send)
    # A client that merely says that it is one is not taken at its word.
    assert isinstance(plan(dropping).evaluate(event({"context": {"isBot": True}})), Send)
    assert isinstance(plan(dropping).evaluate(event({"context": {"userAgent": ["bot"]}})), Send)


def test_message_types_can_be_narrowed_never_widened() -> None:
    narrowed = msgspec.structs.replace(DESTINATION, message_types=("identify", "merge"))
    compiled = plan(workspace(destination=narrowed))
    assert compiled.evaluate(event()) == Filtered("message type not supported", "track")
    assert isinstance(compiled.evaluate(event({"type": "identify"})), Send)
    assert compiled.evaluate(event({"type": "merge"})) == Filtered("message type not supported", "merge")


# ---------------------------------------------------------------- the mapping


def test_what_is_sent() -> None:
    sent = event()
    outcome = plan().evaluate(sent)
    assert isinstance(outcome, Send)
    assert outcome.event is sent
    (request,) = outcome.payloads
    assert isinstance(request, Request)
    body = msgspec.json.decode(request.body)
    assert body == {"message": sent.message, "now": RECEIVED_MS, "source": "Shop"}


def test_a_destination_of_files_needs_no_mapping() -> None:
    sent = event()
    assert plan(mapping=None).evaluate(sent) == Send(sent, ())


def _raise(error: Exception) -> Callable[[Event, MapContext], Mapped]:
    def mapping(_event: Event, _context: MapContext) -> Mapped:
        raise error

    return mapping


@pytest.mark.parametrize(
    ("gives", "outcome"),
    [
        (Skip("no e-mail"), Filtered("no e-mail")),
        (Refusal("traits.email: not an address"), Dead("traits.email: not an address")),
        ((), Filtered("nothing to send")),
        (None, Dead("the mapping of WEBHOOK gave NoneType, which is no payload")),
        ([], Dead("the mapping of WEBHOOK gave list, which is no payload")),
    ],
)
def test_what_a_mapping_gives(gives: Any, outcome: Any) -> None:
    assert plan(mapping=lambda _event, _context: gives).evaluate(event()) == outcome


@pytest.mark.parametrize("error", [KeyError("secret-9"), RecursionError("secret-9"), ValueError("secret-9")])
def test_a_bug_in_a_mapping_is_a_dead_letter_that_names_place_and_class_but_quotes_nothing(
    error: Exception,
) -> None:
    outcome = plan(mapping=_raise(error)).evaluate(event())
    assert isinstance(outcome, Dead)
    assert outcome.reason.startswith(
        f"the mapping of WEBHOOK failed: {type(error).__name__} at test_plan.py:"
    )
    assert "secret" not in outcome.reason


def test_the_machine_running_out_of_memory_is_not_the_events_fault() -> None:
    with pytest.raises(MemoryError):
        plan(mapping=_raise(MemoryError())).evaluate(event())


def test_a_wrong_expression_names_destination_source_filter_and_place() -> None:
    with pytest.raises(
        PlanInvalid, match=r"destination d1: source shop, filter 'f', where: line 1, column 9: "
    ):
        plan(workspace(Filter(name="f", where="event.a = 1")))


def test_settings_that_the_mapping_refuses_make_no_plan() -> None:
    def made(_settings: Any) -> Mapper:
        raise ValueError("url: no host")

    broken = msgspec.structs.replace(spec(), mapper=made)
    snapshot = workspace()
    with pytest.raises(PlanInvalid, match="destination d1: settings: ValueError: url: no host"):
        compile_plan(snapshot, snapshot.destinations[0], broken)


# ---------------------------------------------------------------- any message

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
IDS = st.none() | st.sampled_from(["user-1", "hidden", "", " ", 7, 1.5, True]) | JSON
CONSENT = st.fixed_dictionaries(
    {},
    optional={
        "provider": st.sampled_from(["oneTrust", "custom", ""]) | JSON,
        "allowedConsentIds": st.lists(st.sampled_from(["A", "B", 3])) | JSON,
        "deniedConsentIds": st.lists(st.sampled_from(["A", "B", 3])) | JSON,
        "resolutionStrategy": st.sampled_from(["and", "or"]) | JSON,
    },
)
MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(["identify", "track", "page", "screen", "group", "alias", "merge", "odd"])},
    optional={
        "event": st.sampled_from(["Order Completed", "Test"]) | JSON,
        "name": JSON,
        "userId": IDS,
        "anonymousId": IDS,
        "previousId": IDS,
        "integrations": st.dictionaries(st.sampled_from(["All", "all", "crm", "WEBHOOK", "x"]), JSON) | JSON,
        "context": st.fixed_dictionaries(
            {},
            optional={
                "consentManagement": CONSENT | JSON,
                "consent": st.fixed_dictionaries({"categoryPreferences": JSON}) | JSON,
                "userAgent": st.sampled_from([GOOGLEBOT, "curl/8"]) | JSON,
                "ip": JSON,
            },
        )
        | JSON,
        "properties": st.fixed_dictionaries({}, optional={"total": JSON}) | JSON,
        "timestamp": st.just("2026-01-01T00:00:00Z") | JSON,
        "originalTimestamp": JSON,
        "sentAt": JSON,
        "anything": JSON,
    },
)
ANY_PLAN = plan(
    workspace(
        Filter(name="names", allow=("Order *", "*"), deny=("Test",), sample_percent=90.0),
        Filter(name="where", where="event.properties.total > 5 || event.type != 'track'"),
        source=Source(
            id="shop",
            name="Shop",
            write_keys=("key",),
            bots="drop",
        ),
        destination=Destination(
            id="d1",
            name="crm",
            type="WEBHOOK",
            consent=(ConsentRule(provider="oneTrust", consents=("A", "B")),),
            one_trust_categories=("3",),
            ketch_purposes=("A", "B"),
        ),
        suppressed=frozenset(("hidden",)),
    )
)


@settings(max_examples=500, deadline=None)
@given(message=MESSAGES)
def test_any_message_has_exactly_one_outcome_and_stays_as_it_is(message: dict[str, Any]) -> None:
    sent = event(message)
    before = copy.deepcopy(sent.message)
    as_bytes = msgspec.json.encode(sent.message)
    outcome = ANY_PLAN.evaluate(sent)
    assert isinstance(outcome, Send | Filtered | Dead)
    assert sent.message == before
    assert msgspec.json.encode(sent.message) == as_bytes
    assert ANY_PLAN.evaluate(sent) == outcome
    # From the stored bytes again: the same line, to the byte.
    line, again = (
        msgspec.json.encode(asyncio.run(explain_one(one, ANY_PLAN, NOTHING)))
        for one in (sent, event(message))
    )
    assert again == line


def test_destinations_share_one_event() -> None:
    snapshot = Workspace(
        id="w",
        version="1",
        sources=(SOURCE,),
        destinations=(DESTINATION, msgspec.structs.replace(DESTINATION, id="d2", name="two")),
        connections=tuple(
            Connection(source_id="shop", destination_id=destination_id) for destination_id in ("d1", "d2")
        ),
    )
    sent = event({"integrations": {"two": False}})
    first, second = (compile_plan(snapshot, one, spec(write_json)) for one in snapshot.destinations)
    one = first.evaluate(sent)
    assert isinstance(one, Send)
    assert one.event is sent
    assert second.evaluate(sent) == Filtered("integrations", "two is false")
