"""The store: order, bounds, age, settling, and what it survives."""

import os
import sqlite3
import stat
import time
from collections import deque
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mainstem_analytics.places import store_folder
from mainstem_analytics.store import SetAside, Store, StoreUnusable, Totals, _chunks

NEVER = 1e9


def store_at(path: Path, **settings: object) -> Store:
    return Store(path / "events.db", **{"max_events": 100, "max_bytes": 10_000, **settings})  # type: ignore[arg-type]


def lines(*names: object) -> list[bytes]:
    return [str(name).encode() for name in names]


def there(store: Store, most: int = 1_000) -> list[bytes]:
    return [entry.line for entry in store.take(most, 1_000_000, max_age_s=NEVER).entries]


def test_first_in_first_out_across_commits_and_processes(tmp_path: Path) -> None:
    first, second = store_at(tmp_path), store_at(tmp_path)
    first.append(lines(1, 2))
    second.append(lines(3))
    first.append(lines(4))
    assert there(second) == lines(1, 2, 3, 4)
    taken = first.take(3, 1_000_000, max_age_s=NEVER).entries
    assert first.settle(taken) == Totals(1, 1)
    assert there(second) == lines(4)
    assert there(store_at(tmp_path)) == lines(4)


def test_what_is_taken_stays_until_it_is_settled(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.append(lines(*range(10)))
    for _ in range(2):
        assert there(store, 3) == lines(0, 1, 2)
    store.settle(store.take(3, 1_000_000, max_age_s=NEVER).entries)
    assert there(store, 3) == lines(3, 4, 5)


def test_a_batch_keeps_to_bytes_but_gives_at_least_one(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.append([b"a" * 10, b"b" * 10, b"c" * 30])
    assert [len(e.line) for e in store.take(9, 22, max_age_s=NEVER).entries] == [10, 10]
    assert [len(e.line) for e in store.take(9, 21, max_age_s=NEVER).entries] == [10]
    assert [len(e.line) for e in store.take(9, 1, max_age_s=NEVER).entries] == [10]


@pytest.mark.parametrize(("most_events", "most_bytes"), [(5, 10_000), (100, 5)])
def test_at_the_bound_the_oldest_go_one_by_one(tmp_path: Path, most_events: int, most_bytes: int) -> None:
    store = store_at(tmp_path, max_events=most_events, max_bytes=most_bytes)
    assert store.append(lines(0, 1, 2, 3)).dropped == 0
    other = store_at(tmp_path, max_events=most_events, max_bytes=most_bytes)
    appended = other.append(lines(4, 5, 6))
    assert (appended.dropped, appended.refused, appended.totals.events) == (2, 0, 5)
    assert there(store) == lines(2, 3, 4, 5, 6)


def test_more_at_once_than_there_is_room_keeps_the_newest(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_events=5)
    store.append(lines(0, 1))
    assert store.append(lines(*range(2, 10))).dropped == 2 + 3
    assert there(store) == lines(5, 6, 7, 8, 9)
    assert store.totals() == Totals(5, 5)


def test_nothing_older_stays_when_something_newer_goes(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=5)
    store.append(lines(1, 2, 3))
    assert store.append(lines("aa", "bb", "cc")).dropped == 4
    assert there(store) == lines("bb", "cc")


def test_or_the_newest_are_refused(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_events=5, refuse_newest=True)
    assert store.append(lines(0, 1, 2)).refused == 0
    appended = store.append(lines(3, 4, 5, 6))
    assert (appended.dropped, appended.refused, appended.totals) == (0, 2, Totals(5, 5))
    assert there(store) == lines(0, 1, 2, 3, 4)


def test_dropped_while_under_way_is_not_counted_twice(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_events=5)
    store.append(lines(*range(5)))
    under_way = store.take(3, 1_000_000, max_age_s=NEVER).entries
    assert store_at(tmp_path, max_events=5).append(lines(5, 6)).dropped == 2
    assert store.settle(under_way) == Totals(4, 4)
    assert there(store) == lines(3, 4, 5, 6)
    assert store.settle(under_way) == Totals(4, 4)


def test_too_old_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_at(tmp_path)
    store.append(lines(0, 1))
    later = time.monotonic() + 100
    monkeypatch.setattr(time, "monotonic", lambda: later)
    store.append(lines(2))
    taken = store.take(10, 1_000, max_age_s=99)
    assert (taken.too_old, [entry.line for entry in taken.entries]) == (2, lines(2))
    assert store.totals() == Totals(1, 1)


def test_a_clock_that_is_set_makes_nothing_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_at(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    store.append(lines(0))
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert store.take(1, 100, max_age_s=3600).too_old == 0


def test_after_a_restart_of_the_machine_the_calendar_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(tmp_path)
    store.append(lines(0))
    store.close()
    with sqlite3.connect(tmp_path / "events.db") as sql:
        sql.execute("UPDATE chunks SET boot = 'another'")
    sql.close()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1_000_000)
    assert store.take(1, 100, max_age_s=10).too_old == 0
    monkeypatch.setattr(time, "time", lambda: now + 11)
    assert store.take(1, 100, max_age_s=10).too_old == 1


def test_refused_events_are_kept_beside_the_queue_and_bounded(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_events=2_000, max_bytes=10**6)
    store.append(lines(*range(1_100)))
    taken = store.take(1_100, 10**6, max_age_s=NEVER).entries
    store.settle(taken, [SetAside(entry.line, 400, "bad", "no") for entry in taken])
    assert store.totals() == Totals(0, 0)
    kept = store.set_aside()
    assert [refused.event for refused in kept] == lines(*range(100, 1_100))
    assert kept[0] == SetAside(b"100", 400, "bad", "no")
    assert store.clear_set_aside() == 1_000
    assert store.set_aside() == []


def test_purge_removes_everything(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.append(lines(0, 1, 2))
    store.settle(store.take(1, 100, max_age_s=NEVER).entries, [SetAside(b"0", 400, "", "")])
    assert store.purge() == 3
    assert (there(store), store.set_aside(), store.totals()) == ([], [], Totals(0, 0))
    store.append(lines(3))
    assert there(store) == lines(3)


def test_a_settling_that_could_not_be_written_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(tmp_path)
    store.append(lines(*range(6)))
    blocker = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    first = store.take(2, 1_000, max_age_s=NEVER).entries
    monkeypatch.setattr("mainstem_analytics.store._BUSY_TIMEOUT_S", 0.01)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnusable, match="locked"):
        store.settle(first, [SetAside(b"0", 400, "", "")])
    assert there(store) == lines(2, 3, 4, 5)
    blocker.execute("COMMIT")
    blocker.close()
    assert store.totals() == Totals(6, 6)
    assert store.settle(store.take(2, 1_000, max_age_s=NEVER).entries) == Totals(2, 2)
    assert there(store_at(tmp_path)) == lines(4, 5)
    assert len(store.set_aside()) == 1


@pytest.mark.parametrize(
    "damage", [b"this is no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "events.db").write_bytes(damage)
    store = store_at(tmp_path)
    with pytest.raises(StoreUnusable):
        store.append(lines(1))
    assert store.moved_to is not None
    assert store.moved_to.read_bytes() == damage
    store.append(lines(1))
    assert there(store) == lines(1)


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.append(lines(1))
    store._open().execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(StoreUnusable, match="newer version"):
        store.append(lines(2))
    assert store.moved_to is None


def test_nobody_else_can_read_it_and_the_write_key_is_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = store_folder("a-secret-write-key")
    store = store_at(folder)
    store.append(lines(1))
    assert folder.is_relative_to(tmp_path / "mainstem-analytics")
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert "a-secret-write-key" not in str(store.path)
    assert store_folder("a-secret-write-key") == folder
    assert store_folder("another") != folder


def test_without_a_home_the_temporary_folder_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = store_folder("key")
    assert folder.parent == tmp_path / f"mainstem-analytics-{os.geteuid()}"


def test_a_folder_laid_by_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    name = store_folder("key", tmp_path / "a").name
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="no folder"):
        store_folder("key", tmp_path / "b")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(OSError, match="another user"):
        store_folder("key", tmp_path / "a")


def test_chunks_are_bounded() -> None:
    many = lines(*range(1_234))
    assert [line for chunk in _chunks(many) for line in chunk] == many
    assert max(map(len, _chunks(many))) == 500
    large = [b"x" * 100_000] * 5
    assert [len(chunk) for chunk in _chunks(large)] == [2, 2, 1]


class Model(RuleBasedStateMachine):
    """The store and a plain deque do the same, whatever comes in whatever order."""

    @initialize(bound=st.integers(3, 12))
    def begin(self, bound: int) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.bound = bound
        self.stores = [store_at(Path(self.folder.name), max_events=bound) for _ in range(2)]
        self.model: deque[bytes] = deque()
        self.number = 0

    @rule(count=st.integers(1, 8), which=st.integers(0, 1))
    def append(self, count: int, which: int) -> None:
        new = lines(*range(self.number, self.number + count))
        self.number += count
        appended = self.stores[which].append(new)
        self.model.extend(new)
        dropped = max(0, len(self.model) - self.bound)
        for _ in range(dropped):
            self.model.popleft()
        assert appended.dropped == dropped

    @rule(count=st.integers(1, 8), between=st.integers(0, 6))
    def send(self, count: int, between: int) -> None:
        taken = self.stores[0].take(count, 10_000, max_age_s=NEVER).entries
        assert [entry.line for entry in taken] == list(self.model)[:count]
        if between:
            self.append(between, 1)
        if taken:
            self.stores[0].settle(taken)
            sent = {entry.line for entry in taken}
            while self.model and self.model[0] in sent:
                self.model.popleft()

    @rule()
    def start_anew(self) -> None:
        for store in self.stores:
            store.close()
        self.stores = [store_at(Path(self.folder.name), max_events=self.bound) for _ in range(2)]

    @invariant()
    def same(self) -> None:
        if hasattr(self, "stores"):
            assert there(self.stores[1]) == list(self.model)
            assert self.stores[0].totals() == Totals(len(self.model), sum(map(len, self.model)))

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores:
                store.close()
            self.folder.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
