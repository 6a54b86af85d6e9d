"""What a command imports: itself, not the whole product."""

import subprocess
import sys
from importlib import import_module

import pytest
from cyclopts import App

from mainstem.cli import COMMANDS, make_app


@pytest.mark.parametrize("module", COMMANDS)
def test_commands_are_found_where_they_are_said_to_be(module: str) -> None:
    app = App(version_flags=(), help_flags=())
    import_module(f"mainstem.cli.{module}").register(app)
    assert tuple(app) == COMMANDS[module]


def test_what_is_no_command_has_the_whole_application_to_be_looked_up_in() -> None:
    everything = {command for commands in COMMANDS.values() for command in commands}
    for word in ("", "--help", "warehosue"):
        assert everything <= set(make_app(word))
    assert "serve" not in make_app("warehouse")


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("warehouse", ["mainstem.roles.serve", "mainstem.stream", "duckdb", "redis"]),
        ("books", ["mainstem.roles.serve", "redis"]),
        ("serve", ["redis", "duckdb", "pyarrow"]),
    ],
)
def test_a_command_starts_without_what_it_does_not_need(command: str, without: list[str]) -> None:
    program = (
        "import sys; from mainstem.cli import make_app; make_app(sys.argv[1]);"
        "print([name for name in sys.argv[2:] if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, command, *without],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"
