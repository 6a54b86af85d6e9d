"""Holding a dialogue: drives a mapping or batching that looks things up, with somebody who can ask. Mapping kit.

Two drivers of the same few lines: `drive` asks with a plain function (tests, recorded answers), `drive_async` with
a coroutine (delivery).
"""

from collections.abc import Awaitable, Callable, Generator
from typing import Final, TypeVar

import msgspec

from mainstem.destinations.base import Answer, Call, Refusal, Response, Retry, Skip
from mainstem.destinations.kit.refuse import TOO_DEEP, NotSent, postpone

Result = TypeVar("Result")
Ended = Refusal | Skip | Retry


def drive(talk: Generator[Call, Answer, Result], ask: Callable[[Call], Answer]) -> Result | Ended:
    """Return what a dialogue ends with."""
    try:
        call = next(talk)
        while True:
            call = talk.send(ask(call))
    except StopIteration as end:
        result: Result = end.value
        return result
    except NotSent as end:
        return end.outcome
    except RecursionError:
        return TOO_DEEP


async def drive_async(
    talk: Generator[Call, Answer, Result], ask: Callable[[Call], Awaitable[Answer]]
) -> Result | Ended:
    """Return what a dialogue ends with. What `ask` raises ends it."""
    try:
        call = next(talk)
        while True:
            call = talk.send(await ask(call))
    except StopIteration as end:
        result: Result = end.value
        return result
    except NotSent as end:
        return end.outcome
    except RecursionError:
        return TOO_DEEP
    finally:
        talk.close()


def first_question(talk: Generator[Call, Answer, Result]) -> Call | Result | Ended:
    """Return the first look-up of a dialogue, or what it ends with when it needs none: for dry runs."""
    try:
        return next(talk)
    except StopIteration as end:
        result: Result = end.value
        return result
    except NotSent as end:
        return end.outcome
    except RecursionError:
        return TOO_DEEP
    finally:
        talk.close()


def answer_of(response: Response) -> Answer:
    """Return a response as mappings read it."""
    try:
        body = msgspec.json.decode(response.body) if response.body else None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        body = response.body.decode("utf-8", "replace")
    return Answer(response.status, body, response.headers)


def ok(answer: Answer) -> bool:
    """Tell whether a look-up was answered with 2xx."""
    return 200 <= answer.status < 300


_NEEDS_PEOPLE: Final = frozenset((401, 402, 403, 407))


def or_postpone(answer: Answer, what: str) -> None:
    """Go on after a 2xx or a 4xx that is about the request; end the mapping for now after 429, 5xx or silence.

    So after 401, 402, 403 and 407: credentials and bills are put right by people, and nothing may be lost until then.

    Args:
        what: names the look-up: "search of the contact".
    """
    if answer.status == 429:
        postpone(f"{what}: http 429", 429, throttled=True)
    if answer.status == 0 or answer.status >= 500 or answer.status in _NEEDS_PEOPLE:
        status = answer.status or 500
        reason = f"{what}: {answer.error or f'http {answer.status}'}"
        raise NotSent(Retry(reason, destination_wide=True, status=status))
