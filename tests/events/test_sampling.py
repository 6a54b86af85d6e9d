"""The stable sample of users."""

from collections.abc import Sequence

import pytest

from mainstem.events.canonical import Event
from mainstem.events.sampling import in_sample, threshold_of
from tests.pipeline.world import event

PINNED = ["user-79", "user-83", "user-92"]


def users(count: int) -> Sequence[Event]:
    return [event({"userId": f"user-{number}", "messageId": f"m-{number}"}) for number in range(count)]


def passes(one: Event, threshold: int) -> bool:
    return in_sample(one.user_id, one.anonymous_id, one.message_id, threshold)


def sampled(events: Sequence[Event], percent: float) -> set[str]:
    threshold = threshold_of(percent)
    return {one.user_id for one in events if passes(one, threshold)}


@pytest.mark.parametrize("percent", [1.0, 10.0, 50.0, 90.0])
def test_the_share_is_right(percent: float) -> None:
    # Five standard deviations of a binomial of 10,000; the hash is fixed, so this never flickers.
    assert len(sampled(users(10_000), percent)) == pytest.approx(percent * 100, abs=250)


def test_nobody_and_everybody() -> None:
    assert sampled(users(500), 0.0) == set()
    assert len(sampled(users(500), 100.0)) == 500
    assert threshold_of(-1) == 0
    assert threshold_of(1000) == threshold_of(100)


def test_a_larger_sample_holds_the_smaller_one() -> None:
    assert sampled(users(2000), 10.0) < sampled(users(2000), 20.0)


def test_the_same_users_whatever_the_source_the_message_or_the_time() -> None:
    here = [event({"userId": f"user-{number}", "messageId": "a"}) for number in range(500)]
    there = [
        event({"userId": f"user-{number}", "messageId": "b", "anonymousId": "x"}, source_id="other")
        for number in range(500)
    ]
    assert sampled(here, 10.0) == sampled(there, 10.0) != set()


def test_without_a_user_id_the_anonymous_id_counts_and_without_both_the_message() -> None:
    threshold = threshold_of(50.0)

    def chosen(**ids: str | None) -> bool:
        return passes(event({"userId": None, **ids}), threshold)

    by_user = [chosen(userId=f"{n}", anonymousId="same") for n in range(64)]
    assert by_user == [chosen(anonymousId=f"{n}") for n in range(64)]
    assert by_user == [chosen(messageId=f"{n}") for n in range(64)]
    assert {True, False} == set(by_user)


def test_the_sample_is_the_same_in_every_version() -> None:
    # Written down: a change of the hash or its salt would silently sample other people.
    assert sorted(sampled(users(100), 5.0)) == PINNED
