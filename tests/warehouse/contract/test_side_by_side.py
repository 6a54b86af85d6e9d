"""Tables of a load that are loaded at the same time, over connections of their own: on every engine that has such."""

import threading
from typing import Final

import msgspec

from mainstem.clock import SystemClock
from mainstem.warehouse.settings import WarehouseSettings
from mainstem.warehouse.writer import failing, folder_of
from tests.warehouse.contract.conftest import Bench
from tests.warehouse.contract.engines import spec_of
from tests.warehouse.kills.events import Story, compare, compare_counts
from tests.warehouse.rig import CURSOR, Rig

LANES: Final = 4


class Lanes:
    """Knows how many lanes there were; each waits at its first table for a second one."""

    def __init__(self, lanes: int) -> None:
        self.threads: set[int] = set()
        self._lanes = lanes
        self._second = threading.Event()

    def __call__(self, what: str) -> None:
        if what.startswith("before load"):
            self.threads.add(threading.get_ident())
            if len(self.threads) >= self._lanes:
                self._second.set()
            assert self._second.wait(30)


async def test_each_event_is_a_row_once(bench: Bench) -> None:
    spec = spec_of(bench.engine)
    lanes = Lanes(1 if spec.capabilities.one_process else 2)
    story = Story(7)
    rig = Rig(
        bench.folder,
        config=WarehouseSettings(sync_frequency=60, sync_events=1_000, parallel_loads=LANES),
        fault=lanes,
        clock=SystemClock(),
        spec=msgspec.structs.replace(spec, open=lambda *_: bench.open(), upkeep=None),
        namespace=bench.namespace,
    )
    # Numbers become fractions and words after a hundred: columns change, and several tables have discards.
    for count in (90, 60, 60):
        lanes.threads.clear()
        await rig.append(story.events(count))
        await rig.load()
        assert (len(lanes.threads) == 1) == spec.capabilities.one_process
    assert failing(folder_of(bench.folder, CURSOR)) == []
    compare(story, bench.open())
    compare_counts(story, dict(await rig.ledger.counts(CURSOR)))
