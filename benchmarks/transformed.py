"""The way through with user code and without: gateway to webhook sink, everything on this machine.

The same events as in `end_to_end` go through `mainstem serve` with no transformation, with one in JavaScript and with
one in Python (those of `transformation`), one installation after the other, in turns. Told is the ratio of events
delivered a second to those without code in the same round; the target is 0.7.
"""

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.end_to_end import batches_of, sink_process, through
from benchmarks.transformation import JAVASCRIPT, PYTHON

EVENTS: Final = 30_000
ROUNDS: Final = 3
_CODE: Final = {"none": "", "javascript": JAVASCRIPT, "python": PYTHON}


def _workspace(port: int, language: str) -> str:
    hook = {
        "id": "hook",
        "type": "webhook",
        "start": "earliest",
        "config": {"webhookUrl": f"http://127.0.0.1:{port}/in"},
        "delivery": {"concurrency": 64},
    }
    document: dict[str, Any] = {
        "workspace": {"id": "bench"},
        "sources": [{"id": "web", "write_key": "wk"}],
        "destinations": [hook],
        "connections": [{"from": "web", "to": ["hook"]}],
    }
    if _CODE[language]:
        document["transformations"] = [{"name": "code", "language": language, "code": _CODE[language]}]
        document["connections"][0]["transformations"] = ["code"]
    return msgspec.json.encode(document).decode()


async def _run(folder: Path) -> None:
    ratios: dict[str, list[float]] = {}
    async with sink_process(folder) as (port, pid, record):
        for number in range(ROUNDS):
            without = 0.0
            for language in _CODE:
                batches = list(batches_of(f"{language}-{number}", EVENTS))
                place = folder / f"{language}-{number}"
                found = await through(place, _workspace(port, language), record, pid, batches)
                without = without or found.delivered_per_s
                ratios.setdefault(language, []).append(found.delivered_per_s / without)
                cpu = ", ".join(f"{role} {spent:.0f}" for role, spent in found.cpu_us.items())
                print(
                    f"  {language:<10} {found.delivered_per_s:>7,.0f} events/s, {found.wrong} out of order, "
                    f"{found.again} repeated; µs of CPU an event: {cpu}"
                )
    for language, found_ratios in ratios.items():
        if language != "none":
            print(f"  {language:<10} ratio {statistics.median(found_ratios):.2f}")


def main() -> None:
    """Run it once."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_run(Path(folder)))


if __name__ == "__main__":
    main()
