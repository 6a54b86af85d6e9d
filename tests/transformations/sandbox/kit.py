"""What the tests of the sandboxes share: transformations and events in few words."""

from collections.abc import Mapping, Sequence
from typing import Any

from mainstem.transformations.base import BatchRun, Failed, Given, Kept
from mainstem.transformations.sandbox.runtime import SandboxRuntime
from mainstem.workspace.model import CodeLibrary, Transformation, TransformationLimits

NOW_MS = 1_770_000_000_123


def javascript(code: str, **changes: Any) -> Transformation:
    """Return a version with small limits."""
    given: dict[str, Any] = {
        "id": "t@1",
        "name": "t",
        "version": "1",
        "kind": "javascript",
        "code": code,
        "limits": TransformationLimits(timeout_s=0.5, memory_mb=48),
    }
    return Transformation(**given | changes)


def python(code: str, **changes: Any) -> Transformation:
    return javascript(code, **{"kind": "python"} | changes)


def library(name: str, code: str) -> CodeLibrary:
    return CodeLibrary(name=name, code=code)


def given(*messages: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> list[Given]:
    return [
        Given(
            message={"messageId": f"m{number}", "type": "track", **message},
            metadata={
                "sourceId": "web",
                "messageId": message.get("messageId", f"m{number}"),
                **(metadata or {}),
            },
            seed=str(message.get("messageId", f"m{number}")),
            now_ms=NOW_MS + number,
        )
        for number, message in enumerate(messages)
    ]


async def outcome(
    runtime: SandboxRuntime, transformation: Transformation, *messages: Mapping[str, Any]
) -> Any:
    """Return each result in short: the messages without id and type, None, or the reason."""
    return shown(await runtime.run(transformation, given(*messages)))


def shown(run: BatchRun) -> list[Any]:
    short: list[Any] = []
    for result in run.results:
        match result:
            case Kept(messages):
                short.append([_short(message) for message in messages])
            case Failed(reason):
                short.append(reason)
            case _:
                short.append(None)
    return short


def _short(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key not in ("messageId", "type")}


def failures(results: Sequence[Any]) -> list[int]:
    return [index for index, result in enumerate(results) if isinstance(result, str)]
