"""RudderStack's workspaceConfig.json, unchanged."""

import copy
from typing import Any

import cel
import msgspec
import pytest

from mainstem.secret import Secret
from mainstem.workspace.errors import WorkspaceInvalid
from mainstem.workspace.model import Connection, ConsentRule, Destination, Filter
from mainstem.workspace.parse import parse_workspace
from mainstem.workspace.report import Parsed
from tests.workspace.support import CHECKS

HOOK: dict[str, Any] = {
    "id": "dHook",
    "name": "Our hook",
    "enabled": True,
    "isProcessorEnabled": True,
    "revisionId": "r1",
    "config": {"webhookUrl": "https://x.example/h", "webhookMethod": "POST", "connectionMode": "cloud"},
    "transformations": [],
    "destinationDefinition": {
        "id": "def1",
        "name": "WEBHOOK",
        "displayName": "Webhook",
        "config": {
            "transformAt": "processor",
            "supportedMessageTypes": {"cloud": ["identify", "track", "record"]},
            "secretKeys": ["headers.to"],
            "includeKeys": ["connectionMode", "headers"],
        },
    },
}


NO_CODE = (
    "the code of its transformation is not there: no file stands beside this document, so "
    "transformations/v.json can't be read"
)


def config(*destinations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "enableMetrics": False,
        "workspaceId": "ws1",
        "updatedAt": "2026-01-01T00:00:00.000Z",
        "sources": [
            {
                "id": "sWeb",
                "name": "Web",
                "writeKey": "wk-web",
                "enabled": True,
                "config": {},
                "geoEnrichment": {"enabled": True},
                "sourceDefinition": {"name": "Javascript", "category": None, "type": "web"},
                "destinations": list(destinations),
            },
            {
                "id": "sPay",
                "name": "Pay",
                "writeKey": "wk-pay",
                "enabled": False,
                "sourceDefinition": {"name": "webhook", "category": "webhook"},
                "destinations": [],
            },
        ],
        "libraries": [],
    } | more


def hook(_config: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    made = copy.deepcopy(HOOK)
    made["config"] |= _config or {}
    return made | fields


def load(value: Any) -> Parsed:
    return parse_workspace(msgspec.json.encode(value), origin="c.json", env={}, checks=CHECKS)


def only(parsed: Parsed) -> tuple[Destination, Connection]:
    (destination,), (connection,) = parsed.workspace.destinations, parsed.workspace.connections
    return destination, connection


def test_sources_destinations_and_connections() -> None:
    parsed = load(config(hook()))
    workspace = parsed.workspace
    assert (workspace.id, parsed.warnings[1:]) == ("ws1", ())
    web, pay = workspace.sources
    assert (web.id, web.write_keys, web.type, web.geo_enrichment) == ("sWeb", ("wk-web",), "web", True)
    assert (pay.type, pay.enabled) == ("webhook", False)
    destination, connection = only(parsed)
    assert (destination.id, destination.type, destination.display_name) == ("dHook", "WEBHOOK", "Webhook")
    assert destination.enabled
    assert destination.message_types == ("identify", "track")
    assert destination.client_config == {"connectionMode": "cloud"}
    assert connection == Connection(source_id="sWeb", destination_id="dHook")


def test_keys_match_without_regard_to_case() -> None:
    text = msgspec.json.encode(config(hook())).decode()
    for name in ("writeKey", "destinations", "isProcessorEnabled", "destinationDefinition", "workspaceId"):
        text = text.replace(f'"{name}"', f'"{name.upper()}"')
    parsed = parse_workspace(text.encode(), origin="c", env={}, checks=CHECKS)
    assert parsed.workspace.id == "ws1"
    assert only(parsed)[1].enabled


def test_a_shared_destination_is_one() -> None:
    value = config(hook())
    value["sources"][1]["destinations"] = [hook(isProcessorEnabled=False)]
    parsed = load(value)
    assert len(parsed.workspace.destinations) == 1
    assert [(item.source_id, item.enabled) for item in parsed.workspace.connections] == [
        ("sWeb", True),
        ("sPay", False),
    ]
    value["sources"][1]["destinations"] = [hook({"webhookMethod": "PUT"})]
    told = [str(problem) for problem in load(value).warnings]
    assert (
        "sources[1].destinations[0].config: differs from the one at sources[0].destinations[0], "
        "which is used for all sources" in told
    )


def test_a_disabled_destination_keeps_its_connections() -> None:
    destination, connection = only(load(config(hook(enabled=False))))
    assert not destination.enabled
    assert destination.disabled_reason == ""
    assert connection.enabled


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        (
            hook(transformations=[{"versionId": "v", "id": "t"}]),
            NO_CODE,
        ),
        (
            hook(destinationDefinition={"name": "AM", "displayName": "Amplitude"}),
            "there is no destination type AM yet",
        ),
        (hook({"webhookUrl": "nope"}), "config.webhookUrl: nope is no URL"),
        (
            hook(destinationDefinition={"name": "WEBHOOK", "config": {"supportedMessageTypes": ["record"]}}),
            "it takes only message types that there are not",
        ),
    ],
)
def test_a_destination_that_must_not_get_events_is_switched_off(
    destination: dict[str, Any], reason: str
) -> None:
    parsed = load(config(destination))
    made, connection = only(parsed)
    assert (made.enabled, made.disabled_reason, connection.enabled) == (False, reason, True)
    assert f"destination 'dHook' is switched off: {reason}" in [item.message for item in parsed.warnings]


def test_what_is_not_taken_over_is_told() -> None:
    value = config(hook(), eventReplays={"r": {}}, connections={"c": {"sourceId": "s"}})
    value["sources"][0]["dgSourceTrackingPlanConfig"] = {"sourceId": "sWeb", "trackingPlan": {"id": "tp"}}
    value["sources"][0]["transient"] = True
    del value["sources"][0]["destinations"][0]["isProcessorEnabled"]
    parsed = load(value)
    assert {str(item).partition(":")[0] for item in parsed.warnings} >= {
        "sources[0].dgSourceTrackingPlanConfig",
        "sources[0].transient",
        "sources[0].destinations[0].isProcessorEnabled",
        "eventReplays",
        "connections",
    }
    assert not only(parsed)[1].enabled


def test_consent() -> None:
    rules = [
        {"provider": "custom", "resolutionStrategy": "or", "consents": [{"consent": "a"}, {"consent": ""}]},
        {"provider": "oneTrust", "resolutionStrategy": "", "consents": [{"consent": "b"}]},
        {"provider": "ketch", "consents": []},
    ]
    given = {
        "consentManagement": rules,
        "oneTrustCookieCategories": [{"oneTrustCookieCategory": "C1"}],
        "ketchConsentPurposes": [{"purpose": "p"}],
    }
    destination, _ = only(load(config(hook(given))))
    expected = (
        ConsentRule(provider="custom", strategy="or", consents=("a",)),
        ConsentRule(provider="oneTrust", strategy="and", consents=("b",)),
    )
    assert destination.consent == expected
    assert (destination.one_trust_categories, destination.ketch_purposes) == (("C1",), ("p",))
    by_type, _ = only(load(config(hook({"consentManagement": {"web": rules, "ios": rules[:1]}}))))
    assert by_type.consent == expected


def passes(rule: Filter, **event: str) -> bool:
    return bool(cel.evaluate(rule.where, {"event": event}))


@pytest.mark.parametrize(
    ("given", "passing", "dropped"),
    [
        (
            {"eventFilteringOption": "whitelistedEvents", "whitelistedEvents": [{"eventName": ' Buy "é" '}]},
            [{"type": "track", "event": 'Buy "é"'}, {"type": "page", "name": "x"}],
            [{"type": "track", "event": "Other"}, {"type": "track"}],
        ),
        (
            {"eventFilteringOption": "blacklistedEvents", "blacklistedEvents": [{"eventName": "A*"}]},
            [{"type": "track", "event": "AB"}, {"type": "track"}, {"type": "identify"}],
            [{"type": "track", "event": "A*"}],
        ),
        (
            {"enableServerSideIdentify": False},
            [{"type": "track"}],
            [{"type": "identify"}],
        ),
        (
            {"listOfConversions": [{"conversions": "Sale 😀"}]},
            [{"type": "track", "event": "Sale 😀"}, {"type": "identify"}],
            [{"type": "track", "event": "Other"}],
        ),
    ],
)
def test_event_filters(
    given: dict[str, Any], passing: list[dict[str, str]], dropped: list[dict[str, str]]
) -> None:
    (rule,) = only(load(config(hook(given))))[1].filters
    assert all(passes(rule, **event) for event in passing)
    assert not any(passes(rule, **event) for event in dropped)


def test_filtering_that_is_off_filters_nothing() -> None:
    given = {"eventFilteringOption": "disable", "whitelistedEvents": [{"eventName": "A"}]}
    assert only(load(config(hook(given))))[1].filters == ()


def test_blocked_events() -> None:
    blocked = {"eventBlocking": {"events": {"track": ["Noise"]}}}
    (rule,) = only(load(config(hook(), settings=blocked)))[1].filters
    assert rule.name == "event-blocking"
    assert passes(rule, type="page", event="Noise")
    assert not passes(rule, type="track", event="Noise")


def test_hybrid_mode() -> None:
    destination = hook({"connectionMode": "hybrid"})
    traits = destination["destinationDefinition"]["config"]
    traits["hybridModeCloudEventsFilter"] = {"web": {"messageType": ["track", "group"]}}
    (rule,) = only(load(config(destination)))[1].filters
    assert rule == Filter(name="hybrid-mode", types=("track", "group"))
    traits["transformAt"] = "none"
    assert only(load(config(destination)))[1].filters == ()


def test_secrets() -> None:
    given = {
        "apiKey": "s3cret-api",
        "headers": [{"from": "X-Key", "to": "s3cret-header"}],
        "webhookUrl": "s3cret-api",
    }
    parsed = load(config(hook(given)))
    destination, _ = only(parsed)
    assert destination.raw_config["apiKey"] == Secret("s3cret-api")
    assert destination.raw_config["headers"] == [{"from": "X-Key", "to": Secret("s3cret-header")}]
    assert "headers" not in destination.client_config
    shown = f"{parsed!r}{destination!r}{destination.disabled_reason}{parsed.warnings}"
    assert "s3cret" not in shown


def test_the_multi_tenant_form() -> None:
    assert load({"ws1": config(hook()), "ws2": None}).workspace.id == "ws1"
    with pytest.raises(WorkspaceInvalid, match="one workspace by its id"):
        load({"ws1": config(), "ws2": config()})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "document: expected an object with `sources`, or one workspace by its id"),
        ({"sources": 1}, "sources: expected a list"),
        ({"sources": [1]}, "sources[0]: expected an object"),
        (
            {"sources": [{"id": "a/b"}]},
            "sources[0].id: is missing or no id (letters, digits, '.', '_', '-')",
        ),
        (
            {"sources": [{"id": "a", "writeKey": "k"}, {"id": "b", "writeKey": "k"}]},
            "sources[1].writeKey: is the write key of source 'a' already",
        ),
        ({"sources": [{"id": "a", "enabled": "yes"}]}, "sources[0].enabled: expected true or false"),
        ({"sources": [{"id": "a", "name": 1}]}, "sources[0].name: expected text"),
        ({"sources": [], "settings": []}, "settings: expected an object"),
    ],
)
def test_a_document_that_is_none(value: Any, expected: str) -> None:
    with pytest.raises(WorkspaceInvalid) as caught:
        load(value)
    assert expected in [str(problem) for problem in caught.value.problems]
