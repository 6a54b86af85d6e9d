"""The open vectors of warehouses, answered by the product and scored: rows by provider, and single functions."""

import json
from collections.abc import Mapping

import pytest

from mainstem.testing.conformance.warehouse import columns_in
from tests.conformance.run import VECTORS, Line, run_warehouses, there, warehouses_there

_LEAST = 0.98
_PROVIDERS = (
    *("postgres", "rs", "bq", "snowflake", "snowpipe_streaming", "clickhouse", "mssql", "azure_synapse"),
    *("deltalake", "s3_datalake", "gcs_datalake", "azure_datalake"),
)
_IMPOSSIBLE = "should coerce `string` to a string"
"""An object that JavaScript calls a function of; there is no such thing in JSON."""


@pytest.fixture(scope="module")
def results() -> Mapping[tuple[str, str], Line]:
    if not there():
        pytest.skip(f"CONFORMANCE VECTORS ABSENT: no {VECTORS}; rows are not compared with RudderStack's")
    return run_warehouses(warehouses_there())


@pytest.mark.parametrize("provider", _PROVIDERS)
def test_rows_are_rudderstacks(provider: str, results: Mapping[tuple[str, str], Line]) -> None:
    line = results[provider, "warehouse"]
    assert line.total >= 100
    assert line.passed >= _LEAST * line.total, line.failures


def test_functions_answer_as_rudderstacks_do(results: Mapping[tuple[str, str], Line]) -> None:
    lines = [line for (name, _), line in results.items() if name.startswith("unit_")]
    assert sum(line.total for line in lines) >= 400
    failures = [failure for line in lines for failure in line.failures if _IMPOSSIBLE not in failure[1]]
    assert failures == []


def test_columns_that_a_function_sets_are_those_that_rudderstacks_sets() -> None:
    path = VECTORS / "open" / "warehouse" / "unit_index_setDataFromInputAndComputeColumnTypes.json"
    if not path.exists():
        pytest.skip(f"CONFORMANCE VECTORS ABSENT: no {path}")
    for vector in json.loads(path.read_bytes()):
        data, columns = columns_in(vector)
        assert data == vector["args_after"][2], vector["id"]
        assert columns == vector["args_after"][4], vector["id"]
