"""The six calls in their fixed order, through any client of the analytics-python family.

Runs in the SDK's own virtual environment: nothing here may import more than the standard library.
"""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any


def run(make_client: Callable[..., Any]) -> None:
    """Make every call of the plan on standard input, flush, and print what was sent as JSON lines.

    Args:
        make_client: Takes the plan and the SDK's `on_error` callback; returns the SDK's client.
    """
    plan = json.load(sys.stdin)
    given_up: list[object] = []
    # The SDK calls this on its own thread when it will not try a batch again.
    client = make_client(plan, lambda error, _batch: given_up.append(error))
    for method, arguments in _calls(plan):
        accepted, message = getattr(client, method)(**arguments)
        if not accepted:
            sys.exit(f"the SDK's queue refused {method}")
        sent = {
            "type": message["type"],
            "seq": message["context"]["mark"]["seq"],
            "messageId": message["messageId"],
            "userId": message.get("userId"),
            "anonymousId": message.get("anonymousId"),
        }
        sys.stdout.write(json.dumps(sent) + "\n")
    client.flush()
    client.join()
    if given_up:
        sys.exit(f"the SDK gave up on a batch: {given_up[0]!r}")


def _calls(plan: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    run, seq = plan["run"], 0
    for _ in range(plan["rounds"]):
        for number in range(plan["users"]):
            user, anonymous = f"{run}-user-{number}", f"{run}-anon-{number}"
            for method in ("identify", "track", "page", "screen", "group", "alias"):
                fields = {"seq": seq, "run": run}
                context = {"mark": {"run": run, "seq": seq}}
                both = {"user_id": user, "anonymous_id": anonymous, "context": context}
                page = {**both, "category": "Docs", "name": "Home", "properties": fields}
                arguments: dict[str, dict[str, Any]] = {
                    "identify": {**both, "traits": fields},
                    "track": {**both, "event": "Order Completed", "properties": fields},
                    "page": page,
                    "screen": page,
                    "group": {**both, "group_id": f"{run}-group", "traits": fields},
                    "alias": {"user_id": user, "previous_id": anonymous, "context": context},
                }
                yield method, arguments[method]
                seq += 1
