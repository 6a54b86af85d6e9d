"""`examples/sql/`, written from the models: `python -m tests.examples.plain_sql`.

dbt compiles the models over empty tables that have every column (`prepare.sql`, itself one of dbt's analyses). What
comes out is one query for each model, and here they become scripts: tables of this run are `models.<name>`, tables of
the warehouse have no namespace, so that the reader's search path says which.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb

from tests.components import dbt
from tests.components.install import REPOSITORY

PROJECT: Final = REPOSITORY / "examples" / "dbt"
SQL: Final = REPOSITORY / "examples" / "sql"
COMMAND: Final = "python -m tests.examples.plain_sql"
_DRIVER: Final = Path(__file__).with_name("dbt_driver.py")
_RUN_TIMEOUT_S: Final = 540
_IDENTITY: Final = ("events_loaded", "identity_links", "identity_ids", "identity", "identity_excluded")
_SESSIONS: Final = ("events", "sessions", "retention")
_FOLDERS: Final = {"events_loaded": "", "events": "sessions", "sessions": "sessions", "retention": "people"}

_HEADS: Final = {
    "prepare.sql": """\
-- Makes the tables and columns that the other two scripts read and that no event has made yet. The loader would make
-- them the same, so it goes on with them. All three, with the namespace of the tables as the search path:
--
--   cat prepare.sql identity.sql sessions.sql | duckdb -cmd 'USE web' warehouse.duckdb
--   psql -c 'SET search_path = web' -f prepare.sql -f identity.sql -f sessions.sql
""",
    "identity.sql": """\
-- Which ids are one person: models.identity, and models.identity_excluded for what was not linked and why. Makes
-- models.events_loaded too, every event of all tables once. Run prepare.sql before it.
""",
    "sessions.sql": """\
-- Events with their person and session (models.events), sessions (models.sessions), and weekly retention
-- (models.retention). Run identity.sql before it.
""",
}


class DbtFailed(Exception):
    """dbt ended without an answer; the message is the end of its output."""


def run_dbt(
    python: Path, folder: Path, steps: Sequence[Mapping[str, Sequence[str]]], *, warehouse: Path, models: Path
) -> list[dict[str, Any]]:
    """Run steps (see `dbt_driver`) on two DuckDB files; everything that dbt writes goes into a folder.

    Raises:
        DbtFailed: dbt ended before the last step, or reached for the network.
    """
    plan, answers = folder / "plan.json", folder / "answers.json"
    plan.write_text(json.dumps(steps))
    done = subprocess.run(
        [python, _DRIVER, plan, answers],
        cwd=PROJECT,
        env={
            **os.environ,
            "DBT_PROFILES_DIR": str(PROJECT),
            "DBT_TARGET_PATH": str(folder / "target"),
            "DBT_LOG_PATH": str(folder / "logs"),
            "WAREHOUSE_DUCKDB": str(warehouse),
            "MODELS_DUCKDB": str(models),
        },
        capture_output=True,
        text=True,
        timeout=_RUN_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise DbtFailed((done.stdout + done.stderr)[-4000:])
    told: list[dict[str, Any]] = json.loads(answers.read_text())
    return told


def scripts(python: Path, folder: Path) -> dict[str, str]:
    """The files of `examples/sql/` as the models would have them."""
    warehouse, models = folder / "warehouse.duckdb", folder / "models.duckdb"
    with duckdb.connect(str(warehouse)):
        pass  # an empty file: `prepare` asks it for nothing
    told = run_dbt(
        python,
        folder,
        [
            {"dbt": ["compile", "--select", "prepare", "--quiet"]},
            {"sql": [str(warehouse), "web", str(_path(folder, "analyses/prepare.sql"))]},
            {"dbt": ["compile", "--quiet"]},
        ],
        warehouse=warehouse,
        models=models,
    )
    if not all(answer["success"] for answer in told):
        raise DbtFailed(json.dumps(told, indent=1)[-4000:])
    prepare = _compiled(folder, "analyses/prepare.sql")
    made = {"prepare.sql": f"{_HEADS['prepare.sql']}\n{prepare}"}
    for name, tables in (("identity.sql", _IDENTITY), ("sessions.sql", _SESSIONS)):
        first = "CREATE SCHEMA IF NOT EXISTS models;\n\n" if tables is _IDENTITY else ""
        made[name] = f"{_HEADS[name]}\n{first}" + "\n".join(_table(folder, table) for table in tables)
    return made


def _path(folder: Path, path: str) -> Path:
    return folder / "target" / "compiled" / "mainstem" / path


def _compiled(folder: Path, path: str) -> str:
    text = _path(folder, path).read_text()
    lines = [line.rstrip() for line in text.strip().splitlines() if not line.startswith("-- depends_on")]
    kept = [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
    return "\n".join(kept) + "\n"


def _table(folder: Path, name: str) -> str:
    path = "/".join(part for part in ("models", _FOLDERS.get(name, "identity"), f"{name}.sql") if part)
    query = _compiled(folder, path).replace("__dbt__cte__", "")
    query = re.sub(r'"warehouse"\."web"\.("\w+")', r"\1", query)
    query = re.sub(r'"models"\."models"\."(\w+)"', r"models.\1", query)
    return f"DROP TABLE IF EXISTS models.{name};\nCREATE TABLE models.{name} AS\n{query};\n"


def main() -> None:
    """Write the files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in scripts(dbt.install(), Path(folder)).items():
            (SQL / name).write_text(text)


if __name__ == "__main__":
    main()
