"""`python -m mainstem.testing.conformance IN.json OUT.json`: a list of vectors in, `{id: answer}` out."""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from mainstem.testing.conformance import deliveries, destinations, user_transformation, warehouse
from mainstem.transformations.sandbox.runtime import SandboxRuntime


async def _answers(vectors: list[dict[str, Any]], *, trace: bool) -> dict[str, Any]:
    of_code = [vector for vector in vectors if vector.get("feature") == user_transformation.FEATURE]
    found: dict[str, Any] = {}
    if of_code:
        transformer = user_transformation.Transformer(of_code, SandboxRuntime)
        found = {vector["id"]: await transformer.answer(vector) for vector in of_code}
    for vector in vectors:
        if vector.get("feature") == deliveries.FEATURE:
            found[vector["id"]] = deliveries.answer(vector)
        elif vector.get("feature") in warehouse.FEATURES:
            found[vector["id"]] = warehouse.answer(vector)
        elif vector.get("feature") in destinations.FEATURES:
            unmatched: list[str] = []
            found[vector["id"]] = destinations.answer(vector, unmatched)
            if trace:
                sys.stderr.writelines(f"{vector['id']}: no recorded answer for {one}\n" for one in unmatched)
    return found


def main() -> None:
    """Read the vectors, write the answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--trace", action="store_true", help="tell requests that no vector has an answer to")
    arguments = parser.parse_args()
    given = json.loads(
        arguments.source.read_bytes()
    )  # some vectors have halves of surrogate pairs, which msgspec refuses
    answers = asyncio.run(_answers(given, trace=arguments.trace))
    there = {key: answer for key, answer in answers.items() if answer is not None}
    arguments.target.write_text(json.dumps(msgspec.to_builtins(there)), "ascii")
    sys.stdout.write(f"{len(answers)} vectors, {len(answers) - len(there)} of them not answered\n")


if __name__ == "__main__":
    main()
