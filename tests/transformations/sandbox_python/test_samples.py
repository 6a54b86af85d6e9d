"""What RudderStack's samples for Python do, in our own code: each use a team would move with it.

https://github.com/rudderlabs/sample-user-transformers: denylist, allow list of e-mail domains, geolocation, user data
from an API, user agent, dynamic header, dynamic path, source, change of type, batch; and from its templates: masking
of PII and sampling.
"""

from typing import Any

from tests.transformations.sandbox_python.conftest import LoadCode, World


def test_denylist(load: LoadCode) -> None:
    code = """
NOISE = {"Frame Rendered", "Heartbeat"}

def transformEvent(event, metadata):
    if event["event"] not in NOISE:
        return event
"""
    assert load(code).run({"event": "Heartbeat"}, {"event": "Order Completed"}) == [
        None,
        [{"messageId": "m1", "event": "Order Completed"}],
    ]


def test_allow_list_of_email_domains(load: LoadCode) -> None:
    code = """
OURS = ("example.com", "example.org")

def transformEvent(event, metadata):
    email = event.get("context", {}).get("traits", {}).get("email") or ""
    return event if email.rpartition("@")[2] in OURS else None
"""
    events = [{"context": {"traits": {"email": email}}} for email in ("ann@example.com", "bob@mail.test")]
    kept, dropped, without = load(code).run(*events, {})
    assert kept[0]["context"] == events[0]["context"]
    assert dropped is without is None


def test_masking_of_pii(load: LoadCode) -> None:
    code = r"""
import hashlib
import re

CARD = re.compile(r"\b(?:\d[ -]?){13,16}\b")

def masked(value):
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return CARD.sub("[card]", value) if isinstance(value, str) else value

def transformEvent(event, metadata):
    event["properties"] = masked(event["properties"])
    traits = event["context"]["traits"]
    traits["email"] = hashlib.sha256(traits["email"].strip().lower().encode()).hexdigest()
    traits.pop("ssn", None)
    return event
"""
    event = {
        "properties": {"notes": ["paid with 4111 1111 1111 1111"], "total": 12.5},
        "context": {"traits": {"email": " Ann@Example.com", "ssn": "078-05-1120"}},
    }
    result = load(code).one(event)
    assert result["properties"] == {"notes": ["paid with [card]"], "total": 12.5}
    assert list(result["context"]["traits"]) == ["email"]
    assert result["context"]["traits"]["email"].startswith("71d4f55f")


def test_sampling_by_user_keeps_the_same_users(load: LoadCode) -> None:
    code = """
from hashlib import md5

def transformEvent(event, metadata):
    share = int(md5(event["userId"].encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
    return event if share < 0.25 else None
"""
    events = [{"userId": f"user-{number % 200}"} for number in range(400)]
    results = load(code).run(*events)
    kept = [result is not None for result in results]
    assert kept[:200] == kept[200:]
    assert 25 <= sum(kept[:200]) <= 75


def test_random_sampling_repeats(load: LoadCode) -> None:
    code = """
import random

def transformEvent(event, metadata):
    if random.random() < 0.5:
        return event
"""
    events = [{"n": number} for number in range(100)]
    first, again = load(code).run(*events), load(code).run(*events)
    assert first == again
    assert 25 <= sum(result is not None for result in first) <= 75


def test_geolocation_by_an_api(load: LoadCode) -> None:
    code = """
import requests

def transformEvent(event, metadata):
    address = event.get("request_ip")
    if address:
        answer = requests.get("https://geo.example.com/v1/" + address, headers={"X-Key": getCredential("token")})
        if answer.status_code == 200:
            event.setdefault("context", {})["geolocation"] = answer.json()
    return event
"""
    found = {"url": "", "status": 200, "headers": {}, "body": '{"country": "DE"}'}
    missing = {"url": "", "status": 404, "headers": {}, "body": ""}
    world = World(found, missing)
    first, second, third = load(code).run(
        {"request_ip": "192.0.2.1"}, {"request_ip": "192.0.2.2"}, {"n": 1}, world=world
    )
    assert first[0]["context"] == {"geolocation": {"country": "DE"}}
    assert "context" not in second[0]
    assert "context" not in third[0]
    assert [asked["url"] for _, asked in world.asked] == [
        "https://geo.example.com/v1/192.0.2.1",
        "https://geo.example.com/v1/192.0.2.2",
    ]
    assert world.asked[0][1]["headers"] == {"X-Key": "very-secret"}


def test_geolocation_built_in(load: LoadCode) -> None:
    code = """
def transformEvent(event, metadata):
    try:
        if event.get("request_ip"):
            event.setdefault("context", {})["geo"] = geolocation(event["request_ip"])
    except Exception as error:
        log(str(error))
    return event
"""
    program = load(code)
    good, bad = program.run(
        {"request_ip": "192.0.2.1"},
        {"request_ip": "bad"},
        world=World({"city": "Bonn"}, OSError("no IP")),
        logs=True,
    )
    assert good[0]["context"] == {"geo": {"city": "Bonn"}}
    assert "context" not in bad[0]
    assert program.done is not None
    assert program.done.logs == ("no IP",)


def test_user_agent(load: LoadCode) -> None:
    code = r"""
import re

BROWSER = re.compile(r"(Firefox|Edg|Chrome)/(\d+)")

def transformEvent(event, metadata):
    found = BROWSER.search(event.get("context", {}).get("userAgent", ""))
    if found:
        event["context"]["browser"] = {"name": found[1], "version": int(found[2])}
    return event
"""
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
    assert load(code).one({"context": {"userAgent": agent}})["context"]["browser"] == {
        "name": "Firefox",
        "version": 128,
    }


def test_dynamic_header_and_path(load: LoadCode) -> None:
    code = """
from urllib.parse import urlencode

def transformEvent(event, metadata):
    event["header"] = {"X-Source": metadata(event)["sourceName"]}
    email = event.get("context", {}).get("traits", {}).get("email")
    if email:
        event["appendPath"] = "/search?" + urlencode({"email": email})
    return event
"""
    program = load(code)
    result = program.one({"context": {"traits": {"email": "ann@example.com"}}})
    assert result["header"] == {"X-Source": "Web shop"}
    assert result["appendPath"] == "/search?email=ann%40example.com"
    assert program.done is not None
    assert not program.done.saw_destination


def test_by_source_and_by_destination(load: LoadCode) -> None:
    code = """
def transformEvent(event, metadata):
    meta = metadata(event)
    if meta["sourceId"] == "web" and meta.get("destinationType") == "WEBHOOK":
        event["from"] = "web to webhook"
    return event
"""
    program = load(code)
    assert program.one()["from"] == "web to webhook"
    assert program.done is not None
    assert program.done.saw_destination


def test_change_of_type(load: LoadCode) -> None:
    code = """
def transformEvent(event, metadata):
    email = event.get("properties", {}).get("email")
    if event["type"] == "track" and event["event"] == "Signed In" and email:
        event["type"] = "identify"
        event.setdefault("context", {}).setdefault("traits", {})["email"] = email
    return event
"""
    signed_in = {"type": "track", "event": "Signed In", "properties": {"email": "ann@example.com"}}
    changed, other = load(code).run(signed_in, {"type": "track", "event": "Other"})
    assert changed[0]["type"] == "identify"
    assert changed[0]["context"] == {"traits": {"email": "ann@example.com"}}
    assert other[0]["type"] == "track"


def test_one_event_becomes_one_a_product(load: LoadCode) -> None:
    code = """
import copy

def transformEvent(event, metadata):
    made = []
    for number, product in enumerate(event["properties"].pop("products", [])):
        single = copy.deepcopy(event)
        single["messageId"] = f"{event['messageId']}-{number}"
        single["properties"].update(product)
        made.append(single)
    return made
"""
    products: list[dict[str, Any]] = [{"sku": "a"}, {"sku": "b"}]
    (expanded, dropped) = load(code).run(
        {"properties": {"cart": 1, "products": products}}, {"properties": {}}
    )
    assert [each["properties"] for each in expanded] == [{"cart": 1, "sku": "a"}, {"cart": 1, "sku": "b"}]
    assert [each["messageId"] for each in expanded] == ["m0-0", "m0-1"]
    assert dropped is None


def test_batch(load: LoadCode) -> None:
    code = """
from collections import Counter

def transformBatch(events, metadata):
    counts = Counter(event["userId"] for event in events)
    for event in events:
        event["context"] = {"inBatch": counts[event["userId"]]}
    return [event for event in events if event.get("keep", True)]
"""
    results = load(code).run({"userId": "a"}, {"userId": "b"}, {"userId": "a", "keep": False})
    assert [result and result[0]["context"]["inBatch"] for result in results] == [2, 1, None]
