"""Fixtures for the real components, and what happens when one of them is missing.

Where `CI=true` or `TEST_REQUIRE_COMPONENTS=true` a missing component fails the tests that need it.
Elsewhere they are skipped, with a line that says what to install, and the run ends with a list of
everything that was therefore not tested. Never silently.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.components import (
    bigquery,
    chromium,
    databricks,
    dbt,
    fakesnow,
    javascript_sdk,
    kafka,
    mariadb,
    node_sdks,
    postgres,
    python_sdks,
    redis,
    s3,
)
from tests.components.install import ComponentMissing, required

T = TypeVar("T")
_MISSING = "COMPONENT MISSING: "
# Fixtures that need something real, and the xdist group that shares the heavy ones: one worker starts
# one broker, and two cores run one browser at a time.
_REAL: dict[str, str | None] = {
    "kafka_installed": "kafka",
    "chromium_path": "chromium",
    "s3_server": None,
    "redis_server": None,
    "postgres_server": None,
    "mariadb_server": None,
    "fakesnow_server": None,
    "bigquery_server": None,
    "databricks_server": None,
    "node_sdks": None,
    "python_sdks": None,
    "dbt_python": "dbt",
    "javascript_sdk_tools": None,
    "newer_node": None,
}


@pytest.fixture(scope="session")
def kafka_installed() -> Path:
    """The broker's jars: for tests that start, kill and restart a `KafkaBroker` of their own."""
    return _need(kafka.install)


@pytest.fixture(scope="session")
def kafka_broker(
    kafka_installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[kafka.KafkaBroker]:
    """A running Apache Kafka broker, shared by the worker's tests: use topics of your own."""
    with kafka.KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3Server]:
    """A running S3 endpoint, shared by the worker's tests: use buckets of your own."""
    _need(s3.install)
    with s3.S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.RedisServer]:
    """A running Redis server, shared by the worker's tests: use keys of your own."""
    _need(redis.install)
    with redis.RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    """A running PostgreSQL server, shared by the worker's tests: use schemas of your own."""
    _need(postgres.install)
    with postgres.PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[mariadb.MariadbServer]:
    """A running MariaDB server, shared by the worker's tests: use databases of your own."""
    _need(mariadb.install)
    with mariadb.MariadbServer() as server:
        yield server


@pytest.fixture(scope="session")
def fakesnow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fakesnow.FakesnowServer]:
    """A running emulator of Snowflake, shared by the worker's tests: use schemas of your own."""
    _need(fakesnow.install)
    with fakesnow.FakesnowServer(tmp_path_factory.mktemp("fakesnow")) as server:
        yield server


@pytest.fixture(scope="session")
def bigquery_server() -> Iterator[bigquery.BigqueryServer]:
    """A running server that speaks BigQuery's API, shared by the worker's tests: use datasets of your own."""
    with bigquery.BigqueryServer() as server:
        yield server


@pytest.fixture(scope="session")
def databricks_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[databricks.DatabricksServer]:
    """A running workspace that speaks as Databricks does, shared by the worker's tests: use schemas of your own."""
    with databricks.DatabricksServer(tmp_path_factory.mktemp("databricks")) as server:
        yield server


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """The browser's command."""
    return _need(chromium.install)


@pytest.fixture(scope="session", name="node_sdks")
def _node_sdks() -> node_sdks.NodeSdks:
    """Node.js with the published JavaScript SDKs."""
    return _need(node_sdks.install)


@pytest.fixture(scope="session")
def javascript_sdk_tools() -> javascript_sdk.JavascriptSdk:
    """What builds our own JavaScript SDK."""
    return _need(javascript_sdk.install)


@pytest.fixture(scope="session")
def newer_node() -> Path:
    """A Node.js that has `node:sqlite`."""
    return _need(node_sdks.node_from_wheel)


@pytest.fixture(scope="session", name="python_sdks")
def _python_sdks() -> python_sdks.PythonSdks:
    """The interpreters that hold the published Python SDKs."""
    return _need(python_sdks.install)


@pytest.fixture(scope="session")
def dbt_python() -> Path:
    """The interpreter that has dbt."""
    return _need(dbt.install)


def _need(install: Callable[[], T]) -> T:
    try:
        return install()
    except ComponentMissing as error:
        if required():
            pytest.fail(f"{_MISSING}{error}", pytrace=False)
        pytest.skip(f"{_MISSING}{error}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a real component, and leave torture to those who ask for it."""
    for item in items:
        wanted = [name for name in _REAL if name in getattr(item, "fixturenames", ())]
        if wanted:
            item.add_marker(pytest.mark.real)
        group = next(filter(None, map(_REAL.get, wanted)), None)
        if group is not None and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))
    if not config.option.markexpr:
        torture = [item for item in items if item.get_closest_marker("torture")]
        if torture:
            config.hook.pytest_deselected(items=torture)
            items[:] = [item for item in items if item not in torture]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the components that were missing, loudly, with the number of tests each one cost."""
    untested: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if _MISSING in reason:
            missing = reason.split(_MISSING, 1)[1]
            untested[missing] = untested.get(missing, 0) + 1
    if not untested:
        return
    terminalreporter.section("COMPONENTS MISSING, NOT EVERYTHING WAS TESTED", red=True, bold=True)
    for missing, count in untested.items():
        component, _, rest = missing.partition(": ")
        terminalreporter.write_line(f"{component.upper()}: TESTS SKIPPED: {count}. {rest}")
