"""A runtime in the test's own process: functions instead of user code, with a door that a test can shut."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mainstem.clock import FixedClock
from mainstem.pipeline.transform import Transformer
from mainstem.transformations.base import BatchRun, Dropped, Failed, Given, Kept, Result, SandboxUnavailable
from mainstem.workspace.model import Transformation, TransformationLimits

Code = Callable[[dict[str, Any], "Metadata"], Any]
"""As `transformEvent(event, metadata)`."""


class Metadata:
    """Tells whether the code looked at the destination."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self.saw_destination = False

    def __getitem__(self, name: str) -> Any:
        self.saw_destination |= name.startswith("destination")
        return self._fields[name]


class InProcess:
    """Runs `codes[transformation.name]`."""

    def __init__(self, **codes: Code) -> None:
        self.codes = codes
        self.runs: list[tuple[str, list[str]]] = []
        """Version and messageIds of each batch."""
        self.given: list[Given] = []
        self.prepared: list[str] = []
        self.unavailable = ""
        """Why it can't run now."""
        self.open = asyncio.Event()
        """Batches wait until it is set."""
        self.open.set()
        self.waiting = 0

    async def prepare(self, transformation: Transformation) -> None:
        if self.unavailable:
            raise SandboxUnavailable(self.unavailable)
        self.prepared.append(transformation.id)

    async def run(
        self, transformation: Transformation, given: Sequence[Given], *, logs: bool = False
    ) -> BatchRun:
        self.runs.append((transformation.id, [one.message["messageId"] for one in given]))
        self.given += given
        self.waiting += 1
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        if self.unavailable:
            raise SandboxUnavailable(self.unavailable)
        code = self.codes[transformation.name]
        told = [Metadata(one.metadata) for one in given]
        results = tuple(_result(code, one, metadata) for one, metadata in zip(given, told, strict=True))
        return BatchRun(
            results, ("Log: ran",) if logs else (), any(metadata.saw_destination for metadata in told)
        )

    async def close(self) -> None:
        return


def _result(code: Code, given: Given, metadata: Metadata) -> Result:
    try:
        made = code(dict(given.message), metadata)
    except ValueError as error:
        return Failed(f"ValueError: {error}")
    if made is None or made == []:
        return Dropped()
    return Kept(tuple(made)) if isinstance(made, list) else Kept((made,))


def version(name: str, *, batch_events: int = 100, number: str = "1") -> Transformation:
    """User code, to be run by `InProcess`."""
    return Transformation(
        id=f"{name}@{number}",
        name=name,
        version=number,
        kind="javascript",
        code="…",
        limits=TransformationLimits(batch_events=batch_events),
    )


NOTHING = Transformer(InProcess(), FixedClock())
"""For plans that transform nothing."""
