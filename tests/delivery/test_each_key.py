"""Messages of several users in requests that may be taken in parts: nobody's change places."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mainstem.delivery.each_key import WAITS, send_in_order
from mainstem.destinations.base import Delivered, Delivery, Rejected, Retry, StreamMessage

OUTCOMES = (Delivered(), Rejected("no"), Retry("later"))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(OUTCOMES), st.integers(1, 60)), max_size=20),
    st.integers(1, 5),
)
async def test_order_and_bounds(plan: list[tuple[int, Delivery, int]], most: int) -> None:
    messages = [
        StreamMessage(topic="t", key=b"" if user == 0 else str(user).encode(), value=str(index).encode())
        for index, (user, _, _) in enumerate(plan)
    ]
    seen: list[int] = []

    async def send(group: Sequence[StreamMessage]) -> Sequence[Delivery]:
        indexes = [int(message.value) for message in group]
        keyed = [message.key for message in group if message.key]
        assert len(group) <= most
        assert len(keyed) == len(set(keyed))
        assert len(group) == 1 or sum(plan[index][2] for index in indexes) <= 100
        seen.extend(indexes)
        return [plan[index][1] for index in indexes]

    results = await send_in_order(
        messages, send, most=most, most_bytes=100, size=lambda message: plan[int(message.value)][2]
    )
    assert len(results) == len(plan)
    for user in (1, 2, 3):
        own = [index for index, (who, _, _) in enumerate(plan) if who == user]
        stopped = next(
            (place for place, index in enumerate(own) if isinstance(plan[index][1], Retry)), len(own)
        )
        sent = [index for index in seen if index in own]
        assert sent == own[: stopped + 1]
        assert all(results[index] == WAITS for index in own[stopped + 1 :])
    for index in seen:
        assert results[index] == plan[index][1]
