"""How Singular's answers are read."""

import pytest

from mainstem.destinations.base import Delivered, Rejected, Request, Response
from mainstem.destinations.singular import classify

REQUEST = Request("GET", "https://s2s.singular.net/api/v1/evt")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b'{"status": "ok"}', Delivered("ok", acceptance="accepted")),
        (
            200,
            b'{"status": "error", "reason": "invalid key"}',
            Rejected("Singular refused it: invalid key", "invalid key"),
        ),
        (200, b"<html>", None),
        (500, b'{"status": "ok"}', None),
    ],
)
def test_the_body_says_whether_it_was_taken(status: int, body: bytes, expected: object) -> None:
    assert classify(REQUEST, Response(status, {}, body)) == expected
