"""A program that uses the SDK, to be killed: it calls `track` and tells each call that has returned.

    python -m tests.sdks.python.producer HOST STORE NAME [OPTION=VALUE …]

On standard output, one line a call, written when the call has returned: the messageId. Users are `{NAME}-{k}`, and
`properties.n` rises from event to event of a user. Options: `events` (how many; 0 = until it is killed), `users`,
`pause_s`, `durability`, `fork` (how many children go on with the parent's client after the fork), `end` (`close`,
`exit`, `hang`).
"""

import os
import sys
import time

from mainstem_analytics import Client


def main() -> None:
    """Run; see the module."""
    host, store, name = sys.argv[1:4]
    options = dict(pair.split("=", 1) for pair in sys.argv[4:])
    client = Client(
        "torture",
        host=host,
        store_dir=store,
        durability=options.get("durability", "call"),  # type: ignore[arg-type]
        upload_size=int(options.get("upload_size", "20")),
        upload_interval=float(options.get("upload_interval", "0.2")),
        retry_most_s=float(options.get("retry_most_s", "0.2")),
        exit_timeout_s=float(options.get("exit_timeout_s", "10")),
        timeout=2.0,
    )
    first = int(options.get("first", "0"))
    events, forks = int(options.get("events", "0")), int(options.get("fork", "0"))
    if forks:
        # The parent has used it: its thread runs, its connection is open, something is under way.
        produce(client, name, first, 5, options)
    children = []
    for number in range(forks):
        child = os.fork()
        if not child:
            produce(client, f"{name}-child{number}", first, events, options)
            client.close(10.0)
            os._exit(0)
        children.append(child)
    produce(client, name, first + 5 if forks else first, events, options)
    for child in children:
        os.waitpid(child, 0)
    if options.get("end") == "close":
        client.close(20.0)
    elif options.get("end") == "hang":
        time.sleep(3600)


def produce(client: Client, name: str, first: int, events: int, options: dict[str, str]) -> None:
    """Call `track`, and tell that it has returned."""
    users, pause_s = int(options.get("users", "3")), float(options.get("pause_s", "0.001"))
    number = first
    while not events or number < first + events:
        for user in range(users):
            message_id = f"{name}-{user}-{number}"
            taken, _ = client.track(f"{name}-{user}", "Step", {"n": number}, message_id=message_id)
            if taken:
                os.write(1, f"{message_id}\n".encode())
        number += 1
        time.sleep(pause_s)


if __name__ == "__main__":
    main()
