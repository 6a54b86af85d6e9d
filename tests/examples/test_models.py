"""The dbt project of `examples/dbt/`, run by dbt on what Mainstem loads into DuckDB, against people and sessions that
are worked out one by one.

Three loads of random histories, with a run of dbt after each; then everything again from nothing. One dbt process does
all of it, on copies of the warehouse's file.
"""

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.examples.expected import (
    Limits,
    People,
    key_of,
    newest,
    session_of_event,
    session_rows,
    visits,
)
from tests.examples.histories import STAGES, Sent, histories
from tests.examples.plain_sql import PROJECT, SQL, run_dbt, scripts
from tests.warehouse.rig import Rig

pytestmark = pytest.mark.timeout(600)
CASES = 60
LIMITS = Limits(anonymous_ids=6, ids_of_a_person=12)
VARS = (
    "{mainstem_schema: shop, mainstem_max_anonymous_ids: 6, mainstem_max_ids_of_a_person: 12"
    ", mainstem_lookback_hours: 3}"
)
BUILD = ["build", "--quiet", "--vars", VARS]
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "scope": {"scope": "device"},
    "campaign": {"by_campaign": True},
}
_SETTINGS = {"scope": "mainstem_session_scope", "by_campaign": "mainstem_new_session_on_campaign"}


@dataclass(frozen=True)
class Ran:
    """What dbt made of the loads."""

    staged: Sequence[Sequence[Sent]]
    folder: Path
    answers: Mapping[str, Mapping[str, Any]]
    """What dbt said, by step."""
    project_before: frozenset[Path]

    def rows(self, step: str, sql: str) -> list[tuple[Any, ...]]:
        """Ask the models as they were after a step."""
        with duckdb.connect(str(self.folder / f"{step}.duckdb"), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.execute(sql).fetchall()

    def dicts(self, step: str, sql: str) -> list[dict[str, Any]]:
        """As `rows`, by name of the column."""
        with duckdb.connect(str(self.folder / f"{step}.duckdb"), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            cursor = connection.execute(sql)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


async def _load(rig: Rig, staged: Sequence[Sequence[Sent]]) -> None:
    """Load stage by stage, ten hours apart, and keep the file as it is after each.

    The pages of the last stage have the time of a load that began before that of the stage before, and ended later.
    """
    file = rig.folder / "warehouse.duckdb"
    for number, stage in enumerate(staged):
        await rig.append([event.stored() for event in stage])
        with duckdb.connect(str(file)) as connection:
            before = connection.execute("SELECT now()").fetchall()[0][0]
        await rig.load()
        with duckdb.connect(str(file)) as connection:
            for table in _tables(connection):
                hours = 10 * number - (11 if table == "pages" and number == STAGES - 1 else 0)
                connection.execute(
                    f"UPDATE shop.{table} SET uuid_ts = uuid_ts + to_hours({hours})"
                    " WHERE uuid_ts BETWEEN $before AND $before + INTERVAL 1 HOUR",
                    {"before": before},
                )
        shutil.copyfile(file, rig.folder / f"warehouse-{number}.duckdb")
    shutil.copyfile(file, rig.folder / "warehouse-two.duckdb")
    with duckdb.connect(str(rig.folder / "warehouse-two.duckdb")) as connection:
        connection.execute("CREATE SCHEMA other")
        for table in _tables(connection):
            connection.execute(f"CREATE TABLE other.{table} AS FROM shop.{table} WHERE hash(id) % 2 = 0")
            connection.execute(f"DELETE FROM shop.{table} WHERE hash(id) % 2 = 0")


def _tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [
        row[0]
        for row in connection.execute(
            "SELECT table_name FROM duckdb_columns() WHERE schema_name = 'shop' AND column_name = 'uuid_ts'"
        ).fetchall()
    ]


@pytest.fixture(scope="module", name="ran")
def _ran(dbt_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("models")
    before = frozenset(PROJECT.rglob("*"))
    rig = Rig(folder)
    staged = histories(cases=CASES, seed=20261128)
    asyncio.run(_load(rig, staged))
    warehouse, models = folder / "attached.duckdb", folder / "models.duckdb"
    names: list[str] = []
    steps: list[dict[str, list[str]]] = []

    def step(name: str, *arguments: str) -> None:
        names.append(name)
        steps.append({"dbt": list(arguments)})
        steps.append({"copy": [str(models), str(folder / f"{name}.duckdb")]})

    for number in range(STAGES):
        steps.append({"copy": [str(folder / f"warehouse-{number}.duckdb"), str(warehouse)]})
        step(f"stage-{number}", *(BUILD if number == 0 else ["run", *BUILD[1:]]))
    step("nothing new", "run", *BUILD[1:])
    step("tested", "test", *BUILD[1:])
    step("refreshed", "run", *BUILD[1:], "--full-refresh")
    for name, options in VARIANTS.items():
        more = "".join(f", {_SETTINGS[key]}: {value}" for key, value in options.items())
        values = f"{VARS[:-1]}{more}}}"
        step(name, "run", "--quiet", "--full-refresh", "--select", "events", "sessions", "--vars", values)
    step("freshness", "source", "freshness", "--quiet", "--vars", VARS)
    steps.append({"copy": [str(folder / "warehouse-two.duckdb"), str(warehouse)]})
    step(
        "two", "run", "--quiet", "--full-refresh", "--vars", f"{VARS[:-1]}, mainstem_more_schemas: [other]}}"
    )
    answers = run_dbt(dbt_python, folder, steps, warehouse=warehouse, models=models)
    return Ran(staged, folder, dict(zip(names, answers, strict=True)), before)


def test_every_run_and_every_test_of_the_project_passes(ran: Ran) -> None:
    wrong = {
        step: [node for node in answer["nodes"].items() if node[1][0] not in ("success", "pass")]
        for step, answer in ran.answers.items()
        if not answer["success"]
    }
    assert wrong == {}
    kinds = [name.split(".")[0] for name in ran.answers["tested"]["nodes"]]
    assert kinds.count("test") > 40
    assert kinds.count("unit_test") >= 8
    assert ran.answers["freshness"]["nodes"] == {"source.mainstem.mainstem._mainstem_loads": ["pass", ""]}


def test_dbt_leaves_the_project_as_it_was(ran: Ran) -> None:
    assert frozenset(PROJECT.rglob("*")) == ran.project_before


def test_the_histories_hold_what_is_to_be_tested(ran: Ran) -> None:
    events = newest(ran.staged)
    people = People(events, LIMITS)
    reasons = set(people.excluded.values())
    assert reasons == {
        *("placeholder", "too many user ids", "too many anonymous ids", "too many ids of a person")
    }
    assert len(events) > 1000
    assert {event.type for event in ran.staged[0]} == {"track", "identify", "page", "group"}
    assert max(len(stage) for stage in ran.staged) > len({(event.type, event.id) for event in ran.staged[0]})


@pytest.mark.parametrize("number", range(STAGES))
def test_people_are_those_that_walking_the_links_finds(ran: Ran, number: int) -> None:
    people = People(newest(ran.staged[: number + 1]), LIMITS)
    step = f"stage-{number}"
    found = ran.rows(step, "SELECT id_kind, id, canonical_id FROM models.identity")
    assert {(kind, value): canonical for kind, value, canonical in found} == people.canonical
    told = ran.rows(step, "SELECT id_kind, id, excluded_because FROM models.identity_excluded")
    assert {(kind, value): reason for kind, value, reason in told} == people.excluded


@pytest.mark.parametrize("number", range(STAGES))
def test_sessions_are_those_that_going_event_by_event_finds(ran: Ran, number: int) -> None:
    events = newest(ran.staged[: number + 1])
    people = People(events, LIMITS)
    _compare(ran, f"stage-{number}", events, people, visits(events, people))


@pytest.mark.parametrize("name", VARIANTS)
def test_sessions_by_device_and_campaign(ran: Ran, name: str) -> None:
    events = newest(ran.staged)
    people = People(events, LIMITS)
    found = visits(events, people, **VARIANTS[name])
    assert len(found) > len(visits(events, people))
    _compare(ran, name, events, people, found)


def _compare(
    ran: Ran, step: str, events: Sequence[Sent], people: People, found: Sequence[Sequence[Sent]]
) -> None:
    sessions = session_of_event(found)
    rows = ran.rows(step, "SELECT event_key, canonical_id, session_id, event_of_session FROM models.events")
    assert {key: (canonical, session, place) for key, canonical, session, place in rows} == {
        key_of(event): (people.of(event), *sessions.get(key_of(event), (None, None))) for event in events
    }
    assert len(rows) == len(events)
    assert ran.dicts(
        step, "SELECT * EXCLUDE (modelled_at) FROM models.sessions ORDER BY session_id"
    ) == session_rows(found, people)


def test_an_incremental_run_ends_where_a_full_one_does(ran: Ran) -> None:
    last = f"stage-{STAGES - 1}"
    for table in (
        *("events_loaded", "identity_links", "identity_ids", "identity", "identity_excluded"),
        *("events", "sessions", "profiles", "retention"),
    ):
        exclude = "EXCLUDE (modelled_at)" if table in ("events", "sessions") else ""
        sql = f"SELECT * {exclude} FROM models.{table} ORDER BY ALL"
        incremental = ran.rows(last, sql)
        assert incremental == ran.rows("refreshed", sql), table
        assert incremental == ran.rows("nothing new", sql), table
        assert incremental, table


def test_rows_of_a_load_that_ended_after_a_later_one_are_found(ran: Ran) -> None:
    before, last = f"stage-{STAGES - 2}", f"stage-{STAGES - 1}"
    [(newest_before,)] = ran.rows(before, "SELECT max(loaded_at) FROM models.events_loaded")
    known = {key for (key,) in ran.rows(before, "SELECT event_key FROM models.events_loaded")}
    rows = ran.rows(last, "SELECT event_key, loaded_at FROM models.events_loaded")
    assert any(loaded_at < newest_before for key, loaded_at in rows if key not in known)


@pytest.mark.parametrize("table", ["events_loaded", "identity", "events", "sessions", "profiles"])
def test_two_namespaces_are_as_one(ran: Ran, table: str) -> None:
    exclude = "EXCLUDE (modelled_at)" if table in ("events", "sessions") else ""
    sql = f"SELECT * {exclude} FROM models.{table} ORDER BY ALL"
    assert ran.rows("two", sql) == ran.rows("refreshed", sql)


def test_an_incremental_run_writes_only_what_changed(ran: Ran) -> None:
    written = "SELECT DISTINCT modelled_at FROM models.{} ORDER BY 1"
    for table in ("events", "sessions"):
        runs = ran.rows(f"stage-{STAGES - 1}", written.format(table))
        assert len(runs) == STAGES, "some people were not touched since the first run"
        assert ran.rows("nothing new", written.format(table)) == runs


def test_profiles(ran: Ran) -> None:
    events = newest(ran.staged)
    people = People(events, LIMITS)
    rows = session_rows(visits(events, people), people)
    expected: dict[str, tuple[Any, ...]] = {}
    for canonical in {people.of(event) for event in events} - {None}:
        own = [event for event in events if people.of(event) == canonical]
        sessions = sorted(
            (row for row in rows if row["canonical_id"] == canonical),
            key=lambda row: int(row["session_of_person"]),
        )
        sources = [row["utm_source"] or row["referring_domain"] for row in sessions]
        expected[str(canonical)] = (
            len(own),
            len(sessions),
            sum(row["is_engaged"] for row in sessions),
            (sources[0] or "direct") if sources else None,
            next(filter(None, reversed(sources)), "direct") if sources else None,
        )
    found = ran.rows(
        "refreshed",
        "SELECT canonical_id, events, sessions, engaged_sessions, first_touch_source, last_touch_source"
        " FROM models.profiles",
    )
    assert {row[0]: row[1:] for row in found} == expected


def test_profiles_have_the_newest_traits(ran: Ran) -> None:
    people = People(newest(ran.staged), LIMITS)
    newest_plan: dict[str, tuple[int, str]] = {}
    arrived = [event for stage in ran.staged for event in stage if event.traits]
    for event in arrived:
        user = event.user_id
        if user is not None and ("user", user) in people.canonical:
            told = (event.received_at_ms, event.traits["plan"])
            canonical = people.canonical["user", user]
            newest_plan[canonical] = max(told, newest_plan.get(canonical, told))
    found = ran.rows(
        "refreshed", "SELECT canonical_id, trait_plan FROM models.profiles WHERE trait_plan IS NOT NULL"
    )
    assert dict(found) == {canonical: plan for canonical, (_, plan) in newest_plan.items()}


def test_retention_adds_up(ran: Ran) -> None:
    [(people,)] = ran.rows("refreshed", "SELECT sum(people_back) FROM models.retention WHERE weeks_later = 0")
    [(everybody,)] = ran.rows("refreshed", "SELECT count(DISTINCT canonical_id) FROM models.sessions")
    assert people == everybody
    assert ran.rows("refreshed", "SELECT * FROM models.retention WHERE people_back > people") == []


def test_the_plain_scripts_are_what_the_models_say(dbt_python: Path, tmp_path: Path) -> None:
    made = scripts(dbt_python, tmp_path)
    assert {name: (SQL / name).read_text() for name in made} == made, (
        "run: python -m tests.examples.plain_sql"
    )
