"""What `mainstem serve` costs while nothing happens: CPU of every process of the tree, as a share of one core.

    python -m benchmarks.idle [SECONDS]

One source, a webhook and an archive destination; measured after it settled, against an idle Python process that
only sleeps (the do-nothing baseline).
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.acceptance.serving import WRITE_KEY, Serving, serving

_SETTLE_S = 3.0
_MEASURE_S = 10.0
_WORKSPACE = f"""
workspace: {{id: idle, name: Idle}}
sources: [{{id: app, name: App, write_key: {WRITE_KEY}, type: http}}]
destinations:
  - {{id: hook, name: Hook, type: webhook, config: {{webhookUrl: "http://127.0.0.1:9/in"}}}}
  - {{id: files, name: Files, type: archive, config: {{url: archive}}}}
connections: [{{from: app, to: [hook, files]}}]
"""


def _cpu_s(pid: int) -> float:
    # To the nanosecond: ticks of 10 ms that hit a process which wakes by timers say nothing of how long it ran.
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _children(pid: int) -> list[int]:
    """Of a gateway: its writer."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


async def _measure(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # The product's own pace of looking for changes, not the tests'.
        settings = {"workspace_poll_s": 1.0, "stream_partitions": 8}
        product: Serving
        async with serving(Path(folder), _WORKSPACE, settings=settings) as product:
            nothing = subprocess.Popen([sys.executable, "-c", "import time\nwhile True: time.sleep(0.25)"])
            try:
                await asyncio.sleep(_SETTLE_S)
                pids = {"serve": product.pid, **product.children(), "(only sleeps)": nothing.pid}
                pids |= {
                    f"{name} writer": child
                    for name, pid in product.children().items()
                    for child in _children(pid)
                }
                before = {name: _cpu_s(pid) for name, pid in pids.items()}
                await asyncio.sleep(seconds)
                used = {name: _cpu_s(pid) - before[name] for name, pid in pids.items()}
            finally:
                nothing.kill()
                nothing.wait()
    for name, cpu_s in used.items():
        print(f"{name:>17}  {cpu_s / seconds:7.2%} of a core")
    total = sum(cpu_s for name, cpu_s in used.items() if name != "(only sleeps)")
    print(f"{'together':>17}  {total / seconds:7.2%} of a core")


def main() -> None:
    """Measure and print."""
    asyncio.run(_measure(float(sys.argv[1]) if len(sys.argv) > 1 else _MEASURE_S))


if __name__ == "__main__":
    main()
