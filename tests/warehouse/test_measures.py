"""What is measured of tables: for Prometheus with a bound, for people whole."""

from pathlib import Path
from uuid import uuid4

import pytest

from mainstem.clock import FixedClock
from mainstem.telemetry.metrics import REGISTRY
from mainstem.warehouse.loader import TableFailed
from mainstem.warehouse.measures import OTHERS, Loaded, Measures, reports_of
from mainstem.warehouse.writer import folder_of
from tests.warehouse.rig import CURSOR, START_MS, Broken, Rig, identify, track

NOW_MS = START_MS + 100_000


def measured(name: str, destination: str, table: str | None = None) -> float:
    labels = {"destination": destination} | ({} if table is None else {"table": table})
    return REGISTRY.get_sample_value(f"mainstem_warehouse_{name}", labels) or 0.0


def loaded(rows: int = 1, oldest_ms: int = START_MS) -> Loaded:
    return Loaded(rows=rows, already=False, staged_bytes=100, took_s=0.5, oldest_ms=oldest_ms)


def test_thousands_of_tables_have_a_bounded_number_of_labels(tmp_path: Path) -> None:
    destination = uuid4().hex
    for _ in range(2):
        measures = Measures(
            destination, tmp_path
        )  # another one of the same process: the bound is the process's
        for number in range(2_000):
            measures.loaded("shop", f"event_{number}", "plan", loaded(), NOW_MS)
        measures.loaded("shop", "tracks", "plan", loaded(rows=7), NOW_MS)
        measures.failed("event_1999")
    found = [
        sample.labels["table"]
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "mainstem_warehouse_rows_total" and sample.labels["destination"] == destination
    ]
    assert len(found) == 52
    assert {"tracks", "event_0", "event_49", OTHERS} <= set(found)
    assert measured("rows_total", destination, OTHERS) == 2 * 1_950
    assert measured("rows_total", destination, "tracks") == 14
    assert measured("table_failures_total", destination, OTHERS) == 2
    measures.save()
    assert len(reports_of(tmp_path, "shop")) == 2_001, "for people, all"


async def test_a_load_is_measured(tmp_path: Path) -> None:
    before = {
        name: measured(name, CURSOR, "order_completed")
        for name in ("rows_total", "staged_bytes_total", "load_seconds_count", "lag_seconds_sum")
    }
    rig = Rig(tmp_path, clock=FixedClock(NOW_MS))
    await rig.append([track(number) for number in range(3, 10)])
    await rig.load()

    def since(name: str) -> float:
        return measured(name, CURSOR, "order_completed") - before[name]

    assert since("rows_total") == 7
    assert since("staged_bytes_total") > 100
    assert since("load_seconds_count") == 1
    assert since("lag_seconds_sum") == 97, "of the oldest event"
    report = reports_of(folder_of(tmp_path, CURSOR), "shop")["order_completed"]
    assert (report.rows, report.all_rows, report.loads, report.lag_s) == (7, 7, 1, 97)
    assert report.loaded_at_ms == NOW_MS
    assert report.staged_bytes == since("staged_bytes_total")


async def test_reports_add_up_over_processes_and_keep_the_other_tables(tmp_path: Path) -> None:
    rig = Rig(tmp_path, clock=FixedClock(NOW_MS))
    await rig.append([track(1), track(2), identify(3, "ann")])
    await rig.load()
    await rig.append([track(4)])
    await rig.load()  # by another writer, as after a restart
    found = reports_of(folder_of(tmp_path, CURSOR), "shop")
    assert (found["tracks"].rows, found["tracks"].all_rows, found["tracks"].loads) == (1, 3, 2)
    assert (found["users"].rows, found["users"].loads) == (1, 1)
    assert set(found) == {"tracks", "order_completed", "identifies", "users"}
    assert len({one.load_id for one in found.values()}) == 2


async def test_failures_are_counted_by_table_and_as_a_whole(tmp_path: Path) -> None:
    errors, failures = measured("errors_total", CURSOR), measured("table_failures_total", CURSOR, "a")
    broken = True

    def fault(what: str) -> None:
        if broken and what == "before load a":
            raise TableFailed("a", "no right")
        if broken and what == "before load b":
            raise Broken("the engine is gone")

    rig = Rig(tmp_path, fault=fault)
    await rig.append([track(1, name="a", user="u"), track(2, name="b", user="u")])
    with pytest.raises(Broken):
        await rig.load()
    broken = False
    await rig.load()
    assert measured("errors_total", CURSOR) == errors + 1
    assert measured("table_failures_total", CURSOR, "a") == failures + 1


async def test_reports_that_can_not_be_read_or_written_stop_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, CURSOR)
    (folder / "reports").mkdir(parents=True)
    (folder / "reports" / "shop.json").write_text("not JSON")
    rig = Rig(tmp_path)
    await rig.append([track(1)])
    await rig.load()
    assert reports_of(folder, "shop")["tracks"].rows == 1
    (folder / "reports" / "shop.json").unlink()
    (folder / "reports" / "shop.lock").unlink()
    (folder / "reports").rmdir()
    (folder / "reports").write_text("in the way")
    await rig.append([track(2)])
    await rig.load()
    assert rig.ids("tracks") == {"m1": 1, "m2": 1}
