"""The first minute of a newcomer: an empty folder, one command, one paste."""

import asyncio
import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from tests.acceptance.evidence import archived
from tests.acceptance.serving import Serving, alive, serving, track, until
from tests.components.install import absent


async def test_an_empty_folder_and_one_paste(tmp_path: Path) -> None:
    """What is printed at the first start works as it is printed; the second start knows the key."""
    curl = shutil.which("curl")
    if curl is None:
        absent("curl: the printed line can't be executed; apt-get install curl.")
    async with serving(tmp_path, None) as product:
        printed = product.log.read_text()
        key = _found(r"^write key: (\S+)$", printed)
        line = _found(r"^(  curl -u .*\\\n.*)$", printed)
        assert f"{key}:" in line
        assert f"localhost:{product.port}" in line
        answer = await asyncio.to_thread(
            subprocess.run, ["bash", "-c", line + " -s -w '\\n%{http_code}'"], capture_output=True, text=True
        )
        body, status = answer.stdout.rsplit("\n", 1)
        assert status == "200", answer
        assert isinstance(msgspec.json.decode(body), dict)

        python = _found(r"^(  import segment.*\n(?:  .*\n)+)", printed)
        assert len(python.splitlines()) == 3
        compile("\n".join(text.strip() for text in python.splitlines()), "printed", "exec")
        assert key in python

        # The archive of the default workspace flushes within a minute, or when it is asked to stop.
        await until("the event is seen", lambda: _received(product))
        assert await product.stop() == 0
        assert "stopped" in product.log_tail()

        await product.start()
        assert (await product.post("/v1/track", track("user-2", 0), write_key=key)).status == 200
        again = product.log.read_text()[len(printed) :]
        assert "write key:" not in again, "the key is shown once, not at every start"


async def test_the_first_event_lies_in_the_archive(tmp_path: Path) -> None:
    """The default workspace's archive, with its waiting time shortened as its owner may."""
    async with serving(tmp_path, None) as product:
        file = product.data_dir / "workspace.yaml"
        text = file.read_text()
        assert file.stat().st_mode & 0o077 == 0, "the write key is for the owner's eyes"
        file.write_text(
            text.replace("config:\n      url: archive", "config:\n      maxAgeS: 0.2\n      url: archive")
        )
        key = _found(r"^write key: (\S+)$", product.log.read_text())
        await product.send([track("user-1", number) for number in range(3)], write_key=key)
        await product.settled("archive")
        lines = archived(product.data_dir / "archive")
        assert [(line["messageId"], line["raw"]["properties"]) for line in lines] == [
            (f"user-1-{number}", {"n": number}) for number in range(3)
        ]
        assert {line["sourceId"] for line in lines} == {"my-source"}


async def test_an_address_in_use_is_said_in_words(tmp_path: Path) -> None:
    async with serving(tmp_path, None) as product:
        second = await product.cli(
            "serve", "--data-dir", str(tmp_path / "other"), "--port", str(product.port)
        )
        assert second.returncode == 2
        assert f":{product.port}" in second.stderr
        assert "MAINSTEM_PORT" in second.stderr
        assert "Traceback" not in second.stderr


async def test_doctor_and_version_on_a_running_installation(tmp_path: Path) -> None:
    async with serving(tmp_path, None) as product:
        version = await product.cli("--version")
        assert version.returncode == 0
        assert re.fullmatch(r"\d+\.\d+\.\d+\n", version.stdout)
        told = await product.cli("doctor")
        assert "workspace" in told.stdout
        assert "Traceback" not in told.stdout + told.stderr


async def test_ctrl_c_stops_it(tmp_path: Path) -> None:
    async with serving(tmp_path, None) as product:
        children = list(product.children().values())
        os.kill(product.pid, signal.SIGINT)
        await until("it ended", lambda: not product.running)
        assert product.exit_status == 0
        assert not alive(children)


async def test_the_live_tail_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal one line shows the newest event; it is quiet about what events hold."""
    product = Serving(tmp_path, None)
    try:
        async with _on_a_terminal(product) as screen:
            await until("it accepts events", product.accepts_events)
            await until("the greeting is printed", lambda: "write key:" in screen.text)
            key = _found(r"write key: (\w+)", screen.text)
            await until("the tail waits", lambda: "waiting for events" in screen.text)
            secret = track("user-1", 0, event="Signed Up", properties={"password": "hunter2"})
            await product.send([secret], write_key=key)
            await until("the event is shown", lambda: "Signed Up" in screen.text)
            assert "1 events" in screen.text
            assert "user-1" in screen.text
            assert "hunter2" not in screen.text
    finally:
        await product.close()


class _Screen:
    """What a terminal was told, control sequences taken out."""

    def __init__(self) -> None:
        self._raw = b""

    def add(self, data: bytes) -> None:
        self._raw += data

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._raw.decode(errors="replace")).replace("\r", "")


@asynccontextmanager
async def _on_a_terminal(product: Serving) -> AsyncIterator[_Screen]:
    """Run `mainstem serve` with a pseudo-terminal as its standard streams."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mainstem", "serve"],
        env={**product.env, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen = _Screen()
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            data = b""
        if data:
            screen.add(data)
        else:
            loop.remove_reader(ours)

    loop.add_reader(ours, read)
    try:
        yield screen
        process.send_signal(signal.SIGTERM)
        await until("it ended", lambda: process.poll() is not None, timeout_s=40.0)
        assert process.returncode == 0
        await until("it said so", lambda: "stopped; everything acknowledged is on disk" in screen.text)
    finally:
        loop.remove_reader(ours)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        os.close(ours)


async def _received(product: Serving) -> bool:
    return bool((await product.account("archive")).get("received"))


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, f"{pattern} is not in:\n{text}"
    return found.group(1)
