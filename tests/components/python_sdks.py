"""The published Python SDKs, unmodified, each in a virtual environment of its own.

Their pins conflict with ours, and one of the family ships modules that would shadow another's.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.components.install import PINS, python_environment

SEGMENT = "segment-analytics-python"
RUDDER = "rudder-sdk-python"
FRAMEWORKS = "web-frameworks"
FASTAPI = "fastapi"
CELERY = "celery"


@dataclass(frozen=True, kw_only=True)
class PythonSdks:
    """The interpreters that can import each SDK, and the frameworks that SDKs are used in."""

    segment: Path
    rudder: Path
    frameworks: Path
    """Django and Flask, which our own SDK has middleware for, and gunicorn."""
    fastapi: Path
    """FastAPI and uvicorn, and gunicorn with uvicorn's worker."""
    celery: Path
    """Celery, with what it needs for a broker that is a Redis server."""


def install() -> PythonSdks:
    """The interpreters.

    Raises:
        ComponentMissing: PyPI could not be reached.
    """
    segment, rudder, frameworks, fastapi, celery = (
        python_environment(name, PINS / f"{name}.txt") / "bin" / "python"
        for name in (SEGMENT, RUDDER, FRAMEWORKS, FASTAPI, CELERY)
    )
    return PythonSdks(segment=segment, rudder=rudder, frameworks=frameworks, fastapi=fastapi, celery=celery)
