"""Tables of a load that are loaded at the same time: each event is a row once, whatever fails in whichever lane."""

import contextlib
import threading
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from mainstem.warehouse.loader import LoaderSpec, TableFailed, WarehouseError
from mainstem.warehouse.loaders import delta, duckdb
from mainstem.warehouse.settings import WarehouseSettings
from mainstem.warehouse.writer import failing, folder_of
from tests.warehouse.contract.lakes import open_delta
from tests.warehouse.rig import CURSOR, Broken, Rig, track

NAMES = ("Order Completed", "Product Viewed", "Cart Shared", "Coupon Denied", "List Filtered")
TABLES = ("order_completed", "product_viewed", "cart_shared", "coupon_denied", "list_filtered")
EVENTS = 40
SPEC = msgspec.structs.replace(
    delta.SPEC, open=lambda _, namespace, folder: open_delta(folder, namespace), upkeep=None
)


def rig_of(folder: Path, fault: object = None, *, lanes: int = 3, spec: LoaderSpec = SPEC) -> Rig:
    config = WarehouseSettings(sync_frequency=0.0001, parallel_loads=lanes)
    return Rig(folder, config=config, spec=spec, fault=fault or (lambda _: None))  # type: ignore[arg-type]


async def fill(rig: Rig) -> None:
    await rig.append([track(n, name=NAMES[n % len(NAMES)]) for n in range(EVENTS)])


def ids(rig: Rig, table: str) -> Counter[str]:
    with contextlib.closing(open_delta(rig.folder, "shop")) as loader:
        return Counter(str(row[0]) for row in loader.query(f'SELECT "id" FROM "shop"."{table}"'))


def expect_all(rig: Rig) -> None:
    found = sum((ids(rig, table) for table in TABLES), Counter[str]())
    assert found == ids(rig, "tracks") == Counter({f"m{n}": 1 for n in range(EVENTS)})


class Together:
    """Lets a load go on only once so many are at it."""

    def __init__(self, lanes: int) -> None:
        self.most = 0
        self.threads: set[int] = set()
        self._now = 0
        self._lock = threading.Lock()
        self._enough = threading.Event()
        self._lanes = lanes

    def __call__(self, what: str) -> None:
        if what.startswith("before load"):
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
                self.threads.add(threading.get_ident())
                if self._now == self._lanes:
                    self._enough.set()
            assert self._enough.wait(30), f"{self.most} at a time"
        elif what.startswith("after load"):
            with self._lock:
                self._now -= 1


@pytest.mark.parametrize("lanes", [1, 3])
async def test_so_many_tables_are_loaded_at_a_time(tmp_path: Path, lanes: int) -> None:
    together = Together(lanes)
    rig = rig_of(tmp_path, together, lanes=lanes)
    await fill(rig)
    await rig.load()
    assert (together.most, len(together.threads)) == (lanes, lanes)
    expect_all(rig)
    assert sum((await rig.ledger.counts(CURSOR)).values()) == EVENTS


async def test_by_itself_an_engine_has_as_many_as_suit_it(tmp_path: Path) -> None:
    suits = msgspec.structs.replace(delta.CAPABILITIES, parallel_loads=2)

    class Suited:
        def __init__(self, inner: object) -> None:
            self._inner = inner
            self.capabilities = suits

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

    spec = msgspec.structs.replace(SPEC, open=lambda _, name, folder: Suited(open_delta(folder, name)))
    together = Together(2)
    rig = rig_of(tmp_path, together, lanes=0, spec=spec)
    await fill(rig)
    await rig.load()
    assert together.most == 2
    expect_all(rig)


async def test_an_engine_of_one_process_loads_one_after_the_other(tmp_path: Path) -> None:
    together = Together(1)
    rig = rig_of(tmp_path, together, spec=duckdb.SPEC)
    rig.config = duckdb.Config(sync_frequency=0.0001, parallel_loads=3)
    await fill(rig)
    await rig.load()
    assert together.most == 1
    assert rig.ids("tracks") == {f"m{n}": 1 for n in range(EVENTS)}


async def test_an_engine_that_takes_no_second_connection_is_loaded_over_the_first(tmp_path: Path) -> None:
    opened: list[object] = []

    def fault(what: str) -> None:
        if what == "before open":
            opened.append(what)
            if len(opened) > 1:
                raise WarehouseError("too many connections")

    rig = rig_of(tmp_path, fault)
    await fill(rig)
    await rig.load()
    assert len(opened) == 3
    expect_all(rig)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_fault_in_any_lane_ends_the_load_which_is_made_again(tmp_path: Path, when: str) -> None:
    for table in ("tracks", *TABLES):
        broken: list[str] = []
        begun: list[str] = []

        def fault(
            what: str, *, table: str = table, broken: list[str] = broken, begun: list[str] = begun
        ) -> None:
            begun.append(what)
            if what == f"{when} load {table}" and not broken:
                broken.append(what)
                raise Broken(what)

        rig = rig_of(tmp_path / table, fault)
        await fill(rig)
        with pytest.raises(Broken):
            await rig.load()
        assert broken
        assert not [path for path in (tmp_path / table / "warehouse").rglob("*.parquet") if path.is_file()]
        await rig.load()
        expect_all(rig)
        assert sum((await rig.ledger.counts(CURSOR)).values()) == EVENTS


async def test_tables_that_fail_wait_and_those_beside_them_do_not(tmp_path: Path) -> None:
    denied = {"product_viewed", "coupon_denied"}

    def fault(what: str) -> None:
        if what.removeprefix("before load ") in denied:
            raise TableFailed(what.split()[-1], "no right to write it", "grant INSERT on it")

    rig = rig_of(tmp_path, fault)
    await fill(rig)
    await rig.load()
    assert {status.table for status in failing(folder_of(tmp_path, CURSOR))} == denied
    for table in ("tracks", *(name for name in TABLES if name not in denied)):
        assert set(ids(rig, table).values()) == {1}
    denied.clear()
    paid = await rig.writer().pay()
    assert {one.table for one in paid} == {"product_viewed", "coupon_denied"}
    expect_all(rig)


async def test_what_does_not_fit_is_kept_of_every_table(tmp_path: Path) -> None:
    """Several tables' loads write discards."""
    first = rig_of(tmp_path)
    await first.append([track(n, name=NAMES[n % len(NAMES)], size=1) for n in range(EVENTS)])
    await first.load()
    odd = [track(EVENTS + n, name=NAMES[n % len(NAMES)], size="large") for n in range(EVENTS)]
    await first.append(odd)
    await first.load()
    with contextlib.closing(open_delta(tmp_path, "shop")) as loader:
        found = loader.query(
            'SELECT "table_name", "row_id", "column_value" FROM "shop"."rudder_discards" WHERE "column_name" = \'size\''
        )
    assert Counter((str(row[0]), str(row[1])) for row in found) == Counter(
        (TABLES[n % len(TABLES)], f"m{EVENTS + n}") for n in range(EVENTS)
    )
    assert {str(row[2]) for row in found} == {"large"}
