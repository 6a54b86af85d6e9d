"""Outputs of a batch belong to inputs: by messageId, then by user, then to the first."""

from typing import Any

import pytest

from mainstem.transformations.sandbox.attribution import Origins

INPUTS: list[dict[str, Any]] = [
    {"messageId": "m0", "userId": "u0", "anonymousId": "a0"},
    {"messageId": "m1", "userId": "u1", "anonymousId": "a1"},
    {"messageId": "m2", "userId": "u1", "anonymousId": "a2"},
    {"messageId": "m3", "anonymousId": "a3"},
]


@pytest.mark.parametrize(
    ("output", "index"),
    [
        ({"messageId": "m2", "userId": "u0"}, 2),
        ({"messageId": "new", "userId": "u1", "anonymousId": "a3"}, 1),
        ({"userId": "u1"}, 1),
        ({"anonymousId": "a2"}, 2),
        ({"userId": "unknown", "anonymousId": "a3"}, 3),
        ({"userId": ""}, 0),
        ({"messageId": ["m2"], "userId": {"a": 1}, "anonymousId": None}, 0),
        ({}, 0),
    ],
)
def test_an_output_belongs_to(output: dict[str, Any], index: int) -> None:
    assert Origins(INPUTS).index_of(output) == index


def test_outputs_keep_their_order_within_an_input() -> None:
    outputs: list[dict[str, Any]] = [
        {"messageId": "m3"},
        {"messageId": "m1", "n": 1},
        {"messageId": "m1", "n": 2},
        {"userId": "u1"},
    ]
    assert Origins(INPUTS).group(outputs) == [[], [1, 2, 3], [], [0]]


def test_ids_are_those_before_the_code_ran() -> None:
    inputs = [dict(each) for each in INPUTS]
    origins = Origins(inputs)
    inputs[2]["messageId"] = "m0"
    assert origins.index_of({"messageId": "m2"}) == 2
    assert origins.index_of({"messageId": "m0"}) == 0


def test_inputs_whose_ids_are_no_text_or_the_same() -> None:
    origins = Origins([{"messageId": 3}, {"messageId": "m"}, {"messageId": "m"}, {"userId": ["u"]}])
    assert origins.index_of({"messageId": 3}) == 0
    assert origins.index_of({"messageId": "m"}) == 1
    assert origins.group([{"messageId": "m"}] * 2) == [[], [0, 1], [], []]
