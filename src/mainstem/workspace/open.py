"""From a location to the source of snapshots: a path, `file:/path`, `http://…` or `https://…`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mainstem.clock import Clock
from mainstem.secret import Secret
from mainstem.workspace.checks import Checks
from mainstem.workspace.control_plane import ControlPlane
from mainstem.workspace.fetch import Fetch, fetch
from mainstem.workspace.files import FileSource
from mainstem.workspace.last_good import LastGood
from mainstem.workspace.model import WorkspaceSource

_NO_TOKEN: Final = Secret("")
_CONTROL_PLANE_POLL_S: Final = 5.0
"""A control plane is asked at most this often, as RudderStack's data plane asks its own."""


def open_workspace(
    location: str,
    *,
    env: Mapping[str, str],
    data_dir: Path,
    checks: Checks,
    clock: Clock,
    token: Secret = _NO_TOKEN,
    poll_interval_s: float = 1.0,
    fetch: Fetch = fetch,
) -> WorkspaceSource:
    """Return the source; reads nothing yet (`current` does). Last good copies go to `data_dir/workspace`.

    Raises:
        WorkspaceInvalid: the location is not one.
    """
    state_dir = data_dir / "workspace"
    if location.startswith(("http://", "https://")):
        return ControlPlane(
            location,
            token=token,
            env=env,
            checks=checks,
            clock=clock,
            last_good=LastGood(state_dir, location),
            fetch=fetch,
            poll_interval_s=max(poll_interval_s, _CONTROL_PLANE_POLL_S),
        )
    path = Path(location.removeprefix("file://").removeprefix("file:"))
    return FileSource(
        path,
        env=env,
        checks=checks,
        clock=clock,
        state_dir=state_dir,
        poll_interval_s=poll_interval_s,
    )
