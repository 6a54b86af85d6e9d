"""Rows of warehouses in the shapes of RudderStack's transformer: a vector's input in, its answer out.

vector -> **this** -> the functions that name tables and type values when a warehouse is loaded -> answer. What a vector
expects is never read.
"""

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mainstem.clock import iso_from_ms
from mainstem.testing.conformance.shapes import now_of
from mainstem.warehouse import kinds, naming
from mainstem.warehouse.flattening import Cells, is_blank, violations_type
from mainstem.warehouse.rows import (
    Facts,
    RowOptions,
    RowsRefused,
    columns_of,
    compile_rows,
    paths_of,
)

FEATURES: Final = frozenset(("warehouse", "warehouse_unit"))
Json = Any
Answer = dict[str, Json]
_MAX_COLUMNS: Final = 200
"""What the transformer allows by itself; an environment variable changes it."""


def answer(vector: Mapping[str, Json]) -> Answer | None:
    """Return the answer to a vector; None for a function that is not there."""
    try:
        if vector["feature"] == "warehouse":
            return _rows(vector)
        function = _FUNCTIONS.get(str(vector["fn"]))
        return None if function is None else {"status": 200, "body": function(vector)}
    except Exception as error:  # noqa: BLE001 - one vector's trouble must not cost the others their answers
        sys.stderr.write(f"{vector.get('id')}: {traceback.format_exc()}")
        return {"status": 500, "error": type(error).__name__}


def _rows(vector: Mapping[str, Json]) -> Answer:
    given = vector["input"]
    message = given["message"]
    config = (given.get("destination") or {}).get("Config") or {}
    query = (given.get("request") or {}).get("query") or {}
    environment = (vector.get("pins") or {}).get("env") or {}
    options = RowOptions(
        provider=str(vector["provider"]),
        compatibility="rudderstack",
        skip_tracks_table=config.get("skipTracksTable") is True,
        skip_users_table=config.get("skipUsersTable") is True,
        underscore_divide_numbers=config.get("underscoreDivideNumbers") is True,
        allow_users_context_traits=config.get("allowUsersContextTraits") is True,
        store_full_event=config.get("storeFullEvent") is True,
        json_paths=paths_of(str(config.get("jsonPaths") or "")),
        id_resolution=str(query.get("whIDResolve", "")).lower() == "true",
        max_columns=int(environment.get("WH_MAX_COLUMNS_IN_EVENT", _MAX_COLUMNS)),
    )
    facts = Facts(source_category=str((given.get("metadata") or {}).get("sourceCategory") or ""))
    if not message.get("receivedAt"):
        message = {**message, "receivedAt": iso_from_ms(now_of(vector))}
    if not message.get("messageId"):
        message = {**message, "messageId": "auto-00000000-0000-4000-8000-000000000000"}
    try:
        rows = compile_rows(options)(message, facts)
    except RowsRefused as refusal:
        return {"status": 400, "error": str(refusal)}
    body = [
        {
            "metadata": {
                "table": row.table,
                "columns": row.columns,
                "receivedAt": message.get("receivedAt"),
            },
            "data": row.data,
        }
        for row in rows
    ]
    return {"status": 200, "body": body}


# ------------------------------------------------------------ single functions


def _snake(divide_numbers: bool) -> Callable[[Mapping[str, Json]], Json]:
    def function(vector: Mapping[str, Json]) -> Json:
        given = _argument(vector, 0)
        return naming.snake_case(str(given or ""), divide_numbers=divide_numbers)

    return function


def _words(divide_numbers: bool) -> Callable[[Mapping[str, Json]], Json]:
    def function(vector: Mapping[str, Json]) -> Json:
        return naming.words(str(_argument(vector, 0) or ""), divide_numbers=divide_numbers)

    return function


def _data_type(vector: Mapping[str, Json]) -> Json:
    engine = naming.engine_of(str(vector["provider"]))
    key, value = _argument(vector, 0), _argument(vector, 1)
    if isinstance(value, list) and engine.arrays:
        return kinds.array_type(value)
    return violations_type(engine, key) or kinds.as_rudderstack(engine)(value)[0]


def _table_name(vector: Mapping[str, Json]) -> Json:
    return _name(vector, naming.blendo_table)


def _column_name(vector: Mapping[str, Json]) -> Json:
    return _name(vector, naming.blendo_column)


def _name(vector: Mapping[str, Json], blendo: Callable[[str], str]) -> Json:
    options, text = _argument(vector, 0) or {}, str(_argument(vector, 1) or "")
    if (options.get("integrationOptions") or {}).get("useBlendoCasing"):
        return blendo(text)
    return naming.transformed(text, divide_numbers=options.get("underscoreDivideNumbers") is True)


def _is_moment(vector: Mapping[str, Json]) -> Json:
    given = _argument(vector, 0)
    return isinstance(given, str) and kinds.is_moment(given)


def _is_blank(vector: Mapping[str, Json]) -> Json:
    return is_blank(_argument(vector, 0))


def _columns(vector: Mapping[str, Json]) -> Json:
    columns_in(vector)
    return {"$undefined": True}


def columns_in(vector: Mapping[str, Json]) -> Cells:
    """Return the values and types that such a function sets: vectors keep them beside its answer, as `args_after`."""
    kind, given = str(_argument(vector, 1)), _argument(vector, 3)
    options = _argument(vector, 5) or {}
    return columns_of(
        given if isinstance(given, dict) else {},
        RowOptions(
            provider=str(options.get("provider") or vector.get("provider") or "postgres"),
            compatibility="rudderstack",
            underscore_divide_numbers=options.get("underscoreDivideNumbers") is True,
            json_paths=tuple(
                _path(str(key), int(level))
                for key, level in (options.get("jsonLegacyPathKeys") or {}).items()
            ),
        ),
        kind,
        Facts(source_category=str(options.get("sourceCategory") or "")),
    )


def _path(key: str, level: int) -> str:
    """Return a path whose keys were joined by underscores, where that can be told."""
    return key if level == 0 or key.count("_") != level else key.replace("_", ".")


def _argument(vector: Mapping[str, Json], number: int) -> Json:
    arguments: Sequence[Json] = vector.get("args") or ()
    found = arguments[number] if number < len(arguments) else None
    return None if isinstance(found, dict) and "$undefined" in found else found


_FUNCTIONS: Final[Mapping[str, Callable[[Mapping[str, Json]], Json]]] = {
    "helpers.isBlank": _is_blank,
    "index.getDataType": _data_type,
    "index.setDataFromInputAndComputeColumnTypes": _columns,
    "snakecase.snakeCase": _snake(divide_numbers=True),
    "snakecase.snakeCaseWithNumbers": _snake(divide_numbers=False),
    "snakecase.words": _words(divide_numbers=True),
    "snakecase.wordsWithNumbers": _words(divide_numbers=False),
    "util.validTimestamp": _is_moment,
    "v1util.transformColumnName": _column_name,
    "v1util.transformTableName": _table_name,
}
