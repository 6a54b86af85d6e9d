"""Payloads for people: complete, the same to the byte, without secrets."""

import base64
import gzip
import zlib
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.destinations.base import Request, StreamMessage
from mainstem.destinations.render import HIDDEN, Redactor, described, rendered, secrets_in
from mainstem.secret import Secret

SECRET = "s3cr3t/+ key"


def test_a_request() -> None:
    request = Request(
        "POST",
        "https://api.example.com/v1/in?region=eu",
        (("Content-Type", "application/json"), ("X-Trace", "1"), ("X-Trace", "2")),
        b'{"b": 12345678901234567890123, "a": [1.0, null, true]}',
    )
    assert rendered(request) == {
        "method": "POST",
        "url": "https://api.example.com/v1/in?region=eu",
        "headers": [["Content-Type", "application/json"], ["X-Trace", "1"], ["X-Trace", "2"]],
        "body": {"b": 12345678901234567890123, "a": [1.0, None, True]},
    }


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", {}),
        (b"a=1&b=2", {"bodyText": "a=1&b=2"}),
        (b'{"text": "hi"}', {"body": {"text": "hi"}}),
        (b"12", {"body": 12}),
        ('{"ä": NaN}'.encode(), {"bodyText": '{"ä": NaN}'}),
        (b"\xff\x00", {"bodyBase64": "/wA="}),
        (b"[" * 5000 + b"]" * 5000, {"bodyText": "[" * 5000 + "]" * 5000}),
    ],
)
def test_bodies(body: bytes, shown: dict[str, Any]) -> None:
    given_keys = {"method", "url", "headers"}
    got = rendered(Request("PUT", "https://example.com", (), body))
    assert {key: value for key, value in got.items() if key not in given_keys} == shown


def leaks(shown: Any, secret: str) -> bool:
    text = msgspec.json.encode(shown).decode()
    forms = (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("="))
    return any(form in text or msgspec.json.encode(form).decode()[1:-1] in text for form in forms)


@pytest.mark.parametrize(
    "request_with_secret",
    [
        Request("GET", f"https://example.com/hooks/{quote(SECRET, safe='')}/x"),
        Request("GET", f"https://example.com/?q={SECRET}"),
        Request("GET", "https://example.com", (("X-Custom", f"key {SECRET}"),)),
        Request("GET", "https://example.com", (("X-Custom", base64.b64encode(SECRET.encode()).decode()),)),
        Request(
            "POST", "https://example.com", (), msgspec.json.encode({"k": [SECRET, {SECRET: f"a{SECRET}b"}]})
        ),
        Request("POST", "https://example.com", (), f"k={quote(SECRET)}&l={SECRET}".encode()),
        Request("POST", "https://example.com", (), b"\xff\xfe\x00" + SECRET.encode()),
        Request(
            *("POST", "https://example.com", (("Content-Encoding", "gzip"),)),
            gzip.compress(msgspec.json.encode({"k": SECRET})),
        ),
        Request(
            *("POST", "https://example.com", (("content-encoding", "Deflate"),)),
            zlib.compress(msgspec.json.encode({"k": SECRET})),
        ),
    ],
)
def test_a_secret_shows_nowhere(request_with_secret: Request) -> None:
    own = msgspec.structs.replace(request_with_secret, secrets=(SECRET,))
    for shown in (rendered(own), rendered(request_with_secret, (SECRET,))):
        assert not leaks(shown, SECRET)
        assert HIDDEN in str(shown) or "Kioq" in str(shown)


@pytest.mark.parametrize(
    ("secret", "body"),
    [
        ('quo"te', b'{"a": "quo\\"te"}\n{"a": 1}\n'),
        ("Geheimnis-ü", b'{"a": "Geheimnis-\\u00fc"}\n{}\n'),
        ("Geheimnis-ü", "k=Geheimnis-ü".encode()),
        ("Geheimnis-ü", b"\xff\xfe\x00" + "Geheimnis-ü".encode()),
    ],
)
def test_secrets_that_are_escaped_or_not_ascii(secret: str, body: bytes) -> None:
    shown = rendered(Request("POST", "https://example.com", (), body), (secret,))
    text = (
        base64.b64decode(shown["bodyBase64"]).decode("latin-1")
        if "bodyBase64" in shown
        else shown["bodyText"]
    )
    assert HIDDEN in text
    assert "Geheimnis" not in text
    assert "te" not in text


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "proxy-authorization",
        "Cookie",
        "X-API-Key",
        "apikey",
        "X-Auth-Token",
        "X-Hub-Signature-256",
    ],
)
def test_headers_that_hold_secrets_by_their_name_are_hidden(name: str) -> None:
    shown = rendered(Request("GET", "https://example.com", ((name, "anything"), ("Accept", "anything"))))
    assert shown["headers"] == [[name, HIDDEN], ["Accept", "anything"]]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@example.com/x", "https://***@example.com/x"),
        ("https://example.com/x@y", "https://example.com/x@y"),
        (
            "https://example.com/?api_key=1&a=2&access_token=3#f",
            "https://example.com/?api_key=***&a=2&access_token=***#f",
        ),
        ("https://example.com/?monkey=1", "https://example.com/?monkey=1"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    assert rendered(Request("GET", url))["url"] == shown


def test_a_mislabelled_compressed_body_is_shown_as_it_is() -> None:
    request = Request("POST", "https://example.com", (("Content-Encoding", "gzip"),), b'{"a": 1}')
    assert rendered(request)["body"] == {"a": 1}


def test_a_secret_that_holds_another_disappears_whole() -> None:
    shown = rendered(Request("GET", "https://example.com/abcdef"), ("abc", "abcdef"))
    assert shown["url"] == "https://example.com/***"


def test_a_number_can_be_a_secret() -> None:
    shown = rendered(
        Request("POST", "https://example.com", (), b'{"id": 4711, "n": 47110, "t": true}'), ("4711",)
    )
    assert shown["body"] == {"id": HIDDEN, "n": 47110, "t": True}


def test_a_message_of_a_stream() -> None:
    message = StreamMessage(
        "events", b"user-1", b'{"a": "hush"}', (("token", b"hush"), ("n", b"1"), ("raw", b"\xff"))
    )
    assert rendered(message, ("hush",)) == {
        "topic": "events",
        "key": "user-1",
        "headers": [["token", HIDDEN], ["n", "1"], ["raw", "\\xff"]],
        "value": {"a": HIDDEN},
    }
    assert rendered(StreamMessage("events", b"", b""))["key"] == ""


def test_secrets_are_found_in_settings_of_any_shape() -> None:
    class Config(msgspec.Struct):
        token: Secret
        headers: dict[str, Any]
        more: tuple[Any, ...] = ()

    config = Config(
        Secret("b"), {"X": Secret("a"), "Y": "open", "Z": [Secret("c")]}, (Secret("d"), Secret(""))
    )
    assert secrets_in((config, {"raw": Secret("a")}, None)) == ("", "a", "b", "c", "d")


@given(
    body=st.binary(max_size=40) | st.text(max_size=40).map(str.encode),
    secrets=st.lists(st.text(max_size=5), max_size=3),
)
def test_rendering_never_fails_and_repeats_to_the_byte(body: bytes, secrets: list[str]) -> None:
    request = Request("POST", "https://example.com/?a=b", (("X", "y"),), body, tuple(secrets))
    first = msgspec.json.encode(rendered(request))
    assert msgspec.json.encode(rendered(request)) == first


def test_secrets_are_hidden_in_every_form_and_short_texts_stay() -> None:
    redactor = Redactor(['s3cr/"t', "1"])
    assert redactor.text('s3cr/"t s3cr%2F%22t s3cr/%22t s3cr/\\"t 1') == "*** *** *** *** 1"


def test_a_request_described_for_a_dead_letter_is_cut() -> None:
    request = Request("POST", "https://x.test/k/s3cr", (("X-Own", "s3cr"),), b"a" * 5000 + b"s3cr", ("s3cr",))
    shown = msgspec.json.decode(described(request))
    assert shown["url"] == "https://x.test/k/***"
    assert shown["headers"] == [["X-Own", "***"]]
    assert shown["bodyText"].startswith("a" * 4096)
    assert shown["bodyText"].endswith("(907 more)")
