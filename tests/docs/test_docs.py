"""The documentation says what is there: everything is documented, links lead somewhere, examples are right."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mainstem.cli import make_app
from mainstem.cli.reference import (
    COMMAND,
    commands,
    metric_families,
    operations_routes,
    reference_files,
    write_reference,
)
from mainstem.destinations import catalog
from mainstem.gateway.openapi import document
from mainstem.gateway.settings import GatewaySettings
from mainstem.roles.ops import Operations, operations_app
from mainstem.settings import KEYS
from mainstem.workspace.errors import WorkspaceInvalid
from mainstem.workspace.yaml_file import parse_yaml_workspace
from tests.workspace.support import CHECKS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "sdks" / "python" / "README.md"])
COMMANDS = {command.name: command for command in commands(make_app())}
_FENCE = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in _FENCE.findall(page.read_text("utf-8")):
        if language in languages:
            yield text


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text("utf-8"))


# ---------------------------------------------------------------- generated pages


@pytest.mark.parametrize("name", reference_files())
def test_generated_pages_are_up_to_date(name: str) -> None:
    assert (REFERENCE / name).read_text("utf-8") == reference_files()[name], f"run: {COMMAND}"


def test_the_command_writes_the_pages(tmp_path: Path) -> None:
    assert COMMAND.split()[1:] == ["-m", "mainstem.cli.reference"]
    (tmp_path / "docs").mkdir()
    subprocess.run([sys.executable, *COMMAND.split()[1:]], cwd=tmp_path, check=True)
    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "docs" / "reference").iterdir()}
    assert written == reference_files()
    write_reference(tmp_path)
    assert {path.name for path in tmp_path.glob("*.md")} == set(written)


# ---------------------------------------------------------------- everything is documented


def test_every_setting_is_documented() -> None:
    text = (REFERENCE / "settings.md").read_text("utf-8")
    assert [key for key in KEYS if f"| `{key}` |" not in text] == []


def test_every_metric_is_documented_with_its_labels() -> None:
    text = (REFERENCE / "metrics.md").read_text("utf-8")
    families = list(metric_families())
    assert len(families) > 10
    for family in families:
        (line,) = [line for line in text.splitlines() if f"| `{family.name}` |" in line]
        assert all(f"`{label}`" in line for label in family.labels)
        assert line.split("|")[-2].strip()


@each_page
def test_metrics_named_in_pages_exist(page: Path) -> None:
    names = {family.name for family in metric_families()}
    names |= {f"{family.name}_bucket" for family in metric_families() if family.kind == "histogram"}
    found = set(re.findall(r"\bmainstem_[a-z_]+\b", page.read_text("utf-8")))
    # Python packages (the one that the how-to on destinations makes, the SDK), and what the dbt example can be told.
    assert sorted(found - names - {"mainstem_pigeon", "mainstem_analytics"} - _dbt_variables()) == []


def _dbt_variables() -> set[str]:
    project = YAML(typ="safe", pure=True).load(
        (ROOT / "examples" / "dbt" / "dbt_project.yml").read_text("utf-8")
    )
    return set(project["vars"])


@each_page
def test_settings_named_in_pages_exist(page: Path) -> None:
    found = set(re.findall(r"\bMAINSTEM_([A-Z_]+)\b", page.read_text("utf-8")))
    # SETTINGS names the file of settings; SECRET_… are what a control plane's document may refer to.
    unknown = {name for name in found if name.lower() not in KEYS} - {"SETTINGS", "SECRET_"}
    assert sorted(unknown) == []


def test_every_command_and_option_is_documented() -> None:
    text = (REFERENCE / "cli.md").read_text("utf-8")
    assert {"mainstem serve", "mainstem workspace import", "mainstem dry-run"} <= COMMANDS.keys()
    for command in COMMANDS.values():
        _, _, after = text.partition(f"## {command.name}\n")
        section = after.partition("\n## ")[0]
        assert command.text
        assert command.text in section
        assert [
            name for option in command.options for name in option.names if f"`{name}`" not in section
        ] == []


def test_every_destination_type_has_a_page_in_the_index() -> None:
    assert "reference/destinations/index.md" in (ROOT / "docs" / "index.md").read_text("utf-8")
    index = (REFERENCE / "destinations" / "index.md").read_text("utf-8")
    for name in catalog.names():
        assert (REFERENCE / "destinations" / f"{name.lower()}.md").is_file(), name
        assert f"({name.lower()}.md)" in index


def test_every_route_is_documented() -> None:
    text = (REFERENCE / "http-api.md").read_text("utf-8")
    for path, methods in document(GatewaySettings())["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in text


def test_the_operations_endpoints_documented_are_those_that_are() -> None:
    async def unused(*_: Any) -> Any:
        raise AssertionError

    app = operations_app(Operations(unused, unused, unused, unused, unused))
    served = {_template(getattr(route, "path", "")) for route in app.routes}
    told = {_template(route.split()[1].partition("[")[0]) for route in operations_routes()}
    assert told == served


def _template(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(prose(index))}
    missing = [page for page in (ROOT / "docs").rglob("how-to/*.md") if page.resolve() not in linked]
    assert missing == []


# ---------------------------------------------------------------- links


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


def _anchors(page: Path) -> set[str]:
    headings = _HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


# ---------------------------------------------------------------- examples


def _calls(page: Path) -> Iterator[list[str]]:
    """Every call of `mainstem` in shell examples and in the prose's code."""
    text = page.read_text("utf-8")
    lines = [line for block in blocks(page, "sh", "bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:\.venv/bin/)?mainstem [^`\n]+)`", _FENCE.sub("", text))
    for line in lines:
        for part in re.split(r"&&|\|\||[;|·]", line):
            words = shlex.split(part, comments=True)
            places = [at for at, word in enumerate(words) if word.rpartition("/")[2] == "mainstem"]
            if places and not any("=" not in word for word in words[: places[0]]):
                yield words[places[0] + 1 :]


def problem_of(words: list[str]) -> str:
    """What is wrong with the words after `mainstem`; empty if nothing is."""
    tried = [" ".join(["mainstem", *words[:length]]) for length in (2, 1)]
    name = next((full for full in tried if full in COMMANDS), None)
    groups = {full.split()[1] for full in COMMANDS if len(full.split()) == 3}
    if name is None:
        listed = set(words[0].split(",")) if words else set()
        return "" if listed & groups and len(words) == 1 else f"no such command: {' '.join(words)}"
    command = COMMANDS[name]
    options = {option: found for found in command.options for option in found.names}
    rest = words[len(name.split()) - 1 :]
    arguments, given = 0, set()
    at = 0
    while at < len(rest):
        word = rest[at].rstrip(",")
        if word in (">", "2>"):
            at += 2
            continue
        if word.startswith("--"):
            option, _, value = word.partition("=")
            if option not in options:
                return f"{name} has no option {option}"
            given.add(option)
            at += 1 + (bool(options[option].value) and not value)
            continue
        arguments += 1
        at += 1
    allowed = sum(option.positional for option in command.options)
    if arguments > allowed:
        return f"{name} takes {allowed} arguments: {' '.join(words)}"
    return ""


def test_wrong_examples_would_be_found() -> None:
    assert problem_of(["serve", "--wrokspace", "x"]) == "mainstem serve has no option --wrokspace"
    assert problem_of(["server"]) == "no such command: server"
    assert (
        problem_of(["workspace", "check", "a", "b"])
        == "mainstem workspace check takes 1 arguments: workspace check a b"
    )
    assert problem_of(["workspace", "check", "a", "--fix"]) == ""
    assert problem_of(["redrive", "--reason", "400", "--list"]) == ""


@each_page
def test_shell_examples_name_commands_and_options_that_exist(page: Path) -> None:
    found = [words for words in _calls(page) if not any("|" in word or "…" in word for word in words)]
    assert [problem for words in found if (problem := problem_of(words))] == []


def test_examples_are_found() -> None:
    assert sum(len(list(_calls(page))) for page in PAGES) > 40


@each_page
def test_data_examples_parse(page: Path) -> None:
    for text in blocks(page, "yaml"):
        YAML(typ="safe", pure=True).load(text)
    for text in blocks(page, "json"):
        json.loads(text)
    for text in blocks(page, "toml"):
        given = tomllib.loads(text).keys()
        # Settings, or a package that the page makes.
        assert given <= set(KEYS) or "project" in given


@each_page
def test_workspace_examples_fit_the_document(page: Path) -> None:
    """An example may be a part: what is missing in it does not matter, what is wrong does."""
    for text in blocks(page, "yaml"):
        value = YAML(typ="safe", pure=True).load(text)
        sections = {"sources", "destinations", "connections", "transformations", "libraries"}
        if not isinstance(value, dict) or not value.keys() & sections:
            continue
        whole = text if "workspace" in value else f"workspace: {{id: example}}\n{text}"
        env = dict.fromkeys(re.findall(r"(?<!\$)\$\{(\w+)\}", text), "value")
        try:
            parse_yaml_workspace(whole, origin=page.name, env=env, checks=CHECKS)
        except WorkspaceInvalid as error:
            wrong = [str(problem) for problem in error.problems if "there is no " not in str(problem)]
            assert wrong == []


@each_page
def test_python_examples_compile(page: Path) -> None:
    for text in blocks(page, "python"):
        compile(text, str(page), "exec")


@each_page
def test_pages_end_with_one_line_break_and_have_one_title(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    titles = [line for line in prose(page).splitlines() if line.startswith("# ")]
    assert len(titles) == 1
