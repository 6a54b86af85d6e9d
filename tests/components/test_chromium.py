"""The browser that the other tests trust."""

import subprocess
from pathlib import Path

from tests.components.chromium import FLAGS


def test_it_renders_a_page_without_a_screen(chromium_path: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p id=p></p><script>document.all.p.textContent = 6 * 7</script>")
    shown = subprocess.run(
        [
            *(chromium_path, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"),
            *("--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert '<p id="p">42</p>' in shown.stdout
