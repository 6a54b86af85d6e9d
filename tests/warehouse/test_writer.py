"""A warehouse holds each event once, whatever fails; what can't be loaded waits, and what does not fit is kept."""

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from mainstem.bulk.gatherer import Gatherer
from mainstem.clock import FixedClock
from mainstem.ledger.base import CountKey
from mainstem.warehouse.arrears import Arrears
from mainstem.warehouse.loader import Load, Loader, TableFailed, WarehouseError
from mainstem.warehouse.loaders import duckdb, postgres
from mainstem.warehouse.settings import Window, excluded
from mainstem.warehouse.spool import LoadFolder
from mainstem.warehouse.staging import TableRows
from mainstem.warehouse.writer import Paid, arrears_of, failing, folder_of
from tests.components.postgres import PostgresServer
from tests.warehouse.contract.databases import postgres_config
from tests.warehouse.rig import CURSOR, START_MS, Broken, Rig, identify, track

EVENTS = 60


def expected(count: int = EVENTS) -> dict[str, int]:
    return {f"m{number}": 1 for number in range(count)}


async def test_events_become_tables(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.append([track(number) for number in range(EVENTS)])
    await rig.append([identify(900, "ann", plan="free"), identify(901, "ann", plan="pro", city="Rome")])
    await rig.load()
    assert rig.ids("tracks") == rig.ids("order_completed") == expected()
    assert rig.rows("SELECT id, plan, city FROM shop.users") == [("ann", "pro", "Rome")]
    assert sum(row[0] for row in rig.rows("SELECT n FROM shop.order_completed")) == sum(range(EVENTS))
    counts = await rig.ledger.counts(CURSOR)
    assert sum(counts.values()) == EVENTS + 2
    assert {key.outcome for key in counts} == {"delivered"}
    assert isinstance(next(iter(counts)), CountKey)


async def _points(folder: Path) -> list[str]:
    """Every step of a load, by name, in order."""
    seen: list[str] = []
    rig = Rig(folder, fault=seen.append)
    await rig.append([track(number) for number in range(10)])
    await rig.load()
    return seen


async def test_a_fault_at_every_step_changes_nothing(tmp_path: Path) -> None:
    points = len(await _points(tmp_path / "points"))
    assert points >= 10
    for point in range(points):
        steps = 0

        def fault(what: str, *, point: int = point) -> None:
            nonlocal steps
            steps += 1
            if steps == point + 1:
                raise Broken(what)

        rig = Rig(tmp_path / str(point), fault=fault)
        await rig.append([track(number) for number in range(10)])
        await rig.load(tries=3)
        assert rig.ids("tracks") == rig.ids("order_completed") == expected(10), f"fault {point}"
        assert sum((await rig.ledger.counts(CURSOR)).values()) == 10


async def test_events_that_come_again_are_not_doubled(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.append([track(1), track(2), track(1)])
    await rig.load()
    await rig.append([track(2, total=5), track(3)])
    await rig.load()
    assert rig.ids("order_completed") == {"m1": 1, "m2": 1, "m3": 1}
    assert rig.rows("SELECT total FROM shop.order_completed WHERE id = 'm2'") == [(5,)]


async def test_without_dedupe_rows_are_only_added(tmp_path: Path) -> None:
    rig = Rig(tmp_path, config=duckdb.Config(dedupe="none"))
    await rig.append([track(1)])
    await rig.load()
    await rig.append([track(1)])
    await rig.load()
    assert rig.ids("tracks") == {"m1": 2}


async def test_a_table_that_fails_does_not_hold_up_the_others_and_catches_up(tmp_path: Path) -> None:
    broken = {"order_completed"}

    def fault(what: str) -> None:
        for table in broken:
            if what == f"before load {table}":
                raise TableFailed(table, "no right to write it", "grant INSERT on it")

    rig = Rig(tmp_path, fault=fault)
    await rig.append([track(number) for number in range(5)])
    await rig.load()
    await rig.append([track(number) for number in range(5, 9)])
    await rig.load()
    assert rig.ids("tracks") == expected(9)
    [told] = failing(folder_of(tmp_path, CURSOR))
    assert (told.namespace, told.table, told.loads, told.rows) == ("shop", "order_completed", 2, 9)
    assert "no right to write it" in told.error
    assert told.advice == "grant INSERT on it"
    assert sum((await rig.ledger.counts(CURSOR)).values()) == 9, "the position went on"
    broken.clear()
    await rig.append([track(9)])
    await rig.load()
    assert rig.ids("order_completed") == expected(10)
    assert failing(folder_of(tmp_path, CURSOR)) == []


async def test_what_waits_can_be_paid_without_new_events(tmp_path: Path) -> None:
    broken = {"tracks"}

    def fault(what: str) -> None:
        if broken and what == "before load tracks":
            raise TableFailed("tracks", "not now")

    rig = Rig(tmp_path, fault=fault)
    await rig.append([track(1)])
    await rig.load()
    writer = rig.writer()
    assert await writer.pay() == []
    broken.clear()
    assert await writer.pay() == [Paid(namespace="shop", table="tracks", loads=1, rows=1)]
    assert await writer.pay() == []
    assert rig.ids("tracks") == {"m1": 1}


class _Failing:
    """A fault: tables that can't be loaded, and how often it was tried."""

    def __init__(self, *tables: str) -> None:
        self.tables = set(tables)
        self.words = "not now"
        self.tries = 0

    def __call__(self, what: str) -> None:
        for table in self.tables:
            if what == f"before load {table}":
                self.tries += 1
                raise TableFailed(table, self.words, "wait")


async def _owing(rig: Rig, failing: _Failing) -> Gatherer:
    """A gatherer whose tracks are not in, and to which nothing comes any more."""
    rig.fault = failing
    await rig.append([track(number) for number in range(3)])
    gatherer = await rig.gatherer()
    await gatherer.flush_now()
    assert rig.ids("order_completed") == expected(3)
    return gatherer


async def test_a_repaired_table_catches_up_though_nothing_new_comes(tmp_path: Path) -> None:
    rig, broken, clock = Rig(tmp_path), _Failing("tracks"), FixedClock(START_MS)
    rig.clock = clock
    gatherer = await _owing(rig, broken)
    await gatherer.step()
    broken.tables.clear()
    await gatherer.step()
    assert failing(folder_of(tmp_path, CURSOR)) != [], "not before a sync is due"
    clock.advance(1)
    await gatherer.step()
    assert failing(folder_of(tmp_path, CURSOR)) == []
    assert rig.ids("tracks") == expected(3)
    gatherer.close()


async def test_a_broken_table_is_not_tried_all_the_time(tmp_path: Path) -> None:
    rig, broken, clock = Rig(tmp_path), _Failing("tracks"), FixedClock(START_MS)
    rig.clock = clock
    gatherer = await _owing(rig, broken)
    broken.tries = 0
    broken.words = "still not"
    for _ in range(4 * 360):
        clock.advance(10)
        await gatherer.step()
    assert 12 <= broken.tries <= 16, "1 s, 2 s, 4 s … and then each hour"
    [told] = failing(folder_of(tmp_path, CURSOR))
    assert "still not" in told.error, "why the newest try failed"
    assert told.since_ms == START_MS
    assert START_MS + 3 * 3_600_000 < told.tried_ms <= START_MS + 4 * 3_600_000
    broken.tables.clear()
    clock.advance(3_600)
    await gatherer.step()
    assert rig.ids("tracks") == expected(3)
    # From here on it is as at the beginning.
    broken.tables.add("tracks")
    await rig.append([track(3)])
    await gatherer.flush_now()
    broken.tables.clear()
    clock.advance(2)
    await gatherer.step()
    assert rig.ids("tracks") == expected(4)
    gatherer.close()


async def test_a_namespace_to_which_nothing_comes_is_paid_by_a_worker_of_another(tmp_path: Path) -> None:
    broken = _Failing("tracks")
    await _owing(Rig(tmp_path, fault=broken), broken)
    broken.tables.clear()
    other, clock = Rig(tmp_path, namespace="other"), FixedClock(START_MS)
    other.clock = clock
    idle, busy = await other.gatherer([1]), await other.gatherer([0, 2, 3])
    for gatherer, owing in ((idle, True), (busy, False)):
        await gatherer.step()
        clock.advance(1)
        await gatherer.step()
        assert bool(failing(folder_of(tmp_path, CURSOR))) == owing, (
            "one worker, that with the first partition"
        )
        gatherer.close()
    assert other.ids("tracks") == expected(3)


async def test_nothing_is_paid_in_an_excluded_window(tmp_path: Path) -> None:
    window = Window("00:00", "23:59")
    config = duckdb.Config(sync_frequency=0.0001, exclude_window=window)
    rig, broken, clock = Rig(tmp_path, config=config), _Failing("tracks"), FixedClock(START_MS)
    rig.clock = clock
    gatherer = await _owing(rig, broken)
    broken.tables.clear()
    await gatherer.step()
    for _ in range(5):
        clock.advance(60)
        await gatherer.step()
    assert failing(folder_of(tmp_path, CURSOR)) != []
    gatherer.close()


async def test_an_engine_that_is_away_holds_up_no_other_namespace_that_owes(tmp_path: Path) -> None:
    broken = _Failing("tracks")
    rig, other = Rig(tmp_path, fault=broken), Rig(tmp_path, fault=broken, namespace="zoo")
    await _owing(rig, broken)
    await _owing(other, broken)
    away = ["before open"]

    def fault(what: str) -> None:
        if away and what == away[0]:
            away.clear()
            raise WarehouseError("no route to host")

    rig.fault = fault
    assert [(paid.namespace, paid.table) for paid in await rig.writer().pay()] == [("zoo", "tracks")]
    [told] = failing(folder_of(tmp_path, CURSOR))
    assert (told.namespace, told.error) == ("shop", "no route to host")
    assert len(await rig.writer().pay()) == 1


async def test_two_that_pay_the_same_at_the_same_time(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    # Of DuckDB's file, only one process at a time could.
    def open_(_: Any, namespace: str, folder: Path) -> Loader:
        return postgres.open_loader(postgres_config(postgres_server.port), namespace, folder)

    namespace = f"pay_{uuid4().hex[:12]}"
    spec = msgspec.structs.replace(postgres.SPEC, open=open_)
    rig = Rig(tmp_path, fault=_Failing("tracks", "order_completed"), spec=spec, namespace=namespace)
    for number in range(0, 40, 4):
        await rig.append([track(n, price="much" if number else 1) for n in range(number, number + 4)])
        await rig.load()
    rig.fault = lambda _: None
    paid = await asyncio.gather(*(rig.writer().pay() for _ in range(3)))
    assert failing(folder_of(tmp_path, CURSOR)) == []
    assert max(one.loads for found in paid for one in found) <= 10
    with contextlib.closing(open_(None, namespace, tmp_path)) as loader:
        for table, count in (("tracks", 40), ("order_completed", 40), ("rudder_discards", 36)):
            assert loader.query(f"SELECT count(*) FROM {namespace}.{table}") == [(count,)]


def _kept(rig: Rig) -> list[tuple[str, str, str]]:
    rows = rig.rows("SELECT table_name, row_id, column_name FROM shop.rudder_discards ORDER BY ALL")
    return [(table, row_id, column) for table, row_id, column in rows]


async def test_what_does_not_fit_is_kept_once_though_a_plan_is_made_again_after_its_table_was_paid(
    tmp_path: Path,
) -> None:
    state = {"table": "fails", "engine": "fails"}

    def fault(what: str) -> None:
        if what == "before load order_completed" and state["table"] == "fails":
            raise TableFailed("order_completed", "no right to write it")
        if what == "before load later" and state["engine"] == "fails":
            raise Broken(what)

    rig = Rig(tmp_path)
    await rig.append([track(1, user="u", price=10), track(2, user="u", price=10, name="Later")])
    await rig.load()
    rig.fault = fault
    await rig.append([track(3, user="u", price="much"), track(4, user="u", price="more", name="Later")])
    with pytest.raises(Broken):
        await rig.load()  # one table is in the arrears, the other not in; the position did not move
    state["table"] = "works"
    with pytest.raises(Broken):
        await rig.load()  # the arrears are paid, with what does not fit; the plan is open still
    assert failing(folder_of(tmp_path, CURSOR)) == []
    state["engine"] = "works"
    await rig.load()
    assert _kept(rig) == [("later", "m4", "price"), ("order_completed", "m3", "price")]


async def test_what_does_not_fit_of_an_event_that_comes_again_is_kept_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.append([track(1, price=10, vip=True)])
    await rig.load()
    for more in ((), (track(3, price="much", vip=2.5),)):
        await rig.append(
            [track(2, price="much", vip=3), track(4, name="", price=1), track(2, price="more"), *more]
        )
        await rig.load()
    found = rig.rows(
        "SELECT row_id, column_name, column_value FROM shop.rudder_discards WHERE column_name != '*'"
    )
    kept = Counter((row_id, column, value.removesuffix(".0")) for row_id, column, value in found)
    values = [("m2", "price", "much"), ("m2", "price", "more"), ("m2", "vip", "3")]
    assert kept == Counter([*values, ("m3", "price", "much"), ("m3", "vip", "2.5")]), "whatever differs, once"
    assert [row for row in _kept(rig) if row[2] == "*"] == [("track", "m4", "*")]


async def test_without_dedupe_discards_are_only_added(tmp_path: Path) -> None:
    rig = Rig(tmp_path, config=duckdb.Config(dedupe="none"))
    await rig.append([track(1, price=10)])
    await rig.load()
    for _ in range(2):
        await rig.append([track(2, price="much")])
        await rig.load()
    assert _kept(rig) == [("order_completed", "m2", "price")] * 2, "as often as the row"


async def test_discards_of_a_table_that_has_no_ids_yet_stay(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.append([track(1, price=10)])
    await rig.load()
    rig.rows("CREATE TABLE shop.rudder_discards (table_name VARCHAR, row_id VARCHAR, column_name VARCHAR)")
    rig.rows("INSERT INTO shop.rudder_discards VALUES ('order_completed', 'm0', 'price')")
    await rig.append([track(2, price="much")])
    await rig.load()
    assert _kept(rig) == [("order_completed", "m0", "price"), ("order_completed", "m2", "price")]


async def test_discards_that_fail_catch_up_all(tmp_path: Path) -> None:
    broken = {"rudder_discards"}

    def fault(what: str) -> None:
        for table in broken:
            if what == f"before load {table}":
                raise TableFailed(table, "no right to write it")

    rig = Rig(tmp_path, fault=fault)
    await rig.append([track(1, price=10), track(2, price=10, name="Other")])
    await rig.load()
    await rig.append([track(3, price="much"), track(4, price="more", name="Other"), track(5, name="")])
    await rig.load()
    [told] = failing(folder_of(tmp_path, CURSOR))
    assert (told.table, told.loads, told.rows) == ("rudder_discards", 3, 3)
    broken.clear()
    await rig.append([track(6)])
    await rig.load()
    assert failing(folder_of(tmp_path, CURSOR)) == []
    assert _kept(rig) == [("order_completed", "m3", "price"), ("other", "m4", "price"), ("track", "m5", "*")]


async def test_a_table_with_a_long_name_that_fails_does_not_hold_up_the_others(tmp_path: Path) -> None:
    # Of the length that some engines take; as a folder's name, escaped, it would be longer than one may be.
    table = "注" * 60
    rows = TableRows(table, tmp_path, "0000")
    rows.add({"id": "m1"}, {"id": "string"}, 1)
    rows.flush()
    arrears = Arrears(tmp_path / "arrears")
    for sequence in (1, 2):
        load = Load(id=f"plan{sequence}/part", cursor=CURSOR, sequence=sequence, positions="{}")
        arrears.add(load, rows, "fails", "", START_MS, within=tmp_path)
        arrears.add(load, rows, "fails", "", START_MS, within=tmp_path)
    assert arrears.tables() == [table]
    one, two = arrears.owed(table)
    assert (one.manifest.load.id, two.manifest.load.id) == ("plan1/part", "plan2/part")
    arrears.paid(one)
    assert [owed.manifest.load.sequence for owed in arrears.owed(table)] == [2]


async def test_what_somebody_left_who_was_killed_is_removed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    loads = folder_of(tmp_path, CURSOR) / "loads"
    living = LoadFolder(loads, "plan")
    (loads / "killed").mkdir()
    (loads / "killed" / "rows.arrow").touch()
    half_paid = arrears_of(folder_of(tmp_path, CURSOR), "shop") / "tracks" / "000000000001-plan"
    half_paid.mkdir(parents=True)
    (half_paid / "rows.arrow").touch()
    await rig.append([track(1)])
    await rig.load()
    assert list(loads.iterdir()) == [living.path]
    assert not half_paid.exists()
    living.close()
    living.close()
    assert list(loads.iterdir()) == []


async def test_values_that_do_not_fit_are_kept_whole(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.append([track(1, price=10, at_time="2026-01-02T03:04:05Z")])
    await rig.load()
    await rig.append(
        [track(2, price=10.99, at_time="soon"), track(3, price="much", at_time="2026-01-02T03:04:05Z")]
    )
    await rig.load()
    prices = rig.rows("SELECT id, price FROM shop.order_completed ORDER BY id")
    assert prices == [("m1", 10.0), ("m2", 10.99), ("m3", None)], "integers widen, nothing is cut"
    kept = rig.rows(
        "SELECT table_name, row_id, column_name, column_value FROM shop.rudder_discards ORDER BY row_id"
    )
    assert kept == [
        ("order_completed", "m2", "at_time", "soon"),
        ("order_completed", "m3", "price", "much"),
    ]


async def test_numbers_at_the_edge_and_big_texts_stay(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    long = "x" * 100_000
    await rig.append([track(1, big=2**63 - 1, note=long, emoji="🚂", nested={"a": {"b": [1, {"c": 2}]}})])
    await rig.load()
    [(big, note, emoji)] = rig.rows("SELECT big, note, emoji FROM shop.order_completed")
    assert (big, note, emoji) == (2**63 - 1, long, "🚂")


async def test_nothing_is_loaded_in_an_excluded_window(tmp_path: Path) -> None:
    window = Window("00:00", "23:59")
    assert excluded(window, START_MS)
    assert not excluded(Window("22:00", "06:00"), START_MS - START_MS % 86_400_000 + 12 * 3_600_000)
    assert excluded(Window("22:00", "06:00"), START_MS - START_MS % 86_400_000 + 23 * 3_600_000)
    rig = Rig(tmp_path, config=duckdb.Config(sync_frequency=0.0001, exclude_window=window))
    await rig.append([track(1)])
    gatherer = await rig.gatherer()
    for _ in range(3):
        await gatherer.step()
    assert gatherer.status().gathered_events == 1
    (folder_of(tmp_path, CURSOR)).mkdir(parents=True, exist_ok=True)
    (folder_of(tmp_path, CURSOR) / "sync-now").touch()
    await gatherer.step()
    await gatherer.written()
    assert rig.ids("tracks") == {"m1": 1}
    assert not (folder_of(tmp_path, CURSOR) / "sync-now").exists()
    gatherer.close()


async def test_two_workers_share_a_warehouse(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.append([track(number) for number in range(EVENTS)])
    one, two = await rig.gatherer([0, 1]), await rig.gatherer([2, 3])
    await one.flush_now()
    await two.flush_now()
    assert rig.ids("tracks") == expected()


@pytest.mark.parametrize("setting", ["08", "24:00", "8:61", "x:y"])
def test_a_time_of_day_that_is_none_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="no time of day"):
        duckdb.Config(exclude_window=Window(setting, "06:00"))


async def test_a_column_with_integers_that_a_float_would_round_stays_one_of_integers(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    large = [2**53 + 1, -(2**53) - 1, 2**63 - 1]
    await rig.append([track(number, code=value) for number, value in enumerate(large)])
    await rig.load()
    await rig.append([track(3, code=10.5), track(4, code=2**53 + 3), track(5, code=7), track(6, code=-0.25)])
    await rig.load()
    await rig.append([track(7, code=2**62 + 1)])
    await rig.load()
    codes = dict(rig.rows("SELECT id, code FROM shop.order_completed WHERE code IS NOT NULL"))
    there = [*enumerate(large), (4, 2**53 + 3), (5, 7), (7, 2**62 + 1)]
    assert codes == {f"m{number}": value for number, value in there}
    assert rig.rows("SELECT row_id, column_value FROM shop.rudder_discards ORDER BY row_id") == [
        ("m3", "10.5"),
        ("m6", "-0.25"),
    ]
    assert failing(folder_of(tmp_path, CURSOR)) == [], "the table waits for nobody"


async def test_whole_numbers_with_more_digits_than_a_float_has_are_kept_whole(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.append([track(0, price=0.5)])
    await rig.load()
    many = [2**53 + 1, -(2**60) - 1, 2**63 - 1, 2**64, str(2**53 + 1)]
    enough = [2**53, -(2**53), 9007199254740994, 1e300, "0.1", 10**22]
    await rig.append([track(number, price=value) for number, value in enumerate([*many, *enough], 1)])
    await rig.load()
    kept = rig.rows("SELECT column_value FROM shop.rudder_discards ORDER BY row_id")
    assert sorted(text for (text,) in kept) == sorted(map(str, many))
    prices = rig.rows("SELECT price FROM shop.order_completed WHERE price IS NOT NULL")
    assert sorted(price for (price,) in prices) == sorted([0.5, *(float(str(value)) for value in enough)])
