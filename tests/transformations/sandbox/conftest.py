"""A runtime with real processes, ended with the test."""

from collections.abc import AsyncIterator

import pytest

from mainstem.transformations.sandbox.runtime import SandboxRuntime


@pytest.fixture
async def runtime() -> AsyncIterator[SandboxRuntime]:
    runtime = SandboxRuntime()
    yield runtime
    await runtime.close()
