"""From the call to the server's acknowledgement: batches, retries, refusals, pauses; what the program is told."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from mainstem_analytics import (
    Client,
    EventRefused,
    EventsDropped,
    EventTooLarge,
    SendFailed,
    SendingPaused,
    StoreDamaged,
    StoreFailed,
)
from mainstem_analytics.sender import retry_after_s
from mainstem_analytics.store import StoreUnusable
from tests.sdks.python.collector import Collector, Reply, Request
from tests.sdks.python.conftest import WRITE_KEY, Errors, MakeClient


def track(client: Client, count: int, *, first: int = 0, user: str = "u") -> list[str]:
    """Call track; returns the messageIds."""
    ids = [f"{user}-{number}" for number in range(first, first + count)]
    for number, message_id in enumerate(ids, first):
        taken, _ = client.track(user, "Step", {"n": number}, message_id=message_id)
        assert taken
    return ids


def once(*replies: Reply) -> Callable[[Request], Reply]:
    """These answers, one after the other, then 200."""
    left = list(replies)
    return lambda _: left.pop(0) if left else Reply()


# ---- batches


def test_a_hundred_start_sending_and_fewer_wait_for_the_interval(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client(upload_size=100, upload_interval=3600, durability="call")
    ids = track(client, 99)
    assert client.status().stored == 99
    assert collector.requests == []
    ids += track(client, 1, first=99)
    collector.until(lambda c: c.ids == ids)
    track(client, 250, first=100)
    collector.until(lambda c: len(c.arrived) > 250)
    assert max(len(request.batch) for request in collector.requests) == 100


def test_the_interval(make_client: MakeClient, collector: Collector) -> None:
    ids = track(make_client(upload_interval=0.1), 3)
    collector.until(lambda c: c.ids == ids)


def test_flush_waits_until_everything_has_arrived(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    ids = track(client, 7)
    assert client.flush()
    assert collector.ids == ids
    assert client.status().stored == 0
    assert client.flush()
    assert len(collector.requests) == 1


def test_batches_are_below_500_kb(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    for number in range(60):
        client.track("u", "Large", {"n": number, "text": "é" * 10_000})
    assert client.flush(30)
    assert [event["properties"]["n"] for event in collector.arrived] == list(range(60))
    assert max(len(request.body) for request in collector.requests) <= 500_000
    assert min(len(request.batch) for request in collector.requests[:-1]) == 24


def test_the_request(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(host=f"{collector.url}/some/path/")
    track(client, 1)
    client.flush()
    (request,) = collector.requests
    assert request.path == "/some/path/v1/batch"
    assert request.headers["authorization"] == "Basic c2RrLXdyaXRlLWtleTo="
    assert request.headers["content-type"] == "application/json"
    assert request.headers["content-encoding"] == "gzip"
    assert request.headers["user-agent"].startswith("mainstem-analytics-python/")
    body = json.loads(request.body)
    assert set(body) == {"batch", "sentAt"}
    assert datetime.fromisoformat(body["sentAt"]).tzinfo is not None


def test_gzip_is_a_setting_and_connections_are_kept(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(gzip=False)
    for number in range(5):
        track(client, 1, first=number)
        assert client.flush()
    assert {request.headers.get("content-encoding") for request in collector.requests} == {None}
    assert {request.connection for request in collector.requests} == {1}


def test_a_connection_that_the_server_ends_is_no_failure(
    make_client: MakeClient, collector: Collector
) -> None:
    errors = Errors()
    client = make_client(on_error=errors)
    collector.script = lambda _: Reply(close=True)
    track(client, 1)
    assert client.flush()
    collector.script = lambda _: Reply()
    track(client, 1, first=1)
    assert client.flush()
    collector.stop()
    collector.start()
    track(client, 1, first=2)
    assert client.flush()
    assert errors.all == []
    assert len(collector.arrived) == 3


def test_one_thread(make_client: MakeClient, collector: Collector) -> None:
    before = threading.active_count()
    client = make_client()
    release = threading.Event()
    collector.script = lambda _: Reply(wait=release)
    track(client, 100)
    collector.until(lambda c: len(c.requests) == 1)
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("mainstem-analytics") == 1
    release.set()
    client.close()
    assert "mainstem-analytics" not in [thread.name for thread in threading.enumerate()]
    assert threading.active_count() >= before


# ---- retries


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 505, 599])
def test_tried_again_with_the_same_ids(status: int, make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    collector.script = once(*[Reply(status)] * 3)
    ids = track(client, 5)
    assert client.flush(20)
    assert [request.ids for request in collector.requests] == [ids] * 4
    assert len({json.loads(request.body)["sentAt"] for request in collector.requests}) > 1
    assert client.status().set_aside == 0


@pytest.mark.parametrize("reply", [Reply(cut=True), Reply(reset=True)], ids=["answer lost", "reset"])
def test_no_answer(reply: Reply, make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    collector.script = once(*[reply] * 4)
    ids = track(client, 5)
    assert client.flush(20)
    assert collector.ids == ids
    assert {tuple(request.ids) for request in collector.requests} == {tuple(ids)}


def test_a_server_that_is_away_and_comes_back(make_client: MakeClient, collector: Collector) -> None:
    errors = Errors()
    client = make_client(on_error=errors)
    collector.stop()
    ids = track(client, 300)
    assert not client.flush(0.3)
    assert len(errors.of(SendFailed)) == 1, "an outage is told once"
    collector.start()
    assert client.flush(20)
    assert collector.ids == ids


def test_a_server_that_does_not_answer_is_given_up_and_tried_again(
    make_client: MakeClient, collector: Collector
) -> None:
    release = threading.Event()
    client = make_client(timeout=0.1)
    collector.script = once(Reply(503, wait=release))
    ids = track(client, 1)
    assert client.flush(20)
    release.set()
    assert collector.ids == ids


def test_order_per_user_through_failures_and_one_batch_at_a_time(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client(upload_size=10)
    failures = [Reply(503), Reply(cut=True), Reply(429), Reply(), Reply(reset=True)]
    collector.script = lambda request: failures[request.number % 5]
    for number in range(50):
        for user in ("a", "b", "c"):
            client.track(user, "Step", {"n": number})
    assert client.flush(30)
    for user in ("a", "b", "c"):
        numbers = [e["properties"]["n"] for e in collector.arrived if e["userId"] == user]
        assert numbers == list(range(50))
    assert collector.most_at_once == 1


def test_retry_after_is_waited_for_also_by_flush(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    collector.script = once(Reply(429, {"Retry-After": "3600"}))
    track(client, 1)
    assert not client.flush(0.5)
    assert not client.flush(0.2)
    assert len(collector.requests) == 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
        # By the server's clock, not by ours.
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers) == expected


def test_retry_after_as_a_date_without_the_servers_own() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    found = retry_after_s({"retry-after": in_a_minute})
    assert found is not None
    assert 50 < found <= 60


def test_what_is_too_old_is_dropped_and_told(make_client: MakeClient, collector: Collector) -> None:
    collector.stop()
    errors = Errors()
    client = make_client(on_error=errors, durability="call")
    track(client, 3)
    client.close(0.1)
    collector.start()
    old = make_client(on_error=errors, max_age_s=0.0)
    assert old.flush(20)
    assert collector.arrived == []
    (dropped,) = errors.of(EventsDropped)
    assert (dropped.count, dropped.reason) == (3, "too old")  # type: ignore[attr-defined]


# ---- refusals


def test_a_refused_batch_is_split_until_the_refused_event_is_found(
    make_client: MakeClient, collector: Collector
) -> None:
    errors = Errors()
    client = make_client(on_error=errors)
    bad = {"u-13", "u-77"}
    collector.script = lambda request: Reply(400) if bad & set(request.ids) else Reply()
    ids = track(client, 100)
    assert client.flush(30)
    assert collector.ids == [message_id for message_id in ids if message_id not in bad]
    assert [event["messageId"] for _, event in client.set_aside()] == ["u-13", "u-77"]
    told = [events for error, events in errors.all if isinstance(error, EventRefused)]
    assert [[event["messageId"] for event in events] for events in told] == [["u-13"], ["u-77"]]
    assert len(collector.requests) < 40
    track(client, 100, first=100)
    assert client.flush()
    assert len(collector.requests[-1].ids) == 100, "batches are whole again"
    assert client.clear_set_aside() == 2
    assert client.set_aside() == []


@pytest.mark.parametrize("status", [413, 422])
def test_too_large_for_the_server_is_halved(
    status: int, make_client: MakeClient, collector: Collector
) -> None:
    client = make_client()
    collector.script = lambda request: Reply(status) if len(request.batch) > 10 else Reply()
    ids = track(client, 100)
    assert client.flush(30)
    assert collector.ids == ids
    assert client.set_aside() == []


def test_events_that_a_success_lists_as_rejected_are_set_aside(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client()
    rejected = [{"index": 1, "code": "missing_ids", "message": "no ids"}, {"index": 99}, {"index": "x"}, 7]
    answer = json.dumps({"success": True, "accepted": 2, "rejected": rejected}).encode()
    collector.script = lambda _: Reply(200, body=answer)
    track(client, 3)
    assert client.flush()
    ((refusal, event),) = client.set_aside()
    assert (refusal.status, refusal.code, refusal.reason) == (200, "missing_ids", "no ids")
    assert event["messageId"] == "u-1"
    assert client.status().sent == 2


def test_a_400_that_lists_every_event_spares_the_search(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client()
    listed = [{"index": at, "code": "bad", "message": f"event {at}"} for at in range(4)]
    answer = json.dumps({"code": "bad", "message": "event 0", "rejected": listed}).encode()
    collector.script = lambda _: Reply(400, body=answer)
    track(client, 4)
    assert client.flush()
    assert [refusal.reason for refusal, _ in client.set_aside()] == [f"event {at}" for at in range(4)]
    assert len(collector.requests) == 1


def test_a_web_page_is_no_acknowledgement(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    collector.script = once(Reply(200, body=b"\n<!doctype html><h1>Welcome to the hotel</h1>"))
    ids = track(client, 2)
    assert client.flush(20)
    assert [request.ids for request in collector.requests] == [ids, ids]


@pytest.mark.parametrize("status", [401, 403, 404, 405, 407, 410, 301, 307])
def test_a_wrong_key_or_address_pauses_loudly(
    status: int, make_client: MakeClient, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    errors = Errors()
    client = make_client(on_error=errors, upload_interval=0.05)
    collector.script = lambda _: Reply(status, {"Location": "/elsewhere"})
    ids = track(client, 2)
    assert not client.flush()
    asked = len(collector.requests)
    assert asked >= 1
    assert errors.of(SendingPaused)
    assert [record.levelname for record in caplog.records if "paused" in record.message][:1] == ["ERROR"]
    paused = client.status().paused
    assert paused is not None
    assert paused.status == status
    ids += track(client, 2, first=2)
    assert client.status().set_aside == 0
    assert collector.arrived == []
    collector.script = lambda _: Reply()
    client.resume()
    collector.until(lambda c: c.ids == ids)
    assert client.flush()
    assert client.status().paused is None


# ---- bounds


def test_at_the_bound_the_oldest_go_and_are_counted(make_client: MakeClient, collector: Collector) -> None:
    collector.stop()
    errors = Errors()
    client = make_client(on_error=errors, max_queue_size=50, durability="call")
    ids = track(client, 120)
    dropped = sum(error.count for error in errors.of(EventsDropped))  # type: ignore[attr-defined]
    assert dropped == client.status().dropped == 70
    assert client.status().stored == 50
    collector.start()
    assert client.flush(20)
    assert collector.ids == ids[70:]


def test_or_the_newest_are_refused_in_the_call(make_client: MakeClient, collector: Collector) -> None:
    collector.stop()
    errors = Errors()
    client = make_client(
        on_error=errors, max_queue_size=50, when_full="refuse_newest", durability="call", upload_interval=3600
    )
    ids = track(client, 50)
    taken, event = client.track("u", "One too many")
    assert not taken
    assert errors.all[-1][1] == [event]
    assert isinstance(errors.all[-1][0], EventsDropped)
    collector.start()
    assert client.flush(20)
    assert collector.ids == ids
    assert client.track("u", "Room again")[0]


def test_room_that_another_process_made_is_seen(make_client: MakeClient, collector: Collector) -> None:
    collector.stop()
    full = make_client(
        max_queue_size=20,
        when_full="refuse_newest",
        durability="call",
        upload_interval=3600,
        retry_most_s=0.01,
    )
    ids = track(full, 20)
    assert not full.track("u", "One too many")[0]
    other = make_client()
    collector.start()
    assert other.flush(20)
    assert collector.ids == ids
    deadline = time.monotonic() + 10
    while not full.track("u", "Room again")[0]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_flood_of_ten_thousand_loses_nothing_below_the_bound(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client()
    ids = track(client, 10_000)
    assert client.flush(60)
    assert collector.ids == ids
    assert client.status().dropped == 0


def test_a_huge_event_is_refused_in_the_call(make_client: MakeClient, collector: Collector) -> None:
    errors = Errors()
    client = make_client(on_error=errors)
    taken, event = client.track("u", "Huge", {"text": "x" * 32_768})
    assert not taken
    ((error, events),) = errors.all
    assert isinstance(error, EventTooLarge)
    assert events == [event]
    assert client.track("u", "Large", {"text": "x" * 32_000})[0]
    assert client.flush()
    assert [event["event"] for event in collector.arrived] == ["Large"]


# ---- the disk


def test_durability_call_is_on_the_disk_when_the_call_returns(
    make_client: MakeClient, collector: Collector
) -> None:
    collector.stop()
    client = make_client(durability="call")
    for number in range(3):
        track(client, 1, first=number)
        assert (client.status().stored, client.status().unstored) == (number + 1, 0)


def test_threads_that_call_at_the_same_time_share_commits(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client(durability="call", upload_interval=3600)
    threads = [threading.Thread(target=track, args=(client, 20), kwargs={"user": f"t{n}"}) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.flush(20)
    for number in range(8):
        mine = [e["properties"]["n"] for e in collector.arrived if e["userId"] == f"t{number}"]
        assert mine == list(range(20))


def test_a_silent_server_does_not_keep_events_off_the_disk(
    make_client: MakeClient, collector: Collector
) -> None:
    release = threading.Event()
    client = make_client(upload_size=1)
    collector.script = lambda _: Reply(wait=release)
    track(client, 1)
    collector.until(lambda c: len(c.requests) == 1)
    track(client, 10, first=1)
    deadline = time.monotonic() + 10
    while client.status().unstored and time.monotonic() < deadline:
        time.sleep(0.005)
    assert (client.status().stored, client.status().unstored) == (11, 0)
    release.set()
    assert client.flush()


def test_a_folder_that_cannot_be_used_is_told_and_events_are_sent_from_memory(
    make_client: MakeClient, collector: Collector, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    errors = Errors()
    client = make_client(on_error=errors, store_dir=tmp_path / "file", max_queue_size=1_000)
    ids = track(client, 250)
    assert len(errors.of(StoreFailed)) == 1
    assert not client.status().store_writable
    assert client.flush(20)
    assert collector.ids == ids


def test_memory_is_bounded_too(make_client: MakeClient, collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    collector.stop()
    errors = Errors()
    client = make_client(on_error=errors, store_dir=tmp_path / "file", max_queue_size=50, upload_size=1000)
    ids = track(client, 120)
    assert client.status().unstored == 50
    assert sum(error.count for error in errors.of(EventsDropped)) == 70  # type: ignore[attr-defined]
    collector.start()
    assert client.flush(20)
    assert collector.ids == ids[70:]


def test_a_disk_that_fills_up_and_has_room_again(
    make_client: MakeClient, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page limit of SQLite stands for the disk's end: the same SQLITE_FULL."""
    errors = Errors()
    client = make_client(on_error=errors, durability="call", upload_interval=3600, upload_size=100_000)
    store = client._queue.store
    assert store is not None
    ids = track(client, 5)
    pages = store._open().execute("PRAGMA page_count").fetchone()[0]
    opened = store._open

    def limited() -> Any:
        sql = opened()
        sql.execute(f"PRAGMA max_page_count = {pages + 4}")
        return sql

    monkeypatch.setattr(store, "_open", limited)
    on_disk = [client.track("u", "Step", message_id=f"u-{number}")[0] for number in range(5, 205)]
    ids += [f"u-{number}" for number in range(5, 205)]
    assert not on_disk[-1], "the call does not say that it is where it is not"
    assert len(errors.of(StoreFailed)) == 1
    assert client.status().unstored > 0
    collector.script = once(Reply(503), Reply(cut=True))
    assert client.flush(20)
    assert collector.ids == ids
    monkeypatch.setattr(store, "_open", opened)
    store.close()
    client._queue._failed_at = 0.0
    track(client, 1, first=300)
    assert client.status().unstored == 0
    assert client.flush(20)


def test_a_folder_that_is_removed_under_way(
    make_client: MakeClient, collector: Collector, tmp_path: Path
) -> None:
    errors = Errors()
    client = make_client(on_error=errors, durability="call", upload_interval=3600)
    ids = track(client, 3)
    assert client.flush()
    client.close()
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("no folder any more")
    taken, _ = client.track("u", "E", message_id="in-memory")
    assert not taken
    assert not client.flush(0.2), "nobody can say whether the store was empty"
    collector.until(lambda c: c.ids == [*ids, "in-memory"])
    assert len(errors.of(StoreFailed)) == 1


def test_what_is_in_memory_waits_for_what_is_on_the_disk(
    make_client: MakeClient, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has the lease, and our older events are in the store: the newer ones do not overtake them."""
    release = threading.Event()
    collector.script = lambda request: Reply(wait=release) if request.number == 0 else Reply()
    first = make_client(durability="call", upload_size=1)
    track(first, 1, user="other")
    collector.until(lambda c: len(c.requests) == 1)
    second = make_client(durability="call", upload_size=1)
    ids = track(second, 3)
    store = second._queue.store
    assert store is not None

    def full(_: object) -> None:
        raise StoreUnusable("the disk is full")

    monkeypatch.setattr(store, "append", full)
    assert not second.track("u", "E", {"n": 3}, message_id="u-3")[0]
    assert not second.flush(0.3)
    assert len(collector.requests) == 1
    release.set()
    assert second.flush(20)
    assert collector.ids == ["other-0", *ids, "u-3"]


def test_a_damaged_store_is_told_and_the_next_events_are_stored(
    make_client: MakeClient, collector: Collector
) -> None:
    errors = Errors()
    client = make_client(on_error=errors, durability="call")
    store = client._queue.store
    assert store is not None
    store.path.write_bytes(b"not a database, however long it may be" * 200)
    ids = track(client, 2)
    assert len(errors.of(StoreDamaged)) == 1
    assert client.flush(20)
    assert collector.ids == ids


# ---- several clients


def test_clients_and_restarts_share_a_store_and_its_order(
    make_client: MakeClient, collector: Collector
) -> None:
    collector.stop()
    first, second = make_client(durability="call"), make_client(durability="call")
    ids = track(first, 3) + track(second, 3, first=3) + track(first, 3, first=6)
    first.close(0.0)
    second.close(0.0)
    collector.start()
    assert make_client().flush(20)
    assert collector.ids == ids


def test_another_write_key_is_another_store(
    make_client: MakeClient, collector: Collector, tmp_path: Path
) -> None:
    collector.stop()
    client = make_client(durability="call")
    track(client, 1)
    client.close(0.0)
    collector.start()
    other = Client("another", host=collector.url, store_dir=tmp_path / "store", handle_sigterm=False)
    assert other.flush()
    other.close()
    assert collector.arrived == []


# ---- the end


def test_close_then_a_call_begins_anew(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    track(client, 1)
    assert client.close()
    ids = track(client, 2)
    assert client.close()
    assert collector.ids == ids


def test_close_does_not_wait_for_a_server_that_is_known_to_be_away(
    make_client: MakeClient, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for an hour; the test's timeout says that it does not."""
    collector.stop()
    monkeypatch.setattr("mainstem_analytics.sender._BACKOFF_FIRST_S", 1e6)
    client = make_client(retry_most_s=1e6)
    ids = track(client, 1)
    monkeypatch.setattr(client._sender._random, "uniform", lambda _low, high: high)
    assert not client.flush(0.5)
    assert not client.close(3600)
    collector.start()
    assert make_client().flush(20)
    assert collector.ids == ids


def test_callbacks_may_call_anything_and_fail(make_client: MakeClient, collector: Collector) -> None:
    called: list[bool] = []

    def on_error(error: Exception, _events: Any) -> None:
        called.append(client.flush())
        client.track("u", "From the callback")
        raise RuntimeError("a callback's own trouble")

    client = make_client(on_error=on_error)
    collector.script = once(Reply(503))
    track(client, 1)
    assert client.flush(20)
    assert client.flush(20)
    assert called == [False]
    assert len(collector.arrived) == 2


def test_in_an_event_loop_calls_do_not_wait(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()

    async def calls() -> list[str]:
        return track(client, 3)

    ids = asyncio.run(calls())
    assert client.flush()
    assert collector.ids == ids


def test_nothing_secret_in_logs_errors_and_files(
    make_client: MakeClient, collector: Collector, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    errors = Errors()
    caplog.set_level("DEBUG", "mainstem_analytics")
    client = make_client(debug=True, on_error=errors)
    collector.script = once(Reply(503), Reply(401))
    track(client, 3)
    client.flush()
    assert client.flush()
    client.close()
    assert "acknowledged" in caplog.text
    everything = caplog.text + repr(errors.all) + repr(client.status())
    assert WRITE_KEY not in everything
    for file in (tmp_path / "store").rglob("*"):
        assert WRITE_KEY not in str(file)
        assert file.is_dir() or WRITE_KEY.encode() not in file.read_bytes()


def test_debug_explains_each_step(
    make_client: MakeClient, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(debug=True)
    collector.script = once(Reply(503))
    track(client, 1)
    assert client.flush(20)
    steps = (
        "the store is",
        "track u-0 taken",
        "stored 1 events",
        "sending 1 events",
        "attempt 1 failed (503",
    )
    for step in (*steps, "1 events acknowledged"):
        assert step in caplog.text


def test_the_thread_may_end_at_the_very_moment_when_it_is_told_to(
    make_client: MakeClient, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it hung: the thread had seen the deadline, and forgotten it, before `stop` looked whether there was one."""
    client = make_client()
    sender = client._sender
    joined = threading.Event()
    run = sender._run

    def tell_when_it_ends() -> None:
        run()
        joined.set()

    monkeypatch.setattr(sender, "_run", tell_when_it_ends)
    for number in range(20):
        joined.clear()
        track(client, 1, first=number)
        waking = sender._wake.set

        def wait_for_the_end(waking: Callable[[], None] = waking) -> None:
            waking()
            joined.wait(0.1)

        monkeypatch.setattr(sender._wake, "set", wait_for_the_end)
        client.close(0.0)
        monkeypatch.setattr(sender._wake, "set", waking)
    assert make_client().flush(20)
    assert len(collector.arrived) == 20
