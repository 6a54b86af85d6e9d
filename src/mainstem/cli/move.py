"""`mainstem redrive | replay`: sending again what died, and sending history."""

import asyncio
import secrets
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from mainstem.cli.inspect import AsJson
from mainstem.cli.options import DataDir, Set, SettingsFile, WorkspacePath, read_installed
from mainstem.clock import SystemClock, iso_from_ms
from mainstem.errors import SettingsError
from mainstem.events.canonical import parse_time_ms
from mainstem.ledger.base import DeadFilter, DeadLetter, Replay
from mainstem.roles.replay_preview import Preview, preview_replay
from mainstem.roles.rooms import open_the_ledger
from mainstem.settings import Settings

_PAGE = 1000


def register(app: App) -> None:
    """Add the commands."""

    @app.command
    def redrive(
        *,
        destination: Annotated[str, Parameter(help="Dead letters of this destination.")] = "",
        source: Annotated[str, Parameter(help="… of this source.")] = "",
        message_id: Annotated[str, Parameter(help="… with this messageId.")] = "",
        event_type: Annotated[str, Parameter(help="… of this event type (track, identify …).")] = "",
        event: Annotated[str, Parameter(help="… with this event name.")] = "",
        reason: Annotated[str, Parameter(help="… whose reason contains this text.")] = "",
        died_from: Annotated[str, Parameter(name="--from", help="… that died at or after this time.")] = "",
        died_to: Annotated[str, Parameter(name="--to", help="… that died before this time.")] = "",
        list_only: Annotated[
            bool, Parameter(name="--list", help="Show them; change nothing.", negative=())
        ] = False,
        yes: Annotated[bool, Parameter(name="--yes", help="Do not ask.", negative=())] = False,
        data_dir: DataDir = None,
        settings: SettingsFile = None,
        more: Set = None,
        json: AsJson = False,
    ) -> int:
        """Try dead letters again, in order per user; a running worker picks them up within seconds."""
        known = read_installed(settings, more, quiet=True, data_dir=data_dir)
        where = DeadFilter(
            destination_id=destination,
            source_id=source,
            message_id=message_id,
            event_type=event_type,
            event_name=event,
            reason_contains=reason,
            died_from_ms=_time("--from", died_from) if died_from else None,
            died_to_ms=_time("--to", died_to) if died_to else None,
        )
        return asyncio.run(_redrive(known, where, list_only=list_only, yes=yes, as_json=json))

    @app.command
    def replay(
        *,
        destination: Annotated[str, Parameter(help="Where history is sent.")] = "",
        replay_from: Annotated[
            str, Parameter(name="--from", help="Events received at or after this time.")
        ] = "",
        replay_to: Annotated[str, Parameter(name="--to", help="… and before this time (now).")] = "",
        where: Annotated[str, Parameter(help="Filter (CEL over `event`), e.g. event.type == 'track'.")] = "",
        from_archive: Annotated[
            str, Parameter(help="Read this archive destination instead of the stream.")
        ] = "",
        preview: Annotated[
            bool, Parameter(help="Count and show samples; send nothing.", negative=())
        ] = False,
        status: Annotated[bool, Parameter(help="Show the replays there are.", negative=())] = False,
        cancel: Annotated[str, Parameter(help="Cancel the replay with this id.")] = "",
        yes: Annotated[bool, Parameter(name="--yes", help="Do not ask.", negative=())] = False,
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        settings: SettingsFile = None,
        more: Set = None,
        json: AsJson = False,
    ) -> int:
        """Send history to one destination again, in a lane of its own beside the live flow."""
        known = read_installed(settings, more, quiet=True, workspace=workspace, data_dir=data_dir)
        if status or cancel:
            return asyncio.run(_replays(known, cancel, as_json=json))
        if not destination or not replay_from:
            raise SettingsError(
                "replay needs --destination and --from (and shows what there is with --status)"
            )
        clock = SystemClock()
        wanted = Replay(
            id=secrets.token_hex(4),
            destination_id=destination,
            from_ms=_time("--from", replay_from),
            to_ms=_time("--to", replay_to) if replay_to else clock.now_ms(),
            where=where,
            origin="archive" if from_archive else "stream",
            archive_destination_id=from_archive,
            created_at_ms=clock.now_ms(),
        )
        return asyncio.run(_replay(known, wanted, preview=preview, yes=yes, as_json=json))


def _time(option: str, text: str) -> int:
    at_ms = parse_time_ms(text)
    if at_ms is None:
        raise SettingsError(f"{option} {text}: not an ISO 8601 time, e.g. 2026-11-23T08:00:00Z or 2026-11-23")
    return at_ms


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        print(f"{question} Not asked, for there is no terminal: repeat with --yes.", file=sys.stderr)
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


async def _redrive(
    settings: Settings, where: DeadFilter, *, list_only: bool, yes: bool, as_json: bool
) -> int:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        ledger = await open_the_ledger(settings, stack)
        letters: list[tuple[int, DeadLetter]] = []
        while page := await ledger.dead(where, limit=_PAGE, after_id=letters[-1][0] if letters else 0):
            letters.extend(page)
        if list_only:
            _show_letters(letters, as_json=as_json)
            return 0
        letters = _sendable(letters, await ledger.statuses())
        if not letters:
            print("no dead letters match")
            return 0
        _show_summary(letters)
        if not yes and not _agreed(f"Send these {len(letters):,} events again?"):
            return 1
        moved = 0
        for start in range(0, len(letters), _PAGE):
            moved += await ledger.redrive([key for key, _ in letters[start : start + _PAGE]], clock.now_ms())
        print(f"{moved:,} events are due again; follow them with `mainstem books` or `mainstem explain`")
        return 0


def _sendable(
    letters: list[tuple[int, DeadLetter]], statuses: Mapping[str, bytes]
) -> list[tuple[int, DeadLetter]]:
    """Leave out what belongs to archives: they write whole ranges of the log, never a single event again."""
    files = {name for name, status in statuses.items() if msgspec.json.decode(status).get("kind") == "files"}
    kept = [(key, letter) for key, letter in letters if letter.destination_id not in files]
    if len(kept) < len(letters):
        print(
            f"{len(letters) - len(kept):,} dead letters of archives stay as they are: repair the filter, then let "
            "a new archive destination with `start: earliest` take the events from the log"
        )
    return kept


def _show_letters(letters: list[tuple[int, DeadLetter]], *, as_json: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for key, letter in letters:
        if as_json:
            shown = {**msgspec.to_builtins(letter), "id": key}
            shown["value"] = None  # the stored form; `explain` shows the event
            sys.stdout.buffer.write(msgspec.json.encode(shown) + b"\n")
            continue
        name = f" “{letter.event_name}”" if letter.event_name else ""
        console.print(
            f"{iso_from_ms(letter.died_at_ms)} {letter.destination_id} {letter.message_id} "
            f"{letter.event_type}{name}: {letter.reason} after {letter.attempts} attempts",
            markup=False,
        )
        if letter.answer:
            console.print(f"    last answer: {letter.answer}", markup=False)
        if letter.request:
            console.print(f"    request: {letter.request}", markup=False)
    if not as_json:
        console.print(f"{len(letters):,} dead letters", markup=False)


def _show_summary(letters: list[tuple[int, DeadLetter]]) -> None:
    for (destination, reason), count in Counter(
        (letter.destination_id, letter.reason) for _, letter in letters
    ).most_common(20):
        print(f"  {count:>8,}  {destination}: {reason}")


async def _replay(settings: Settings, replay: Replay, *, preview: bool, yes: bool, as_json: bool) -> int:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=True,
        ) as progress:
            task = progress.add_task("reading …", total=None)

            def on_read(count: int) -> None:
                progress.update(task, description=f"read {count:,} events …")

            found = await preview_replay(settings, clock, replay, stack, on_read)
        if preview or not yes:
            _show_preview(replay, found, as_json=as_json)
        if preview:
            return 0
        if not yes and not _agreed(f"Send {found.would_send:,} events to {replay.destination_id} again?"):
            return 1
        ledger = await open_the_ledger(settings, stack)
        await ledger.put_replay(replay)
        print(f"replay {replay.id} waits for a worker; follow it with `mainstem replay --status`")
        return 0


def _show_preview(replay: Replay, found: Preview, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
        return
    begin, end = iso_from_ms(replay.from_ms), iso_from_ms(replay.to_ms)
    print(f"{replay.destination_id}, events received from {begin} to {end}, from the {replay.origin}:")
    print(f"  read        {found.read:>12,}")
    print(f"  would send  {found.would_send:>12,}")
    for reason, count in sorted(found.not_sent.items()):
        print(f"  not sent    {count:>12,}  {reason}")
    if found.missing_before:
        print(
            f"  the stream holds events only since {found.missing_before}: use --from-archive for older ones"
        )
    for name, count in list(found.by_event.items())[:10]:
        print(f"  {count:>12,}  {name}")
    for sample in found.samples:
        print(f"  sample: {msgspec.json.encode(sample).decode()}")


async def _replays(settings: Settings, cancel: str, *, as_json: bool) -> int:
    async with AsyncExitStack() as stack:
        ledger = await open_the_ledger(settings, stack)
        replays = await ledger.replays()
        if cancel:
            wanted = next((item for item in replays if item.id == cancel), None)
            if wanted is None:
                raise SettingsError(f"--cancel {cancel}: no such replay")
            await ledger.put_replay(msgspec.structs.replace(wanted, state="cancelled"))
            print(f"replay {cancel} is cancelled; what was sent stays sent")
            return 0
        for item in replays:
            if as_json:
                sys.stdout.buffer.write(msgspec.json.encode(item) + b"\n")
                continue
            created = datetime.fromtimestamp(item.created_at_ms / 1000, UTC)
            counts = await ledger.counts(f"replay:{item.id}")
            read = sum(counts.values())
            sent = sum(count for key, count in counts.items() if key.outcome == "delivered")
            print(
                f"{item.id}  {created:%Y-%m-%d %H:%M}  {item.destination_id}  {item.state}  "
                f"read {read:,}, sent {sent:,}{'  ' + item.error if item.error else ''}"
            )
        return 0
