"""`mainstem transformation new | test | publish | list`: what changes events, written and tried before it runs."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mainstem.cli.options import Set, SettingsFile, WorkspacePath, read_settings
from mainstem.clock import SystemClock
from mainstem.errors import SettingsError
from mainstem.roles.transformation_bench import Owned, open_run, owned
from mainstem.settings import Settings, environment
from mainstem.transformations.cases import (
    Case,
    Coverage,
    Shown,
    Verdict,
    coverage,
    read_cases,
    read_lines,
    run_cases,
    show_events,
)
from mainstem.transformations.folder import ROOT, Draft, draft_transformation, open_draft, scaffold
from mainstem.transformations.publish import publish as publish_draft
from mainstem.transformations.ready import catalog

Folder = Annotated[Path, Parameter(help="Folder of all transformations, beside the workspace file.")]
AsJson = Annotated[bool, Parameter(name="--json", help="One JSON object a line.", negative=())]


def register(app: App) -> None:
    """Add the commands."""
    group = App(name="transformation", help="Write, test and publish what changes events.")
    app.command(group)

    @group.command
    def new(
        name: Annotated[str, Parameter(help="Its name.")],
        *,
        language: Annotated[Literal["javascript", "python"], Parameter(help="Of the code.")] = "javascript",
        ready: Annotated[str, Parameter(help="A ready-made transformation, in place of code.")] = "",
        folder: Folder = Path(ROOT),
    ) -> None:
        """Make a transformation with cases that pass: a place to begin.

        `mainstem transformation list` tells which ready-made ones there are.
        """
        try:
            made = scaffold(folder, name, "ready" if ready else language, ready)
        except OSError as error:
            raise SettingsError(f"{folder / name}: {error.strerror or error}") from None
        for path in made:
            print(path)
        print(f"Now: mainstem transformation test {name}")

    @group.command
    def test(
        what: Annotated[str, Parameter(help="Its name, its folder, or a file of code.")],
        *,
        events: Annotated[
            Path | None, Parameter(help="Also run these events, one JSON object a line.")
        ] = None,
        folder: Folder = Path(ROOT),
        settings: SettingsFile = None,
        more: Set = None,
        json: AsJson = False,
    ) -> int:
        """Run the cases kept beside a transformation, and show what differs; with events, what becomes of each.

        Exits with 1 when a case or an event fails.
        """
        known = read_settings(settings, more, quiet=True)
        draft = open_draft(_place(folder, what))
        tell: _Words | _Lines = _Lines() if json else _Words()
        return asyncio.run(_test(known, draft, events, tell))

    @group.command
    def publish(
        name: Annotated[str, Parameter(help="Its name or its folder.")],
        *,
        folder: Folder = Path(ROOT),
        settings: SettingsFile = None,
        more: Set = None,
    ) -> int:
        """Run the cases and, if all pass, keep the transformation as its next version, which never changes.

        A workspace that names the transformation without a version runs it within seconds.
        """
        known = read_settings(settings, more, quiet=True)
        place = _place(folder, name)
        if place.is_file():
            raise SettingsError(
                f"{place}: is a file; what is published has a folder: {place.parent}/NAME/{place.name}"
            )
        return asyncio.run(_publish(known, open_draft(place)))

    @group.command(name="list")
    def list_(
        *,
        folder: Folder = Path(ROOT),
        workspace: WorkspacePath = None,
        settings: SettingsFile = None,
        more: Set = None,
        json: AsJson = False,
    ) -> None:
        """Show the transformations there are, their versions, and who uses them; then the ready-made ones."""
        known = read_settings(settings, more, quiet=True, workspace=workspace)
        found = asyncio.run(owned(known, folder, environment(), asked=workspace is not None))
        if json:
            for each in found:
                _line(each)
            for name in catalog.names():
                _line({"ready": name, "title": _title(name)})
        else:
            _show_list(found)


def _place(folder: Path, what: str) -> Path:
    """Return the path of what a user names: a path that is there, else a name in the folder."""
    given = Path(what)
    return given if "/" in what or given.suffix in (".js", ".py") else folder / what


async def _test(settings: Settings, draft: Draft, events: Path | None, tell: "_Words | _Lines") -> int:
    cases = read_cases(draft)
    lines = read_lines(events) if events is not None else []
    if not cases and events is None:
        raise SettingsError(
            f"{draft.name} has no cases; write one into {draft.folder / 'cases'}, or give --events"
        )
    verdicts: list[Verdict] = []
    shown: list[Shown] = []
    async with AsyncExitStack() as stack:
        run = open_run(settings, stack, draft)
        async for verdict in run_cases(draft, cases, run, environment()):
            verdicts.append(verdict)
            tell.verdict(verdict)
        if lines:
            transformation = draft_transformation(draft, environment())
            async for each in show_events(transformation, lines, run):
                shown.append(each)
                tell.shown(each)
    tell.end(cases, verdicts, shown, coverage(cases, verdicts, shown))
    good = all(verdict.passed for verdict in verdicts) and all(each.outcome != "failed" for each in shown)
    return 0 if good else 1


async def _publish(settings: Settings, draft: Draft) -> int:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        run = open_run(settings, stack, draft)
        done = await publish_draft(draft, run, environment(), clock, _Words().verdict)
    if done.new:
        print(f"{draft.name}@{done.version} is published; {done.cases} cases passed")
    else:
        print(f"{draft.name}: nothing to publish, version {done.version} is the same")
    return 0


# ---------------------------------------------------------------- for people


class _Words:
    """Says what happens as it happens."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def verdict(self, verdict: Verdict) -> None:
        if verdict.passed:
            self._console.print(f"[green]ok  [/] {escape(verdict.name)}")
        else:
            self._console.print(f"[red]FAIL[/] {escape(verdict.name)}: {escape(verdict.problem)}")
            self._diff(verdict.diff)
            self._logs(verdict.logs)

    def shown(self, each: Shown) -> None:
        words = "unchanged" if each.outcome == "kept" and not each.diff else each.outcome
        style = {"failed": "red", "dropped": "yellow", "unchanged": "dim"}.get(words, "bold")
        self._console.print(f"{each.line}: {escape(each.label)}: [{style}]{words}[/]", end="")
        self._console.print(f": {each.reason}" if each.reason else "", markup=False)
        if each.outcome in ("kept", "expanded"):
            self._diff(each.diff)
        self._logs(each.logs)

    def end(
        self, cases: Sequence[Case], verdicts: Sequence[Verdict], shown: Sequence[Shown], covered: Coverage
    ) -> None:
        failed = sum(not verdict.passed for verdict in verdicts)
        said = [f"{len(verdicts)} cases, {failed} failed"] if cases else ["no cases"]
        if shown:
            said.append(f"{len(shown)} events, {sum(each.outcome == 'failed' for each in shown)} failed")
        self._console.print("; ".join(said), markup=False)
        if covered.outcomes:
            told = ", ".join(f"{outcome} {count}" for outcome, count in sorted(covered.outcomes.items()))
            self._console.print(f"The cases show: {told}; of {', '.join(covered.labels)}", markup=False)
        for outcome, count in covered.uncovered_outcomes.items():
            self._console.print(f"No case shows an event {outcome}; {count} events were", markup=False)
        if covered.uncovered_labels:
            told = ", ".join(
                f"{label} ({count})" for label, count in list(covered.uncovered_labels.items())[:20]
            )
            self._console.print(f"No case has: {told}", markup=False)

    def _diff(self, diff: str) -> None:
        for line in diff.splitlines():
            style = "green" if line.startswith("+") else "red" if line.startswith("-") else "dim"
            self._console.print(f"    {line}", markup=False, style=style)

    def _logs(self, logs: Sequence[str]) -> None:
        for line in logs:
            self._console.print(f"    log: {line}", markup=False)


class _Lines:
    """The same for machines."""

    def verdict(self, verdict: Verdict) -> None:
        _line({"kind": "case", **msgspec.to_builtins(verdict)})

    def shown(self, each: Shown) -> None:
        _line({"kind": "event", **msgspec.to_builtins(each)})

    def end(
        self, cases: Sequence[Case], verdicts: Sequence[Verdict], shown: Sequence[Shown], covered: Coverage
    ) -> None:
        _line({"kind": "coverage", **msgspec.to_builtins(covered)})


def _line(value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.flush()


def _show_list(found: Sequence[Owned]) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if found:
        table = Table("transformation", "kind", "versions", "draft", "used by", box=None, pad_edge=False)
        for each in found:
            versions = ", ".join(each.versions) or "-"
            table.add_row(each.name, each.kind, versions, each.draft, ", ".join(each.used_by) or "-")
        console.print(table)
        console.print()
    table = Table("ready-made", "", box=None, pad_edge=False)
    for name in catalog.names():
        table.add_row(name, _title(name))
    console.print(table)


def _title(name: str) -> str:
    spec = catalog.find_spec(name)
    return spec.title if spec is not None else ""
