"""The HTTP destination beyond its golden cases and vectors."""

from typing import Any

import pytest

from mainstem.destinations.base import Refusal, Unit
from mainstem.destinations.catalog import check_config
from mainstem.destinations.http import make_batcher, max_batch
from mainstem.destinations.kit.call import encode
from tests.destinations.events import body, config_of, event_of, mapped, request

EVENT: dict[str, Any] = {
    "type": "track",
    "event": "E",
    "userId": "u",
    "traits": {"k": {"deep": 1}, "none": None},
    "properties": {"items": [{"id": 1}, {}], "x": "y"},
}
URL = "https://example.com/api"


@pytest.mark.parametrize(
    ("raw", "path", "words"),
    [
        ({}, "url", "is missing"),
        ({"apiUrl": "nowhere"}, "apiUrl", "https://"),
        ({"url": URL, "auth": "oauth"}, "auth", "bearerTokenAuth"),
        ({"url": URL, "auth": "basicAuth"}, "username", "basicAuth needs it"),
        ({"url": URL, "auth": "bearerTokenAuth"}, "bearerToken", "needs it"),
        ({"url": URL, "auth": "apiKeyAuth"}, "apiKeyName", "name of a header"),
        ({"url": URL, "auth": "bearerTokenAuth", "bearerToken": "a\nb"}, "bearerTokenAuth", "line break"),
        ({"url": URL, "format": "YAML"}, "format", "JSON, XML, FORM"),
        ({"url": URL, "method": "TRACE"}, "method", "POST"),
        ({"url": URL, "body": {"a": ["{{ b[ }}"]}}, "body", "a[0]"),
        ({"url": URL, "propertiesMapping": [{"from": "$.a", "to": "$.b["}]}, "propertiesMapping", "path"),
        ({"url": URL, "propertiesMapping": [{"from": "'c'", "to": "$.b[*].c"}]}, "propertiesMapping", "[*]"),
        ({"url": URL, "headers": {"bad name": "x"}}, "headers", "`bad name`"),
        ({"url": URL, "pathParams": ["$.a["]}, "pathParams", "path"),
        ({"url": URL, "maxBatchSize": "many"}, "maxBatchSize", "whole number"),
        ({"url": URL, "maxBatchSize": 0}, "maxBatchSize", "whole number"),
        ({"url": URL, "queryParams": [{"from": "$.a[", "to": "q"}]}, "queryParams", "path"),
    ],
)
def test_wrong_settings_name_the_field_and_what_is_right(raw: dict[str, Any], path: str, words: str) -> None:
    [(where, text)] = check_config("http", raw).errors
    assert where == path
    assert words in text


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"body": "$", "isBatchingEnabled": "true", "format": "XML"}, "isBatchingEnabled"),
        ({"method": "GET", "body": "$"}, "body"),
        ({"method": "DELETE", "propertiesMapping": [{"from": "$.a", "to": "$.b"}]}, "propertiesMapping"),
        ({}, "body"),
    ],
)
def test_what_is_hardly_meant_is_a_warning(raw: dict[str, Any], field: str) -> None:
    result = check_config("http", {"url": URL, **raw})
    assert result.errors == ()
    assert [where for where, _ in result.warnings] == [field]


def test_a_mapping_never_writes_into_the_event() -> None:
    rows = [{"from": "$.traits", "to": "$.t"}, {"from": "'new'", "to": "$.t.k.deep"}]
    rows += [{"from": "$.properties.items", "to": "$.i"}, {"from": "$.event", "to": "$.i[3].e"}]
    before = repr(EVENT)
    sent = body(request("http", {"url": URL, "propertiesMapping": rows}, EVENT))
    assert sent == {"t": {"k": {"deep": "new"}, "none": None}, "i": [{"id": 1}, {}, None, {"e": "E"}]}
    assert repr(EVENT) == before


def test_the_whole_event_by_default_mapping_or_by_template() -> None:
    for raw in ({"isDefaultMapping": True}, {"body": "$"}):
        assert body(request("http", {"url": URL, **raw}, EVENT)) == EVENT


def test_what_the_event_lacks_is_left_out() -> None:
    raw = {
        "url": URL,
        "headers": {"X-A": "$.absent", "X-B": "{{ absent }}", "X-C": "$.traits.none", "X-D": "$.event"},
        "queryParams": {"a": "$.absent", "b": "$.traits.none", "c": "$.traits.k", "d": 2},
        "body": {"a": "$.absent", "n": "$.traits.none"},
    }
    sent = request("http", raw, EVENT)
    assert sent.headers == (("Content-Type", "application/json"), ("X-D", "E"))
    assert sent.url == f"{URL}?c=%7B%22deep%22%3A1%7D&d=2"
    assert body(sent) == {"n": None}


def test_gaps_in_lists_are_null() -> None:
    raw = {
        "url": URL,
        "body": {"ids": "$.properties.items[*].id"},
        "queryParams": {"q": "$.properties.items[*].id"},
    }
    sent = request("http", raw, EVENT)
    assert body(sent) == {"ids": [1, None]}
    assert sent.url == f"{URL}?q=%5B1%2Cnull%5D"


def test_path_comes_before_the_query_that_the_url_has() -> None:
    raw = {
        "url": f"{URL}/?v=1",
        "method": "GET",
        "pathParams": [{"path": "$.userId"}, "c/1"],
        "queryParams": {"q": "x"},
    }
    assert request("http", raw, EVENT).url == f"{URL}/u/c%2F1?v=1&q=x"


@pytest.mark.parametrize("path", ["$.absent", "$.traits.none", "$.traits.k", "$.properties.items"])
def test_an_incomplete_url_is_never_sent(path: str) -> None:
    result = mapped("http", {"url": URL, "method": "DELETE", "pathParams": [path]}, EVENT)
    assert isinstance(result, Refusal)
    assert path in result.reason


@pytest.mark.parametrize(
    ("auth", "header", "secrets"),
    [
        ({"auth": "basicAuth", "username": "üser", "password": "p:w"}, ("Authorization", "Basic w7xzZXI6cDp3"),
         {"p:w", "w7xzZXI6cDp3"}),
        ({"auth": "bearerTokenAuth", "bearerToken": "tok"}, ("Authorization", "Bearer tok"), {"tok"}),
        ({"auth": "apiKeyAuth", "apiKeyName": "X-K", "apiKeyValue": "key"}, ("X-K", "key"), {"key"}),
    ],
)  # fmt: skip
def test_auth(auth: dict[str, Any], header: tuple[str, str], secrets: set[str]) -> None:
    sent = request("http", {"url": URL, "body": "$", **auth}, EVENT)
    assert header in sent.headers
    assert secrets <= set(sent.secrets)


BATCHED: dict[str, Any] = {
    "url": URL,
    "body": {"id": "$.userId"},
    "isBatchingEnabled": True,
    "maxBatchSize": "2",
}


@pytest.mark.parametrize(
    ("raw", "users", "expected"),
    [
        # (events of each request, its body, whether it is a batch)
        (
            BATCHED,
            "abc",
            [([0, 1], b'[{"id":"a"},{"id":"b"}]', True), ([2], b'[{"id":"c"}]', True)],
        ),
        (
            {**BATCHED, "headers": {"X-User": "$.userId"}},
            "aba",
            [([0, 2], b'[{"id":"a"},{"id":"a"}]', True), ([1], b'[{"id":"b"}]', True)],
        ),
        ({**BATCHED, "method": "GET", "queryParams": {"v": 1}}, "ab", [([0, 1], b"", True)]),
        ({**BATCHED, "format": "FORM"}, "ab", [([0], b"id=a", False), ([1], b"id=b", False)]),
        ({**BATCHED, "isBatchingEnabled": False}, "a", [([0], b'{"id":"a"}', False)]),
    ],
)
def test_events_of_the_same_request_go_together(
    raw: dict[str, Any], users: str, expected: list[tuple[list[int], bytes, bool]]
) -> None:
    units = []
    for index, user in enumerate(users):
        message = {**EVENT, "userId": user}
        calls = mapped("http", raw, message)
        assert isinstance(calls, tuple)
        units.append(Unit(index, calls, event_of(message)))  # type: ignore[arg-type]
    batches = make_batcher(config_of("http", raw))(units)
    assert isinstance(batches, list)
    found = [(list(batch.units), encode(batch.calls[0]).body, batch.batched) for batch in batches]
    assert found == expected


@pytest.mark.parametrize(
    ("raw", "most"),
    [
        (BATCHED, 2),
        ({**BATCHED, "maxBatchSize": ""}, 100),
        ({**BATCHED, "isBatchingEnabled": False}, 1),
        ({**BATCHED, "format": "XML"}, 1),
    ],
)
def test_an_attempt_carries_as_many_as_a_request(raw: dict[str, Any], most: int) -> None:
    assert max_batch(config_of("http", raw)) == most


def test_of_two_spellings_of_a_header_the_events_is_sent() -> None:
    raw = {"url": URL, "body": "$", "headers": {"content-type": "application/vnd.x+json"}}
    assert request("http", raw, EVENT).headers == (("content-type", "application/vnd.x+json"),)


def test_a_query_parameter_may_be_there_twice() -> None:
    rows = [{"to": "id", "from": "$.userId"}, {"to": "id", "from": "2"}, {"to": "id", "from": "'x'"}]
    assert request("http", {"url": URL, "queryParams": rows}, EVENT).url == f"{URL}?id=u&id=2&id=x"
