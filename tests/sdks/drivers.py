"""Every SDK driver under one name: `await send("rudder-node", plan, ...)`.

Server-side SDKs run as processes of their own (`python -m tests.sdks.*`, `node *.mjs`), browser SDKs in
Chromium. All are the published packages, unmodified.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from tests.components.install import REPOSITORY
from tests.components.node_sdks import NodeSdks
from tests.components.python_sdks import PythonSdks
from tests.sdks.plan import Plan, Sent, parse_sent

NODE_DRIVERS: Final = {
    "segment-node": "segment_node.mjs",
    "rudder-node": "rudder_node.mjs",
}
PYTHON_DRIVERS: Final = ("segment-python", "rudder-python")

_TIMEOUT_S = 90.0


class DriverFailed(Exception):
    """An SDK driver ended badly: the SDK gave up on events, or could not start."""


async def send_with_python(name: str, plan: Plan, sdks: PythonSdks) -> list[Sent]:
    """Send the plan with one of `PYTHON_DRIVERS`; returns what the SDK says it has sent."""
    modules = {
        "segment-python": (sdks.segment, "tests.sdks.segment_python"),
        "rudder-python": (sdks.rudder, "tests.sdks.rudder_python"),
    }
    python, module = modules[name]
    return await _run(name, [str(python), "-m", module], plan)


async def send_with_node(name: str, plan: Plan, sdks: NodeSdks) -> list[Sent]:
    """Send the plan with one of `NODE_DRIVERS`; returns what the SDK says it has sent."""
    return await _run(name, sdks.command(NODE_DRIVERS[name]), plan)


async def _run(name: str, argv: Sequence[str], plan: Plan) -> list[Sent]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, errors = await process.communicate(msgspec.json.encode(plan))
    except TimeoutError as error:
        raise DriverFailed(f"{name} did not finish within {_TIMEOUT_S} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise DriverFailed(
            f"{name} ended with status {process.returncode}:\n{errors.decode(errors='replace')}"
        )
    return parse_sent(out.decode().splitlines())
