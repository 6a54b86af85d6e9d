"""Google Analytics 4 beyond its golden cases and vectors."""

from typing import Any

import pytest

from mainstem.destinations import ga4
from mainstem.destinations.base import Call, Rejected, Request, Response
from mainstem.destinations.catalog import check_config
from tests.destinations.events import config_of, mapped

WEB: dict[str, Any] = {"apiSecret": "s1", "measurementId": "G-1"}
TRACK: dict[str, Any] = {"type": "track", "event": "E", "anonymousId": "a1"}


def _sent(message: dict[str, Any]) -> Any:
    result = mapped("GA4", WEB, message)
    assert isinstance(result, tuple), result
    [call] = result
    assert isinstance(call, Call)
    assert call.body is not None
    return call.body.value


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"apiSecret": "s", "typesOfClient": "gtag"}, "measurementId"),
        ({"apiSecret": "s", "typesOfClient": "firebase", "measurementId": "G-1"}, "firebaseAppId"),
        ({"measurementId": "G-1"}, "apiSecret"),
        ({**WEB, "typesOfClient": "ios"}, "typesOfClient"),
    ],
)
def test_settings_of_the_other_kind_of_stream_are_missed(raw: dict[str, Any], field: str) -> None:
    assert field in dict(check_config("GA4", raw).errors)


def test_validation_asks_googles_validation_server_about_the_same_request() -> None:
    config = config_of("GA4", WEB)
    result = mapped("GA4", WEB, TRACK)
    assert isinstance(result, tuple)
    [call] = result
    assert isinstance(call, Call)
    asked = ga4.validation(config, call)
    assert asked is not None
    assert asked.url == "https://www.google-analytics.com/debug/mp/collect"
    assert asked.params == call.params
    assert asked.body is not None
    assert call.body is not None
    assert asked.body.value == {**call.body.value, "validation_behavior": "ENFORCE_RECOMMENDATIONS"}
    assert "validation_behavior" not in call.body.value
    assert ga4.validation(config, Call(url="https://example.com")) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", None),
        (b'{"validationMessages": []}', None),
        (
            b'{"validationMessages": [{"description": "Event has invalid name", "validationCode": "NAME_INVALID"}]}',
            Rejected("Google's validation: Event has invalid name", "200"),
        ),
        (
            b'{"validationMessages": [{"validationCode": "A"}, 1]}',
            Rejected("Google's validation: A; null", "200"),
        ),
    ],
)
def test_what_the_validation_server_says(body: bytes, expected: Rejected | None) -> None:
    assert ga4.classify(Request("POST", "https://g.test"), Response(200, body=body)) == expected


def test_what_google_passes_over_is_not_sent_as_a_user_property() -> None:
    traits = {"ok": 1, "long": "x" * 37, "n" * 25: 1, "user_id": "u", "google_x": 1, "list": [1], "empty": ""}
    assert _sent({**TRACK, "context": {"traits": traits}})["user_properties"] == {"ok": {"value": 1}}
    many = {f"p{index}": index for index in range(30)}
    assert len(_sent({**TRACK, "context": {"traits": many}})["user_properties"]) == 25


@pytest.mark.parametrize(
    ("properties", "value"),
    [
        ({"price": "2.5", "quantity": "2"}, 5),
        ({"price": 2.5}, 2.5),
        ({"price": 2.5, "quantity": 2, "value": 4}, 4),
        ({"price": 1e300, "quantity": 1e10}, None),
        ({"price": "free"}, None),
    ],
)
def test_the_value_of_a_product(properties: dict[str, Any], value: float | None) -> None:
    sent = _sent({**TRACK, "event": "Product Added", "properties": {"product_id": "p", **properties}})
    parameters = sent["events"][0]["params"]
    assert parameters.get("value") == value
    assert ("currency" in parameters) == (value is not None)


def test_items_in_googles_own_words_stay_items() -> None:
    item = {"item_id": "p", "item_name": "n", "price": 1}
    sent = _sent({**TRACK, "event": "purchase", "properties": {"value": 1, "items": [item]}})
    assert sent["events"][0]["params"] == {"value": 1, "items": [item], "engagement_time_msec": 1}
