"""The webhook beyond its golden cases and vectors."""

from typing import Any

import pytest

from mainstem.destinations.base import Refusal
from mainstem.destinations.catalog import check_config
from mainstem.destinations.render import rendered
from tests.destinations.events import body, mapped, request

TRACK: dict[str, Any] = {"type": "track", "event": "E", "userId": "u", "properties": {"a": 1}}
URL = "https://example.com/hook"


@pytest.mark.parametrize(
    ("raw", "path", "words"),
    [
        ({}, "url", "is missing"),
        ({"url": "example.com"}, "url", "https://"),
        ({"url": "https://"}, "url", "no host"),
        ({"url": "https://a b"}, "url", "space"),
        ({"url": "https://h/a/../b"}, "url", ".."),
        ({"url": "https://h:port"}, "url", "no URL"),
        ({"url": "https://h/{{ a[ }}"}, "url", "path"),
        ({"webhookUrl": "ftp://h"}, "webhookUrl", "https://"),
        ({"url": URL, "method": "HEAD"}, "method", "POST, PUT"),
        ({"url": URL, "headers": {"bad name": "x"}}, "headers", "`bad name`"),
        ({"url": URL, "headers": {"X": "a\nb"}}, "headers", "line break"),
        ({"url": URL, "headers": [{"from": "X", "to": 7}]}, "headers[0].to", "str"),
        ({"url": URL, "dynamicRequest": "maybe"}, "dynamicRequest", "bool"),
    ],
)
def test_wrong_settings_name_the_field_and_what_is_right(raw: dict[str, Any], path: str, words: str) -> None:
    [(where, text)] = check_config("webhook", raw).errors
    assert where == path
    assert words in text


def test_every_mistake_is_reported_at_once() -> None:
    errors = dict(check_config("webhook", {"url": 1, "method": [], "dynamicRequest": {}}).errors)
    assert set(errors) == {"url", "method", "dynamicRequest"}


def test_a_configured_header_is_not_the_events_to_change() -> None:
    raw = {"url": URL, "headers": {"Authorization": "Bearer configured", "X-T": "{{ userId }}"}}
    message = {**TRACK, "header": {"authorization": "forged", "x-t": "forged", "content-type": "text/x"}}
    headers = dict(request("webhook", raw, message).headers)
    assert headers == {"content-type": "text/x", "Authorization": "Bearer configured", "X-T": "u"}


def test_dynamic_requests_can_be_switched_off() -> None:
    message = {**TRACK, "header": {"X-A": "1"}, "appendPath": "/x"}
    sent = request("webhook", {"url": URL, "dynamicRequest": False}, message)
    assert (sent.url, sent.headers) == (URL, (("Content-Type", "application/json"),))
    assert body(sent) == message


def test_what_only_looks_dynamic_stays_in_the_event() -> None:
    message = {**TRACK, "header": "text", "appendPath": 7}
    sent = request("webhook", {"url": URL}, message)
    assert sent.url == URL
    assert body(sent) == message


@pytest.mark.parametrize("path", ["@evil.example", ".evil.example", ":99", "x"])
def test_an_appended_path_never_changes_the_host(path: str) -> None:
    sent = request("webhook", {"url": "https://example.com"}, {**TRACK, "appendPath": path})
    assert sent.url == f"https://example.com/{path}"


def test_an_appended_path_that_climbs_is_refused() -> None:
    result = mapped("webhook", {"url": URL}, {**TRACK, "appendPath": "/../../admin"})
    assert isinstance(result, Refusal)


def test_a_url_reference_is_escaped_and_judged() -> None:
    raw = {"url": "https://example.com/{{ properties.a }}/end"}
    assert (
        request("webhook", raw, {**TRACK, "properties": {"a": "x/y"}}).url == "https://example.com/x%2Fy/end"
    )
    assert isinstance(mapped("webhook", raw, {**TRACK, "properties": {"a": ".."}}), Refusal)
    whole = {"url": '{{ properties.url || "https://default.example/x" }}'}
    assert request("webhook", whole, TRACK).url == "https://default.example/x"
    assert isinstance(mapped("webhook", whole, {**TRACK, "properties": {"url": "file:///etc"}}), Refusal)


def test_the_ip_is_filled_in_only_where_there_is_none() -> None:
    sent = request("webhook", {"url": URL}, {**TRACK, "request_ip": "1.2.3.4", "context": {"a": 1}})
    assert body(sent)["context"] == {"a": 1, "ip": "1.2.3.4"}
    kept = request("webhook", {"url": URL}, {**TRACK, "request_ip": "1.2.3.4", "context": {"ip": "5.6.7.8"}})
    assert body(kept)["context"] == {"ip": "5.6.7.8"}


def test_identify_by_get_sends_traits_wherever_they_are() -> None:
    raw = {"url": URL, "method": "GET"}
    own = {"type": "identify", "traits": {"e": 1}, "context": {"traits": {"e": 2}}}
    assert request("webhook", raw, own).url == f"{URL}?e=1"
    assert request("webhook", raw, {**own, "traits": {}}).url == f"{URL}?e=2"
    assert request("webhook", raw, {"type": "alias", "userId": "u"}).url == URL


def test_a_header_said_by_a_template_is_a_secret_and_the_events_part_is_not() -> None:
    raw = {"url": URL, "headers": {"X-Mixed": "key-1234 {{ event }}"}}
    shown = str(rendered(request("webhook", raw, {**TRACK, "event": "Signed Up", "note": "key-1234"})))
    assert "key-1234" not in shown
    assert "Signed Up" in shown
