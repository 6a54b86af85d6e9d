"""Judge: from events to outcomes, a batch at a time: rules, transformations, mapping.

reading -> **judge** -> delivery. What a plan does by itself, with the transformations run in between, which may
take a while. Where a plan has none, nothing is waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mainstem.events.canonical import Event
from mainstem.pipeline.outcome import Filtered, Outcome
from mainstem.pipeline.plan import DestinationPlan, Way
from mainstem.pipeline.transform import Transformer

Judge = Callable[[Sequence[Event]], Awaitable[Sequence[Outcome]]]
"""Returns the outcome of each event, in the same order. Raises SandboxUnavailable when user code can't be run
now: the events then have to wait, all of them."""

Narrow = Callable[[Event], Filtered | None]
"""A rule before all others (a replay's); None = the event goes on."""


def judge_by(
    plan: DestinationPlan, transformer: Transformer, *, narrow: Narrow | None = None, share: bool = True
) -> Judge:
    """Return the judgement by a plan.

    Args:
        share: see `Transformer.apply`.
    """

    async def by_rules(events: Sequence[Event]) -> Sequence[Outcome]:
        evaluate = plan.evaluate
        if narrow is None:
            return [evaluate(event) for event in events]
        return [narrow(event) or evaluate(event) for event in events]

    async def by_transforming(events: Sequence[Event]) -> Sequence[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(events)
        waiting: dict[Way, list[int]] = {}
        for index, event in enumerate(events):
            way = (narrow(event) if narrow is not None else None) or plan.route(event)
            if not isinstance(way, Way):
                outcomes[index] = way
            elif way.chain is None:
                outcomes[index] = plan.map(event, way)
            else:
                waiting.setdefault(way, []).append(index)

        async def transform(way: Way, indexes: Sequence[int]) -> None:
            assert way.chain is not None  # noqa: S101 - for the type checker, as the next one
            assert way.surface is not None  # noqa: S101
            made = await transformer.apply(
                way.chain, [events[index] for index in indexes], way.surface, share=share
            )
            for index, one in zip(indexes, made, strict=True):
                outcomes[index] = plan.map_made(events[index], way, one)

        troubles = await asyncio.gather(
            *(transform(way, indexes) for way, indexes in waiting.items()), return_exceptions=True
        )
        for trouble in troubles:
            if trouble is not None:
                raise trouble
        return [outcome for outcome in outcomes if outcome is not None]

    return by_transforming if plan.transforms else by_rules
