"""Our JavaScript SDK, built from `sdks/javascript` with the packages of its lock file."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.components.install import REPOSITORY, installed_once, run_installer, say
from tests.components.node_sdks import node_from_wheel, node_on_this_machine, npm

COMPONENT = "javascript-sdk"
PROJECT = REPOSITORY / "sdks" / "javascript"
_FROM_LOCK = ("package.json", "package-lock.json")
_BUILD_TIMEOUT_S = 180


@dataclass(frozen=True, kw_only=True)
class JavascriptSdk:
    """Where Node.js and the build tools are."""

    node: Path
    home: Path

    def build(self, output: Path) -> str:
        """Build everything that ships into `output`; returns what the build says.

        Raises:
            AssertionError: the sources do not compile; says why.
        """
        return self._run([self.node, PROJECT / "build.mjs", output])

    def bundle(self, entry: Path, output: Path, *flags: str) -> None:
        """Bundle a test's own entry, which may import the SDK's sources, for Node or a browser."""
        tool = self.home / "node_modules" / ".bin" / "esbuild"
        self._run([tool, entry, "--bundle", "--log-level=error", f"--outfile={output}", *flags])

    def compile(self, *arguments: str | Path) -> str:
        """Run the TypeScript compiler."""
        types = self.home / "node_modules" / "@types"
        tool = self.home / "node_modules" / "typescript" / "bin" / "tsc"
        return self._run([self.node, tool, "--typeRoots", types, *arguments])

    def _run(self, argv: list[str | Path]) -> str:
        done = subprocess.run(
            argv, cwd=self.home, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False
        )
        if done.returncode:
            raise AssertionError(f"{argv[1]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


def install() -> JavascriptSdk:
    """Node.js and the build tools.

    Raises:
        ComponentMissing: npm's registry (or PyPI, for Node.js) could not be reached.
    """
    node = node_on_this_machine() or node_from_wheel()

    def build(home: Path) -> None:
        say("installing the JavaScript SDK's build tools from npm")
        for name in _FROM_LOCK:
            shutil.copy(PROJECT / name, home / name)
        run_installer(
            COMPONENT,
            [*npm(node), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=home,
            remedy="make npm's registry reachable and run `make test` again.",
        )

    home = installed_once(COMPONENT, [PROJECT / name for name in _FROM_LOCK], build)
    return JavascriptSdk(node=node, home=home)
