"""Segment's client, for several sources, with its settings by position and by name."""

import sys

from segment.analytics import Client
from segment.analytics.client import Client as SameClient

assert Client is SameClient
first = Client("examples", sys.argv[1])
second = Client(
    write_key="examples-2",
    host=sys.argv[1],
    debug=False,
    max_queue_size=10000,
    send=True,
    on_error=None,
    gzip=False,
    max_retries=3,
    sync_mode=False,
    timeout=15,
    proxies=None,
    thread=1,
    upload_size=100,
    upload_interval=0.5,
)
quiet = Client("examples-3", host=sys.argv[1], send=False)
synchronous = Client("examples-4", host=sys.argv[1], sync_mode=True)
first.track("one", "From the first")
first.flush()
second.track("two", "From the second")
second.shutdown()
taken, message = quiet.track("three", "From nobody")
assert taken
synchronous.track("four", "At once")
first.page("one")
first.screen("one", name="Only a name")
first.flush()
first.join()
