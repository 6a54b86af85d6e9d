"""The `mainstem` command: one file per command group, each a thin shell over `roles`.

Exit codes: 0 done; 1 it failed, in words on standard error; 2 the command line or a document is wrong.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Final

from cyclopts import App
from rich.console import Console

from mainstem.errors import MainstemError, SettingsError
from mainstem.workspace.errors import WorkspaceInvalid

COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "run": ("serve", "gateway", "worker", "doctor"),
    "inspect": ("explain", "tail", "books", "dry-run"),
    "move": ("redrive", "replay"),
    "workspace": ("workspace",),
    "destination": ("destination",),
    "warehouse": ("warehouse",),
    "transformation": ("transformation",),
}
"""The first words of command lines, by the module of this folder that has them."""


def make_app(command: str = "") -> App:
    """Return the command line application.

    Args:
        command: the first word of a command line: only its module is imported, as all of them take longer to import
            than most commands take. If it is no command, the application is whole.
    """
    app = App(
        name="mainstem",
        help="Customer data infrastructure you run yourself.",
        version_flags=["--version"],
    )
    modules = [module for module, commands in COMMANDS.items() if command in commands] or COMMANDS
    for module in modules:
        import_module(f"{__name__}.{module}").register(app)
    return app


def main() -> None:
    """Run the command line."""
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        result = make_app(*sys.argv[1:2])(sys.argv[1:], result_action="return_value")
    except WorkspaceInvalid as error:
        err.print(f"mainstem: {error.origin} is not a workspace that can be used:", markup=False)
        for problem in error.problems:
            err.print(f"  {problem.severity}: {problem}", markup=False)
        sys.exit(2)
    except SettingsError as error:
        err.print(f"mainstem: {error}", markup=False)
        sys.exit(2)
    except MainstemError as error:
        err.print(f"mainstem: {error}", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)
