"""Servers that refuse to run as root, and their folders: as root, the tests start them as `nobody`."""

import os
import pwd
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_USER = "nobody"


def as_server_user() -> Sequence[str | Path]:
    """What to put before a command so that it does not run as root."""
    if os.geteuid() != 0:
        return ()
    user = pwd.getpwnam(_USER)
    words = ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    if threading.current_thread() is threading.main_thread():
        # A change of user takes away the signal that `process` asked for.
        words += ["--pdeathsig", "KILL"]
    return [*words, "--"]


@contextmanager
def server_folder(name: str) -> Iterator[Path]:
    """A folder that the server's user owns and can reach (pytest's own ones it can't); gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"mainstem-{name}-"))
    folder.chmod(0o755)
    if os.geteuid() == 0:
        user = pwd.getpwnam(_USER)
        os.chown(folder, user.pw_uid, user.pw_gid)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
