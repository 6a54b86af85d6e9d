"""`requests`, `fetch` and `fetchV2`: what they ask the parent, and what they make of its answer."""

from typing import Any

import pytest
from tests.transformations.sandbox_python.conftest import LoadCode, World


def answered(body: str = '{"ok": true}', status: int = 200) -> dict[str, Any]:
    return {
        "url": "https://api.example.com/x",
        "status": status,
        "headers": {"Content-Type": "text/x"},
        "body": body,
    }


def asking(line: str) -> str:
    return f"import requests\ndef transformEvent(event, metadata):\n    return {{'v': {line}}}\n"


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        (
            "requests.get('https://api.example.com/x', {'q': 'a b', 'n': [1, 2], 'z': None}, timeout=3).ok",
            {"url": "https://api.example.com/x?q=a+b&n=1&n=2", "method": "GET", "headers": {}, "body": None},
        ),
        (
            "requests.get('https://api.example.com/x?a=1#f', params='b=2', headers={'X-A': 1, 'X-B': None}).ok",
            {
                "url": "https://api.example.com/x?a=1&b=2#f",
                "method": "GET",
                "headers": {"X-A": "1"},
                "body": None,
            },
        ),
        (
            "requests.post('https://api.example.com/x', json={'a': [1]}).ok",
            {
                "url": "https://api.example.com/x",
                "method": "POST",
                "headers": {"Content-Type": "application/json"},
                "body": '{"a":[1]}',
            },
        ),
        (
            "requests.post('https://api.example.com/x', {'a': 1}, auth=('u', 'p')).ok",
            {
                "url": "https://api.example.com/x",
                "method": "POST",
                "headers": {
                    "Content-Type": "application/x-www-form-urlencoded",
                    "Authorization": "Basic dTpw",
                },
                "body": "a=1",
            },
        ),
        (
            "requests.put('https://api.example.com/x', data=b'raw', headers={'content-type': 'text/plain'}).ok",
            {
                "url": "https://api.example.com/x",
                "method": "PUT",
                "headers": {"content-type": "text/plain"},
                "body": "raw",
            },
        ),
        (
            "requests.request('delete', 'https://api.example.com/x').ok",
            {"url": "https://api.example.com/x", "method": "DELETE", "headers": {}, "body": None},
        ),
        (
            "requests.api.head('https://api.example.com/x').ok",
            {"url": "https://api.example.com/x", "method": "HEAD", "headers": {}, "body": None},
        ),
    ],
)
def test_what_requests_asks(load: LoadCode, line: str, asked: dict[str, Any]) -> None:
    world = World(answered())
    assert load(asking(line)).one(world=world) == {"v": True}
    assert world.asked == [("fetch", asked)]


def test_a_session_carries_headers_params_and_auth(load: LoadCode) -> None:
    code = """
import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

session = requests.Session()
session.mount("https://", HTTPAdapter(max_retries=3))
session.headers.update({"X-Key": getCredential("token")})
session.auth = HTTPBasicAuth("u", "p")

def transformEvent(event, metadata):
    with session:
        return {"v": session.get("https://api.example.com/x", headers={"X-B": "b"}).json()}
"""
    world = World(answered())
    assert load(code).one(world=world) == {"v": {"ok": True}}
    assert world.asked[0][1]["headers"] == {"X-Key": "very-secret", "X-B": "b", "Authorization": "Basic dTpw"}


def test_a_response(load: LoadCode) -> None:
    code = """
import requests

def transformEvent(event, metadata):
    answer = requests.get("https://api.example.com/x")
    try:
        answer.raise_for_status()
        error = None
    except requests.exceptions.HTTPError as raised:
        error = [str(raised), raised.response.status_code]
    try:
        read = answer.json()
    except requests.exceptions.JSONDecodeError as raised:
        read = isinstance(raised, ValueError)
    return {
        "status": answer.status_code, "ok": answer.ok, "bool": bool(answer), "reason": answer.reason, "read": read,
        "type": answer.headers["content-type"], "text": answer.text, "bytes": len(answer.content), "error": error,
        "none": answer.headers.get("x"), "code": answer.status_code == requests.codes.not_found,
    }
"""
    assert load(code).one(world=World(answered("nö", 404))) == {
        "status": 404,
        "ok": False,
        "bool": False,
        "reason": "Not Found",
        "read": True,
        "type": "text/x",
        "text": "nö",
        "bytes": 3,
        "error": ["404 Client Error: Not Found for url: https://api.example.com/x", 404],
        "none": None,
        "code": True,
    }


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [("it took longer than 2 s", "Timeout"), ("the host is not allowed", "ConnectionError")],
)
def test_a_refusal_is_an_exception_that_can_be_caught(load: LoadCode, refusal: str, kind: str) -> None:
    code = f"""
import requests

def transformEvent(event, metadata):
    try:
        requests.get("https://api.example.com/x")
    except requests.exceptions.{kind} as error:
        return {{"error": str(error), "base": isinstance(error, requests.RequestException)}}
"""
    assert load(code).one(world=World(OSError(refusal))) == {"error": refusal, "base": True}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "requests.get('api.example.com')",
            "MissingSchema: Invalid URL 'api.example.com': No scheme supplied",
        ),
        (
            "requests.get('https://x', cert='c')",
            "RequestException: files, cert, proxies and cookies don't work here",
        ),
        ("requests.post('https://x', data=b'\\xff')", "RequestException: a body must be text"),
        ("requests.get('https://x')", "ConnectionError: HTTP is off for this transformation"),
        ("fetchV2('https://x')", "FetchFailed: HTTP is off for this transformation"),
    ],
)
def test_what_cannot_be_asked_is_not_asked(load: LoadCode, line: str, reason: str) -> None:
    world = World()
    assert reason in load(asking(line), fetch=False).one(world=world)
    assert world.asked == []


def test_fetch_and_fetch_v2(load: LoadCode) -> None:
    code = """
def transformEvent(event, metadata):
    whole = fetchV2("https://api.example.com/x", {"method": "post", "headers": {"X": 1}, "body": {"a": 1}})
    text = fetchV2("https://api.example.com/x", {"body": "plain"})
    return {"whole": whole, "text": text["body"], "fetch": fetch("https://api.example.com/x"),
            "not_json": fetch("https://api.example.com/x"), "error": fetch("https://api.example.com/x")}
"""
    world = World(answered(), answered("plain text"), answered("[1]"), answered("plain"), OSError("no"))
    assert load(code).one(world=world) == {
        "whole": {
            "url": "https://api.example.com/x",
            "status": 200,
            "headers": {"Content-Type": "text/x"},
            "body": {"ok": True},
        },
        "text": "plain text",
        "fetch": [1],
        "not_json": "ERROR",
        "error": "ERROR",
    }
    assert world.asked[0][1] == {
        "url": "https://api.example.com/x",
        "method": "POST",
        "headers": {"X": "1", "Content-Type": "application/json"},
        "body": '{"a":1}',
    }


def test_nothing_is_asked_outside_of_functions(load: LoadCode) -> None:
    from mainstem.transformations.sandbox.child import CodeWrong

    with pytest.raises(CodeWrong, match="works within the function only"):
        load("import requests\nrequests.get('https://x')\ndef transformEvent(event, metadata): return event")
