"""Attempts against a vendor that takes batches, OAuth and look-ups, and says no in each way vendors do."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.delivery import vendor as v
from tests.delivery.kit import begin, item, policy, sender, settled, totals

from mainstem.clock import FixedClock, SystemClock
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.http_attempt import HttpAttempt
from mainstem.delivery.item import Item
from mainstem.delivery.tokens import oauth_tokens
from mainstem.delivery.transport import PyreqwestTransport
from mainstem.destinations.base import (
    ACCESS_TOKEN,
    Answer,
    Batch,
    Call,
    Delivered,
    Dialogue,
    Looking,
    OAuth,
    OAuthGrant,
    Rejected,
    Request,
    Response,
    Retry,
    Skip,
    Unit,
)
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import or_postpone
from mainstem.destinations.kit.refuse import refuse, skip
from mainstem.ledger.memory import MemoryLedger
from mainstem.secret import Secret
from mainstem.testing.sink import Answer as Served
from mainstem.testing.sink import Cut, Sink

GRANT = OAuthGrant(client_id="c1", client_secret=Secret("s1"), refresh_token=Secret("r1"))


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with Sink() as opened:
        yield opened


@pytest.fixture
async def transport() -> AsyncIterator[PyreqwestTransport]:
    opened = PyreqwestTransport(AddressGuard(allow_private=True), SystemClock())
    yield opened
    await opened.close()


class Scene:
    """The vendor, and an attempt at it."""

    def __init__(self, sink: Sink, transport: PyreqwestTransport, **fields: Any) -> None:
        self.vendor = v.Vendor()
        sink.script = self.vendor.script
        self.url = sink.url
        self.spec = v.spec(sink.url, **fields)
        self.clock = FixedClock()
        tokens = None
        if self.spec.oauth is not None:
            tokens = oauth_tokens(self.spec.oauth, GRANT, transport, self.clock, timeout_s=2.0)
        self.attempt = HttpAttempt(
            transport, timeout_s=2.0, clock=self.clock, spec=self.spec, config=10, tokens=tokens
        )

    def items(self, *ids: str, path: str = "/batch") -> list[Item]:
        """One event each; `u1-3` is the third event of u1."""
        return [
            changed(item(n, one.partition("-")[0]), v.call_for(self.url, one, path=path))
            for n, one in enumerate(ids)
        ]


def changed(one: Item, *payloads: Any) -> Item:
    one.payloads = payloads
    return one


async def test_events_go_in_batches_and_each_has_its_result(
    sink: Sink, transport: PyreqwestTransport
) -> None:
    scene = Scene(sink, transport)
    scene.vendor.verdicts = {"b": ["bad"], "c": ["warn"], "d": ["later"]}
    results = await scene.attempt(scene.items("a", "b", "c", "d"))
    assert [type(one) for one in results] == [Delivered, Rejected, Delivered, Retry]
    assert isinstance(results[2], Delivered)
    assert results[2].warning == "`age` was ignored"
    assert [request.path for request in sink.requests] == ["/token", "/batch"]
    assert scene.vendor.taken == ["a", "c"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Served(429, (("retry-after", "7"),)), Retry("http 429", after_s=7.0, throttled=True)),
        (Served(429), Retry("http 429", throttled=True)),
        (503, Retry("http 503", destination_wide=True)),
        (400, Rejected("http 400")),
        (Cut(), Retry("no answer: Cut", destination_wide=True)),
    ],
)
async def test_an_answer_without_results_is_everybodys(
    sink: Sink, transport: PyreqwestTransport, answer: Any, expected: Any
) -> None:
    scene = Scene(sink, transport, oauth=None)
    scene.vendor.next = [answer] * 3  # a 400 comes once for both, then for each
    results = await scene.attempt(scene.items("a", "b"))
    for result in results:
        assert isinstance(result, Retry | Rejected)
        assert result.reason == expected.reason
        if isinstance(expected, Retry) and isinstance(result, Retry):
            assert (result.after_s, result.throttled, result.destination_wide) == (
                expected.after_s,
                expected.throttled,
                expected.destination_wide,
            )


async def test_a_200_with_an_error_in_its_body_is_no_success(
    sink: Sink, transport: PyreqwestTransport
) -> None:
    scene = Scene(sink, transport, batcher=None, classify_each=None)
    scene.vendor.verdicts = {"a": ["bad"], "b": ["later"], "c": ["ok"]}
    results = await scene.attempt(scene.items("a", "b", "c", path="/single"))
    assert [type(one) for one in results] == [Rejected, Retry, Delivered]


async def test_a_token_is_renewed_when_it_ends_and_when_it_is_refused(
    sink: Sink, transport: PyreqwestTransport
) -> None:
    scene = Scene(sink, transport)
    assert isinstance((await scene.attempt(scene.items("a")))[0], Delivered)
    assert isinstance((await scene.attempt(scene.items("b")))[0], Delivered)
    assert scene.vendor.tokens == 1
    scene.clock.advance(3600)
    assert isinstance((await scene.attempt(scene.items("c")))[0], Delivered)
    assert scene.vendor.tokens == 2
    scene.vendor.good_tokens = {"none"}  # revoked before its time
    assert isinstance((await scene.attempt(scene.items("d")))[0], Delivered)
    assert scene.vendor.tokens == 3
    assert scene.vendor.taken == ["a", "b", "c", "d"]


async def test_without_a_token_the_destination_waits_and_says_why(
    sink: Sink, transport: PyreqwestTransport
) -> None:
    scene = Scene(sink, transport)
    scene.vendor.grant_error = "invalid_grant"
    [result] = await scene.attempt(scene.items("a"))
    assert result == Retry("no OAuth token: invalid_grant", destination_wide=True)
    assert scene.vendor.taken == []


async def test_no_token_shows_in_what_is_described(sink: Sink, transport: PyreqwestTransport) -> None:
    scene = Scene(sink, transport)
    scene.vendor.verdicts = {"a": ["bad"]}
    [one] = scene.items("a")
    await scene.attempt([one])
    shown = scene.attempt.describe(one)
    assert '"id":"a"' in shown.replace(" ", "")
    assert "token-1" not in shown
    assert "access_token" not in shown


async def test_a_dialogue_looks_up_once_for_as_long_as_it_may(
    sink: Sink, transport: PyreqwestTransport
) -> None:
    scene = Scene(sink, transport, batcher=None, classify_each=None)

    def talk(person: str) -> Dialogue:
        def start() -> Looking:
            url = f"{scene.url}/people"
            answer: Answer = yield Call(
                url=url,
                method="GET",
                params={"id": person},
                headers={"Authorization": f"Bearer {ACCESS_TOKEN}"},
                cache_s=60,
            )
            or_postpone(answer, "look-up of the person")
            if person == "nobody":
                skip("unknown person")
            if person == "broken":
                refuse("`userId` is broken")
            return (json_call(f"{scene.url}/single", {"id": answer.body["segment"]}),)

        return Dialogue(start)

    scene.vendor.good_tokens = set()
    assert scene.spec.oauth is not None
    people = ["ann", "ann", "nobody", "broken"]
    results = [
        (await scene.attempt([changed(item(n, person), talk(person))]))[0] for n, person in enumerate(people)
    ]
    # The write carries no token in this test, the vendor asks for one: only reading is looked at.
    assert scene.vendor.lookups == 3
    assert results[2] == Skip("unknown person")
    assert results[3] == Rejected("`userId` is broken")
    scene.clock.advance(61)
    await scene.attempt([changed(item(9, "ann"), talk("ann"))])
    assert scene.vendor.lookups == 4
    scene.vendor.next = [Served(429)]
    scene.clock.advance(61)
    [result] = await scene.attempt([changed(item(10, "ann"), talk("ann"))])
    assert isinstance(result, Retry)
    assert result.throttled


async def test_what_a_look_up_filters_is_filtered_in_the_books(
    sink: Sink, transport: PyreqwestTransport
) -> None:
    scene = Scene(sink, transport, batcher=None, classify_each=None, oauth=None)

    def start() -> Looking:
        yield Call(url=f"{scene.url}/people", method="GET", params={"id": "x"})
        skip("unknown person")

    ledger = MemoryLedger()
    one = sender(scene.attempt, ledger, policy())
    await begin(one, ledger)
    one.offer(changed(item(0, "ann"), Dialogue(start)))
    one.offer(changed(item(1, "bob"), v.call_for(scene.url, "b", path="/single")))
    scene.vendor.verdicts = {"b": ["warn"]}
    await settled(one, ledger, 2)
    assert await totals(ledger) == {"delivered": 1, "filtered": 1, "parked": 0, "settled": 2}
    [remark] = await ledger.remarks("hook", "bob-1")
    assert remark.text == "`age` was ignored"
    await one.drain(5)


async def test_who_is_well_in_a_request_is_not_delivered_while_the_rest_of_its_batch_is_not_sent(
    sink: Sink, transport: PyreqwestTransport
) -> None:
    def batcher(_: Any) -> Any:
        def batch(units: Sequence[Unit]) -> Sequence[Batch]:
            body = {"events": [{"id": unit.event.user_id} for unit in units]}
            call = json_call(f"{sink.url}/batch", body)
            return [Batch((call, call), tuple(unit.index for unit in units))]

        return batch

    scene = Scene(sink, transport, batcher=batcher, oauth=None)
    scene.vendor.verdicts = {"a": ["bad"]}
    items = scene.items("a", "b")
    first = await scene.attempt(items)
    assert [type(one) for one in first] == [Rejected, Retry]
    assert scene.vendor.taken == ["b"]
    assert [type(one) for one in await scene.attempt(items[1:])] == [Delivered]
    assert scene.vendor.taken == ["b", "b", "b"]


# ---------------------------------------------------------------- batches that are refused as a whole


async def test_one_bad_event_of_ten_is_found(sink: Sink, transport: PyreqwestTransport) -> None:
    scene = Scene(sink, transport, oauth=None)
    scene.vendor.unwanted = {"g"}
    items = scene.items(*"abcdefghij")
    results = await scene.attempt(items)
    assert [type(one) for one in results] == [Rejected if id_ == "g" else Delivered for id_ in "abcdefghij"]
    assert scene.vendor.taken == [*"abcdefhij"]
    # Twice as many as there are levels, and the first.
    assert len(sink.requests) <= 1 + 2 * 4
    shown = scene.attempt.describe(items[6])
    assert '"g"' in shown
    assert '"f"' not in shown, "the dead letter shows the request with this event alone"


async def test_a_batch_that_is_too_large_gets_small_enough(sink: Sink, transport: PyreqwestTransport) -> None:
    scene = Scene(sink, transport, oauth=None)
    scene.vendor.most = 3
    results = await scene.attempt(scene.items(*"abcdefghij"))
    assert {type(one) for one in results} == {Delivered}
    assert scene.vendor.taken == [*"abcdefghij"]
    scene.vendor.most = 0
    assert [type(one) for one in await scene.attempt(scene.items("k", "l"))] == [Rejected, Rejected]


async def test_an_event_to_be_retried_keeps_its_users_later_ones_in_the_other_half(
    sink: Sink, transport: PyreqwestTransport
) -> None:
    scene = Scene(sink, transport, oauth=None)
    scene.vendor.unwanted = {"d"}
    scene.vendor.verdicts = {"u-1": ["later"]}
    results = await scene.attempt(scene.items("a", "u-1", "c", "d", "u-2", "e"))
    assert [type(one) for one in results] == [Delivered, Retry, Delivered, Rejected, Retry, Delivered]
    assert scene.vendor.taken == ["a", "c", "e"]


@pytest.mark.parametrize("stop", [503, 429, 401, Cut()])
async def test_a_half_that_meets_an_outage_ends_the_search(
    sink: Sink, transport: PyreqwestTransport, stop: Any
) -> None:
    scene = Scene(sink, transport, oauth=None)
    scene.vendor.next = [400, 400, stop]
    results = await scene.attempt(scene.items(*"abcdefgh"))
    assert {type(one) for one in results} == {Retry}
    assert len(sink.requests) == 3
    assert scene.vendor.taken == []


@pytest.mark.parametrize("status", [404, 405, 302])
async def test_what_no_event_is_to_blame_for_is_not_searched_for(
    sink: Sink, transport: PyreqwestTransport, status: int
) -> None:
    scene = Scene(sink, transport, oauth=None)
    scene.vendor.next = [status]
    assert [type(one) for one in await scene.attempt(scene.items(*"abcd"))] == [Rejected] * 4
    assert len(sink.requests) == 1


# ---------------------------------------------------------------- order


class Paper:
    """A transport that writes down who was sent, and fails as told."""

    def __init__(self, failing: set[int], unwanted: set[str] | None = None) -> None:
        self.sent: list[str] = []
        self._failing = failing
        self._unwanted = unwanted or set()
        self._count = 0

    async def send(self, request: Request, *, timeout_s: float) -> Response:
        self._count += 1
        if self._count in self._failing:
            return Response(500)
        ids = request.body.decode().strip('"').split()
        if self._unwanted.intersection(ids):
            return Response(400)
        self.sent += ids
        return Response(200)

    async def close(self) -> None:
        return


def _by_endpoint(units: Sequence[Unit]) -> Sequence[Batch]:
    """All of an endpoint together, at most three, as vendors' batchings do: users' events may change places."""
    batches = []
    for endpoint in sorted({unit.calls[0].url for unit in units}):
        these = [unit for unit in units if unit.calls[0].url == endpoint]
        for at in range(0, len(these), 3):
            part = these[at : at + 3]
            text = " ".join(unit.event.message_id for unit in part)
            batches.append(Batch((json_call(endpoint, text),), tuple(unit.index for unit in part)))
    return batches


@given(
    events=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=12),
    failing=st.sets(st.integers(1, 8), max_size=4),
)
@settings(max_examples=300, deadline=None)
async def test_no_batching_changes_a_users_order(events: list[tuple[str, str]], failing: set[int]) -> None:
    paper = Paper(failing)
    spec = v.spec("http://v", batcher=lambda _: _by_endpoint, classify=None, classify_each=None, oauth=None)
    attempt = HttpAttempt(paper, timeout_s=1.0, clock=FixedClock(), spec=spec)
    items = [
        changed(item(n, user), json_call(f"http://v/{endpoint}", ""))
        for n, (user, endpoint) in enumerate(events)
    ]
    results = await attempt(items)
    assert len(results) == len(items)
    for user in "abc":
        ids = [one.event.message_id for one in items if one.key == user]
        sent = [one for one in paper.sent if one.startswith(f"{user}-")]
        assert sent == ids[: len(sent)], "in order, and nothing behind one that failed"
        done = [
            type(result) is Delivered for one, result in zip(items, results, strict=True) if one.key == user
        ]
        assert done == [True] * len(sent) + [False] * (len(ids) - len(sent))


@given(
    events=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=12),
    failing=st.sets(st.integers(1, 12), max_size=3),
    bad=st.sets(st.integers(0, 11), max_size=4),
)
@settings(max_examples=300, deadline=None)
async def test_a_search_for_bad_events_costs_no_good_one_and_changes_no_order(
    events: list[tuple[str, str]], failing: set[int], bad: set[int]
) -> None:
    items = [
        changed(item(n, user), json_call(f"http://v/{endpoint}", ""))
        for n, (user, endpoint) in enumerate(events)
    ]
    unwanted = {one.event.message_id for n, one in enumerate(items) if n in bad}
    paper = Paper(failing, unwanted)
    spec = v.spec("http://v", batcher=lambda _: _by_endpoint, classify=None, classify_each=None, oauth=None)
    results = await HttpAttempt(paper, timeout_s=1.0, clock=FixedClock(), spec=spec)(items)
    for user in "abc":
        mine = [(one, got) for one, got in zip(items, results, strict=True) if one.key == user]
        kinds = [type(got) for _, got in mine]
        waiting = kinds.index(Retry) if Retry in kinds else len(kinds)
        assert set(kinds[waiting:]) <= {Retry}, "nothing behind one that waits"
        for one, got in mine[:waiting]:
            assert isinstance(got, Rejected) == (one.event.message_id in unwanted)
        sent = [id_ for id_ in paper.sent if id_.startswith(f"{user}-")]
        assert sent == [one.event.message_id for one, got in mine if isinstance(got, Delivered)]


def test_the_oauth_struct_hides_its_secrets() -> None:
    assert "s1" not in repr(GRANT)
    assert OAuth(token_url="https://x.test").scopes == ()
