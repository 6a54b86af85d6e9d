"""`mainstem workspace check | import`: the document that says what is collected and where it goes."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from mainstem.errors import SettingsError
from mainstem.roles.workspace_check import check_workspace
from mainstem.settings import environment
from mainstem.workspace.export import export_yaml
from mainstem.workspace.yaml_file import format_document


def register(app: App) -> None:
    """Add the commands."""
    group = App(name="workspace", help="Check and convert workspace documents.")
    app.command(group)

    @group.command
    def check(
        file: Path,
        *,
        fix: Annotated[bool, Parameter(help="Rewrite it tidily; comments stay.", negative=())] = False,
    ) -> int:
        """Say everything that is wrong with a workspace document, with path and line."""
        result = asyncio.run(check_workspace(_read(file), str(file), environment()))
        console = Console(highlight=False, soft_wrap=True)
        for problem in result.problems:
            console.print(f"{problem.severity}: {problem}", markup=False)
        errors = sum(problem.severity == "error" for problem in result.problems)
        if errors:
            console.print(f"{file}: {errors} errors", markup=False)
            return 2
        assert result.workspace is not None  # noqa: S101 - no errors
        found = result.workspace
        console.print(
            f"{file}: good; {len(found.sources)} sources, {len(found.destinations)} destinations, "
            f"{len(found.connections)} connections, version {found.version}",
            markup=False,
        )
        if fix:
            text = _read(file).decode()
            tidy = format_document(text)
            if tidy != text:
                file.write_text(tidy, "utf-8")
                console.print(f"{file}: rewritten", markup=False)
        return 0

    @group.command(name="import")
    def import_(
        file: Path,
        *,
        output: Annotated[
            Path | None, Parameter(help="Where to write; standard output if not given.")
        ] = None,
    ) -> int:
        """Turn a RudderStack workspaceConfig.json into a workspace YAML.

        Secrets become references to environment variables, which are listed; their values are not written.
        """
        result = asyncio.run(check_workspace(_read(file), str(file), environment()))
        err = Console(stderr=True, highlight=False, soft_wrap=True)
        for problem in result.problems:
            err.print(f"{problem.severity}: {problem}", markup=False)
        if result.workspace is None:
            return 2
        text, variables = export_yaml(result.workspace)
        if output is None:
            sys.stdout.write(text)
        else:
            output.write_text(text, "utf-8")
        for name, where in variables.items():
            err.print(f"set {name} in the environment: {where}", markup=False)
        return 0


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror or error}") from None
