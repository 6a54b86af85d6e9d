"""`python -m mainstem.testing.conformance IN.json OUT.json`: a list of vectors in, `{id: answer}` out."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec

from mainstem.testing.conformance.user_transformation import FEATURE, Transformer
from mainstem.transformations.sandbox.runtime import SandboxRuntime


async def _answers(vectors: list[dict[str, Any]]) -> dict[str, Any]:
    transformer = Transformer(vectors, SandboxRuntime)
    return {vector["id"]: await transformer.answer(vector) for vector in vectors}


def main() -> None:
    """Read the vectors, write the answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    given = msgspec.json.decode(arguments.source.read_bytes())
    answers = asyncio.run(_answers([vector for vector in given if vector.get("feature") == FEATURE]))
    there = {key: answer for key, answer in answers.items() if answer is not None}
    arguments.target.write_bytes(msgspec.json.encode(there))
    sys.stdout.write(f"{len(answers)} vectors, {len(answers) - len(there)} of them not answered\n")


if __name__ == "__main__":
    main()
