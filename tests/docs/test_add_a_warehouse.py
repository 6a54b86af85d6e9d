"""docs/how-to/add-a-warehouse.md, done as it says, against a stand-in for Teradata's driver."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mainstem.secret import Secret
from mainstem.warehouse.loader import LoaderSpec, TableFailed, WarehouseError
from mainstem.warehouse.loaders import catalog
from mainstem.warehouse.rows import compile_rows, options_of
from mainstem.warehouse.schema import CreateTable
from mainstem.warehouse.writer import WarehouseWriter
from tests.cli.test_commands import run
from tests.docs.stand_ins import teradatasql
from tests.docs.test_docs import ROOT
from tests.warehouse.rig import Rig, identify, track

PAGE = ROOT / "docs" / "how-to" / "add-a-warehouse.md"
STAND_INS = Path(teradatasql.__file__).parent
MODULE = "teradata/src/teradata_for_mainstem/__init__.py"
CONTRACT = "teradata/tests/test_contract.py"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as the page makes it, installed there."""
    folder = tmp_path_factory.mktemp("page")
    [project] = _blocks("toml")
    *module, contract = _blocks("python")
    for path, text in {
        "teradata/pyproject.toml": project,
        MODULE: "\n\n".join(module),
        CONTRACT: contract,
    }.items():
        assert f"`{path}`" in PAGE.read_text(), "the page says where it is"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    # What `pip install -e` would leave: metadata with the entry points, beside the package on the path.
    described = tomllib.loads(project)["project"]
    metadata = folder / "teradata" / "src" / "teradata_for_mainstem-0.1.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: {described['version']}\n"
    )
    metadata.joinpath("entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "\n".join(f"{name} = {place}" for name, place in points.items())
            for group, points in described["entry-points"].items()
        )
    )
    return folder


def _path(folder: Path) -> str:
    """Where Python finds the package, and the stand-in in place of the driver."""
    return os.pathsep.join([str(folder / "teradata" / "src"), str(STAND_INS)])


def _contract(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the page's contract, with the page's command."""
    [commands] = _blocks("sh")
    [command] = [line.split() for line in commands.splitlines() if " pytest teradata" in line and "=" in line]
    given = {word.partition("=")[0]: "stand-in" for word in command if "=" in word}
    done = subprocess.run(
        # Without what this project's own environment has beside pytest.
        [sys.executable, "-m", *command[len(given) :], "-p", "no:asyncio", "-rfs", *arguments],
        cwd=folder,
        env={**os.environ, **given, "PYTHONPATH": _path(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_the_contract_holds(made: Path) -> None:
    code, output = _contract(made)
    assert code == 0, output
    assert re.findall(r"SKIPPED \[1\] .*?: (.*)", output) == ["this engine's names are of the basic plane"]
    [passed] = re.findall(r"(\d+) passed", output)
    assert int(passed) > 30


@pytest.mark.timeout(300)
def test_the_contract_finds_what_is_wrong(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "worse")
    text = (folder / MODULE).read_text()
    for good, bad in {
        " AND CHARACTER_LENGTH(o.{key}) = CHARACTER_LENGTH(n.{key})": "",
        "SET SESSION CHARACTER SET UNICODE PASS THROUGH ON": "SELECT 1",
    }.items():
        assert text.count(good) == 1
        text = text.replace(good, bad)
    (folder / MODULE).write_text(text)
    code, output = _contract(folder, "-k", "ids_that_differ or hard_on_formats or in_once")
    assert code == 1, output
    failed = re.findall(r"^FAILED .*::(\w+)", output, re.MULTILINE)
    assert sorted(failed) == ["test_ids_that_differ_a_little_are_two", "test_texts_that_are_hard_on_formats"]


@pytest.mark.timeout(300)
def test_the_command_knows_it(made: Path, tmp_path: Path) -> None:
    [commands] = _blocks("sh")
    [command] = [line.split() for line in commands.splitlines() if line.startswith("mainstem")]
    shown = run(tmp_path, *command[1:], PYTHONPATH=_path(made))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "- `host` (required): The system's name or address." in shown.stdout
    assert "No Teradata." in shown.stdout, "what it has been run against is said"
    (tmp_path / "w.yaml").write_text(_blocks("yaml")[0])
    secrets = {"WEB_WRITE_KEY": "key", "TERADATA_PASSWORD": "secret"}
    checked = run(tmp_path, "workspace", "check", "w.yaml", **secrets, PYTHONPATH=_path(made))
    assert (checked.returncode, checked.stderr) == (0, "")
    unknown = run(tmp_path, "workspace", "check", "w.yaml", **secrets)
    assert unknown.returncode == 2
    assert "teradata" in unknown.stdout + unknown.stderr


# ---------------------------------------------------------------- in this process


@pytest.fixture
def spec(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoaderSpec]:
    """The engine, as Mainstem finds it."""
    monkeypatch.syspath_prepend(str(made / "teradata" / "src"))
    monkeypatch.setitem(sys.modules, "teradatasql", teradatasql)
    caches = (catalog.find_loader, catalog._third_party)
    for cached in caches:
        cached.cache_clear()
    found = catalog.find_loader("teradata")
    assert found is not None
    yield found
    for cached in caches:
        cached.cache_clear()
    del sys.modules["teradata_for_mainstem"]


def _config(spec: LoaderSpec, host: str = "here") -> Any:
    return spec.config(host=host, user="mainstem", password=Secret("s3cr3t"), sync_frequency=0.0001)


class _Teradata(Rig):
    """Events in, rows out, through the engine that was found."""

    def __init__(self, folder: Path, spec: LoaderSpec) -> None:
        super().__init__(folder, config=_config(spec))
        self.spec = spec
        self._compiled = compile_rows(options_of(self.config, spec.provider))

    def writer(self) -> WarehouseWriter:
        made = super().writer()
        made._spec = self.spec
        return made

    def rows(self, sql: str) -> list[Any]:
        loader = self.spec.open(self.config, "shop", self.folder)
        try:
            return [tuple(row) for row in loader.query(sql)]
        finally:
            loader.close()


async def test_events_become_rows(spec: LoaderSpec, tmp_path: Path) -> None:
    rig = _Teradata(tmp_path, spec)
    await rig.append([track(1, note="short", paid=10), identify(2, "ann", plan="pro")])
    await rig.load()
    await rig.append([track(3, note="long " * 1000 + "🚂", paid=10.99), identify(4, "ann", city="Oslo")])
    await rig.load()
    rows = rig.rows('SELECT "id", "note", "paid" FROM "shop"."order_completed" ORDER BY "id"')
    assert rows == [("m1", "short", 10), ("m3", "long " * 1000 + "🚂", None)]
    assert rig.rows('SELECT "row_id", "column_name", "column_value" FROM "shop"."rudder_discards"') == [
        ("m3", "paid", "10.99")
    ]
    assert rig.rows('SELECT "id", "plan", "city" FROM "shop"."users"') == [("ann", "pro", "Oslo")]
    loader = spec.open(rig.config, "shop", tmp_path)
    kinds = loader.fetch_schema()["order_completed"]
    assert (kinds["event_text"], kinds["note"], kinds["paid"]) == ("string", "text", "int")
    assert {(row.table, row.sequence) for row in loader.loads("house")} >= {("users", 1), ("users", 2)}
    loader.close()


def test_what_is_wrong_with_a_table_is_said_of_the_table(spec: LoaderSpec, tmp_path: Path) -> None:
    loader = spec.open(_config(spec), "limits", tmp_path)
    with pytest.raises(TableFailed, match="3933") as failed:
        loader.evolve([CreateTable("wide", {f"c{number}": "text" for number in range(16)})])
    assert "jsonPaths" in failed.value.advice
    with pytest.raises(TableFailed, match="beyond U\\+FFFF"):
        loader.evolve([CreateTable("odd", {"id": "string", "🚂": "int"})])
    loader.evolve([CreateTable("wide", {f"c{number}": "text" for number in range(15)})])
    loader.close()


def test_a_system_that_is_not_there_is_told_without_the_password(spec: LoaderSpec, tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match=r"td\.invalid:443: .* see that `host`") as failed:
        spec.open(_config(spec, "td.invalid"), "shop", tmp_path)
    assert "s3cr3t" not in str(failed.value)
    assert "\n" not in str(failed.value)


# ---------------------------------------------------------------- the stand-in


_TEXT = "VARCHAR({}) CHARACTER SET UNICODE"
_VOLATILE = f'CREATE VOLATILE TABLE "s" ("id" {_TEXT.format(5)}, "n" BIGINT) ON COMMIT PRESERVE ROWS'


@pytest.fixture(scope="module")
def session() -> Iterator[teradatasql.Connection]:
    """A session with a database `d`, a table `there`, and a volatile one."""
    connection = teradatasql.connect(host="refuses", tmode="ANSI")
    cursor = connection.cursor()
    cursor.execute('CREATE DATABASE "d" AS PERMANENT = 1 BYTES')
    columns = f'"id" {_TEXT.format(5)}, "note" {_TEXT.format(5)}, "n" BIGINT'
    cursor.execute(f'CREATE MULTISET TABLE "d"."there" ({columns}) PRIMARY INDEX ("id")')
    cursor.execute(f'ALTER TABLE "d"."there" ADD "note" {_TEXT.format(6)}')
    cursor.execute(_VOLATILE)
    yield connection
    connection.close()


@pytest.mark.parametrize(
    ("code", "sql"),
    [
        (3706, 'CREATE TABLE IF NOT EXISTS "d"."t" ("id" BIGINT)'),
        (3706, 'DROP TABLE IF EXISTS "s"'),
        (3706, 'ALTER TABLE "d"."there" ADD COLUMN "x" BIGINT'),
        (3706, 'SELECT "id" FROM "d"."there" LIMIT 1'),
        (3706, 'CREATE SCHEMA "x"'),
        (3706, 'CREATE TEMPORARY TABLE "x" ("id" BIGINT)'),
        (3706, "BEGIN"),
        (3798, f'CREATE TABLE "d"."t" ("id" {_TEXT.format(32_001)})'),
        (3737, f'CREATE TABLE "d"."{"é" * 65}" ("id" BIGINT)'),
        (3933, f'CREATE TABLE "d"."t" ({", ".join(f"c{n} {_TEXT.format(32_000)}" for n in range(16))})'),
        (3802, 'CREATE TABLE "nowhere"."t" ("id" BIGINT)'),
        (3803, 'CREATE TABLE "d"."there" ("id" BIGINT)'),
        (5612, 'CREATE DATABASE "d" AS PERMANENT = 1 BYTES'),
        (3558, 'ALTER TABLE "d"."there" ADD "n" FLOAT'),
        (3558, f'ALTER TABLE "d"."there" ADD "note" {_TEXT.format(4)}'),
        (3558, f'ALTER TABLE "d"."there" ADD "id" {_TEXT.format(50)}'),
        (3807, 'LOCKING TABLE "d"."gone" FOR WRITE;'),
        (3807, 'DELETE FROM "d"."gone"'),
        (3707, 'UPDATE o FROM "d"."there" AS x, "d"."there" AS y SET "n" = 1 WHERE x."id" = y."id"'),
    ],
)
def test_the_stand_in_refuses(session: teradatasql.Connection, code: int, sql: str) -> None:
    cursor = session.cursor()
    with pytest.raises(teradatasql.Error, match=f"Error {code}"):
        cursor.execute(sql)


@pytest.mark.parametrize(
    ("code", "values"),
    [
        (3996, ["sixsix", 1]),
        (6706, ["🚂", 1]),
        (3532, ["a", None]),
        (None, ["a", True]),
    ],
)
def test_the_stand_in_refuses_parameters(
    session: teradatasql.Connection, code: int | None, values: list[Any]
) -> None:
    said = f"Error {code}" if code else "bool"
    cursor = session.cursor()
    with pytest.raises(teradatasql.Error, match=said):
        cursor.executemany('INSERT INTO "s" ("id", "n") VALUES (?, ?)', [values])


def test_the_stand_in_allows_nothing_after_ddl_in_a_transaction() -> None:
    connection = teradatasql.connect(host="ddl", tmode="ANSI")
    cursor = connection.cursor()
    connection.autocommit = False
    cursor.execute(_VOLATILE)
    with pytest.raises(teradatasql.Error, match="Error 3722"):
        cursor.execute('SELECT 1 FROM "s"')
    connection.commit()
    cursor.execute('SELECT COUNT(*) FROM "s"')
    assert cursor.fetchall() == [[0]]
    connection.close()


def test_the_stand_in_empties_volatile_tables() -> None:
    connection = teradatasql.connect(host="volatile", tmode="ANSI")
    cursor = connection.cursor()
    cursor.execute(_VOLATILE.replace(" PRESERVE ", " DELETE "))
    cursor.execute('INSERT INTO "s" ("n") VALUES (?)', [1])
    cursor.execute('SELECT COUNT(*) FROM "s"')
    assert cursor.fetchall() == [[0]]
    connection.close()
