"""The published Python SDKs, unmodified, each in a virtual environment of its own.

Their pins conflict with ours, and one of the family ships modules that would shadow another's.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.components.install import PINS, python_environment

SEGMENT = "segment-analytics-python"
RUDDER = "rudder-sdk-python"


@dataclass(frozen=True, kw_only=True)
class PythonSdks:
    """The interpreters that can import each SDK."""

    segment: Path
    rudder: Path


def install() -> PythonSdks:
    """Both interpreters.

    Raises:
        ComponentMissing: PyPI could not be reached.
    """
    segment, rudder = (
        python_environment(name, PINS / f"{name}.txt") / "bin" / "python" for name in (SEGMENT, RUDDER)
    )
    return PythonSdks(segment=segment, rudder=rudder)
