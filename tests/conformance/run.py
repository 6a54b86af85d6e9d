"""Answers the open vectors with the product's code and scores them with the vectors' own tool.

`python -m tests.conformance [NAME …] [-v]` prints the table; `-v` also each failure's first difference;
`--deliveries` is about reading vendors' answers, `--warehouse` about rows, by provider. `make conformance` (`--write`)
answers the first wave's and writes docs/reference/conformance.md.
The vectors lie in `../shared/vectors`; where they are not, there is nothing to run, and that is said.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from mainstem.testing.conformance import deliveries, destinations, warehouse

ROOT = Path(__file__).parents[2]
VECTORS = ROOT.parent / "shared" / "vectors"
FOLDERS = ("processor", "router", "batch", "replay/processor", "replay/router")
DELIVERIES = ("dataDelivery", "replay/dataDelivery")
"""Scored by what becomes of each job: delivered, throttled, retry, refused. The vectors' own tool compares words."""


def there() -> bool:
    """Tell whether the vectors are."""
    return (VECTORS / "tools" / "score.py").exists()


def _score() -> ModuleType:
    tools = str(VECTORS / "tools")
    if tools not in sys.path:
        sys.path.insert(0, tools)
    import score  # type: ignore[import-not-found]

    found: ModuleType = score
    return found


class Line:
    """One destination's result in one feature."""

    def __init__(self) -> None:
        self.total = 0
        self.passed = 0
        self.deliberate = 0
        """Readings of answers only: refused by the peer, while with us the destination waits for people."""
        self.failures: list[tuple[str, str, str]] = []
        """(vector id, its name, the first difference)."""


def names_there() -> list[str]:
    """Return every destination that has vectors."""
    return sorted({path.stem for folder in FOLDERS for path in (VECTORS / "open" / folder).glob("*.json")})


def run(names: list[str]) -> dict[tuple[str, str], Line]:
    """Return the result of each destination and feature; a destination we have not scores nothing."""
    score = _score()
    results: dict[tuple[str, str], Line] = {}
    for name in names:
        for folder in FOLDERS:
            path = VECTORS / "open" / folder / f"{name}.json"
            if not path.exists():
                continue
            line = results.setdefault((name, folder), Line())
            for vector in msgspec.json.decode(path.read_bytes()):
                line.total += 1
                unmatched: list[str] = []
                # As the tool writes and the scorer reads them: through JSON.
                answer: Any = json.loads(json.dumps(_answer(vector, unmatched)))
                differences: list[str] = []
                if answer is not None and score.passed(vector, answer, differences):
                    line.passed += 1
                else:
                    why = "not answered" if answer is None else (differences or ["?"])[0]
                    why += "".join(f"\n      no recorded answer for {one}" for one in unmatched)
                    line.failures.append((vector["id"], vector.get("name", ""), why))
    return results


def run_deliveries(names: list[str]) -> dict[tuple[str, str], Line]:
    """Return, by destination, how many answers mean the same to us as to the peer."""
    results: dict[tuple[str, str], Line] = {}
    for name in names:
        for folder in DELIVERIES:
            path = VECTORS / "open" / folder / f"{name}.json"
            for vector in msgspec.json.decode(path.read_bytes()) if path.exists() else []:
                line = results.setdefault((name, "dataDelivery"), Line())
                line.total += 1
                expected = deliveries.fates(vector["output"])
                given = deliveries.readings(vector) or []
                if expected == ["retry" if one == "stopped" else one for one in given]:
                    line.passed += 1
                elif expected == ["refused" if one == "stopped" else one for one in given]:
                    line.deliberate += 1
                else:
                    why = f"expected {expected}, given {given}"
                    line.failures.append((vector["id"], vector.get("name", ""), why))
    return results


def warehouses_there() -> list[str]:
    """Return every provider of warehouses that has vectors, and `unit`."""
    names = {path.stem for path in (VECTORS / "open" / "warehouse").glob("*.json")}
    return sorted({"unit" if name.startswith("unit_") else name for name in names})


def run_warehouses(names: list[str]) -> dict[tuple[str, str], Line]:
    """Return the result of each provider's rows; of single functions for `unit`."""
    score = _score()
    results: dict[tuple[str, str], Line] = {}
    for name in names:
        pattern = "unit_*.json" if name == "unit" else f"{name}.json"
        for path in sorted((VECTORS / "open" / "warehouse").glob(pattern)):
            line = results.setdefault((path.stem, "warehouse"), Line())
            for vector in json.loads(path.read_bytes()):  # msgspec refuses halves of surrogate pairs
                line.total += 1
                answer: Any = json.loads(json.dumps(msgspec.to_builtins(warehouse.answer(vector))))
                differences: list[str] = []
                if answer is not None and score.passed(vector, answer, differences):
                    line.passed += 1
                else:
                    why = "not answered" if answer is None else (differences or [str(answer)[:200]])[0]
                    line.failures.append((vector.get("id", ""), vector.get("name", ""), why))
    return results


def _answer(vector: Any, unmatched: list[str]) -> Any:
    answer = destinations.answer(vector, unmatched)
    return None if answer is None else msgspec.to_builtins(answer)


def main(arguments: list[str]) -> int:
    """Print the table."""
    verbose = "-v" in arguments
    if not there():
        sys.stdout.write(f"no vectors at {VECTORS}: nothing was checked\n")
        return 1
    names = [name for name in arguments if not name.startswith("-")]
    total: Counter[str] = Counter()
    if "--warehouse" in arguments:
        results = run_warehouses(names or warehouses_there())
    elif "--deliveries" in arguments:
        results = run_deliveries(names or names_there())
    else:
        results = run(names or names_there())
    for (name, folder), line in results.items():
        stopped = f"  (stopped for people: {line.deliberate})" if line.deliberate else ""
        sys.stdout.write(f"{name:40} {folder:18} {line.passed:4}/{line.total}{stopped}\n")
        total["passed"] += line.passed
        total["total"] += line.total
        if verbose:
            for vector_id, title, why in line.failures:
                sys.stdout.write(f"    {vector_id} | {title[:60]} | {why[:400]}\n")
    share = 100 * total["passed"] / max(1, total["total"])
    sys.stdout.write(f"{'total':59} {total['passed']:4}/{total['total']}  {share:.1f} %\n")
    return 0
