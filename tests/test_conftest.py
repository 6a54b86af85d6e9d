"""A missing component is never silent: it fails where required, and is listed loudly elsewhere."""

import os
import subprocess
import sys

from tests.components.install import REPOSITORY


def _run_browser_tests_without_a_browser(**env: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"CI", "TEST_REQUIRE_COMPONENTS"} and "XDIST" not in name
    }
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider"),
            *("tests/components/test_chromium.py",),
        ],
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
    for name in ("CI", "TEST_REQUIRE_COMPONENTS"):
        run = _run_browser_tests_without_a_browser(**{name: "true"})
        assert run.returncode == 1, run.stdout
        assert "COMPONENT MISSING: chromium: no browser at /nowhere/chromium" in run.stdout
