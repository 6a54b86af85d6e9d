"""Small files of a lake's tables are joined between loads, as often as the settings say."""

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest

from mainstem.clock import FixedClock
from mainstem.warehouse.loader import Compacting, Joined, LoaderSpec, TableFailed
from mainstem.warehouse.loaders import delta, duckdb, iceberg
from mainstem.warehouse.loaders.delta_tables import DeltaLoader
from mainstem.warehouse.settings import WarehouseSettings
from tests.warehouse.rig import START_MS, Rig, track

_LAKES = [
    (iceberg.SPEC, iceberg.Config(sync_frequency=0.2, compact_every_s=600.0)),
    (delta.SPEC, delta.Config(sync_frequency=0.2, compact_every_s=600.0)),
]


async def _loads(rig: Rig, clock: FixedClock, first: int, count: int) -> None:
    gatherer = await rig.gatherer()
    for number in range(first, first + count):
        await rig.append([track(number)])
        while await gatherer.step():
            pass
        clock.advance(15)
        while await gatherer.step():
            pass
        await gatherer.written()
    for _ in range(20):
        await gatherer.step()
    gatherer.close()


def _data_files(folder: Path) -> int:
    found = [path for path in folder.rglob("*.parquet") if "tracks" in path.parts]
    return len([path for path in found if "_delta_log" not in path.parts])


@pytest.mark.parametrize(("spec", "config"), _LAKES, ids=["iceberg", "delta"])
async def test_small_files_are_joined_when_it_is_time(
    tmp_path: Path, spec: LoaderSpec, config: WarehouseSettings
) -> None:
    clock = FixedClock(START_MS)
    rig = Rig(tmp_path, config=config, spec=spec, clock=clock)
    # Joining was never begun, so it is due at once. In the next process it is not.
    await _loads(rig, clock, 0, 1)
    await _loads(rig, clock, 1, 5)
    files = _data_files(tmp_path)
    assert files == 6
    clock.advance(600)
    await _loads(rig, clock, 6, 1)
    with contextlib.closing(spec.open(config, "shop", tmp_path)) as loader:
        assert isinstance(loader, Compacting)
        found = loader.compact("tracks", keep=timedelta(days=1))
        assert found.files_before == found.files_after == 1
        rows = loader.query('SELECT id FROM "shop"."tracks"')
    assert sorted(row[0] for row in rows) == [f"m{number}" for number in range(7)]
    # What was joined stays for a while.
    assert _data_files(tmp_path) > files


async def test_joining_that_fails_stops_no_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_self: DeltaLoader, table: str, *, keep: timedelta) -> Joined:
        tried.append(table)
        raise TableFailed(table, "no right")

    tried: list[str] = []
    monkeypatch.setattr(DeltaLoader, "compact", failing)
    clock = FixedClock(START_MS)
    spec, config = _LAKES[1]
    rig = Rig(tmp_path, config=config, spec=spec, clock=clock)
    await _loads(rig, clock, 0, 2)
    assert "tracks" in tried
    with contextlib.closing(spec.open(config, "shop", tmp_path)) as loader:
        assert len(loader.query('SELECT id FROM "shop"."tracks"')) == 2


@pytest.mark.parametrize(("spec", "config"), [(duckdb.SPEC, duckdb.Config()), *_LAKES])
def test_engines_say_what_they_can(tmp_path: Path, spec: LoaderSpec, config: WarehouseSettings) -> None:
    with contextlib.closing(spec.open(config, "shop", tmp_path)) as loader:
        assert isinstance(loader, Compacting) == (spec.upkeep is not None)
