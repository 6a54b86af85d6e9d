"""The open conformance vectors of the first destinations, as far as they are here.

A vector is (event, settings) -> request. Compared: method, URL, query, headers and body as they go on the wire.
Header names do not depend on case there, so where a vector holds one header twice (`Content-Type`, the format's, and
`content-type`, the settings'), ours is the settings': one of the two can be sent.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from mainstem.destinations.base import Refusal, Request, StreamMessage
from tests.destinations.events import mapped

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "open"
TYPES = ("webhook", "http", "kafka")
_BATCHED = "batching several events into one request is not done by HTTP: each event is sent alone"


def _cases() -> list[Any]:
    found = []
    for feature in ("processor", "router"):
        for name in TYPES:
            path = VECTORS / feature / f"{name}.json"
            for vector in json.loads(path.read_text()) if path.exists() else []:
                batched = feature == "router" and any(
                    item.get("batched") for item in vector["output"]["body"]["output"]
                )
                marks = [pytest.mark.xfail(reason=_BATCHED, strict=True)] if batched else []
                found.append(
                    pytest.param(feature, vector, marks=marks, id=f"{vector['id']} {vector['name']}")
                )
    return found


def test_the_vectors_are_here() -> None:
    if not VECTORS.is_dir():
        pytest.skip(f"CONFORMANCE VECTORS ABSENT: no {VECTORS}; the mapping is not compared with them")
    assert len(_cases()) >= 20


@pytest.mark.parametrize(("feature", "vector"), _cases())
def test_vector(feature: str, vector: dict[str, Any]) -> None:
    given = vector["input"]["body"]
    events = given["input"] if feature == "router" else given
    answer = vector["output"]["body"]
    expected = answer["output"] if feature == "router" else answer
    assert len(events) == len(expected)
    for event, item in zip(events, expected, strict=True):
        name = vector["destination"].upper()
        config = dict(event["destination"]["Config"])
        if name == "KAFKA":
            config.setdefault("hostName", "kafka.example.com")  # the vectors stop short of a broker
        result = mapped(name, config, event["message"])
        if "error" in item:
            assert isinstance(result, Refusal), result
            continue
        assert not isinstance(result, Refusal), result
        [payload] = result  # type: ignore[misc]  # a Skip is no sequence: the test fails as it should
        if isinstance(payload, StreamMessage):
            assert payload.topic == item["output"]["topic"]
            assert payload.key.decode() == item["output"]["userId"]
            assert json.loads(payload.value) == item["output"]["message"]
        else:
            _same_request(payload, item["batchedRequest" if feature == "router" else "output"])


def _same_request(sent: Request, expected: dict[str, Any]) -> None:
    assert sent.method == expected["method"]
    query = urlencode(expected["params"])
    url = expected["endpoint"] + (f"?{query}" if query else "")
    assert _url(sent.url) == _url(url)
    assert {name.lower(): value for name, value in sent.headers} == {
        name.lower(): value
        for name, value in sorted(expected["headers"].items(), key=lambda pair: pair[0] == pair[0].lower())
    }
    body = expected["body"]
    if body["FORM"]:
        assert dict(parse_qsl(sent.body.decode())) == body["FORM"]
    elif body["XML"]:
        assert sent.body.decode() == body["XML"]["payload"]
    elif body["JSON"]:
        assert json.loads(sent.body) == body["JSON"]
    else:
        assert sent.body == b""


def _url(url: str) -> tuple[Any, ...]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc, parts.path, parse_qsl(parts.query)
