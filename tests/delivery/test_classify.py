"""What answers mean, and what people may see of requests."""

import pytest

from mainstem.delivery.classify import classify_failure, classify_http, retry_after_s
from mainstem.delivery.errors import ConnectFailed, Cut, Refused, TimedOut, TlsFailed, Unsendable
from mainstem.destinations.base import Delivered, Rejected, Request, Response, Retry

REQUEST = Request("POST", "https://x.test/?key=s3cr%2Ft", secrets=("s3cr/t",))


def answer(status: int, body: bytes = b"", **headers: str) -> Response:
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_delivered(status: int) -> None:
    assert classify_http(REQUEST, answer(status)) == Delivered(str(status))


@pytest.mark.parametrize(
    ("status", "wide"),
    [
        (408, False),
        (425, False),
        (401, True),
        (402, True),
        (403, True),
        (407, True),
        (500, True),
        (503, True),
        (599, True),
    ],
)
def test_what_is_tried_again(status: int, wide: bool) -> None:
    result = classify_http(REQUEST, answer(status, retry_after="7"))
    assert isinstance(result, Retry)
    assert (result.destination_wide, result.throttled, result.after_s) == (wide, False, 7)
    assert result.reason.startswith(f"http {status}")


def test_429_slows_down() -> None:
    result = classify_http(REQUEST, answer(429, b"slow down"))
    assert result == Retry("http 429", throttled=True, answer="429 slow down")


@pytest.mark.parametrize("status", [301, 302, 304, 308, 400, 404, 409, 410, 413, 422])
def test_what_is_never_taken(status: int) -> None:
    result = classify_http(REQUEST, answer(status, b"no"))
    assert isinstance(result, Rejected)
    assert result.reason.startswith(f"http {status}")
    assert result.answer == f"{status} no"


def test_answers_are_cut_and_redacted() -> None:
    result = classify_http(REQUEST, answer(400, b"bad key s3cr/t " + b"x" * 5000))
    assert isinstance(result, Rejected)
    assert "s3cr" not in result.answer
    assert len(result.answer) < 600


@pytest.mark.parametrize(
    ("headers", "after_s"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "120"}, 120.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 10.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after(headers: dict[str, str], after_s: float | None) -> None:
    assert retry_after_s(headers) == after_s


@pytest.mark.parametrize(
    "error", [ConnectFailed("o", "d"), TlsFailed("o", "d"), TimedOut("o", "answer"), Cut("o", "d")]
)
def test_no_answer_is_tried_again(error: ConnectFailed) -> None:
    result = classify_failure(error)
    assert isinstance(result, Retry)
    assert result.destination_wide


def test_a_malformed_request_is_never_taken() -> None:
    assert isinstance(classify_failure(Unsendable("o", "malformed")), Rejected)


def test_a_refused_address_stops_the_destination_and_kills_nothing() -> None:
    result = classify_failure(Refused("o", "private: set MAINSTEM_ALLOW_PRIVATE_DESTINATIONS"))
    assert isinstance(result, Retry)
    assert result.destination_wide
    assert "MAINSTEM_ALLOW_PRIVATE_DESTINATIONS" in result.answer
