"""Meta's answers, as its documentation of errors and of the Conversions API has them."""

import json
from typing import Any

import pytest

from mainstem.destinations import facebook_conversions, facebook_pixel
from mainstem.destinations.base import Delivered, Rejected, Request, Response, Retry

TOKEN = "EAAG-a-token"
REQUEST = Request("POST", "https://graph.facebook.com/v25.0/1/events", secrets=(TOKEN,))


def answered(status: int, body: Any) -> Response:
    return Response(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode())


def error(code: Any, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "type": "OAuthException", "message": f"said {TOKEN}", **more}}


@pytest.mark.parametrize("classify", [facebook_pixel.SPEC.classify, facebook_conversions.SPEC.classify])
@pytest.mark.parametrize(
    ("status", "body", "kind", "facts"),
    [
        (200, {"events_received": 1, "fbtrace_id": "a"}, Delivered, {"acceptance": "accepted"}),
        (200, {"events_received": 0}, type(None), {}),
        (400, error(4), Retry, {"throttled": True, "destination_wide": False}),
        (500, error(17), Retry, {"throttled": True}),
        (400, error(613), Retry, {"throttled": True}),
        (400, error(80004), Retry, {"throttled": True}),
        (400, error(190, error_subcode=463), Retry, {"destination_wide": True, "throttled": False}),
        (500, error(190), Retry, {"destination_wide": True}),
        (400, error(100, is_transient=True), Retry, {"destination_wide": False}),
        (503, error(2), Retry, {"destination_wide": True}),
        (403, error(200), Retry, {"destination_wide": True}),
        (400, error(100, error_subcode=33), Retry, {"destination_wide": True}),
        (400, error(100, error_subcode=2804003, error_user_msg="too old"), Rejected, {}),
        (200, error(5), Rejected, {}),
        (412, error(5), type(None), {}),
        (400, error({"odd": 1}), type(None), {}),
        (400, b"<html>", Retry, {"destination_wide": True}),
        (502, b"<html>", type(None), {}),
    ],
)
def test_answers(classify: Any, status: int, body: Any, kind: type, facts: dict[str, Any]) -> None:
    delivery = classify(REQUEST, answered(status, body))
    assert isinstance(delivery, kind)
    assert {name: getattr(delivery, name) for name in facts} == facts
    assert TOKEN not in repr(delivery)
