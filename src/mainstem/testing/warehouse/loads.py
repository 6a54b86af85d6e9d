"""What every engine must do, by the words of `warehouse.loader`: its schema, its rows, once, whatever fails."""

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mainstem.clock import SystemClock
from mainstem.testing.warehouse.bench import Bench
from mainstem.testing.warehouse.rows import (
    DAY,
    EVENT,
    cased,
    create,
    event,
    evolve,
    ids,
    load_of,
    long_text,
    named,
    staged,
    values,
)
from mainstem.warehouse.loader import Done, Loader, TableFailed, WarehouseError
from mainstem.warehouse.loaders.sql import SqlLoader
from mainstem.warehouse.schema import LOADS, AddColumns, ColumnType, CreateTable


class Loads:
    """Tables are made and changed; loads are in once, by their modes, or not at all."""

    # ---------------------------------------------------------------- schema

    def test_the_namespace_and_the_tables_are_made_and_made_again(self, bench: Bench) -> None:
        loader = bench.open()
        assert loader.fetch_schema() == {}
        loader.check()
        loader.check()
        assert cased(loader, LOADS) in loader.fetch_schema()
        create(loader, "orders", EVENT)
        create(loader, "orders", EVENT)
        found = loader.fetch_schema()[cased(loader, "orders")]
        expected = named(loader, {**EVENT, "uuid_ts": "datetime"})
        assert found == expected

    def test_columns_are_added_and_widened(self, loader: Loader, tmp_path: Path) -> None:
        create(loader, "orders", {"id": "string", "received_at": "datetime", "count": "int"})
        loader.load(
            load_of(1),
            staged(loader, tmp_path, "orders", {"id": "string", "count": "int"}, [event("a", count=3)]),
        )
        evolve(loader, "orders", {"id": "string", "count": "float", "note": "string"})
        evolve(loader, "orders", {"id": "string", "count": "float", "note": "string"})
        columns = loader.fetch_schema()[cased(loader, "orders")]
        assert columns[cased(loader, "note")] == "string"
        if ("int", "float") in loader.capabilities.widenings:
            assert columns[cased(loader, "count")] == "float"
            assert values(loader, "orders", "a", "count") == [3.0]

    def test_texts_become_longer(self, loader: Loader, tmp_path: Path) -> None:
        if ("string", "text") not in loader.capabilities.widenings:
            pytest.skip("this engine has one type for all texts (capabilities.widenings)")
        columns: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "note": "string"}
        longer: dict[str, ColumnType] = {**columns, "note": "text"}
        create(loader, "orders", columns)
        loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, [event("a", note="short")]))
        evolve(loader, "orders", longer)
        evolve(loader, "orders", longer)
        assert loader.fetch_schema()[cased(loader, "orders")][cased(loader, "note")] == "text"
        rows = [event("b", note="x" * 5000)]
        loader.load(load_of(2), staged(loader, tmp_path, "orders", longer, rows))
        assert values(loader, "orders", "a", "note") == ["short"]
        assert values(loader, "orders", "b", "note") == ["x" * 5000]

    def test_names_are_quoted(self, bench: Bench, loader: Loader, tmp_path: Path) -> None:
        last = "a.b-c d" if bench.names_with_points else "a-b-c d"
        odd: dict[str, ColumnType] = {
            "id": "string",
            "received_at": "datetime",
            "order": "string",
            "über straße": "int",
            last: "float",
        }
        create(loader, "select", odd)
        row = {
            "id": "x",
            "received_at": DAY.format(1),
            "order": "o'; DROP TABLE t; --",
            "über straße": 5,
            last: 1.5,
        }
        loader.load(load_of(1), staged(loader, tmp_path, "select", odd, [row]))
        assert values(loader, "select", "x", "order", "über straße", last) == [row["order"], 5, 1.5]

    # ---------------------------------------------------------------- rows

    def test_every_type_with_its_extremes(self, loader: Loader, tmp_path: Path) -> None:
        columns: dict[str, ColumnType] = {**EVENT, "name": long_text(loader)}
        create(loader, "orders", columns)
        rows = [
            event("1", count=2**63 - 1, total=1.7e308, vip=True, name="x" * 5000),
            event("2", count=-(2**63), total=-2.5e-300, vip=False, name="emoji 🚂 \\ \" ' \n tab\t"),
            event("3", name=""),
            event("4"),
        ]
        assert loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, rows)) == Done(4)
        assert values(loader, "orders", "1", "count", "vip", "name") == [2**63 - 1, True, "x" * 5000]
        assert float(values(loader, "orders", "1", "total")[0]) == pytest.approx(1.7e308)
        assert values(loader, "orders", "2", "count", "vip", "name") == [-(2**63), False, rows[1]["name"]]
        assert values(loader, "orders", "3", "name") in ([""], [None])
        assert values(loader, "orders", "4", "name", "count", "total", "vip") == [None] * 4

    def test_times_keep_their_microseconds(self, loader: Loader, tmp_path: Path) -> None:
        create(loader, "orders", EVENT)
        row = {"id": "1", "received_at": "2026-02-03T04:05:06.123456+02:00"}
        loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [row]))
        [found] = values(loader, "orders", "1", "received_at")
        assert isinstance(found, datetime)
        moment = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        assert moment == datetime(2026, 2, 3, 2, 5, 6, 123456, UTC)

    def test_the_engine_notes_when_rows_came(self, loader: Loader, tmp_path: Path) -> None:
        create(loader, "orders", EVENT)
        loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [event("1")]))
        [found] = values(loader, "orders", "1", "uuid_ts")
        assert found is not None
        [row] = loader.loads("shop")
        assert (row.load_id, row.table, row.rows, row.positions) == (
            "plan00000001",
            cased(loader, "orders"),
            1,
            '{"0": 7}',
        )
        assert abs(row.loaded_at_ms - SystemClock().now_ms()) < 3_600_000

    def test_many_columns(self, loader: Loader, tmp_path: Path) -> None:
        wide: dict[str, ColumnType] = {
            "id": "string",
            "received_at": "datetime",
            **{f"column_{n}": "int" for n in range(300)},
        }
        create(loader, "wide", wide)
        row = {"id": "1", "received_at": DAY.format(1), **{f"column_{n}": n for n in range(300)}}
        loader.load(load_of(1), staged(loader, tmp_path, "wide", wide, [row]))
        assert values(loader, "wide", "1", "column_0", "column_299") == [0, 299]

    # ---------------------------------------------------------------- once

    def test_a_load_is_in_once(self, bench: Bench, loader: Loader, tmp_path: Path) -> None:
        create(loader, "orders", EVENT)
        table = staged(loader, tmp_path, "orders", EVENT, [event("a"), event("b")], mode="append")
        assert loader.load(load_of(1), table) == Done(2)
        assert loader.load(load_of(1), table).already
        assert ids(loader, bench.namespace, "orders") == ["a", "b"]
        loader.load(load_of(2), table)
        assert len(ids(loader, bench.namespace, "orders")) == 4, "another load: append adds"

    def test_rows_are_replaced_by_id(self, bench: Bench, loader: Loader, tmp_path: Path) -> None:
        if not loader.capabilities.merges:
            pytest.skip("this engine does not replace rows (capabilities.merges)")
        create(loader, "orders", EVENT)
        loader.load(
            load_of(1), staged(loader, tmp_path, "orders", EVENT, [event("a", count=1), event("b", count=1)])
        )
        again = staged(loader, tmp_path, "orders", EVENT, [event("b", 2, count=2), event("c", 2, count=2)])
        loader.load(load_of(2), again)
        assert ids(loader, bench.namespace, "orders") == ["a", "b", "c"]
        assert values(loader, "orders", "b", "count") == [2]

    def test_users_keep_the_latest_of_each_column(self, bench: Bench, loader: Loader, tmp_path: Path) -> None:
        if not loader.capabilities.merges:
            pytest.skip("this engine does not replace rows (capabilities.merges)")
        columns: dict[str, ColumnType] = {
            "id": "string",
            "received_at": "datetime",
            "city": "string",
            "plan": "string",
            "age": "int",
        }
        create(loader, "users", columns)

        def come(number: int, *rows: dict[str, Any], only: tuple[str, ...] = ()) -> None:
            kinds = {name: kind for name, kind in columns.items() if not only or name in only}
            loader.load(
                load_of(number),
                staged(loader, tmp_path, "users", kinds, rows, mode="latest by id"),
            )

        come(1, event("ann", 2, city="Berlin", plan="pro", age=30), event("bob", 2, city="Rome"))
        come(2, event("ann", 3, plan="team"))  # null does not overwrite
        come(3, event("ann", 1, city="late", plan="late", age=1), event("cal", 1, city="Oslo"))  # came late
        come(
            4, event("bob", 4, plan="pro"), only=("id", "received_at", "plan")
        )  # columns not in the file stay
        assert values(loader, "users", "ann", "city", "plan", "age") == ["Berlin", "team", 30]
        assert values(loader, "users", "bob", "city", "plan", "age") == ["Rome", "pro", None]
        assert ids(loader, bench.namespace, "users") == ["ann", "bob", "cal"]

    def test_users_from_before_and_after_a_column_was_added_are_merged_in_one_load(
        self, bench: Bench, loader: Loader, tmp_path: Path
    ) -> None:
        if not loader.capabilities.merges:
            pytest.skip("this engine does not replace rows (capabilities.merges)")
        first: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "plan": "string"}
        create(loader, "users", first)
        for number, (columns, rows) in enumerate(
            [
                (first, [event("ann", 1, plan="free")]),
                ({**first, "city": "string", "age": "int"}, [event("bob", 2, city="Rome", age=41)]),
                (first, [event("ann", 3, plan="pro"), event("bob", 3, plan="team")]),
            ]
        ):
            evolve(loader, "users", columns)
            loader.load(
                load_of(number), staged(loader, tmp_path, "users", columns, rows, mode="latest by id")
            )
        assert values(loader, "users", "ann", "city", "plan", "age") == [None, "pro", None]
        assert values(loader, "users", "bob", "city", "plan", "age") == ["Rome", "team", 41]
        assert ids(loader, bench.namespace, "users") == ["ann", "bob"]

    def test_late_users_still_fill_what_was_null(self, loader: Loader, tmp_path: Path) -> None:
        if not loader.capabilities.merges:
            pytest.skip("this engine does not replace rows (capabilities.merges)")
        columns: dict[str, ColumnType] = {
            "id": "string",
            "received_at": "datetime",
            "city": "string",
            "plan": "string",
        }
        create(loader, "users", columns)
        for number, row in enumerate(
            [event("ann", 3, plan="pro"), event("ann", 1, city="Berlin", plan="old")]
        ):
            loader.load(
                load_of(number), staged(loader, tmp_path, "users", columns, [row], mode="latest by id")
            )
        assert values(loader, "users", "ann", "city", "plan") == ["Berlin", "pro"]

    # ---------------------------------------------------------------- faults

    def test_a_load_that_fails_at_any_statement_leaves_nothing(
        self, bench: Bench, loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not isinstance(loader, SqlLoader):
            pytest.skip("this engine has no statements to fail at; its own tests break it")
        create(loader, "orders", EVENT)
        run = loader._run
        for fault in range(100):
            count = 0

            def failing(sql: str, parameters: Any = (), *, fault: int = fault) -> Any:
                nonlocal count
                if not sql.startswith("ROLLBACK"):
                    count += 1
                    if count == fault + 1:
                        raise WarehouseError("injected")
                return run(sql, parameters)

            monkeypatch.setattr(loader, "_run", failing)
            table = staged(loader, tmp_path, "orders", EVENT, [event(f"f{fault}")], mode="append")
            try:
                loader.load(load_of(fault), table)
                monkeypatch.undo()
                break
            except WarehouseError:
                monkeypatch.undo()
                assert ids(loader, bench.namespace, "orders") == []
                assert loader.loads("shop") == []
        else:
            raise AssertionError("no end of statements")
        assert fault >= 4
        assert ids(loader, bench.namespace, "orders") == [f"f{fault}"]

    def test_two_that_load_the_same_at_the_same_time(
        self, bench: Bench, loader: Loader, tmp_path: Path
    ) -> None:
        if loader.capabilities.one_process:
            pytest.skip("one loader at a time has it open (capabilities.one_process)")
        create(loader, "orders", EVENT)
        table = staged(loader, tmp_path, "orders", EVENT, [event(str(n)) for n in range(50)], mode="append")
        barrier = threading.Barrier(2)
        results: list[Any] = []

        def work(mine: Loader) -> None:
            barrier.wait()
            for _ in range(20):
                try:
                    results.append(mine.load(load_of(1), table))
                    return
                except TableFailed:
                    raise
                except WarehouseError:
                    continue  # the other one was faster: again, as the gatherer does

        threads = [threading.Thread(target=work, args=(bench.open(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(done.already for done in results) == [False, True]
        assert len(ids(loader, bench.namespace, "orders")) == 50

    def test_what_is_wrong_is_said_in_words(self, loader: Loader, tmp_path: Path) -> None:
        missing = staged(loader, tmp_path, "nowhere", EVENT, [event("1")])
        with pytest.raises(WarehouseError, match=r"(?i)nowhere"):
            loader.load(load_of(1), missing)
        with pytest.raises(TableFailed, match=r"(?i)nowhere"):
            loader.evolve([AddColumns(cased(loader, "nowhere"), {"x": "int"})])
        loader.evolve([CreateTable(cased(loader, "later"), named(loader, EVENT))])
        assert cased(loader, "later") in loader.fetch_schema(), "a failure leaves the loader usable"
