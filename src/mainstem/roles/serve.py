"""`mainstem serve`: prepare the data folder, start the tree, tell a newcomer what to do next, show events."""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from mainstem.clock import Clock
from mainstem.errors import MainstemError, SettingsError
from mainstem.events.geo import GeoDatabase
from mainstem.ledger.base import Ledger
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.transform import Transformer
from mainstem.roles.books import is_flow, read_all_books
from mainstem.roles.explain import explain_message
from mainstem.roles.ops import Health, Operations, OperationsServer
from mainstem.roles.replays import is_replay
from mainstem.roles.rooms import (
    ensure_cursors,
    open_geo,
    open_the_ledger,
    open_the_stream,
    open_the_workspace,
)
from mainstem.roles.sandboxes import open_transformer, tools_of
from mainstem.roles.supervisor import Supervisor, listen, until_signalled
from mainstem.roles.tail import EventTail, show_tail
from mainstem.settings import Settings
from mainstem.stream.base import Stream
from mainstem.telemetry.log import logger
from mainstem.workspace.default import create_default_workspace
from mainstem.workspace.model import Workspace, WorkspaceSource

_log = logger(__name__)

_LOW_DISK_BYTES: Final = 256 * 1024 * 1024


class _Newest:
    """The newest snapshot, for those who ask."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    async def follow(self, source: WorkspaceSource) -> None:
        async for workspace in source.changes():
            self.workspace = workspace


async def serve(settings: Settings, clock: Clock, *, console: Console | None = None) -> None:
    """Run everything until TERM or INT.

    Raises:
        SettingsError: an address can't be had, or the data folder can't be used.
        WorkspaceInvalid, WorkspaceUnavailable: there is no workspace to run with.
        ServeFailed: a process could not be started.
    """
    out = console or Console(highlight=False, soft_wrap=True)
    created = _prepare_folder(settings)
    sock = listen(settings.host, settings.port)
    ops_sock = listen(settings.ops_host, settings.ops_port)
    async with AsyncExitStack() as stack:
        stack.callback(sock.close)
        stream = await open_the_stream(settings, clock, stack)
        ledger = await open_the_ledger(settings, stack)
        source = await open_the_workspace(settings, clock, stack)
        workspace = await source.current()
        newest = _Newest(workspace)
        following = asyncio.create_task(newest.follow(source))
        stack.callback(following.cancel)
        # Before the first event can be accepted every destination has its place, or it would miss it.
        await ensure_cursors(workspace, stream, ledger)
        supervisor = Supervisor(settings, clock, sock)
        await supervisor.start()
        stack.push_async_callback(supervisor.stop)
        geo = open_geo(settings, stack)
        transformer = open_transformer(settings, clock, geo, stack)
        operations = OperationsServer(
            _operations(supervisor, stream, ledger, newest, geo, transformer, settings), ops_sock
        )
        serving = asyncio.create_task(operations.serve())
        port, ops_port = sock.getsockname()[1], ops_sock.getsockname()[1]
        _greet(out, settings, workspace, port, ops_port, created=created)
        tail: asyncio.Task[None] | None = None
        if out.is_terminal:
            tail = asyncio.create_task(show_tail(EventTail(stream, clock), out))
        name = await until_signalled(lambda: asyncio.ensure_future(supervisor.replace()))
        if tail is not None:
            tail.cancel()
            await asyncio.gather(tail, return_exceptions=True)
        out.print(f"\nstopping ({name}): finishing what is in flight …")
        operations.close()
        await asyncio.gather(serving, return_exceptions=True)
    out.print("stopped; everything acknowledged is on disk")


def _prepare_folder(settings: Settings) -> bool:
    """Make the data folder and, the first time, a workspace. Returns whether it was made."""
    folder = settings.data_path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if settings.workspace:
            return False
        return create_default_workspace(Path(settings.workspace_location)) is not None
    except OSError as error:
        raise SettingsError(
            f"data folder {folder}: {error.strerror or error}; choose another with --data-dir (MAINSTEM_DATA_DIR)"
        ) from None


def _greet(
    out: Console, settings: Settings, workspace: Workspace, port: int, ops_port: int, *, created: bool
) -> None:
    host = "localhost" if settings.host in ("0.0.0.0", "::", "127.0.0.1") else settings.host  # noqa: S104
    url = settings.public_url or f"http://{host}:{port}"
    out.print(f"Mainstem is up: events at {url}, operations at http://{settings.ops_host}:{ops_port}/health")
    out.print(f"workspace {workspace.id} from {settings.workspace_location}; data in {settings.data_path}")
    for source in workspace.sources:
        to = [link.destination_id for link in workspace.connections if link.source_id == source.id]
        state = "" if source.enabled else " (disabled)"
        out.print(f"  source {source.id}{state} -> {', '.join(to) or 'nowhere yet'}")
    first = next((source for source in workspace.sources if source.enabled and source.write_keys), None)
    if not created or first is None:
        return
    key = first.write_keys[0]
    out.print(f"\nwrite key: {key}\n\nsend a first event:\n", markup=False)
    out.print(
        f"""  curl -u {key}: {url}/v1/track -H 'Content-Type: application/json' \\
    -d '{{"userId": "user-1", "event": "First Event", "properties": {{"plan": "pro"}}}}'

or from Python (pip install segment-analytics-python):

  import segment.analytics as analytics
  analytics.write_key, analytics.host = "{key}", "{url}"
  analytics.track("user-1", "First Event", {{"plan": "pro"}}); analytics.shutdown()

then: mainstem books · mainstem tail · mainstem explain MESSAGE_ID
""",
        markup=False,
        soft_wrap=True,
    )
    sys.stdout.flush()


def _operations(
    supervisor: Supervisor,
    stream: Stream,
    ledger: Ledger,
    newest: _Newest,
    geo: GeoDatabase | None,
    transformer: Transformer,
    settings: Settings,
) -> Operations:
    async def health() -> Health:
        return await _health(supervisor, stream, ledger, settings)

    async def destinations() -> Mapping[str, Any]:
        merged: dict[str, Any] = {}
        for process, answer in (await supervisor.ask_all("status")).items():
            # What does not answer is in `/health`.
            if isinstance(answer, dict) and "error" not in answer:
                for key, value in answer.items():
                    merged.setdefault(key, {})[process] = value
        return merged

    async def books(destination: str) -> list[Any]:
        accounts = await read_all_books(stream, ledger, destination)
        return [
            {**msgspec.to_builtins(account), "pending": account.pending, "balanced": account.balanced}
            for account in accounts
        ]

    async def explain(message_id: str, source_id: str) -> list[Any]:
        workspace = newest.workspace
        decoder = Decoder(workspace.sources, geo)
        return list(
            await explain_message(
                message_id, source_id, workspace, stream, ledger, decoder, transformer, tools_of(geo)
            )
        )

    return Operations(
        metrics=supervisor.metrics,
        health=health,
        destinations=destinations,
        books=books,
        explain=explain,
    )


async def _health(supervisor: Supervisor, stream: Stream, ledger: Ledger, settings: Settings) -> Health:
    problems: list[str] = []
    warnings: list[str] = []
    answers = await supervisor.ask_all("health")
    for process, answer in answers.items():
        if "error" in answer:
            problems.append(f"{process}: {answer['error']}")
        problems.extend(f"{process}: {problem}" for problem in answer.get("problems", ()))
    free = shutil.disk_usage(settings.data_path).free
    if free < _LOW_DISK_BYTES:
        problems.append(f"only {free // 1024 // 1024} MiB free in {settings.data_path}")
    lags: Mapping[str, int] = {}
    try:
        lags = await _lags(stream, ledger)
        warnings += [
            f"{cursor} lags {lag:,} events" for cursor, lag in lags.items() if lag > settings.max_lag_events
        ]
        warnings += _refusing(await ledger.statuses())
    except MainstemError as error:
        # Whatever is broken, health says so in words.
        problems.append(f"{type(error).__name__}: {error}")
    gateways = [name for name in answers if name.startswith("gateway")]
    ready = any("error" not in answers[name] and not answers[name].get("problems") for name in gateways)
    return Health(
        healthy=not problems,
        ready=ready,
        problems=problems,
        details={
            "warnings": warnings,
            "processes": {
                child.name: {"pid": child.pid, "restarts": child.restarts} for child in supervisor.children
            },
            "lag": lags,
            "disk_free_bytes": free,
        },
    )


def _refusing(statuses: Mapping[str, bytes]) -> list[str]:
    """Return, in words, which destinations do not take events."""
    found = []
    for name, raw in statuses.items():
        with contextlib.suppress(msgspec.DecodeError):
            status = msgspec.json.decode(raw)
            if status.get("breaker", "closed") != "closed":
                found.append(f"{name} does not take events: {status.get('last_error', '')}")
    return found


async def _lags(stream: Stream, ledger: Ledger) -> Mapping[str, int]:
    bounds = await stream.bounds()
    return {
        cursor: sum(max(0, bounds[part].next - at.next_offset) for part, at in positions.items())
        for cursor, positions in (await ledger.cursors()).items()
        if is_flow(cursor) and not is_replay(cursor)
    }
