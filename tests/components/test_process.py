"""Server processes start when they are ready, and are gone when they should be."""

import sys
import time
from pathlib import Path

import pytest

from tests.components.process import ServerFailed, ServerProcess, accepts_connections, free_port


def _web_server(tmp_path: Path, port: int) -> ServerProcess:
    return ServerProcess(
        "web server",
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        ready=lambda: accepts_connections(port),
        log=tmp_path / "server.log",
    )


def test_a_server_is_ready_on_entry_and_gone_on_exit(tmp_path: Path) -> None:
    port = free_port()
    with _web_server(tmp_path, port) as server:
        assert server.running
        assert accepts_connections(port)
    assert not server.running
    assert not accepts_connections(port)


def test_kill_9_and_start_again_on_the_same_port(tmp_path: Path) -> None:
    port = free_port()
    with _web_server(tmp_path, port) as server:
        first = server.pid
        server.kill9()
        assert not accepts_connections(port)
        server.start()
        assert server.pid != first
        assert accepts_connections(port)


def test_a_server_that_ends_early_fails_with_its_log(tmp_path: Path) -> None:
    server = ServerProcess(
        "short-lived server",
        [sys.executable, "-c", "raise SystemExit('the port is mine no more')"],
        ready=lambda: False,
        log=tmp_path / "server.log",
    )
    with pytest.raises(ServerFailed, match="the port is mine no more"):
        server.start()
    assert not server.running


def test_children_of_a_server_end_with_it(tmp_path: Path) -> None:
    port = free_port()
    child = f"{sys.executable} -m http.server {port} --bind 127.0.0.1"
    parent = f"import subprocess; subprocess.run({child.split()!r})"
    server = ServerProcess(
        "parent",
        [sys.executable, "-c", parent],
        ready=lambda: accepts_connections(port),
        log=tmp_path / "server.log",
    )
    server.start()
    server.kill9()
    assert not accepts_connections(port)


def test_a_server_ends_with_a_test_process_that_is_killed(tmp_path: Path) -> None:
    port = free_port()
    script = f"""
import os, signal, sys
from pathlib import Path
from tests.components.process import ServerProcess, accepts_connections
ServerProcess(
    "orphan", [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"],
    ready=lambda: accepts_connections({port}), log=Path({str(tmp_path)!r}, "server.log"),
).start()
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = ServerProcess(
        "test process",
        [sys.executable, "-c", script],
        ready=lambda: False,
        log=tmp_path / "parent.log",
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with pytest.raises(ServerFailed, match="ended with status -9"):
        parent.start()
    assert "ready" in (tmp_path / "parent.log").read_text()
    deadline = time.monotonic() + 30
    while accepts_connections(port):
        assert time.monotonic() < deadline, "the server outlived the test process"
