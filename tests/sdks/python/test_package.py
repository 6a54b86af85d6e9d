"""The distribution: it builds, works where nothing else is installed, on every Python it names, and is typed."""

import inspect
import os
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

import mainstem_analytics
from mainstem_analytics import Client
from mainstem_analytics.version import VERSION
from tests.components.install import REPOSITORY, UV, absent
from tests.sdks.python.collector import Collector

PROJECT = REPOSITORY / "sdks" / "python"
PROGRAM = """
import sys
import mainstem_analytics as analytics
analytics.write_key, analytics.host, analytics.store_dir = "key", sys.argv[1], sys.argv[2]
analytics.track("u", "From " + sys.version.split()[0], {"set": {1}})
assert analytics.flush(20), analytics.status()
analytics.shutdown()
import mainstem_analytics.integrations.asgi
print(analytics.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, by way of the source distribution, as it is published."""
    out = tmp_path_factory.mktemp("dist")
    if not UV.exists():
        absent("uv: run `make .venv/.test`")
    done = subprocess.run(
        [UV, "build", "--python", sys.executable, "--out-dir", out, PROJECT],
        capture_output=True,
        text=True,
        check=False,
    )
    if "error sending request" in done.stderr or "Could not connect" in done.stderr:
        absent("hatchling could not be fetched: make PyPI reachable")
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_its_types_and_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name == f"mainstem_analytics-{VERSION}-py3-none-any.whl"
    assert "mainstem_analytics/py.typed" in names
    assert f"mainstem_analytics-{VERSION}.dist-info/licenses/LICENSE" in names
    assert {name.split("/")[0] for name in names} == {
        "mainstem_analytics",
        f"mainstem_analytics-{VERSION}.dist-info",
    }


def test_the_version_is_one_and_nothing_is_needed() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert project["dependencies"] == []
    assert (PROJECT / "LICENSE").read_bytes() == (REPOSITORY / "LICENSE").read_bytes()


def test_every_setting_is_in_the_readme_and_in_the_module() -> None:
    readme = (PROJECT / "README.md").read_text()
    names = set(inspect.signature(Client).parameters) - {"of_others"}
    assert [name for name in names if f"`{name}`" not in readme] == []
    module_names = {name for name in names if not hasattr(mainstem_analytics, name)}
    assert module_names == {"thread"}


def test_the_types_accept_good_calls_and_refuse_bad_ones(tmp_path: Path) -> None:
    """Of the module as of the client, for whoever checks strictly."""
    sample = tmp_path / "sample.py"
    sample.write_text(
        textwrap.dedent(
            """
            from datetime import datetime
            import mainstem_analytics as analytics

            analytics.write_key = "key"
            client = analytics.Client("key", durability="call")
            taken: bool = analytics.track("u", "E", {"n": 1}, timestamp=datetime.now())[0]
            same: bool = client.track("u", "E", {"n": 1}, timestamp=datetime.now())[0]
            analytics.identify(user_id=7, traits={"plan": "pro"})
            waiting: int = analytics.status().stored
            sent: bool = analytics.flush(timeout=2.0)
            analytics.track("u", 5)  # type: ignore[arg-type]
            analytics.track("u", "E", property={})  # type: ignore[call-arg]
            analytics.flush("soon")  # type: ignore[arg-type]
            client.track("u", 5)  # type: ignore[arg-type]
            analytics.Client("key", durability="never")  # type: ignore[arg-type]
            with analytics.bound({"page": {"path": "/"}}, user_id="u"):
                analytics.page()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", sample],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_imports_nothing_of_the_server() -> None:
    for file in (PROJECT / "src").rglob("*.py"):
        lines = file.read_text().splitlines()
        assert not [
            line
            for line in lines
            if line.strip().startswith(("import mainstem ", "from mainstem ", "from mainstem."))
        ]


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
def test_it_works_in_a_fresh_environment(
    version: str, wheel: Path, collector: Collector, tmp_path: Path
) -> None:
    made = subprocess.run(
        [UV, "venv", "--no-python-downloads", "--python", version, tmp_path / "env"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip(f"there is no Python {version} on this machine")
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([UV, "pip", "install", "--quiet", "--offline", "--python", python, wheel], check=True)
    done = subprocess.run(
        [python, "-W", "error", "-c", PROGRAM, collector.url, tmp_path / "store"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert str(tmp_path / "env") in done.stdout
    (event,) = collector.arrived
    assert event["event"].startswith(f"From {version}.")
    assert event["properties"] == {"set": [1]}
