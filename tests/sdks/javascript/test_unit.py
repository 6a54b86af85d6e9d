"""The SDK's own tests, in Node: once over a file, once over SQLite (which the machine's Node may not have)."""

import gzip
import os
import subprocess
from pathlib import Path

import pytest

from tests.components.install import REPOSITORY
from tests.components.javascript_sdk import PROJECT, JavascriptSdk
from tests.sdks.javascript.conftest import UNIT

SERVED = REPOSITORY / "src" / "mainstem" / "gateway" / "sdk"
CORE_LIMIT_BYTES = 10_000


def test_the_gateway_serves_what_the_sources_make(built: Path) -> None:
    script = (built / "mainstem.js").read_bytes()
    # When this fails: `npm run build` in sdks/javascript writes the served files again.
    assert (SERVED / "mainstem.js").read_bytes() == script


def test_the_core_is_small(built: Path) -> None:
    packed = gzip.compress((built / "mainstem.js").read_bytes(), 9)
    assert len(packed) <= CORE_LIMIT_BYTES, f"{len(packed)} bytes; look for what may go"


def test_nothing_depends_on_other_packages(built: Path) -> None:
    for name in ("mainstem.js", "browser.mjs", "snippet.mjs"):
        text = (built / name).read_text()
        assert "require(" not in text
        assert "import " not in text, name


@pytest.mark.parametrize("store", ["file", "sqlite"])
@pytest.mark.parametrize("suite", ["calls", "delivery", "stores"])
def test_in_node(
    suite: str,
    store: str,
    built: Path,
    javascript_sdk_tools: JavascriptSdk,
    newer_node: Path,
    tmp_path: Path,
) -> None:
    node = newer_node if store == "sqlite" else javascript_sdk_tools.node
    done = subprocess.run(
        [node, "--test", "--test-timeout=60000", UNIT / f"{suite}.test.mjs"],
        env={
            **os.environ,
            "TEST_SDK_BUILD": str(built),
            "TEST_SDK_STORE": store,
            "TMPDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "# skipped" not in done.stdout or store == "sqlite" or "# skipped 0" in done.stdout


def test_it_loads_as_a_package(built: Path, javascript_sdk_tools: JavascriptSdk, tmp_path: Path) -> None:
    """By `import` and by `require`, under its own name, as npm lays it out."""
    home = tmp_path / "node_modules" / "@mainstem" / "analytics"
    home.mkdir(parents=True)
    (home / "package.json").write_text((PROJECT / "package.json").read_text())
    (home / "dist").symlink_to(built, target_is_directory=True)
    check = "(a) => console.log(typeof a.Analytics.prototype.track)"
    for source in (
        f"import('@mainstem/analytics').then({check})",
        f"({check})(require('@mainstem/analytics'))",
        "import('@mainstem/analytics/snippet').then((a) => console.log(typeof a.snippet))",
    ):
        done = subprocess.run(
            [javascript_sdk_tools.node, "-e", source],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == "function", done.stderr


def test_the_types_accept_good_calls_and_refuse_bad_ones(
    built: Path, javascript_sdk_tools: JavascriptSdk, tmp_path: Path
) -> None:
    sample = tmp_path / "sample.ts"
    sample.write_text(
        f"""
        import {{ Analytics }} from "{built}/types/node";
        import {{ Analytics as Browser }} from "{built}/types/browser";
        import type {{ Middleware, Report }} from "{built}/types/node";
        const drop: Middleware = (event) => (event.event === "x" ? null : event);
        const tell = (report: Report): string => (report.type === "dropped" ? report.reason : report.type);
        const server = new Analytics({{ writeKey: "k", host: "h", directory: "/d", middleware: [drop] }});
        server.track({{ userId: "u", event: "e", properties: {{ n: 1n }} }});
        const sent: Promise<boolean> = server.flush();
        const page = new Browser({{ writeKey: "k", host: "h", pages: "spa", onReport: tell }});
        const id: string | undefined = page.track("e", {{ a: new Date() }}, {{ timestamp: 5 }});
        page.page("category", "name", {{ a: 1 }}); page.identify("u", {{ plan: "pro" }});
        // @ts-expect-error a track has a name
        page.track();
        // @ts-expect-error there is no such setting
        new Browser({{ writeKey: "k", host: "h", flushAt: 5 }});
        // @ts-expect-error a queue in a folder is for Node
        new Browser({{ writeKey: "k", host: "h", directory: "/d" }});
        // @ts-expect-error no such reason
        const wrong: Report = {{ type: "dropped", reason: "bored", count: 1 }};
        export {{ sent, id, wrong }};
        """
    )
    javascript_sdk_tools.compile(
        "--noEmit",
        "--strict",
        "--target",
        "es2022",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
        "--lib",
        "es2022,dom",
        sample,
    )
