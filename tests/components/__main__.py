"""Install every component: `python -m tests.components`.

Prints a line for each. Ends with status 1 if one is missing and this run requires all of them
(CI=true or TEST_REQUIRE_COMPONENTS=true); elsewhere the tests that need it will say that they skip.
"""

import sys
import time
from collections.abc import Callable

from tests.components import (
    chromium,
    dbt,
    fakesnow,
    javascript_sdk,
    kafka,
    mariadb,
    node_sdks,
    postgres,
    python_sdks,
    redis,
    s3,
)
from tests.components.install import ComponentMissing, required, say

COMPONENTS: dict[str, Callable[[], object]] = {
    "S3 server": s3.install,
    "Redis server": redis.install,
    "Python SDKs": python_sdks.install,
    "JavaScript SDKs": node_sdks.install,
    "Build tools of our JavaScript SDK": javascript_sdk.install,
    "Kafka broker": kafka.install,
    "Chromium": chromium.install,
    "PostgreSQL server": postgres.install,
    "MariaDB server": mariadb.install,
    "Snowflake's emulator": fakesnow.install,
    "dbt": dbt.install,
}


def main() -> int:
    """Install all, report each, and count the failures."""
    missing = 0
    for name, install in COMPONENTS.items():
        started = time.monotonic()
        try:
            install()
        except ComponentMissing as error:
            missing += 1
            say(f"{name}: MISSING. {error}")
        else:
            say(f"{name}: ready ({time.monotonic() - started:.1f} s)")
    return 1 if missing and required() else 0


if __name__ == "__main__":
    sys.exit(main())
