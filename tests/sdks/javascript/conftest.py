"""The SDK, built once a run."""

from pathlib import Path

import pytest

from tests.components.javascript_sdk import JavascriptSdk

UNIT = Path(__file__).parent / "unit"


@pytest.fixture(scope="session")
def built(javascript_sdk_tools: JavascriptSdk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that ships, built now, with the parts that tests look into."""
    output = tmp_path_factory.mktemp("sdk")
    javascript_sdk_tools.build(output)
    parts = output / "internals.mjs"
    javascript_sdk_tools.bundle(UNIT / "internals.ts", parts, "--platform=node", "--format=esm")
    return output
