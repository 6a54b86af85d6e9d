"""The `mainstem` command: one file per command group, each a thin shell over `roles`.

Exit codes: 0 done; 1 it failed, in words on standard error; 2 the command line or a document is wrong.
"""

import sys

from cyclopts import App
from rich.console import Console

from mainstem.cli import destination, inspect, move, run, transformation, warehouse, workspace
from mainstem.errors import MainstemError, SettingsError
from mainstem.workspace.errors import WorkspaceInvalid


def make_app() -> App:
    """Return the command line application."""
    app = App(
        name="mainstem",
        help="Customer data infrastructure you run yourself.",
        version_flags=["--version"],
    )
    for group in (run, inspect, move, workspace, destination, warehouse, transformation):
        group.register(app)
    return app


def main() -> None:
    """Run the command line."""
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        result = make_app()(sys.argv[1:], result_action="return_value")
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
