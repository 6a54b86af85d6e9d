"""Programs that use the Python SDK under somebody's server, with `mainstem serve` and a webhook behind them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainstem.testing.sink import Sink
from mainstem_analytics import Client
from tests.acceptance.evidence import accepted
from tests.acceptance.serving import WRITE_KEY, Serving, serving
from tests.components.install import REPOSITORY
from tests.components.process import ServerProcess

_WORKSPACE = """
workspace: {{id: hosts, name: Hosts}}
sources:
  - {{id: app, name: App, write_key: {key}, type: http}}
destinations:
  - {{id: hook, name: Hook, type: webhook, start: earliest, config: {{webhookUrl: "{sink}/in"}}}}
connections:
  - {{from: app, to: [hook]}}
"""

SETTINGS = """
import os
from pathlib import Path
import mainstem_analytics as analytics

for name in ("write_key", "host", "store_dir", "durability"):
    setattr(analytics, name, os.environ[name.upper()])
# The end is asked for in these tests, and the machine may be busy.
analytics.exit_timeout_s = 30
analytics.upload_interval = 3600
folder = Path(os.environ["STORE_DIR"]).parent
"""
"""How such a program begins."""


@dataclass
class Behind:
    """What is behind a program."""

    product: Serving
    sink: Sink
    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """What the program is given to reach it."""
        return {
            "PYTHONPATH": f"{REPOSITORY}/sdks/python/src:{self.folder}",
            "WRITE_KEY": WRITE_KEY,
            "HOST": self.product.url,
            "STORE_DIR": str(self.folder / "store"),
        }

    async def arrived(self, server: ServerProcess) -> Sequence[Mapping[str, Any]]:
        """See that the ended program has left nothing in its store; return the events as they arrived."""
        store = Client(
            WRITE_KEY, host=self.product.url, store_dir=self.folder / "store", handle_sigterm=False
        )
        assert store.status().stored == 0, server.log_tail()
        store.close(0.0)
        await self.product.settled("hook")
        return accepted(self.sink.requests)


@asynccontextmanager
async def behind(folder: Path) -> AsyncIterator[Behind]:
    """Run `mainstem serve` and its webhook."""
    async with Sink() as sink:
        workspace = _WORKSPACE.format(key=WRITE_KEY, sink=sink.url)
        async with serving(folder / "serve", workspace) as product:
            yield Behind(product, sink, folder)
