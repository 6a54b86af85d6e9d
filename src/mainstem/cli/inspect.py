"""`mainstem explain | tail | books | dry-run`: looking, changing nothing."""

import asyncio
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from mainstem.cli.options import DataDir, Set, SettingsFile, WorkspacePath, read_installed, read_settings
from mainstem.clock import SystemClock
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.transform import Applied
from mainstem.roles.books import Account, read_all_books
from mainstem.roles.dry_run import dry_run as run_dry
from mainstem.roles.explain import Sighting, explain_message
from mainstem.roles.rooms import open_geo, open_the_ledger, open_the_stream, open_the_workspace
from mainstem.roles.sandboxes import open_transformer, tools_of
from mainstem.roles.tail import EventTail, describe
from mainstem.settings import Settings

AsJson = Annotated[bool, Parameter(name="--json", help="Machine-readable output.", negative=())]


def register(app: App) -> None:
    """Add the commands."""

    @app.command
    def explain(
        message_id: str,
        *,
        source: Annotated[str, Parameter(help="Look in this source only.")] = "",
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        settings: SettingsFile = None,
        more: Set = None,
        json: AsJson = False,
    ) -> int:
        """Say where an event went: when it came, what each destination did or will do with it, and why."""
        known = read_installed(settings, more, quiet=True, workspace=workspace, data_dir=data_dir)
        sightings = asyncio.run(_explain(known, message_id, source))
        if json:
            sys.stdout.buffer.write(msgspec.json.encode(sightings) + b"\n")
        elif sightings:
            for sighting in sightings:
                _show_sighting(sighting)
        else:
            kept = f"{known.stream_retention_s / 86_400:g} days"
            print(
                f"{message_id}: not in the log of {known.data_dir} (kept up to {kept}). It may be older (look in "
                "an archive), never have been acknowledged, or belong to a source that is no longer configured."
            )
        return 0 if sightings else 1

    @app.command
    def tail(
        *,
        source: Annotated[str, Parameter(help="Events of this source only.")] = "",
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        settings: SettingsFile = None,
        more: Set = None,
        json: AsJson = False,
    ) -> None:
        """Show events as they are made durable, until Ctrl-C."""
        known = read_installed(settings, more, quiet=True, workspace=workspace, data_dir=data_dir)
        asyncio.run(_tail(known, source, as_json=json))

    @app.command
    def books(
        *,
        destination: Annotated[str, Parameter(help="This destination only.")] = "",
        by_hour: Annotated[bool, Parameter(help="A line for each source and hour.", negative=())] = False,
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        settings: SettingsFile = None,
        more: Set = None,
        json: AsJson = False,
    ) -> int:
        """Show that received = delivered + filtered + rejected + dead + pending, for every destination."""
        known = read_installed(settings, more, quiet=True, workspace=workspace, data_dir=data_dir)
        accounts = asyncio.run(_books(known, destination))
        if json:
            rows = [
                {**msgspec.to_builtins(account), "pending": account.pending, "balanced": account.balanced}
                for account in accounts
            ]
            sys.stdout.buffer.write(msgspec.json.encode(rows) + b"\n")
        else:
            _show_books(accounts, by_hour=by_hour)
        return 0 if all(account.balanced for account in accounts) else 1

    @app.command(name="dry-run")
    def dry_run(
        *,
        workspace: Annotated[str, Parameter(help="Workspace file.")],
        events: Annotated[Path, Parameter(help="Events, one JSON object a line, as an SDK sends them.")],
        source: Annotated[str, Parameter(help="Source that sends them; not needed if there is one.")] = "",
        destination: Annotated[str, Parameter(help="This destination only.")] = "",
        now: Annotated[str, Parameter(help="The clock, ISO 8601.")] = "2020-01-01T00:00:00.000Z",
    ) -> None:
        """Print, as JSON lines, the outcome and the exact requests for each event and destination. Sends nothing.

        The same input gives the same bytes: compare two runs with `diff` to see what a change of the workspace
        would do.
        """
        known = read_settings(None, None, quiet=True, workspace=workspace)
        asyncio.run(run_dry(known, events, source, destination, now, sys.stdout.buffer))


async def _explain(settings: Settings, message_id: str, source_id: str) -> list[Sighting]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        stream = await open_the_stream(settings, clock, stack)
        ledger = await open_the_ledger(settings, stack)
        workspace = await (await open_the_workspace(settings, clock, stack)).current()
        geo = open_geo(settings, stack)
        decoder = Decoder(workspace.sources, geo)
        transformer = open_transformer(settings, clock, geo, stack)
        return await explain_message(
            message_id, source_id, workspace, stream, ledger, decoder, transformer, tools_of(geo)
        )


def _show_sighting(sighting: Sighting) -> None:
    console = Console(highlight=False, soft_wrap=True)
    name = f" “{sighting.event}”" if sighting.event else ""
    who = sighting.user_id or sighting.anonymous_id or "nobody"
    console.print(f"{sighting.type}{name} of {who}, source {sighting.source_id}", markup=False, style="bold")
    console.print(
        f"  received {sighting.received_at} from {sighting.request_ip or 'unknown'}; "
        f"partition {sighting.partition}, offset {sighting.offset}",
        markup=False,
    )
    if sighting.rejected:
        console.print(f"  rejected by the gateway: {sighting.rejected}", markup=False)
    for found in sighting.destinations:
        line = f"  {found.destination_id}: {found.state}"
        if found.reason:
            line += f": {found.reason}"
        if found.detail:
            line += f" ({found.detail})"
        if found.attempts:
            line += f", {found.attempts} attempts"
        if found.since:
            line += f", since {found.since}"
        if found.next_attempt:
            line += f", next attempt {found.next_attempt}"
        console.print(line, markup=False)
        for applied in found.transformations:
            console.print(f"    {_in_words(applied)}", markup=False)
        if found.answer:
            console.print(f"    last answer: {found.answer}", markup=False)
        for request in found.requests:
            verb = "sent" if found.state in ("delivered", "dead", "parked") else "would send"
            console.print(f"    {verb}: {msgspec.json.encode(request).decode()}", markup=False)


async def _tail(settings: Settings, source_id: str, *, as_json: bool) -> None:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        stream = await open_the_stream(settings, clock, stack)
        async for event in EventTail(stream, clock).events():
            if source_id and event.source_id != source_id:
                continue
            if as_json:
                sys.stdout.buffer.write(msgspec.json.encode(event.message) + b"\n")
                sys.stdout.flush()
            else:
                print(event.message.get("receivedAt", ""), describe(event), flush=True)


async def _books(settings: Settings, destination: str) -> list[Account]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        stream = await open_the_stream(settings, clock, stack)
        ledger = await open_the_ledger(settings, stack)
        return await read_all_books(stream, ledger, destination)


def _in_words(applied: Applied) -> str:
    """Return what a transformation did, in a line."""
    words = applied.result if applied.result != "expanded" else f"expanded to {applied.events} events"
    return f"transformation {applied.transformation}: {words}" + (
        f": {applied.reason}" if applied.reason else ""
    )


def _show_books(accounts: list[Account], *, by_hour: bool) -> None:
    # Where nobody looks at a terminal, somebody may parse: do not cut.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    columns = ("received", "delivered", "filtered", "rejected", "dead", "parked", "not reached", "balanced")
    table = Table("destination", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    for account in accounts:
        numbers = (
            account.received,
            account.delivered,
            account.filtered,
            account.rejected,
            account.dead,
            account.parked,
            account.unsettled,
        )
        balanced = "yes" if account.balanced else "[red]NO[/]"
        table.add_row(account.cursor, *(f"{number:,}" for number in numbers), balanced)
    console.print(table)
    for account in accounts if by_hour else ():
        console.print(f"\n{account.cursor}", style="bold")
        for line in account.lines:
            hour = datetime.fromtimestamp(line.hour * 3600, UTC)
            reasons = {"filtered": line.filtered, "rejected": line.rejected, "dead": line.dead}
            words = [f"delivered {line.delivered:,}"]
            words += [
                f"{outcome} {count:,} ({reason})"
                for outcome, by_reason in reasons.items()
                for reason, count in sorted(by_reason.items())
            ]
            console.print(
                f"  {hour:%Y-%m-%d %H}h {line.source_id or '-'}: received {line.received:,} = {', '.join(words)}",
                markup=False,
            )
