"""Sends all six calls with the unmodified segment-analytics-python: plan on stdin, sent calls on stdout.

Run as `python -m tests.sdks.segment_python` in the SDK's own virtual environment.
"""

from typing import Any

from segment.analytics.client import Client  # type: ignore[import-not-found]

from tests.sdks.python_calls import run


def make_client(plan: dict[str, Any], on_error: object) -> Any:
    """The SDK's client, with its defaults."""
    return Client(plan["writeKey"], host=plan["endpoint"], on_error=on_error)


if __name__ == "__main__":
    run(make_client)
