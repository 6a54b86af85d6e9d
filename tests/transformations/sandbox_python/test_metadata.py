"""The metadata dict behaves as a dict does, whatever is held back."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from mainstem.transformations.sandbox.python.metadata import Metadata, Sight

FIELDS = {"sourceId": "s", "destinationId": "d", "destinationName": "n"}


def made() -> tuple[Metadata, Sight]:
    sight = Sight()
    return Metadata(dict(FIELDS), sight), sight


def setting(metadata: Any, name: str) -> Any:
    metadata[name] = "new"
    return dict(metadata)


def deleting(metadata: Any, name: str) -> Any:
    del metadata[name]
    return dict(metadata)


def merged(metadata: Any) -> Any:
    metadata |= {"x": 1}
    return dict(metadata)


def updated(metadata: Any) -> Any:
    metadata.update({"destinationId": "x"}, y=1)
    return dict(metadata)


SAME_AS_A_DICT: dict[str, Callable[[Any], Any]] = {
    "set": lambda m: setting(m, "destinationId"),
    "set another": lambda m: setting(m, "x"),
    "delete": lambda m: deleting(m, "destinationName"),
    "setdefault there": lambda m: m.setdefault("destinationId", "x"),
    "setdefault not there": lambda m: m.setdefault("destinationX", "x"),
    "pop": lambda m: (m.pop("destinationId"), dict(m)),
    "pop default": lambda m: m.pop("destinationX", 1),
    "popitem": lambda m: len([m.popitem() for _ in range(3)]),
    "update": updated,
    "or": lambda m: m | {"x": 1},
    "or the other way": lambda m: {"x": 1} | m,
    "or in place": merged,
    "keys": lambda m: sorted(m.keys()),
    "values": lambda m: sorted(m.values()),
    "items": lambda m: sorted(m.items()),
    "reversed": lambda m: len(list(reversed(m))),
    "iterate": sorted,
    "length": len,
    "equal": lambda m: m == FIELDS,
    "not equal": lambda m: m != FIELDS,
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "json": lambda m: json.loads(json.dumps(m)),
    "text": lambda m: sorted(str(m)),
    "clear": lambda m: (m.clear(), len(m)),
    "get": lambda m: m.get("destinationId"),
    "get default": lambda m: m.get("destinationX", 3),
    "in": lambda m: ("destinationId" in m, "destinationX" in m, 3 in m),
    "item": lambda m: m["destinationId"],
}


@pytest.mark.parametrize("name", SAME_AS_A_DICT)
def test_it_does_what_a_dict_does(name: str) -> None:
    metadata, _ = made()
    assert SAME_AS_A_DICT[name](metadata) == SAME_AS_A_DICT[name](dict(FIELDS))


@pytest.mark.parametrize("name", ["destinationX", "x"])
def test_a_key_that_is_not_there(name: str) -> None:
    metadata, sight = made()
    with pytest.raises(KeyError, match=name):
        metadata[name]
    assert sight.destination is (name == "destinationX")


def test_the_rest_can_be_used_unnoticed() -> None:
    metadata, sight = made()
    assert metadata["sourceId"] == metadata.get("sourceId") == metadata.pop("sourceId") == "s"
    metadata["x"] = 1
    del metadata["x"]
    assert "x" not in metadata
    assert not sight.destination
