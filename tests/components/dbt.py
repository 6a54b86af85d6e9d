"""dbt with its DuckDB adapter, in an environment of its own: its dependencies are none of ours.

dbt-core stays at 1.11, the last release line whose wheels hold all of it: 1.12 fetches a part of itself from elsewhere
while it is installed.
"""

from pathlib import Path

from tests.components.install import PINS, python_environment

COMPONENT = "dbt"


def install() -> Path:
    """The interpreter that has dbt.

    Raises:
        ComponentMissing: PyPI could not be reached.
    """
    return python_environment(COMPONENT, PINS / f"{COMPONENT}.txt") / "bin" / "python"
