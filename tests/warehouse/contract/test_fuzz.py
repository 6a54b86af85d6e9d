"""Whatever events hold, all of it is found: in the columns of their rows, or whole in the discards.

The whole way: bodies as clients send them, the gateway's reading, rules, staging, a real engine; in two loads, so that
the second one meets tables that the first one made of other types.
"""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstem.warehouse.loader import Loader
from mainstem.warehouse.loaders.catalog import find_loader
from mainstem.warehouse.schema import DISCARDS
from mainstem.warehouse.settings import WarehouseSettings
from tests.roles.rig import records, workspace
from tests.warehouse.contract.conftest import Bench
from tests.warehouse.contract.databases import SERVERS
from tests.warehouse.contract.engines import ENGINES
from tests.warehouse.rig import Rig

FUZZED: Final = {"clickhouse": "CLICKHOUSE", "duckdb": "DUCKDB", "mysql": "MYSQL", "postgres": "POSTGRES"}
_HOOK: Final = {"webhookUrl": "https://hook.example/in"}
_WIDE: Final = 2_000
_TABLE: Final = "thing_done"

Json = Any

_KEYS = st.one_of(
    st.sampled_from(
        [
            *("select", "order", "user", "table", "from", "id", "user_id", "received_at", "uuid_ts", "event"),
            *(
                "a b",
                "a_b",
                "aB",
                "a.b",
                "Größe",
                "注文",
                "🎉",
                "%",
                "9lives",
                "context_ip",
                "properties",
                "x" * 90,
            ),
        ]
    ),
    st.text(min_size=1, max_size=12),
)
_WORDS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            *(
                "",
                " ",
                "NULL",
                "null",
                "true",
                "0",
                "-1",
                "1e5",
                "007",
                "NaN",
                "9223372036854775808",
                "O'Hara",
            ),
            *('"quoted"', "back\\slash", "tab\tnew\nline", "🚂", "2026-01-02", "2026-01-02T03:04:05.678Z"),
            *("2026-02-31", "0001-01-01T00:00:00Z", "[1,2]", '{"a":1}', "x" * 3_000),
        ]
    ),
)
_NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -0.0, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 1e308, 5e-324, 0.1, 1.0]),
    st.floats(allow_nan=False, allow_infinity=False),
)
_AROUND_FLOATS = st.one_of(
    st.sampled_from([0.5, -0.25, 1e300, 7, 2**53, -(2**53), 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]),
    _NUMBERS,
)
_SIMPLE = st.one_of(_WORDS, _NUMBERS, st.booleans(), st.none())
_VALUES = st.recursive(
    _SIMPLE,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=3)),
    max_leaves=6,
)
_EVENTS = st.lists(st.dictionaries(_KEYS, _VALUES, max_size=5), min_size=1, max_size=5)


@pytest.fixture(params=sorted(FUZZED))
def fuzzed(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    if request.param in SERVERS:
        fixture, variable = SERVERS[request.param]
        monkeypatch.setenv(variable, str(request.getfixturevalue(fixture).port))
    made = Bench(request.param, tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(900)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(first=_EVENTS, second=_EVENTS)
def test_all_of_any_event_is_found(
    fuzzed: Bench, first: Sequence[dict[str, Json]], second: Sequence[dict[str, Json]]
) -> None:
    if not fuzzed.names_beyond_bmp:
        pytest.skip("a name beyond U+FFFF makes the whole table wait: test_mysql.py")
    _check(fuzzed, [first, second])


@pytest.mark.timeout(900)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(loads=st.lists(st.lists(_AROUND_FLOATS, min_size=1, max_size=4), min_size=2, max_size=4))
def test_numbers_of_every_size_in_one_column_over_several_loads(
    fuzzed: Bench, loads: Sequence[Sequence[float]]
) -> None:
    _check(fuzzed, [[{"it": number} for number in load] for load in loads])


def test_integers_that_a_float_would_round_before_and_after_decimals(fuzzed: Bench) -> None:
    large = [2**53 + 1, -(2**53) - 1, 2**63 - 1]
    _check(fuzzed, [[{"it": number}] for number in (*large, 0.5, *large, 2**53, 1e300)])
    _check(fuzzed, [[{"it": 1}], [{"it": 0.5}, {"it": 2**53 + 1}], [{"it": 2**53 + 3}], [{"it": 1.5}]])


def test_two_thousand_columns(fuzzed: Bench) -> None:
    """More than PostgreSQL has: such an event is kept whole; the others have theirs."""
    wide = {f"property_{number}": number for number in range(_WIDE)}
    _check(fuzzed, [[{"small": 1}], [wide, {"small": 2}], [{"small": 3}]])


@pytest.mark.timeout(600)
def test_a_property_of_every_type_in_turn(fuzzed: Bench) -> None:
    values: list[Json] = [
        *(1, 2.5, True, "words", "2026-01-02T03:04:05Z", 2**63, [1, "a", {"b": None}], "", None, -(2**63)),
        *(math.nan, math.inf, "NaN", {"deeper": 1}, 2**64, 1e308, "x" * 100_000),
    ]
    for start in (0, 3, 4, 8):
        turned = values[start:] + values[:start]
        _check(fuzzed, [[{"it": value}] for value in turned])


def test_all_types_of_a_property_at_once(fuzzed: Bench) -> None:
    values: list[Json] = [
        1,
        2.5,
        True,
        "words",
        "2026-01-02",
        2**63,
        [[1], [2]],
        "",
        math.nan,
        {"a": {"b": [3]}},
    ]
    _check(fuzzed, [[{"it": value} for value in values], [{"it": value} for value in reversed(values)]])


# ---------------------------------------------------------------- how it is found


def _check(bench: Bench, loads: Sequence[Sequence[dict[str, Json]]]) -> None:
    bench.namespace = f"{bench.namespace[:14]}_{_check_number()}"
    asyncio.run(_load(bench, loads))
    loader = bench.open()
    try:
        rows, discards = _found(loader)
        number = 0
        for load in loads:
            for properties in load:
                message_id = f"m{number}"
                number += 1
                # As the product reads it: what JSON can't say exactly is what the text says.
                _see(message_id, properties, rows.get(message_id), discards.get(message_id, []))
        assert len(rows) <= number
    finally:
        loader.close()


_numbers = iter(range(1_000_000))


def _check_number() -> int:
    return next(_numbers)


async def _load(bench: Bench, loads: Sequence[Sequence[dict[str, Json]]]) -> None:
    spec = find_loader(FUZZED[bench.engine])
    assert spec is not None
    rig = Rig(
        bench.folder / bench.namespace,
        config=WarehouseSettings(keep_empty_strings=True),
        spec=msgspec.structs.replace(
            spec, open=lambda _, namespace, __: ENGINES[bench.engine](bench.folder, namespace)
        ),
        namespace=bench.namespace,
    )
    producer = await rig.stream.producer()
    number = 0
    for load in loads:
        bodies = []
        for properties in load:
            bodies.append(_body(number, properties))
            number += 1
        intake = records(bodies, workspace({"id": "house", "type": "webhook", "config": _HOOK}))
        assert len(intake.records) == len(bodies)
        await producer.append(intake.records)
        await rig.load()


def _body(number: int, properties: dict[str, Json]) -> bytes:
    event = {"type": "track", "event": "Thing Done", "userId": "u", "messageId": f"m{number}"}
    # Python's encoder, for it writes what clients write: NaN, numbers of any length, half characters as escapes.
    return json.dumps({**event, "properties": properties}).encode()


def _found(loader: Loader) -> tuple[dict[str, dict[str, Json]], dict[str, list[tuple[str, str]]]]:
    quoted, place = getattr(loader, "quoted"), getattr(loader, "place")  # noqa: B009
    schema = loader.fetch_schema()

    def select(table: str) -> list[dict[str, Json]]:
        names = list(schema.get(table, {}))
        if not names:
            return []
        sql = f"SELECT {', '.join(map(quoted, names))} FROM {place(table)}"
        return [dict(zip(names, row, strict=True)) for row in loader.query(sql)]

    rows: dict[str, dict[str, Json]] = {}
    for row in select(_TABLE):
        assert row["id"] not in rows, "once"
        rows[row["id"]] = row
    discards: dict[str, list[tuple[str, str]]] = {}
    for row in select(DISCARDS):
        discards.setdefault(row["row_id"], []).append((row["column_name"], row["column_value"] or ""))
    return rows, discards


def _see(
    message_id: str, properties: Json, row: Mapping[str, Json] | None, discards: Sequence[tuple[str, str]]
) -> None:
    """Each value of an event stands in its row or in the discards, as often as it is in the event."""
    whole = [value for column, value in discards if column == "*"]
    if row is None:
        assert len(whole) == 1, f"{message_id} is nowhere"
        assert json.loads(whole[0])["messageId"] == message_id
        return
    there = Counter(_plain(value) for value in row.values() if value is not None)
    there.update(_plain(value) for _, value in discards)
    wanted = Counter(_spelled(leaf, there) for leaf in _leaves(properties))
    missing = {leaf: count for leaf, count in wanted.items() if there[leaf] < count}
    assert not missing, f"{message_id}: {missing} not in {dict(there)}"


def _spelled(leaf: Json, there: Counter[str]) -> str:
    # A double of more than 2^53 has two spellings as a whole number: its shortest, and its exact one.
    if isinstance(leaf, float) and abs(leaf) > 2**53 and (short := str(int(Decimal(repr(leaf))))) in there:
        return short
    return _plain(leaf)


def _leaves(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        return  # the gateway reads NaN and Infinity as null (events/envelope.py)
    elif value is not None and value != []:
        yield value


def _plain(value: Json) -> str:
    """Return a value in one spelling, whether it comes from an event, a column of any type, or a text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return moment.isoformat()
    if isinstance(value, list):
        return _plain(json.dumps(value))
    if isinstance(value, int | float | Decimal):
        return _number(value)
    # What no engine's text can hold is replaced: half a character, and NUL where the engine has none.
    text = value.encode("utf-8", "replace").decode().replace("\0", "")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, bool | int | float):
        return _plain(parsed)
    if isinstance(parsed, list):
        return json.dumps(_rounded(parsed), sort_keys=True)
    try:
        return _plain(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return str(text)


def _number(value: float | Decimal) -> str:
    if not isinstance(value, int):
        value = int(value) if math.isfinite(value) and value == int(value) else float(value)
    return str(value)


def _rounded(value: Json) -> Json:
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    if isinstance(value, dict):
        return {_plain_key(name): _rounded(inner) for name, inner in value.items()}
    return _plain(value) if value is not None else None


def _plain_key(name: str) -> str:
    return name.encode("utf-8", "replace").decode().replace("\0", "")
