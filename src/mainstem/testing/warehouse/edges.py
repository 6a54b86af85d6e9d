"""What every engine must do at the edges: of types, names, and times at which several are at work."""

import json
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mainstem.testing.warehouse.bench import Bench
from mainstem.testing.warehouse.rows import (
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
from mainstem.warehouse.loader import Loader, Mode, TableFailed, WarehouseError
from mainstem.warehouse.loaders.sql import SqlLoader
from mainstem.warehouse.schema import ColumnType

USER: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "city": "string", "count": "int"}


class Edges:
    """Odd values, long names, and several loaders at once."""

    # ---------------------------------------------------------------- values

    @pytest.mark.parametrize(
        "moment",
        [
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(1582, 10, 10, 1, 2, 3, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        ],
        ids=["year 1", "1582", "before 1970", "year 9999"],
    )
    def test_any_year(self, bench: Bench, loader: Loader, tmp_path: Path, moment: datetime) -> None:
        columns: dict[str, ColumnType] = {**EVENT, "born": "datetime"}
        create(loader, "orders", columns)
        row = event("1", born=moment)
        loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, [row]))
        [found] = values(loader, "orders", "1", "born")
        assert isinstance(found, datetime)
        assert (found if found.tzinfo else found.replace(tzinfo=UTC)) == moment
        assert ids(loader, bench.namespace, "orders") == ["1"]

    def test_doubles_are_kept_to_the_last_bit(self, loader: Loader, tmp_path: Path) -> None:
        create(loader, "orders", EVENT)
        chance = random.Random(3)
        numbers = [0.1, 1 / 3, 2.0**53 + 2, 5e-324, 1.7976931348623157e308, -2.2250738585072014e-308]
        numbers += [chance.uniform(-1, 1) * 10 ** chance.randint(-30, 30) for _ in range(40)]
        rows = [event(str(index), total=number) for index, number in enumerate(numbers)]
        loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, rows))
        for index, number in enumerate(numbers):
            assert float(values(loader, "orders", str(index), "total")[0]) == number

    @pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**63 - 1])
    def test_integers_that_a_float_would_round_stay_what_they_are(
        self, loader: Loader, tmp_path: Path, number: int
    ) -> None:
        columns: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "count": "int"}
        create(loader, "orders", columns)
        loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, [event("1", count=number)]))
        evolve(loader, "orders", {**columns, "count": "float"})
        assert int(values(loader, "orders", "1", "count")[0]) == number
        # Whichever type the column has now, it says so, and takes what is of it.
        now: dict[str, ColumnType] = {
            **columns,
            "count": loader.fetch_schema()[cased(loader, "orders")][cased(loader, "count")],
        }
        loader.load(load_of(2), staged(loader, tmp_path, "orders", now, [event("2", 2, count=5)]))
        assert float(values(loader, "orders", "2", "count")[0]) == 5

    def test_integers_that_were_made_for_a_column_which_was_widened_meanwhile(
        self, bench: Bench, loader: Loader, tmp_path: Path
    ) -> None:
        columns: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "count": "int"}
        create(loader, "orders", columns)
        loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, [event("1", count=3)]))
        made = staged(loader, tmp_path, "orders", columns, [event("2", count=2**53 + 1)])
        evolve(loader, "orders", {**columns, "count": "float"})
        try:
            loader.load(load_of(2), made)
        except WarehouseError:  # it is made again, for the column as it is now
            assert ids(loader, bench.namespace, "orders") == ["1"]
            return
        assert int(values(loader, "orders", "2", "count")[0]) == 2**53 + 1

    def test_texts_that_are_hard_on_formats(self, loader: Loader, tmp_path: Path) -> None:
        columns: dict[str, ColumnType] = {**EVENT, "name": long_text(loader)}
        create(loader, "orders", columns)
        texts = [
            *(
                "\\.",
                "a\n\\.\nb",
                "\\N",
                "NULL",
                "null",
                ",",
                '"',
                '""',
                "'",
                "\r\n",
                "\r",
                "\t",
                "a,b\"c'd\\",
                " ",
            ),
            *(
                "{}",
                "$1",
                "?",
                "%s",
                "\u2028",
                "\ufeff",
                "ä",
                "\x1f\x7f",
                "x" * min(60_000, loader.capabilities.max_text or 60_000),
                "trailing  ",
                "Ⅷ",
                "🏳️‍🌈",
            ),
        ]
        rows = [event(f"{index:02d}", name=text) for index, text in enumerate(texts)]
        loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, rows))
        assert [values(loader, "orders", row["id"], "name")[0] for row in rows] == texts

    def test_a_text_that_is_too_long_is_cut(self, loader: Loader, tmp_path: Path) -> None:
        most = loader.capabilities.max_text
        if not most:
            pytest.skip("this engine takes texts of any length (capabilities.max_text)")
        columns: dict[str, ColumnType] = {**EVENT, "name": long_text(loader)}
        create(loader, "orders", columns)
        rows = [event("1", name="x" * (most + 10)), event("2", name="🚂" * most)]
        loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, rows))
        assert values(loader, "orders", "1", "name") == ["x" * most]
        [found] = values(loader, "orders", "2", "name")
        assert found == "🚂" * len(found), "whole characters are left"
        assert 0 < len(found) < most

    def test_ids_that_differ_a_little_are_two(self, bench: Bench, loader: Loader, tmp_path: Path) -> None:
        if not loader.capabilities.merges:
            pytest.skip("this engine does not replace rows (capabilities.merges)")
        create(loader, "orders", EVENT)
        alike = ["a", "A", "a ", "ä", "a\u0308", "a\t"]
        loader.load(
            load_of(1), staged(loader, tmp_path, "orders", EVENT, [event(one, count=1) for one in alike])
        )
        loader.load(load_of(2), staged(loader, tmp_path, "orders", EVENT, [event("a", 2, count=2)]))
        assert sorted(ids(loader, bench.namespace, "orders")) == sorted(alike)
        assert values(loader, "orders", "a ", "count") == [1]
        assert values(loader, "orders", "A", "count") == [1]

    def test_nul_characters_stop_nothing(self, bench: Bench, loader: Loader, tmp_path: Path) -> None:
        columns: dict[str, ColumnType] = {**EVENT, "cart": "json"}
        create(loader, "orders", columns)
        rows = [
            event("1", name="a\0b", cart={"k": "a\0b", "\0": 1}),
            event("2", name="\0"),
            event("3", name="c"),
        ]
        loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, rows))
        assert values(loader, "orders", "1", "name")[0] in ("ab", "a\0b", "a\ufffdb")
        assert values(loader, "orders", "3", "name") == ["c"]
        assert ids(loader, bench.namespace, "orders") == ["1", "2", "3"]

    def test_json_columns(self, loader: Loader, tmp_path: Path) -> None:
        columns: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "cart": "json"}
        create(loader, "orders", columns)
        carts: list[Any] = [
            {"a": [1, 2.5, None, True, {"b": 'x"y\\z'}], "ü": "🚂", "nested": {"deep": [[]]}},
            [],
            "a text",
            {"big": 2**53 + 1, "quote": "'", "escaped": "\\u0000"},
            None,
        ]
        rows = [event(str(index), cart=cart) for index, cart in enumerate(carts)]
        loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, rows))
        for index, cart in enumerate(carts):
            [found] = values(loader, "orders", str(index), "cart")
            if isinstance(found, str) and found != cart:  # drivers give JSON as text, or as what it says
                found = json.loads(found)
            assert found == cart

    # ---------------------------------------------------------------- names

    @pytest.mark.parametrize("letter", ["x", "я", "𐐷"])
    def test_names_at_the_limit(self, bench: Bench, loader: Loader, tmp_path: Path, letter: str) -> None:
        if letter > "\uffff" and not bench.names_beyond_bmp:
            pytest.skip("this engine's names are of the basic plane")
        limit = loader.capabilities.max_name or 127
        base = letter * ((limit - 1) // len(letter.encode()))
        base += "y" * (limit - 1 - len(base.encode()))
        columns: dict[str, ColumnType] = {
            "id": "string",
            "received_at": "datetime",
            f"{base}a": "int",
            f"{base}b": "int",
        }
        create(loader, f"{base}t", columns)
        create(loader, f"{base}u", columns)
        row = event("1") | {f"{base}a": 1, f"{base}b": 2}
        for number, table in enumerate([f"{base}t", f"{base}u"]):
            loader.load(load_of(number), staged(loader, tmp_path, table, columns, [row]))
            assert values(loader, table, "1", f"{base}a", f"{base}b") == [1, 2]
        assert loader.fetch_schema()[cased(loader, f"{base}t")] == named(
            loader, {**columns, "uuid_ts": "datetime"}
        )

    # ---------------------------------------------------------------- several at work

    def test_two_that_evolve_at_the_same_time(self, bench: Bench) -> None:
        first = bench.open()
        if first.capabilities.one_process:
            pytest.skip("one loader at a time has it open (capabilities.one_process)")
        second = bench.open()
        narrow: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "count": "int"}
        wide: dict[str, ColumnType] = {**narrow, "count": "float", "note": "string"}

        def work(loader: Loader, order: int) -> None:
            loader.check()
            for number in range(4):
                columns: dict[str, ColumnType] = {**wide, **{f"c{n}": "int" for n in range(20)}}
                evolve(loader, f"t{number}", narrow)
                evolve(loader, f"t{number}", dict(sorted(columns.items(), reverse=bool(order))))

        assert _at_once(lambda: work(first, 0), lambda: work(second, 1)) == []
        schema = first.fetch_schema()
        for number in range(4):
            found = schema[cased(first, f"t{number}")]
            assert len(found) == 24
            assert found[cased(first, "note")] == "string"

    def test_two_loads_of_one_table_at_the_same_time(
        self, bench: Bench, loader: Loader, tmp_path: Path
    ) -> None:
        if loader.capabilities.one_process or not loader.capabilities.merges:
            pytest.skip("one loader at a time has it open, or it does not replace rows (capabilities)")
        create(loader, "orders", EVENT)
        rows = [event(str(n)) for n in range(60)]

        def work(mine: Loader, number: int) -> None:
            table = staged(mine, tmp_path, "orders", EVENT, [row | {"count": number} for row in rows])
            for attempt in range(30):
                try:
                    mine.load(load_of(number), table)
                    return
                except TableFailed:
                    raise
                except WarehouseError:
                    if attempt == 29:
                        raise

        loaders = [bench.open() for _ in range(3)]
        assert _at_once(*(lambda mine=mine, n=n: work(mine, n) for n, mine in enumerate(loaders))) == []
        assert sorted(ids(loader, bench.namespace, "orders"), key=int) == [str(n) for n in range(60)]
        assert len(loader.loads("shop")) == 3

    @pytest.mark.parametrize("mode", ["replace by id", "latest by id"])
    def test_a_failed_replacement_leaves_what_was_there(
        self, bench: Bench, loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
    ) -> None:
        if not isinstance(loader, SqlLoader):
            pytest.skip("this engine has no statements to fail at; its own tests break it")
        create(loader, "users", USER)
        loader.load(
            load_of(0), staged(loader, tmp_path, "users", USER, [event("a", city="Oslo", count=1)], mode)
        )
        run = loader._run
        late = staged(
            loader, tmp_path, "users", USER, [event("a", 2, count=2), event("b", 2, city="Rome")], mode
        )
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
            try:
                loader.load(load_of(1), late)
                break
            except WarehouseError:
                monkeypatch.undo()
                assert ids(loader, bench.namespace, "users") == ["a"]
                assert values(loader, "users", "a", "city", "count") == ["Oslo", 1]
                assert len(loader.loads("shop")) == 1
        else:
            raise AssertionError("no end of statements")
        monkeypatch.undo()
        assert fault >= 5
        assert values(loader, "users", "a", "count") == [2]
        assert values(loader, "users", "a", "city") == (["Oslo"] if mode == "latest by id" else [None])
        assert ids(loader, bench.namespace, "users") == ["a", "b"]


def _at_once(*works: Callable[[], None]) -> list[BaseException]:
    """Run all at the same time; return what went wrong."""
    barrier = threading.Barrier(len(works))
    wrong: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    return wrong
