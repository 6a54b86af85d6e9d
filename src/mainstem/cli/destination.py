"""`mainstem destination list | show | new | test | verify`: what events can be sent to, and whether it works."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mainstem.cli.options import DataDir, Set, SettingsFile, WorkspacePath, read_settings
from mainstem.clock import SystemClock
from mainstem.destinations import catalog
from mainstem.destinations.base import DestinationSpec
from mainstem.destinations.cases import CaseResult, read_cases, run_case, written
from mainstem.destinations.reference import page
from mainstem.destinations.scaffold import scaffold
from mainstem.errors import SettingsError
from mainstem.roles.rooms import open_the_workspace
from mainstem.roles.verify import Step, verify
from mainstem.settings import Settings

AsJson = Annotated[bool, Parameter(name="--json", help="One JSON object a line.", negative=())]
TypeName = Annotated[str, Parameter(help="The destination type; case does not matter.")]

_STYLES = {"ok": "green", "warning": "yellow", "error": "red", "skipped": "dim"}


def register(app: App) -> None:
    """Add the commands."""
    group = App(name="destination", help="What events can be sent to, and whether it works.")
    app.command(group)

    @group.command(name="list")
    def list_(*, json: AsJson = False) -> None:
        """Show every destination type, what it takes, and what proves that it took an event."""
        specs = [spec for name in catalog.names() if (spec := catalog.find_spec(name)) is not None]
        if json:
            for spec in specs:
                _line(_described(spec))
            return
        table = Table("type", "", "takes", "batches", "proof", box=None, pad_edge=False)
        for spec in specs:
            batches = str(spec.default_max_batch) if spec.batcher is not None else "-"
            proof = spec.proof if spec.kind == "http" else "acknowledged"
            table.add_row(
                spec.name.lower(), spec.title, ", ".join(sorted(spec.message_types)), batches, proof
            )
        Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)

    @group.command
    def show(name: TypeName, *, json: AsJson = False) -> None:
        """Show a type's reference: settings, mapping, limits."""
        spec = _spec(name)
        if json:
            _line(_described(spec))
        else:
            sys.stdout.write(page(spec))

    @group.command
    def new(
        name: Annotated[str, Parameter(help="Name of the type: letters, digits and _.")],
        *,
        folder: Annotated[Path, Parameter(help="Where to make the package.")] = Path(),
    ) -> None:
        """Make a Python package with a destination type of your own, its cases and its entry point."""
        for path in scaffold(folder, name):
            print(path)
        print(f"Now: pip install -e {folder / name.lower()} and mainstem destination test {name} CASES")

    @group.command
    def test(
        name: TypeName,
        cases: Annotated[Path, Parameter(help="A JSON file with a list of cases.")],
        *,
        write: Annotated[
            bool,
            Parameter(help="Write what came out into the file, to be read before it is kept.", negative=()),
        ] = False,
        json: AsJson = False,
    ) -> int:
        """Run cases of a type, an event and what exactly is sent, and show what differs.

        Each request is also checked against the vendor's documentation, where the type states a schema. Exits with 1
        when a case fails.
        """
        spec, given = _spec(name), read_cases(cases)
        results = [run_case(spec, case) for case in given]
        if write:
            cases.write_text(written(given, results), "utf-8")
        _show_results(results, json=json)
        return 0 if all(result.passed or (write and not result.problem) for result in results) else 1

    @group.command(name="verify")
    def verify_(
        destination: Annotated[str, Parameter(help="Its id in the workspace.")],
        *,
        event: Annotated[Path | None, Parameter(help="Send this event (JSON) in place of a canary.")] = None,
        send: Annotated[bool, Parameter(help="Send it; --no-send stops before that.")] = True,
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        settings: SettingsFile = None,
        more: Set = None,
        json: AsJson = False,
    ) -> int:
        """Send one canary event with the destination's settings, and say how each step went.

        The canary is a real event for the vendor, by user `mainstem-canary`; it is in no log and no books here.
        """
        known = read_settings(settings, more, quiet=True, workspace=workspace, data_dir=data_dir)
        message = _event(event) if event is not None else None
        return asyncio.run(_verify(known, destination, message, send=send, json=json))


async def _verify(settings: Settings, destination: str, message: Any, *, send: bool, json: bool) -> int:
    console = Console(highlight=False, soft_wrap=True)
    failed = False
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        source = await open_the_workspace(settings, clock, stack)
        workspace = await source.current()
        async for step in verify(settings, workspace, destination, clock, message=message, send=send):
            failed = failed or step.level == "error"
            if json:
                _line(msgspec.to_builtins(step))
            else:
                _show_step(console, step)
    return 1 if failed else 0


def _show_step(console: Console, step: Step) -> None:
    console.print(f"[{_STYLES[step.level]}]{step.level:8}[/]{step.what}: {escape(step.detail)}")


def _show_results(results: list[CaseResult], *, json: bool) -> None:
    if json:
        for result in results:
            _line({**msgspec.to_builtins(result), "passed": result.passed})
        return
    console = Console(highlight=False, soft_wrap=True)
    for result in results:
        word = "[green]ok  [/]" if result.passed else "[red]FAIL[/]"
        why = result.problem or str(result.outcome.get("invalid", ""))
        console.print(f"{word} {escape(result.name)}" + (f": {escape(why)}" if why else ""))
        for line in result.diff.splitlines():
            style = "green" if line.startswith("+") else "red" if line.startswith("-") else "dim"
            console.print(f"    {line}", markup=False, style=style)
    failed = sum(not result.passed for result in results)
    console.print(f"{len(results)} cases, {failed} failed")


def _spec(name: str) -> DestinationSpec:
    spec = catalog.find_spec(name)
    if spec is None:
        raise SettingsError(catalog.check_config(name, {}).errors[0][1])
    return spec


def _event(path: Path) -> dict[str, Any]:
    try:
        event = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"--event {path}: {error.strerror or error}") from None
    except msgspec.DecodeError as error:
        raise SettingsError(f"--event {path}: {error}") from None
    if not isinstance(event, dict):
        raise SettingsError(f"--event {path}: expected one event, a JSON object")
    return event


def _described(spec: DestinationSpec) -> dict[str, Any]:
    return {
        "type": spec.name.lower(),
        "title": spec.title,
        "kind": spec.kind,
        "messageTypes": sorted(spec.message_types),
        "maxBatch": spec.default_max_batch if spec.batcher is not None else 1,
        "oauth": spec.oauth is not None,
        "proof": spec.proof,
        "validates": spec.validation is not None,
        "limits": spec.limits,
        "docUrl": spec.doc_url,
    }


def _line(value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.flush()
