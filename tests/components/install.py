"""Fetching components once: a folder per component, a stamp, and a lock between test processes.

Everything lands in `.test-components/` beside the repository. A component is rebuilt only when what
pins it has changed. Nothing here is tried twice in one run, and a failure says what could not be
reached and what to do about it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COMPONENTS = REPOSITORY / ".test-components"
PINS = Path(__file__).resolve().parent / "pins"
UV = REPOSITORY / ".tools" / "bin" / "uv"

INSTALL_TIMEOUT_S = 900
_LOG_TAIL_LINES = 15
_NETWORK_SIGNS = (
    "temporary failure resolving",
    "temporary failure in name resolution",
    "name or service not known",
    "unknown host",
    "could not resolve",
    "enotfound",
    "eai_again",
    "econnrefused",
    "econnreset",
    "etimedout",
    "network is unreachable",
    "connection refused",
    "connection timed out",
    "connect timed out",
    "dns error",
    "failed to fetch",
    "could not transfer",
    "failed to transfer",
    "could not connect",
    "unable to connect",
)


class ComponentMissing(Exception):
    """A real component is neither on this machine nor could it be installed."""

    def __init__(self, component: str, reason: str, remedy: str) -> None:
        super().__init__(f"{component}: {reason} To have it: {remedy}")
        self.component = component
        self.reason = reason
        self.remedy = remedy


def required() -> bool:
    """Whether a missing component fails the tests that need it, instead of skipping them.

    The tests' own variables start with TEST_: `mainstem` refuses MAINSTEM_ variables that it does not know,
    and the tests start it with their environment.
    """
    return "true" in (
        os.environ.get("CI", "").lower(),
        os.environ.get("TEST_REQUIRE_COMPONENTS", "").lower(),
    )


def may_install_system_packages() -> bool:
    """Whether apt may be used: only for root, and only where the run asked for it.

    `scripts/test.sh` asks (it is how `make test` works on a fresh machine); a bare `pytest` typed by a
    developer does not.
    """
    asked = required() or os.environ.get("TEST_INSTALL_SYSTEM_PACKAGES", "").lower() == "true"
    return asked and os.geteuid() == 0 and shutil.which("apt-get") is not None


def say(message: str) -> None:
    """One progress line."""
    sys.stderr.write(f"[components] {message}\n")
    sys.stderr.flush()


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the machine-wide lock `name`; a holder that dies releases it."""
    COMPONENTS.mkdir(exist_ok=True)
    with (COMPONENTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def installed_once(component: str, pinned_by: Sequence[Path], build: Callable[[Path], None]) -> Path:
    """The folder of `component`, built now if it is absent or its pins have changed.

    Args:
        component: Name of the folder under `.test-components/`.
        pinned_by: Files that say which versions; their content decides whether to build again.
        build: Fills an empty folder at its final place (virtual environments cannot be moved).

    Raises:
        ComponentMissing: `build` could not do it; nothing half-built stays behind.
    """
    home = COMPONENTS / component
    stamp = home / ".installed"
    fingerprint = _fingerprint(pinned_by)
    with locked(component):
        if stamp.is_file() and stamp.read_text() == fingerprint:
            return home
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        try:
            build(home)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        stamp.write_text(fingerprint)
    return home


def run_installer(
    component: str,
    argv: Sequence[str | Path],
    *,
    remedy: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run one installing command, its output kept in `.test-components/logs/`.

    Raises:
        ComponentMissing: The command is absent, failed or took too long; the reason carries the end of
            its output and, where the output looks like it, says that the network is the trouble.
    """
    logs = COMPONENTS / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"install-{component}.log"
    program = Path(str(argv[0])).name
    try:
        with log.open("wb") as out:
            done = subprocess.run(
                [str(word) for word in argv],
                cwd=cwd,
                env=None if env is None else {**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=INSTALL_TIMEOUT_S,
                check=False,
            )
    except FileNotFoundError as error:
        raise ComponentMissing(component, f"the command {program} is not on this machine.", remedy) from error
    except subprocess.TimeoutExpired as error:
        raise ComponentMissing(
            component,
            f"{program} did not finish within {INSTALL_TIMEOUT_S} s (see {log}).",
            remedy,
        ) from error
    if done.returncode != 0:
        output = log.read_text(errors="replace")
        tail = "\n    ".join(output.strip().splitlines()[-_LOG_TAIL_LINES:])
        network = any(sign in output.lower() for sign in _NETWORK_SIGNS)
        trouble = (
            "the network or the package registry could not be reached"
            if network
            else f"{program} failed with status {done.returncode}"
        )
        raise ComponentMissing(component, f"{trouble} (see {log}):\n    {tail}\n ", remedy)


def apt_install(component: str, packages: Sequence[str]) -> None:
    """Install Debian packages.

    Raises:
        ComponentMissing: This run may not use apt, or apt failed.
    """
    remedy = f"apt-get install {' '.join(packages)} (as root), or run `make test` as root."
    if not may_install_system_packages():
        raise ComponentMissing(component, f"{' and '.join(packages)} not installed.", remedy)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with locked("apt"):
        say(f"apt-get install {' '.join(packages)}")
        # A fresh image has no package lists, an old one has lists of packages that are gone.
        run_installer(component, ["apt-get", "-qq", "update"], remedy=remedy, env=quiet)
        run_installer(
            component,
            ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *packages],
            remedy=remedy,
            env=quiet,
        )


def python_environment(component: str, lock: Path) -> Path:
    """A virtual environment of its own for `component`, from a hashed lock file; returns its folder."""
    remedy = "make PyPI reachable and run `make test` again."

    def build(home: Path) -> None:
        say(f"installing {component} from PyPI")
        run_installer(
            component,
            [UV, "venv", "--quiet", "--allow-existing", "--python", sys.executable, home],
            remedy="run `make .venv/.test`, which installs uv.",
        )
        run_installer(
            component,
            [
                *(UV, "pip", "install", "--python", home / "bin" / "python"),
                *("--require-hashes", "-r", lock),
            ],
            remedy=remedy,
        )

    return installed_once(component, [lock], build)


def _fingerprint(files: Sequence[Path]) -> str:
    digest = hashlib.sha256(f"python {sys.version_info[:2]}\n".encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def absent(text: str) -> NoReturn:
    """End a test for which something is missing: a failure where everything is required, else a loud skip."""
    if required():
        pytest.fail(f"COMPONENT MISSING: {text}", pytrace=False)
    pytest.skip(f"COMPONENT MISSING: {text}")
