"""Slack's answers."""

import pytest

from mainstem.destinations.base import Delivered, Delivery, Request, Response, Retry
from mainstem.destinations.catalog import check_config
from mainstem.destinations.slack import classify

SETTING = "eventTemplateSettings"
HOOK = "https://hooks.slack.com/services/T/B/X"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"ok", Delivered("200 ok", acceptance="accepted")),
        (200, b"<html>", None),
        (404, b"no_service", Retry("slack: no_service", destination_wide=True, answer="404 no_service")),
        (403, b"invalid_token\n", Retry("slack: invalid_token", destination_wide=True, answer="403 invalid_token")),
        (400, b"invalid_payload", None),
        (429, b"rate_limited", None),
    ],
)  # fmt: skip
def test_an_answer_is_read(status: int, body: bytes, expected: Delivery | None) -> None:
    assert classify(Request("POST", HOOK), Response(status, {}, body)) == expected


@pytest.mark.parametrize("name", ["slack", "discord"])
@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({"identifyTemplate": "{{#if a}}"}, "identifyTemplate"),
        ({SETTING: [{"eventName": "(", "eventRegex": True, "eventTemplate": "x"}]}, SETTING),
        ({SETTING: [{"eventName": "a", "eventTemplate": "{{/if}}"}]}, SETTING),
    ],
)
def test_wrong_settings_name_the_field(name: str, raw: dict[str, object], path: str) -> None:
    [(where, _)] = check_config(name, {"webhookUrl": HOOK, **raw}).errors
    assert where == path


@pytest.mark.parametrize(
    "row", [{"eventName": "(", "eventRegex": True, "eventChannel": "#x"}, {"eventChannelWebhook": "nowhere"}]
)
def test_wrong_channels_are_named(row: dict[str, object]) -> None:
    [(where, _)] = check_config("slack", {"webhookUrl": HOOK, "eventChannelSettings": [row]}).errors
    assert where == "eventChannelSettings"


@pytest.mark.parametrize("name", ["slack", "discord"])
def test_a_webhook_that_is_no_url_is_a_warning(name: str) -> None:
    [(where, _)] = check_config(name, {"webhookUrl": "nowhere"}).warnings
    assert where == "webhookUrl"
