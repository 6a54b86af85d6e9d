"""Which URL opens what."""

from pathlib import Path

import pytest

from mainstem.clock import FixedClock
from mainstem.errors import SettingsError
from mainstem.stream.embedded import EmbeddedStream
from mainstem.stream.memory import MemoryStream
from mainstem.stream.open import open_stream


async def test_memory() -> None:
    stream = await open_stream("memory:", partitions=3, clock=FixedClock())
    assert isinstance(stream, MemoryStream)
    assert stream.partitions == 3
    await stream.close()


@pytest.mark.parametrize("form", ["file:{}", "file://{}"])
async def test_a_directory(tmp_path: Path, form: str) -> None:
    stream = await open_stream(form.format(tmp_path / "a b"), partitions=3, clock=FixedClock())
    assert isinstance(stream, EmbeddedStream)
    assert (tmp_path / "a b" / "meta.db").exists()
    await stream.close()


@pytest.mark.parametrize("url", ["", "file:", "file://", "memory:x", "kafka//host", "/data"])
async def test_anything_else_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match="stream URL"):
        await open_stream(url, partitions=1, clock=FixedClock())
