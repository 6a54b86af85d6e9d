"""A runtime that runs Python code in the test's own process, without a jail: quick, and the contract is the same."""

import copy
from collections.abc import Sequence
from typing import Any

from mainstem.transformations.base import BatchRun, Dropped, Failed, Given, Kept, Result
from mainstem.workspace.checks import revealed
from mainstem.workspace.model import Transformation


class PlainRuntime:
    """Runs `transformEvent` of Python code."""

    async def run(
        self, transformation: Transformation, given: Sequence[Given], *, logs: bool = False
    ) -> BatchRun:
        logged: list[str] = []
        module: dict[str, Any] = {
            "log": lambda *words: logged.append(" ".join(map(str, words))),
            "getCredential": lambda key: revealed(transformation.credentials.get(key)),
            "settings": revealed(transformation.settings),
        }
        exec(transformation.code, module)
        return BatchRun(tuple(_one(module["transformEvent"], each) for each in given), tuple(logged))

    async def close(self) -> None:
        pass


def _one(function: Any, given: Given) -> Result:
    try:
        made = function(copy.deepcopy(given.message), lambda _: given.metadata)
    except Exception as error:  # noqa: BLE001 - whatever the code does
        return Failed(f"{type(error).__name__}: {error}")
    if made is None:
        return Dropped()
    return Kept(tuple(made) if isinstance(made, list) else (made,))
