"""Runs in the interpreter that has dbt: several commands in one process, as starting it takes longer than most of them.

    python dbt_driver.py plan.json answers.json

The plan is a list of `{"dbt": [arguments]}`, `{"copy": [from, to]}` and `{"sql": [database, schema, script]}`; the
answers say of each dbt command whether it succeeded, and of each node what came of it. Nothing may reach for the
network: what tries ends the run.
"""

import gc
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_REACHED_FOR_THE_NETWORK = 3


def _no_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _NETWORK:
        os.write(2, f"dbt reached for the network: {event} {arguments[1:]}\n".encode())
        os._exit(_REACHED_FOR_THE_NETWORK)


def main(plan: Path, answers: Path) -> None:
    """Do what the plan says, in order."""
    sys.addaudithook(_no_network)
    import duckdb
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager  # type: ignore[import-not-found]
    from dbt.cli.main import dbtRunner  # type: ignore[import-not-found]

    told: list[dict[str, Any]] = []
    for step in json.loads(plan.read_text()):
        # The adapter keeps its files open between commands.
        DuckDBConnectionManager.close_all_connections()
        gc.collect()
        if "copy" in step:
            shutil.copyfile(*step["copy"])
            continue
        if "sql" in step:
            database, schema, script = step["sql"]
            with duckdb.connect(database) as connection:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; USE {schema}")
                connection.execute(Path(script).read_text())
            continue
        done = dbtRunner().invoke(step["dbt"])
        results = getattr(done.result, "results", None) or []
        told.append(
            {
                "success": done.success,
                "error": str(done.exception or ""),
                "nodes": {
                    node.node.unique_id: [str(node.status), str(getattr(node, "message", "") or "")]
                    for node in results
                },
            }
        )
    answers.write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
