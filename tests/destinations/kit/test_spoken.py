"""What messages call people, and which template an event has."""

from typing import Any

import pytest

from mainstem.destinations.kit.spoken import by_event_name, person_name


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"traits": {"name": "Ann", "firstName": "A"}}, "Ann"),
        ({"context": {"traits": {"name": "Ann"}}}, "Ann"),
        ({"traits": {"firstname": "Ann", "last_name": "Lee"}}, "Ann Lee"),
        ({"traits": {"lastName": "Lee"}}, "Lee"),
        ({"traits": {"username": "ann7", "email": "a@example.com"}}, "ann7"),
        (
            {"properties": {"email": "p@example.com"}, "context": {"traits": {"email": "c@example.com"}}},
            "p@example.com",
        ),
        ({"context": {"traits": {"email": "c@example.com"}}, "userId": "u"}, "c@example.com"),
        ({"userId": 7, "anonymousId": "a"}, "User 7"),
        ({"anonymousId": "a"}, "Anonymous user a"),
        ({}, "Anonymous user"),
    ],
)
def test_a_person_is_called_by_the_best_name_there_is(message: dict[str, Any], expected: str) -> None:
    assert person_name(message) == expected


def test_the_first_row_that_fits_counts() -> None:
    find = by_event_name(
        [
            ("", True, "never"),
            ("Order (Completed|Paid)$", True, "order"),
            ("Order Completed", False, "late"),
            ("a.b", False, "exact"),
            ("^(?<first>.)\\k", False, "not a regular expression"),
            ("^(?<first>x)", True, "named"),
        ]
    )
    assert [find(name) for name in ("Order Completed", "a.b", "aXb", "xy")] == [
        "order",
        "exact",
        None,
        "named",
    ]
