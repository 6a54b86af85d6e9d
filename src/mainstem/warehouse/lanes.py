"""Tables of a load, several at a time: each lane has a connection of its own, and takes the next table that waits.

writer, backfill -> **lanes** -> loader. An engine that is far away answers for each table in seconds, and most of a
load is waiting for it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack

from mainstem.telemetry.log import logger
from mainstem.warehouse.loader import Loader, WarehouseError
from mainstem.warehouse.settings import WarehouseSettings
from mainstem.warehouse.staging import TableRows

_log = logger(__name__)


def load_in_lanes(
    tables: Iterable[TableRows],
    work: Callable[[Loader, TableRows], int],
    loader: Loader,
    open_another: Callable[[], AbstractContextManager[Loader]],
    settings: WarehouseSettings,
    *,
    last: str,
) -> int:
    """Do the work for each table; return the sum of what it returns. Blocking.

    If it fails for one, those that were begun are finished, no other is begun, and the error is raised. Where the
    engine takes no more connections, there are fewer lanes.

    Args:
        work: given a lane's own loader; called in several threads.
        loader: of the first lane, which is this thread.
        open_another: connects another lane.
        last: the table that others' loads write to as well: it comes after them.
    """
    found = list(tables)
    waiting = deque(rows for rows in found if rows.table != last)
    engine = loader.capabilities
    wanted = 1 if engine.one_process else settings.parallel_loads or engine.parallel_loads
    lanes = min(wanted, len(waiting))

    def lane(its: Loader) -> int:
        done = 0
        while (rows := _next(waiting)) is not None:
            try:
                done += work(its, rows)
            except BaseException:
                waiting.clear()
                raise
        return done

    def another() -> int:
        with ExitStack() as stack:
            try:
                its = stack.enter_context(open_another())
            except WarehouseError as error:
                _log.warning("fewer tables are loaded at a time: no more connections", error=str(error))
                return 0
            return lane(its)

    if lanes <= 1:
        done = lane(loader)
    else:
        with ThreadPoolExecutor(lanes - 1, "warehouse-lane") as threads:
            others = [threads.submit(another) for _ in range(lanes - 1)]
            done = lane(loader)
        done += sum(one.result() for one in others)
    return done + sum(work(loader, rows) for rows in found if rows.table == last)


def _next(waiting: deque[TableRows]) -> TableRows | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None
