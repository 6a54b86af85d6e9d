"""`mainstem warehouse status | sync | plan | backfill`: how warehouses stand, and what can be asked of them."""

import asyncio
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from mainstem.cli.options import DataDir, Set, SettingsFile, WorkspacePath, read_installed
from mainstem.clock import SystemClock
from mainstem.errors import SettingsError
from mainstem.events.canonical import parse_time_ms
from mainstem.settings import Settings

if TYPE_CHECKING:
    from mainstem.roles.warehouse_desk import Desk, WarehouseStatus
    from mainstem.warehouse.writer import TableStatus
    from mainstem.workspace.model import Destination

AsJson = Annotated[bool, Parameter(name="--json", help="One JSON object a line.", negative=())]
Wanted = Annotated[str, Parameter(help="Its id in the workspace.")]

_EVER_MS = 253_402_300_800_000
_MOST_TABLES = 40
"""Shown to people, of a namespace."""
_COLUMNS = (*("namespace", "table", "last load", "rows", "bytes", "took", "lag", "rows in all", "waits"),)


def register(app: App) -> None:
    """Add the commands."""
    group = App(name="warehouse", help="How warehouses stand, a load at once, what it would change, history.")
    app.command(group)

    @group.command
    def status(
        destination: Wanted = "",
        *,
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        settings: SettingsFile = None,
        more: Set = None,
        json: AsJson = False,
    ) -> int:
        """Show what waits, each table's newest load, and the tables that can't be loaded, with what to do.

        Exits with 1 when a table or a load fails, or an engine can't be asked.
        """
        known = read_installed(settings, more, quiet=True, workspace=workspace, data_dir=data_dir)
        return asyncio.run(_status(known, destination, as_json=json))

    @group.command
    def sync(
        destination: Wanted,
        *,
        wait_s: Annotated[float, Parameter(help="How long to wait for new events; 0 = only ask.")] = 600.0,
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        settings: SettingsFile = None,
        more: Set = None,
    ) -> int:
        """Load what waits at once, without waiting for the schedule.

        A running worker loads new events. Rows of tables that could not be loaded before are loaded by the command
        itself. Exits with 1 when a table still can't be loaded; says why.
        """
        known = read_installed(settings, more, quiet=True, workspace=workspace, data_dir=data_dir)
        return asyncio.run(_sync(known, destination, wait_s))

    @group.command
    def plan(
        destination: Wanted,
        *,
        events: Annotated[int, Parameter(help="Look at this many waiting events at most.")] = 100_000,
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        settings: SettingsFile = None,
        more: Set = None,
        json: AsJson = False,
    ) -> None:
        """Show which tables and columns the events that wait would add or widen. Changes nothing."""
        known = read_installed(settings, more, quiet=True, workspace=workspace, data_dir=data_dir)
        asyncio.run(_plan(known, destination, events, as_json=json))

    @group.command
    def backfill(
        destination: Wanted,
        *,
        archive: Annotated[str, Parameter(help="The archive (a destination's id) to read.")],
        table: Annotated[str, Parameter(help="This table only; empty = all.")] = "",
        backfill_from: Annotated[
            str, Parameter(name="--from", help="Events received at or after this time.")
        ] = "",
        backfill_to: Annotated[str, Parameter(name="--to", help="… and before this time.")] = "",
        again: Annotated[
            bool,
            Parameter(
                help="Load too what an earlier backfill has loaded: its rows were removed since.", negative=()
            ),
        ] = False,
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        settings: SettingsFile = None,
        more: Set = None,
    ) -> int:
        """Load history from an archive. Rows that are there are replaced by themselves: it may be repeated."""
        known = read_installed(settings, more, quiet=True, workspace=workspace, data_dir=data_dir)
        from_ms = _time("--from", backfill_from) if backfill_from else 0
        to_ms = _time("--to", backfill_to) if backfill_to else _EVER_MS
        return asyncio.run(_backfill(known, destination, table, archive, from_ms, to_ms, again=again))


# The desk brings Arrow, 60 MB and a moment: only for those who ask.


async def _status(settings: Settings, wanted: str, *, as_json: bool) -> int:
    from mainstem.roles.warehouse_desk import Desk

    async with AsyncExitStack() as stack:
        desk = await Desk.open(settings, SystemClock(), stack)
        found = [await desk.status(item) for item in desk.warehouses(wanted)]
    for one in found:
        if as_json:
            _line(one)
        else:
            _show(one)
    if not found and not as_json:
        print("the workspace has no warehouse")
    return 1 if any(one.failing or one.error or one.worker_error for one in found) else 0


async def _sync(settings: Settings, wanted: str, wait_s: float) -> int:
    from mainstem.roles.warehouse_desk import Desk

    async with AsyncExitStack() as stack:
        desk = await Desk.open(settings, SystemClock(), stack)
        [destination] = desk.warehouses(wanted)
        waiting = await desk.ask(destination)
        if waiting and wait_s and not await _loaded(desk, destination, waiting, wait_s):
            print(
                f"not done after {wait_s:g} s: is a worker running? `mainstem warehouse status {wanted}` "
                "tells what fails"
            )
            return 1
        paid, failing = await desk.pay(destination), await desk.failing(destination)
    if waiting:
        print(f"{waiting:,} events are in" if wait_s else f"asked for; {waiting:,} events wait")
    else:
        print("no events wait" if paid or failing else "nothing waits")
    for one in paid:
        print(f"{one.namespace}.{one.table}: {one.rows:,} rows of {one.loads} loads that waited are in")
    for table in failing:
        print(_fails(table))
    return 1 if failing else 0


async def _loaded(desk: "Desk", destination: "Destination", waiting: int, wait_s: float) -> bool:
    """Show how events come in; tell whether all did in time."""
    with _progress() as progress:
        task = progress.add_task("loading", total=waiting)
        try:
            async for left in desk.wait(destination, wait_s):
                progress.update(task, total=max(waiting, left), completed=max(0, waiting - left))
        except TimeoutError:
            return False
    return True


async def _plan(settings: Settings, wanted: str, events: int, *, as_json: bool) -> None:
    from mainstem.roles.warehouse_desk import Desk

    async with AsyncExitStack() as stack:
        desk = await Desk.open(settings, SystemClock(), stack)
        [destination] = desk.warehouses(wanted)
        with _progress() as progress:
            task = progress.add_task("looking at events", total=min(events, await desk.waiting(destination)))
            seen, changes = await desk.plan(destination, most=events, on_event=lambda: progress.advance(task))
    if as_json:
        for namespace, steps in changes.items():
            for step in steps:
                _line({"namespace": namespace, **msgspec.to_builtins(step)})
        return
    print(f"{seen:,} waiting events looked at")
    for namespace, steps in changes.items():
        for step in steps:
            told = msgspec.to_builtins(step)
            columns = told.get("columns") or {told.get("column", ""): _widening(told)}
            listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
            print(f"{told['type']}: {namespace}.{told['table']}: {listed}")
    if not any(changes.values()):
        print("no table would change")


async def _backfill(
    settings: Settings, wanted: str, table: str, archive: str, from_ms: int, to_ms: int, *, again: bool
) -> int:
    from mainstem.roles.warehouse_desk import Desk

    found = None
    async with AsyncExitStack() as stack:
        desk = await Desk.open(settings, SystemClock(), stack)
        [destination] = desk.warehouses(wanted)
        with _progress() as progress:
            task = progress.add_task("reading the archive", total=None)
            async for found in desk.backfill(
                destination, table=table, archive_id=archive, from_ms=from_ms, to_ms=to_ms, again=again
            ):
                progress.update(
                    task,
                    total=found.of_files,
                    completed=found.files,
                    description=f"{found.events:,} events read, {found.rows:,} rows loaded",
                )
    if found is None:
        print("no files of the archive are of that time")
        return 0
    print(f"{found.events:,} events read, {found.rows:,} rows loaded")
    if found.already:
        print(
            f"{found.already:,} rows were loaded by an earlier backfill; if they were removed since: --again"
        )
    for (namespace, name), failed in found.failed.items():
        command = f"mainstem warehouse backfill {wanted} --archive {archive} --table {name}"
        print(f"  FAILS: {namespace}.{name}: {failed}. When it is repaired: {command}")
    return 1 if found.failed else 0


def _widening(told: Mapping[str, Any]) -> str:
    # What the table holds is asked when it is done.
    unless = ", unless it holds numbers beyond 2^53" if told["after"] == "float" else ""
    return f"{told['before']} -> {told['after']}{unless}"


def _show(status: "WarehouseStatus") -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(
        f"{status.destination_id}: {status.title}, {status.waiting:,} events wait "
        f"(this engine has been run against: {status.run_against})",
        markup=False,
    )
    if status.error:
        console.print(f"  it can't be asked: {status.error}", markup=False)
    if status.worker_error:
        console.print(f"  FAILS: the last load, which is tried again: {status.worker_error}", markup=False)
    owed = {(one.namespace, one.table): one for one in status.failing}
    for namespace in dict.fromkeys([*status.tables, *status.namespaces]):
        rows = _table_rows(status, namespace)
        table = Table(*_COLUMNS, box=None, pad_edge=False)
        for name, row in rows[:_MOST_TABLES]:
            waits = owed.get((namespace, name))
            table.add_row(namespace, name, *row, f"{waits.rows:,} rows wait" if waits else "")
        if rows:
            console.print(table)
        if len(rows) > _MOST_TABLES:
            console.print(f"  … and {len(rows) - _MOST_TABLES:,} tables more: --json has them all")
    for one in status.failing:
        console.print(_fails(one), markup=False)


def _fails(one: "TableStatus") -> str:
    return (
        f"  FAILS: {one.namespace}.{one.table}: {one.rows:,} rows of {one.loads} loads wait: {one.error}"
        + (f". What to do: {one.advice}" if one.advice else "")
    )


def _table_rows(status: "WarehouseStatus", namespace: str) -> list[tuple[str, list[str]]]:
    """Return each table with what is shown of it, the one loaded last first.

    What this installation did not load itself, it only knows the engine's notes of.
    """
    found = {
        one.table: [
            _moment(one.loaded_at_ms),
            f"{one.rows:,}",
            decimal(one.staged_bytes),
            f"{one.took_s:,.1f} s",
            f"{one.lag_s:,.0f} s",
            f"{one.all_rows:,}",
        ]
        for one in status.tables.get(namespace, ())
    }
    for row in status.namespaces.get(namespace, ()):
        found.setdefault(row.table, [_moment(row.loaded_at_ms), f"{row.rows:,}", "", "", "", ""])
    return list(found.items())


def _moment(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"


def _progress() -> Progress:
    """Return progress for people: nothing where the output is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stdout.isatty(),
    )


def _time(option: str, text: str) -> int:
    at_ms = parse_time_ms(text)
    if at_ms is None:
        raise SettingsError(f"{option} {text}: not an ISO 8601 time")
    return at_ms


def _line(value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.flush()
