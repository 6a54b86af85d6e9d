"""Consent, as tables: what the event says × what the destination needs."""

from typing import Any, Literal

import msgspec
import pytest

from mainstem.pipeline.outcome import Filtered, Outcome, Send
from mainstem.pipeline.steps.respect_consent import compile_consent
from mainstem.workspace.model import ConsentRule, Destination
from tests.pipeline.world import event, plan, workspace


def outcome(context: Any, **needs: Any) -> Outcome:
    destination = Destination(id="d1", name="crm", type="WEBHOOK", **needs)
    return plan(workspace(destination=destination)).evaluate(event({"context": context}))


def managed(
    denied: Any = None, allowed: Any = None, provider: Any = None, strategy: Any = None
) -> dict[str, Any]:
    said = {
        "deniedConsentIds": denied,
        "allowedConsentIds": allowed,
        "provider": provider,
        "resolutionStrategy": strategy,
    }
    return {"consentManagement": {key: value for key, value in said.items() if value is not None}}


def needs(provider: str, strategy: Literal["and", "or"], *ids: str) -> dict[str, Any]:
    return {"consent": (ConsentRule(provider=provider, strategy=strategy, consents=ids),)}


# (what the destination needs, what the event says, passes?)
MATRIX: tuple[tuple[dict[str, Any], dict[str, Any], bool], ...] = (
    # nothing said
    (needs("oneTrust", "and", "A"), {}, True),
    (needs("oneTrust", "and", "A"), {"consentManagement": None}, True),
    (needs("oneTrust", "and", "A"), {"consentManagement": {}}, True),
    (needs("oneTrust", "and", "A"), {"consent": {}}, True),
    (needs("oneTrust", "and", "A"), {"consent": {"categoryPreferences": {}}}, True),
    # nothing needed
    ({}, managed(["A"], provider="oneTrust"), True),
    (needs("oneTrust", "and"), managed(["A"], provider="oneTrust"), True),
    # and
    (needs("oneTrust", "and", "A", "B"), managed([], ["A", "B"], "oneTrust", "and"), True),
    (needs("oneTrust", "and", "A", "B"), managed(["B"], ["A"], "oneTrust", "and"), False),
    (needs("oneTrust", "and", "A", "B"), managed(["A", "B"], [], "oneTrust", "and"), False),
    (needs("oneTrust", "and", "A", "B"), managed(["C"], None, "oneTrust", "and"), True),
    (needs("oneTrust", "and", "A", "B"), managed(["B"], None, "oneTrust"), False),
    # or
    (needs("ketch", "or", "A", "B"), managed(["B"], ["A"], "ketch", "or"), True),
    (needs("ketch", "or", "A", "B"), managed(["A", "B"], [], "ketch", "or"), False),
    (needs("ketch", "or", "A", "B"), managed(["A"], None, "ketch"), True),
    # the event's strategy counts for a named provider, the destination's for a custom one
    (needs("oneTrust", "and", "A", "B"), managed(["B"], ["A"], "oneTrust", "or"), True),
    (needs("ketch", "or", "A", "B"), managed(["B"], ["A"], "ketch", "and"), False),
    (needs("custom", "and", "A", "B"), managed(["B"], ["A"], "custom", "or"), False),
    (needs("custom", "or", "A", "B"), managed(["B"], ["A"], "custom", "and"), True),
    (needs("", "or", "A", "B"), managed(["B"], ["A"], "oneTrust", "and"), True),
    # what is allowed is listed: the rest is not
    (needs("oneTrust", "and", "A", "B"), managed([], ["A"], "oneTrust", "and"), False),
    (needs("oneTrust", "or", "A", "B"), managed([], ["A"], "oneTrust", "or"), True),
    (needs("oneTrust", "and", "A"), managed(["A"], ["A"], "oneTrust", "and"), False),
    (needs("oneTrust", "and", "A"), managed([], [], "oneTrust", "and"), True),
    # providers
    (needs("oneTrust", "and", "A"), managed(["A"], None, "ketch"), True),
    (needs("oneTrust", "and", "A"), managed(["A"], None, "ONETRUST"), False),
    (needs("oneTrust", "and", "A"), managed(["A"], None), False),
    (needs("", "and", "A"), managed(["A"], None, "iubenda"), False),
    # ids: case counts, numbers are ids
    (needs("oneTrust", "and", "a"), managed(["A"], None, "oneTrust"), True),
    (needs("iubenda", "and", "3"), managed([3], None, "iubenda"), False),
    # older RudderStack settings
    ({"one_trust_categories": ("A", "B")}, managed(["B"], None, "oneTrust"), False),
    ({"one_trust_categories": ("A", "B")}, managed(["C"], None, "oneTrust"), True),
    ({"one_trust_categories": ("A", "B")}, managed(["B"]), False),
    ({"ketch_purposes": ("A", "B")}, managed(["B"], None, "ketch"), True),
    ({"ketch_purposes": ("A", "B")}, managed(["A", "B"], None, "ketch"), False),
    ({"one_trust_categories": ("A",), "ketch_purposes": ("B",)}, managed(["B"]), False),
    # settings for the provider come before the older ones
    (
        {**needs("oneTrust", "and", "A"), "one_trust_categories": ("B",)},
        managed(["B"], None, "oneTrust"),
        True,
    ),
    ({**needs("oneTrust", "and", "A"), "ketch_purposes": ("B",)}, managed(["B"], None, "ketch"), False),
    # Segment and Jitsu
    (needs("", "and", "Ads"), {"consent": {"categoryPreferences": {"Ads": True}}}, True),
    (needs("", "and", "Ads"), {"consent": {"categoryPreferences": {"Ads": False}}}, False),
    (needs("", "and", "Ads"), {"consent": {"categoryPreferences": {"Functional": True}}}, False),
    (needs("", "and", "Ads", "F"), {"consent": {"categoryPreferences": {"Ads": True, "F": False}}}, False),
    (needs("", "or", "Ads", "F"), {"consent": {"categoryPreferences": {"Ads": True, "F": False}}}, True),
    (needs("oneTrust", "and", "Ads"), {"consent": {"categoryPreferences": {"Ads": False}}}, False),
    # said both ways: both must agree
    (
        needs("", "and", "A"),
        {**managed([], ["A"], "custom"), "consent": {"categoryPreferences": {"A": False}}},
        False,
    ),
)


@pytest.mark.parametrize(("need", "said", "passes"), MATRIX)
def test_matrix(need: dict[str, Any], said: dict[str, Any], passes: bool) -> None:
    got = outcome(said, **need)
    if passes:
        assert isinstance(got, Send)
    else:
        assert isinstance(got, Filtered)
        assert got.rule == "consent"
        assert got.detail


MALFORMED: tuple[tuple[Any, str], ...] = (
    ({"consentManagement": "denied"}, "context.consentManagement is not an object"),
    ({"consentManagement": ["A"]}, "context.consentManagement is not an object"),
    ({"consentManagement": False}, "context.consentManagement is not an object"),
    (managed("A"), "context.consentManagement.deniedConsentIds is not a list"),
    (managed({"A": True}), "context.consentManagement.deniedConsentIds is not a list"),
    (managed([None]), "context.consentManagement.deniedConsentIds holds something besides ids"),
    (managed([True]), "context.consentManagement.deniedConsentIds holds something besides ids"),
    (managed([], "A"), "context.consentManagement.allowedConsentIds is not a list"),
    (managed([], provider=7), "context.consentManagement.provider is not a text"),
    (managed([], strategy=7), "context.consentManagement.resolutionStrategy is not a text"),
    (managed([], strategy="xor"), "context.consentManagement.resolutionStrategy is neither `and` nor `or`"),
    ({"consent": "no"}, "context.consent is not an object"),
    ({"consent": {"categoryPreferences": ["A"]}}, "context.consent.categoryPreferences is not an object"),
    (
        {"consent": {"categoryPreferences": {"A": "yes"}}},
        "context.consent.categoryPreferences holds something besides true and false",
    ),
)


@pytest.mark.parametrize(("said", "detail"), MALFORMED)
def test_unreadable_consent_fails_closed(said: Any, detail: str) -> None:
    assert outcome(said, **needs("oneTrust", "and", "A")) == Filtered("consent:malformed", detail)


@pytest.mark.parametrize(("said", "_detail"), MALFORMED)
def test_unreadable_consent_does_not_concern_a_destination_that_needs_none(said: Any, _detail: str) -> None:
    assert isinstance(outcome(said), Send)


def test_an_event_without_a_context_says_nothing() -> None:
    destination = Destination(id="d1", name="crm", type="WEBHOOK", consent=(ConsentRule(consents=("A",)),))
    step = compile_consent(destination)
    assert step is not None
    assert step(msgspec.structs.replace(event(), message={"type": "track"})) is None


def test_the_detail_names_each_missing_id() -> None:
    got = outcome(managed(["B"], ["A"], "oneTrust"), **needs("oneTrust", "and", "A", "B", "C"))
    assert got == Filtered("consent", "B denied, C not among the allowed")
