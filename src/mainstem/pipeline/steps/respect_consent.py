"""Respect consent: what a person said about where their data may go. Unreadable consent fails closed.

Two ways of saying it are read:

* RudderStack: `context.consentManagement` {provider, allowedConsentIds, deniedConsentIds, resolutionStrategy}
  (https://www.rudderstack.com/docs/data-governance/consent-management/passing-consent/);
* Segment and Jitsu: `context.consent.categoryPreferences` {category: bool}
  (https://segment.com/docs/privacy/consent-management/consent-in-segment-connections/).

What a destination needs is its `ConsentRule`s and, from older RudderStack settings, `one_trust_categories`
(each must be consented) and `ketch_purposes` (one is enough). An event that says nothing about consent passes.
"""

from typing import Any, Final, Literal

import msgspec

from mainstem.events.canonical import Event
from mainstem.pipeline.outcome import Filtered
from mainstem.pipeline.steps import Step
from mainstem.workspace.model import ConsentRule, Destination

RULE: Final = "consent"
MALFORMED_RULE: Final = "consent:malformed"
CUSTOM: Final = "custom"


class _Statement(msgspec.Struct, frozen=True):
    """What an event says."""

    provider: str
    """Case-folded; empty = not said."""
    strategy: str
    """`and`, `or`, or empty = not said."""
    allowed: frozenset[str]
    denied: frozenset[str]
    complete: bool
    """It lists what is allowed: an id that it does not list is not consented to."""

    def consents(self, consent_id: str) -> bool:
        return consent_id not in self.denied and (not self.complete or consent_id in self.allowed)


class _Malformed(Exception):
    """The consent of an event can't be read; the text names the field."""


def compile_consent(destination: Destination) -> Step | None:
    """Return the step for what the destination needs; None when it needs no consent."""
    rules = tuple(
        msgspec.structs.replace(rule, provider=rule.provider.casefold())
        for rule in destination.consent
        if rule.consents
    )
    legacy = tuple(
        ConsentRule(strategy=strategy, consents=ids)
        for strategy, ids in _legacy(destination.one_trust_categories, destination.ketch_purposes)
        if ids
    )
    if not rules and not legacy:
        return None

    def respect_consent(event: Event) -> Filtered | None:
        context = event.message.get("context")
        if not isinstance(context, dict):
            return None
        managed, categories = context.get("consentManagement"), context.get("consent")
        if managed is None and categories is None:
            return None
        try:
            statements = (*_managed(managed), *_categories(categories))
        except _Malformed as malformed:
            return Filtered(MALFORMED_RULE, str(malformed))
        for statement in statements:
            # Settings made for the provider come before the older lists, as in RudderStack.
            applying = tuple(rule for rule in rules if _same_provider(rule, statement)) or legacy
            for rule in applying:
                refusal = _refusal(rule, statement)
                if refusal is not None:
                    return refusal
        return None

    return respect_consent


def _legacy(
    one_trust: tuple[str, ...], ketch: tuple[str, ...]
) -> tuple[tuple[Literal["and", "or"], tuple[str, ...]], ...]:
    return (("and", one_trust), ("or", ketch))


def _same_provider(rule: ConsentRule, statement: _Statement) -> bool:
    return not rule.provider or not statement.provider or rule.provider == statement.provider


def _refusal(rule: ConsentRule, statement: _Statement) -> Filtered | None:
    # With a custom provider the destination says how its ids combine, else the event does (RudderStack).
    own = statement.provider == CUSTOM or not statement.strategy or not rule.provider
    strategy = rule.strategy if own else statement.strategy
    missing = [consent_id for consent_id in rule.consents if not statement.consents(consent_id)]
    if not missing or (strategy == "or" and len(missing) < len(rule.consents)):
        return None
    said = ", ".join(
        f"{consent_id} {'denied' if consent_id in statement.denied else 'not among the allowed'}"
        for consent_id in missing
    )
    return Filtered(RULE, said)


def _managed(value: Any) -> tuple[_Statement, ...]:
    if value is None:
        return ()
    where = "context.consentManagement"
    if not isinstance(value, dict):
        raise _Malformed(f"{where} is not an object")
    allowed = _ids(value, "allowedConsentIds", where)
    strategy = _text(value, "resolutionStrategy", where).lower()
    if strategy not in ("", "and", "or"):
        raise _Malformed(f"{where}.resolutionStrategy is neither `and` nor `or`")
    statement = _Statement(
        provider=_text(value, "provider", where).casefold(),
        strategy=strategy,
        allowed=allowed,
        denied=_ids(value, "deniedConsentIds", where),
        complete=bool(allowed),
    )
    return (statement,)


def _categories(value: Any) -> tuple[_Statement, ...]:
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise _Malformed("context.consent is not an object")
    preferences = value.get("categoryPreferences")
    if preferences is None:
        return ()
    where = "context.consent.categoryPreferences"
    if not isinstance(preferences, dict):
        raise _Malformed(f"{where} is not an object")
    if not preferences:
        return ()
    if not all(isinstance(choice, bool) for choice in preferences.values()):
        raise _Malformed(f"{where} holds something besides true and false")
    statement = _Statement(
        provider="",
        strategy="",
        allowed=frozenset(category for category, choice in preferences.items() if choice),
        denied=frozenset(category for category, choice in preferences.items() if not choice),
        complete=True,
    )
    return (statement,)


def _ids(value: dict[str, Any], field: str, where: str) -> frozenset[str]:
    ids = value.get(field)
    if ids is None:
        return frozenset()
    if not isinstance(ids, list):
        raise _Malformed(f"{where}.{field} is not a list")
    texts = []
    for consent_id in ids:
        # Some consent tools number their purposes.
        if not isinstance(consent_id, str | int) or isinstance(consent_id, bool):
            raise _Malformed(f"{where}.{field} holds something besides ids")
        texts.append(str(consent_id))
    return frozenset(texts)


def _text(value: dict[str, Any], field: str, where: str) -> str:
    text = value.get(field)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise _Malformed(f"{where}.{field} is not a text")
    return text.strip()
