"""A missing component is never silent: it fails where required, and is listed loudly elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

from tests.components.install import REPOSITORY

# What the runs below do not need: a cache of their own, and a plugin that takes a second to load.
_BARE = ("-n", "0", "-p", "no:cacheprovider", "-p", "no:schemathesis")


def _run_browser_tests_without_a_browser(**env: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"CI", "TEST_REQUIRE_COMPONENTS"} and "XDIST" not in name
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", *_BARE, "tests/components/test_chromium.py"],
        cwd=REPOSITORY,
        env={**inherited, "TEST_CHROMIUM": "/nowhere/chromium", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_missing_component_is_skipped_and_listed_in_capitals() -> None:
    run = _run_browser_tests_without_a_browser()
    assert run.returncode == 0, run.stdout
    assert "1 skipped" in run.stdout
    assert "COMPONENTS MISSING, NOT EVERYTHING WAS TESTED" in run.stdout
    assert "CHROMIUM: TESTS SKIPPED: 1. no browser at /nowhere/chromium" in run.stdout
    assert "apt-get install chromium" in run.stdout


def test_a_missing_component_fails_where_it_is_required() -> None:
    run = _run_browser_tests_without_a_browser(CI="true")
    assert run.returncode == 1, run.stdout
    assert "COMPONENT MISSING: chromium: no browser at /nowhere/chromium" in run.stdout


def test_torture_waits_to_be_asked_for(tmp_path: Path) -> None:
    # Collected beside our own conftest, as any test of ours would be.
    module = (
        "import pytest\n\n@pytest.mark.torture\ndef test_long():\n    pass\n\ndef test_short():\n    pass\n"
    )
    (tmp_path / "test_torture_example.py").write_text(module)
    collect = [
        *(sys.executable, "-m", "pytest", *_BARE, "--collect-only", "-q"),
        *("-p", "tests.conftest", "--rootdir", str(REPOSITORY), "-c", str(REPOSITORY / "pyproject.toml")),
    ]

    def collected(*selection: str) -> str:
        return subprocess.run(
            [*collect, *selection, str(tmp_path)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout

    plain, asked = collected(), collected("-m", "torture")
    assert "test_short" in plain
    assert "test_long" not in plain
    assert "test_long" in asked
    assert "test_short" not in asked
