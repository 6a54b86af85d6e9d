"""What calls make of their arguments, and what middleware, consent, sampling and the remembered user do to them."""

import json
import logging
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import mainstem_analytics
from mainstem_analytics import Client, EventsDropped, HookFailed, InvalidCall
from mainstem_analytics.version import VERSION
from tests.sdks.python.collector import Collector
from tests.sdks.python.conftest import Errors, MakeClient


def test_the_six_calls(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    client.identify("u", {"plan": "pro", "gone": None})
    client.track("u", "Order Completed", {"total": 9.95})
    client.page("u", "Docs", "Python", {"url": "http://a"})
    client.screen("u", name="Home")
    client.group("u", 12, {"name": "Initech"})
    client.alias("anon", "u")
    assert client.flush()
    common = {"userId": "u", "integrations": {}, "channel": "server"}
    library = {"library": {"name": "mainstem-analytics-python", "version": VERSION}}
    own: list[dict[str, Any]] = [
        {"type": "identify", "traits": {"plan": "pro", "gone": None}},
        {"type": "track", "event": "Order Completed", "properties": {"total": 9.95}},
        {"type": "page", "category": "Docs", "name": "Python", "properties": {"url": "http://a"}},
        {"type": "screen", "name": "Home", "properties": {}},
        {"type": "group", "groupId": "12", "traits": {"name": "Initech"}},
        {"type": "alias", "previousId": "anon"},
    ]
    for event, expected in zip(collector.arrived, own, strict=True):
        made = dict(event)
        uuid.UUID(made.pop("messageId"))
        assert datetime.fromisoformat(made.pop("timestamp")).tzinfo is not None
        assert made == {**common, **expected, "context": library}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC), "2020-01-02T03:04:05.000Z"),
        (datetime(2020, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2020-01-02T00:00:00.000+02:00"),
        (datetime(2020, 1, 2), "2020-01-02T00:00:00.000Z"),  # noqa: DTZ001
        ("2020-01-02", "2020-01-02"),
    ],
)
def test_a_time_of_the_callers_is_not_to_be_corrected(
    given: Any, expected: str, make_client: MakeClient
) -> None:
    _, event = make_client(send=False).track("u", "E", timestamp=given)
    assert event["timestamp"] == event["originalTimestamp"] == expected


def test_a_naive_time_of_now_is_local(make_client: MakeClient) -> None:
    _, event = make_client(send=False).track("u", "E", timestamp=datetime.now())  # noqa: DTZ005
    assert abs(datetime.fromisoformat(event["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)
    _, event = make_client(send=False).track("u", "E")
    assert "originalTimestamp" not in event


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.track(),
        lambda client: client.track("u", ""),
        lambda client: client.track("", "E"),
        lambda client: client.track(True, "E"),
        lambda client: client.track(["u"], "E"),
        lambda client: client.track("u", "E", "properties"),
        lambda client: client.track("u", "E", context=[1]),
        lambda client: client.track("u", "E", integrations="All"),
        lambda client: client.track("u", "E", timestamp=12),
        lambda client: client.track("u", "E", message_id=12),
        lambda client: client.identify("u", [("a", 1)]),
        lambda client: client.page("u", category=1),
        lambda client: client.group("u"),
        lambda client: client.alias("a"),
        lambda client: client.alias(None, "a"),
    ],
)
def test_calls_that_cannot_be_right(call: Any, make_client: MakeClient) -> None:
    with pytest.raises(InvalidCall) as raised:
        call(make_client(send=False))
    assert isinstance(raised.value, AssertionError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    "settings",
    [
        {"write_key": None},
        {"write_key": ""},
        {"write_key": "k", "host": "ftp://a"},
        {"write_key": "k", "durability": "maybe"},
        {"write_key": "k", "when_full": "panic"},
    ],
)
def test_settings_that_cannot_be_right(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidCall):
        Client(**settings)


def test_settings_of_others_are_named_and_of_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    Client("k", send=False, oauth_client_id="id", oauth_scope=None, thread=4, max_retries=1)
    assert "settings without effect here: oauth_client_id" in caplog.text


def test_a_misspelt_setting_is_not_taken() -> None:
    with pytest.raises(TypeError, match="uplaod_size"):
        Client("k", send=False, uplaod_size=5)


def test_the_callers_objects_are_not_kept(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    properties: dict[str, Any] = {"list": [1]}
    client.track("u", "E", properties)
    properties["list"].append(2)
    properties["more"] = 1
    assert client.flush()
    assert collector.arrived[0]["properties"] == {"list": [1]}


def test_ids_are_text(make_client: MakeClient) -> None:
    client = make_client(send=False)
    one = uuid.uuid4()
    assert client.track(one, "E", anonymous_id=7)[1]["userId"] == str(one)
    assert client.track(0, "E")[1]["userId"] == "0"
    assert client.track(None, "E", anonymous_id=7)[1]["anonymousId"] == "7"


# ---- middleware


def test_middleware_changes_and_drops_in_its_order(make_client: MakeClient, collector: Collector) -> None:
    def enrich(event: dict[str, Any]) -> dict[str, Any]:
        event["properties"]["seen"] = ["first"]
        return event

    def drop(event: dict[str, Any]) -> dict[str, Any] | None:
        event["properties"]["seen"].append("second")
        return None if event["event"] == "Secret" else event

    client = make_client(middleware=[enrich])
    client.use(drop)
    assert client.track("u", "Kept")[0]
    assert client.track("u", "Secret")[0]
    assert client.flush()
    assert [(e["event"], e["properties"]["seen"]) for e in collector.arrived] == [
        ("Kept", ["first", "second"])
    ]


def test_an_event_whose_middleware_fails_is_not_sent_as_it_was(
    make_client: MakeClient, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    def redact(event: dict[str, Any]) -> dict[str, Any]:
        del event["properties"]["card"]
        return event

    errors = Errors()
    client = make_client(middleware=[redact], on_error=errors)
    assert not client.track("u", "No card")[0]
    assert client.track("u", "Card", {"card": "4111"})[0]
    assert client.flush()
    ((error, events),) = errors.all
    assert isinstance(error, HookFailed)
    assert events[0]["event"] == "No card"
    assert [event["event"] for event in collector.arrived] == ["Card"]
    assert "KeyError" in caplog.text


# ---- consent


def test_events_wait_for_consent_in_memory_and_then_go_in_order(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client(consent="pending", upload_size=1)
    for number in range(3):
        assert client.track("u", "E", {"n": number})[0]
    assert client.status().unstored == 3
    assert client.status().stored == 0
    assert client.flush()
    assert collector.arrived == []
    client.set_consent(True, {"Analytics": True, "Advertising": False})
    client.track("u", "E", {"n": 3})
    client.track("u", "E", {"n": 4}, context={"consent": {"categoryPreferences": {"Own": True}}})
    assert client.flush()
    assert [event["properties"]["n"] for event in collector.arrived] == [0, 1, 2, 3, 4]
    said = [event["context"]["consent"]["categoryPreferences"] for event in collector.arrived]
    assert said == [{"Analytics": True, "Advertising": False}] * 4 + [{"Own": True}]


def test_refusal_purges_memory_and_disk(make_client: MakeClient, collector: Collector) -> None:
    collector.stop()
    errors = Errors()
    client = make_client(on_error=errors, durability="call", upload_interval=3600)
    client.track("u", "Stored")
    client.set_consent(None)
    client.track("u", "Waiting")
    client.set_consent(False)
    (dropped,) = errors.of(EventsDropped)
    assert (dropped.count, dropped.reason) == (2, "consent refused")  # type: ignore[attr-defined]
    assert not client.track("u", "Refused")[0]
    assert (client.status().stored, client.status().unstored) == (0, 0)
    client.set_consent(True)
    client.track("u", "Granted")
    collector.start()
    assert client.flush(20)
    assert [event["event"] for event in collector.arrived] == ["Granted"]


def test_what_waits_for_consent_is_bounded(make_client: MakeClient, collector: Collector) -> None:
    errors = Errors()
    client = make_client(consent="pending", max_queue_size=2, on_error=errors)
    for number in range(3):
        client.track("u", "E", {"n": number})
    assert len(errors.of(EventsDropped)) == client.status().dropped == 1
    client.set_consent(True)
    assert client.flush()
    assert [event["properties"]["n"] for event in collector.arrived] == [1, 2]


# ---- sampling


def test_a_sample_is_of_whole_users_and_grows(make_client: MakeClient, collector: Collector) -> None:
    found: dict[float, set[str]] = {}
    for share in (0.0, 0.2, 0.5, 1.0):
        client = make_client(sample_rate=share)
        for user in range(400):
            for _ in range(2):
                assert client.track(f"user-{user}", f"Sample {share}")[0]
        assert client.flush()
        mine = [event["userId"] for event in collector.arrived if event["event"] == f"Sample {share}"]
        found[share] = set(mine)
        assert len(mine) == 2 * len(found[share])
        assert client.status().sampled_out == 800 - len(mine)
    assert found[0.0] == set()
    assert found[0.2] < found[0.5] < found[1.0]
    assert 50 < len(found[0.2]) < 110
    assert 160 < len(found[0.5]) < 240


@pytest.mark.parametrize(
    "rate",
    [
        {"Often": 0.0, "page": 0.0},
        lambda event: 0.0 if event.get("event") == "Often" or event["type"] == "page" else 1,
    ],
    ids=["by name", "function"],
)
def test_rates_by_event(rate: Any, make_client: MakeClient, collector: Collector) -> None:
    client = make_client(sample_rate=rate)
    client.identify("u")
    client.track("u", "Often")
    client.track("u", "Rare")
    client.page("u")
    client.group("u", "g")
    client.alias("a", "u")
    assert client.flush()
    assert [event["type"] for event in collector.arrived] == ["identify", "track", "group", "alias"]


# ---- the remembered user


def test_the_user_is_remembered_across_restarts_and_reset(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client(remember_user=True)
    first = client.track(event="Before")[1]
    client.identify("u", {"plan": "pro"})
    after = client.track(event="After")[1]
    client.close()
    again = make_client(remember_user=True)
    restarted = again.track(event="Restarted")[1]
    again.reset()
    reset = again.track(event="Reset")[1]
    assert "userId" not in first
    assert after["userId"] == restarted["userId"] == "u"
    assert first["anonymousId"] == after["anonymousId"] == restarted["anonymousId"]
    assert "userId" not in reset
    assert reset["anonymousId"] != first["anonymousId"]
    again.identify("u")
    again.identify("v")
    other = again.track(event="Other")[1]
    assert other["userId"] == "v"
    assert other["anonymousId"] != reset["anonymousId"]
    assert again.flush()


def test_reset_of_who_remembers_nobody_changes_nothing(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    client.track("u", "E")
    client.reset()
    assert client.flush()
    assert len(collector.arrived) == 1


# ---- context


def test_context_is_merged_and_the_device_is_told_only_if_asked(make_client: MakeClient) -> None:
    client = make_client(send=False, context={"app": {"name": "shop", "version": "1"}})
    _, event = client.track("u", "E", context={"app": {"version": "2"}, "ip": "1.2.3.4"})
    assert event["context"]["app"] == {"name": "shop", "version": "2"}
    assert event["context"]["ip"] == "1.2.3.4"
    assert "os" not in event["context"]
    _, event = make_client(send=False, device_context=True).track("u", "E")
    assert event["context"]["os"]["name"]
    assert event["context"]["timezone"]
    assert event["context"]["library"]["version"] == VERSION


# ---- the module


def test_the_modules_settings_make_its_client(collector: Collector, tmp_path: Any) -> None:
    module = mainstem_analytics
    before = {name: getattr(module, name) for name in ("write_key", "data_plane_url", "store_dir", "context")}
    try:
        module.write_key, module.data_plane_url = "k", collector.url
        module.store_dir, module.context = tmp_path, {"app": {"name": "module"}}
        module.identify("u")
        module.set_consent(True, {"A": True})
        module.page("u")
        module.reset()
        assert module.flush()
        assert module.status().sent == 2
        assert module.close()
        assert [event["context"]["app"]["name"] for event in collector.arrived] == ["module"] * 2
    finally:
        module.default_client = None
        for name, value in before.items():
            setattr(module, name, value)


def test_debug_shows_without_any_logging_set_up(
    capsys: pytest.CaptureFixture[str], make_client: MakeClient
) -> None:
    log = logging.getLogger("mainstem_analytics")
    handler = logging.StreamHandler()
    level = log.level
    try:
        make_client(debug=True, log_handler=handler)
        assert handler in log.handlers
        assert log.level == logging.DEBUG
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def test_an_event_is_json_as_it_is_returned(make_client: MakeClient) -> None:
    _, event = make_client(send=False).track("u", "E", {"a": 1})
    assert json.loads(json.dumps(event)) == event
