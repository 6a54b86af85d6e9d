"""`mainstem dry-run`: what would happen to these events, sending nothing. The same input gives the same bytes.

The events go through the very code of the gateway (validation, stamping) and of the workers (rules, mapping);
the clock and the messageIds of events that have none are fixed. User code runs in a sandbox as in a worker, but its
`fetch` reaches nothing.
"""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec

from mainstem.clock import SystemClock
from mainstem.destinations.catalog import find_spec
from mainstem.errors import SettingsError
from mainstem.events.canonical import parse_time_ms
from mainstem.events.stored import decode_stored, encode_stored
from mainstem.gateway.auth import KnownSource
from mainstem.gateway.ingest import Arrival, Intake
from mainstem.gateway.settings import GatewaySettings
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.explain import explain
from mainstem.pipeline.plan import DestinationPlan, compile_plan
from mainstem.pipeline.transform import Chains
from mainstem.roles.rooms import CHECKS, open_geo
from mainstem.roles.sandboxes import open_transformer, tools_of
from mainstem.settings import Settings, environment
from mainstem.workspace.beside import FolderBeside
from mainstem.workspace.model import Source, Workspace
from mainstem.workspace.parse import parse_workspace


class DryRunFailed(SettingsError):
    """The events or the choice of source or destination can't be used."""


async def dry_run(
    settings: Settings, events: Path, source_id: str, destination_id: str, now: str, out: BinaryIO
) -> None:
    """Write one JSON line for each event and destination.

    Args:
        now: when the events are received, ISO 8601.

    Raises:
        DryRunFailed: see its text.
        WorkspaceInvalid: the document is wrong.
        SandboxUnavailable: there is user code, and it can't run here.
    """
    now_ms = parse_time_ms(now)
    if now_ms is None:
        raise SettingsError(f"--now {now}: not an ISO 8601 time")
    workspace = _workspace(Path(settings.workspace_location))
    async with AsyncExitStack() as stack:
        geo = open_geo(settings, stack)
        plans = _plans(workspace, destination_id, Chains(workspace, tools_of(geo)))
        transformer = open_transformer(settings, SystemClock(), geo, stack)
        decoder = Decoder(workspace.sources, geo)
        intake = Intake(
            KnownSource(_source(workspace, source_id), allowance=0),
            Arrival(received_at_ms=now_ms, request_ip=""),
            GatewaySettings(),
        )
        lines = _lines(events)
        for _, line in lines:
            intake.take(line)
        for (number, _), record in zip(lines, intake.records, strict=True):
            stored = decode_stored(record.value)
            if stored.message_id_made:
                stored = msgspec.structs.replace(stored, message_id=f"dry-run-{number}")
            _, event = decoder.decode(0, number, number, encode_stored(stored))
            async for explanation in explain(event, plans, transformer):
                out.write(msgspec.json.encode({"line": number, **msgspec.to_builtins(explanation)}) + b"\n")
    out.flush()


def _workspace(file: Path) -> Workspace:
    # Not through a workspace source: that keeps last good copies, and a dry run leaves nothing behind.
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DryRunFailed(f"--workspace {file}: {error.strerror or error}") from None
    beside = FolderBeside(file.parent)
    parsed = parse_workspace(data, origin=str(file), env=environment(), checks=CHECKS, beside=beside)
    return parsed.workspace


def _lines(events: Path) -> list[tuple[int, bytes]]:
    """Return the lines that hold something, each with its number in the file."""
    try:
        lines = events.read_bytes().split(b"\n")
        return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    except OSError as error:
        raise DryRunFailed(f"--events {events}: {error.strerror or error}") from None


def _source(workspace: Workspace, source_id: str) -> Source:
    if source_id:
        found = workspace.source(source_id)
        if found is None:
            known = ", ".join(source.id for source in workspace.sources)
            raise DryRunFailed(f"--source {source_id}: not in the workspace; there are {known or 'none'}")
        return found
    if len(workspace.sources) != 1:
        known = ", ".join(source.id for source in workspace.sources)
        raise DryRunFailed(
            f"which source sends the events? choose with --source: {known or 'there are none'}"
        )
    return workspace.sources[0]


def _plans(workspace: Workspace, destination_id: str, chains: Chains) -> list[DestinationPlan]:
    plans = []
    for destination in workspace.destinations:
        if destination_id and destination.id != destination_id:
            continue
        spec = find_spec(destination.type)
        if spec is not None:
            plans.append(compile_plan(workspace, destination, spec, chains))
    if destination_id and not plans:
        known = ", ".join(item.id for item in workspace.destinations)
        raise DryRunFailed(
            f"--destination {destination_id}: not in the workspace; there are {known or 'none'}"
        )
    return plans
