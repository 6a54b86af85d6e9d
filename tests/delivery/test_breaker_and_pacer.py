"""The two state machines of delivery, driven by hand."""

from itertools import pairwise

import pytest

from mainstem.delivery.breaker import Breaker
from mainstem.delivery.pacer import Pacer


def opened(open_s: float = 5.0) -> Breaker:
    breaker = Breaker(3, open_s)
    for _ in range(3):
        breaker.failed(100.0, 100_000)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(3, 5.0)
    breaker.failed(1.0, 1000)
    breaker.failed(1.0, 1000)
    breaker.answered(1001)
    breaker.failed(2.0, 2000)
    breaker.failed(2.0, 2000)
    assert breaker.closed
    assert breaker.wait_s(2.0) == 0
    breaker.failed(3.0, 3000)
    assert breaker.state == "open"
    assert breaker.since_ms == 3000
    assert breaker.wait_s(4.0) == 4.0


def test_one_probe_decides() -> None:
    breaker = opened()
    assert breaker.wait_s(105.0) == 0
    breaker.started()
    assert breaker.state == "half_open"
    assert breaker.wait_s(105.0) == float("inf")
    breaker.answered(106_000)
    assert breaker.closed
    assert breaker.wait_s(106.0) == 0


def test_failed_probes_double_the_time_up_to_ten_times() -> None:
    breaker, now, waits = opened(), 105.0, []
    for _ in range(6):
        breaker.started()
        breaker.failed(now, round(now * 1000))
        waits.append(breaker.wait_s(now))
        now += waits[-1]
    assert waits == [10, 20, 40, 50, 50, 50]
    breaker.started()
    breaker.answered(round(now * 1000))
    for _ in range(3):
        breaker.failed(now, round(now * 1000))
    assert breaker.wait_s(now) == 5


def test_late_failures_while_open_change_nothing() -> None:
    breaker = opened()
    breaker.failed(104.0, 104_000)
    assert breaker.wait_s(104.0) == 1.0


def test_an_abandoned_probe_leaves_room_for_another() -> None:
    breaker = opened()
    breaker.started()
    breaker.abandoned()
    assert breaker.wait_s(105.0) == 0


def test_outages_are_remembered() -> None:
    breaker = opened()
    assert breaker.outage_ms(0, 99_000) == 0
    assert breaker.outage_ms(0, 103_000) == 3_000
    assert breaker.outage_ms(102_000, 103_000) == 1_000
    breaker.answered(110_000)
    assert breaker.outage_ms(0, 200_000) == 10_000
    assert breaker.outage_ms(104_000, 106_000) == 2_000
    assert breaker.outage_ms(150_000, 200_000) == 0


def started_in(pacer: Pacer, seconds: float, begin: float = 1000.0) -> list[float]:
    """Start attempts as soon as the pacer lets them, for a while."""
    times, now = [], begin
    while now < begin + seconds:
        wait = pacer.wait_s(now)
        if wait:
            now += wait
            continue
        pacer.started(now)
        times.append(now)
    return times


def test_a_configured_rate_is_kept_smoothly() -> None:
    times = started_in(Pacer(50.0), 4.0)
    assert len(times) == pytest.approx(200, abs=3)
    gaps = [later - earlier for earlier, later in pairwise(times[2:])]
    assert min(gaps) > 0.019


def test_nothing_is_paced_without_reason() -> None:
    pacer = Pacer()
    assert not pacer.active
    pacer.started(1.0)
    assert pacer.wait_s(1.0) == 0


def test_retry_after_pauses_and_the_rate_recovers() -> None:
    pacer = Pacer()
    now = 1000.0
    for _ in range(300):
        pacer.started(now)
        now += 0.01  # 100 a second
    answers = 0
    while not pacer.active:  # the 429 of a single user pause nobody else
        pacer.throttled(now, 2.0)
        answers += 1
    assert 35 < answers < 45
    assert pacer.wait_s(now) == 2.0
    assert pacer.rate_per_s == pytest.approx(70, rel=0.05)
    pacer.throttled(now + 0.1, None)  # one answer of the same burst
    assert pacer.rate_per_s == pytest.approx(70, rel=0.05)
    pacer.throttled(now + 2, None)
    assert pacer.rate_per_s == pytest.approx(49, rel=0.05)
    now += 2
    rates = []
    for _ in range(60):
        now += 1
        pacer.succeeded(now)
        rates.append(pacer.rate_per_s)
    assert rates[0] == pytest.approx(54, rel=0.05)
    assert rates[-1] == 0
    pacer.wait_s(now)
    assert not pacer.active


def test_the_learnt_rate_stays_below_the_configured_one() -> None:
    pacer = Pacer(10.0)
    for _ in range(5):
        pacer.started(1000.0)
        pacer.throttled(1000.0, None)
    assert pacer.rate_per_s < 10
    for second in range(100):
        pacer.succeeded(1002.0 + second)
    assert pacer.rate_per_s == 10
