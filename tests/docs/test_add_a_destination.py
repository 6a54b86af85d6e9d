"""docs/how-to/add-a-destination.md, done as it says."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.test_commands import run
from tests.docs.test_docs import ROOT

PAGE = ROOT / "docs" / "how-to" / "add-a-destination.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def pigeon(tmp_path: Path) -> Path:
    """The package as the page makes it, where Python finds it and its entry point."""
    made = run(tmp_path, *_blocks("sh")[0].split()[1:])
    assert (made.returncode, made.stderr) == (0, "")
    source = tmp_path / "pigeon" / "src"
    (source / "mainstem_pigeon" / "__init__.py").write_text("\n\n".join(_blocks("python")))
    (tmp_path / "pigeon" / "cases.json").write_text(_blocks("json")[1])
    # What `pip install -e` would leave: metadata with the entry point, beside the package on the path.
    metadata = source / "mainstem_pigeon-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mainstem-pigeon\nVersion: 0.1.0\n")
    project = (tmp_path / "pigeon" / "pyproject.toml").read_text()
    [point] = re.findall(r'\[project\.entry-points\."mainstem\.destinations"\]\npigeon = "(.*)"', project)
    (metadata / "entry_points.txt").write_text(f"[mainstem.destinations]\npigeon = {point}\n")
    return tmp_path


def test_the_page_works(pigeon: Path) -> None:
    env = {"PYTHONPATH": str(pigeon / "pigeon" / "src")}
    _, *commands = [line for block in _blocks("sh") for line in block.splitlines()]
    outputs = []
    for command in commands:
        done = run(pigeon, *command.split()[1:], **env)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        outputs.append(done.stdout)
    cases = json.loads((pigeon / "pigeon" / "cases.json").read_text())
    assert cases[0]["payloads"] == [
        {
            "method": "POST",
            "url": "https://api.pigeon.example/v2/messages",
            "headers": [["X-Api-Key", "***"], ["Content-Type", "application/json"]],
            "body": {"messages": [{"to": "ann@example.com", "what": "Order Completed", "at": 1767323045}]},
        }
    ]
    assert cases[1]["refusal"].startswith("`traits.email` or `context.traits.email`")
    assert cases[2]["skip"] == "event not chosen"
    assert "3 cases, 0 failed" in outputs[1]
    assert "| `to` | " in outputs[2], "the mapping's table is in the reference"


def test_a_package_just_made_has_cases_that_pass(tmp_path: Path) -> None:
    run(tmp_path, "destination", "new", "acme")
    source = tmp_path / "acme" / "src"
    metadata = source / "mainstem_acme-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mainstem-acme\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[mainstem.destinations]\nacme = mainstem_acme:SPEC\n")
    done = run(tmp_path, "destination", "test", "acme", "acme/cases.json", PYTHONPATH=str(source))
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 cases, 0 failed" in done.stdout


def test_a_request_that_does_not_fit_the_documentation_fails(pigeon: Path) -> None:
    cases = json.loads(_blocks("json")[1])
    cases[0]["message"]["event"] = "x" * 101
    (pigeon / "pigeon" / "cases.json").write_text(json.dumps(cases[:1]))
    env = {"PYTHONPATH": str(pigeon / "pigeon" / "src")}
    done = run(pigeon, "destination", "test", "pigeon", "pigeon/cases.json", "--write", **env)
    assert done.returncode == 1
    assert "`messages[0].what`" in done.stdout
    assert "xxx" not in done.stdout, "the value is a customer's"
