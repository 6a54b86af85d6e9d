"""The published Python SDKs, unmodified, each in a virtual environment of its own.

Their pins conflict with ours, and one of the family ships modules that would shadow another's.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.components.install import PINS, python_environment

SEGMENT = "segment-analytics-python"
RUDDER = "rudder-sdk-python"
FRAMEWORKS = "web-frameworks"


@dataclass(frozen=True, kw_only=True)
class PythonSdks:
    """The interpreters that can import each SDK, and the web frameworks that SDKs are used in."""

    segment: Path
    rudder: Path
    frameworks: Path
    """Django and Flask, which our own SDK has middleware for."""


def install() -> PythonSdks:
    """The interpreters.

    Raises:
        ComponentMissing: PyPI could not be reached.
    """
    segment, rudder, frameworks = (
        python_environment(name, PINS / f"{name}.txt") / "bin" / "python"
        for name in (SEGMENT, RUDDER, FRAMEWORKS)
    )
    return PythonSdks(segment=segment, rudder=rudder, frameworks=frameworks)
