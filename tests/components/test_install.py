"""Installing once, saying clearly what is missing, and agreeing on versions."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.components import install
from tests.components.install import PINS, ComponentMissing, installed_once, run_installer
from tests.components.node_sdks import PROJECT


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "COMPONENTS", tmp_path / "components")


def test_a_component_is_built_once_until_its_pins_change(tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("thing==1")
    built: list[Path] = []
    for _ in range(2):
        installed_once("thing", [pins], built.append)
    assert len(built) == 1
    pins.write_text("thing==2")
    home = installed_once("thing", [pins], built.append)
    assert built == [home, home]


def test_nothing_half_built_stays_behind(tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("thing==1")

    def fail(home: Path) -> None:
        (home / "half").write_text("of it")
        raise ComponentMissing("thing", "no luck.", "try again.")

    with pytest.raises(ComponentMissing):
        installed_once("thing", [pins], fail)
    assert not (install.COMPONENTS / "thing").exists()


def test_an_unreachable_registry_is_named_as_the_trouble() -> None:
    words = "npm error code ENOTFOUND registry"
    script = f"import sys; print({words!r}); sys.exit(1)"
    with pytest.raises(ComponentMissing) as caught:
        run_installer("thing", [sys.executable, "-c", script], remedy="connect it.")
    message = str(caught.value)
    assert "the network or the package registry could not be reached" in message
    assert words in message
    assert "To have it: connect it." in message


def test_an_absent_command_is_named() -> None:
    with pytest.raises(ComponentMissing, match="no-such-installer is not on this machine"):
        run_installer("thing", ["no-such-installer"], remedy="install it.")


def test_every_direct_pin_is_exact_and_in_its_lock() -> None:
    wishes = sorted(PINS.glob("*.in"))
    assert wishes
    for wish in wishes:
        asked = [line for line in wish.read_text().splitlines() if not line.startswith("#")]
        # What a component has wrong about its own dependencies is said as a bound beside its pin.
        pins = [line for line in asked if re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.]+", line)]
        bounds = [line for line in asked if re.fullmatch(r"[\w.-]+<[\w.]+", line)]
        assert pins, wish.name
        assert sorted(pins + bounds) == sorted(asked), wish.name
        lock = wish.with_suffix(".txt").read_text()
        plain = [re.sub(r"\[.*\]", "", pin) for pin in pins]  # a lock has extras as packages of their own
        assert [pin for pin in plain if f"{pin} \\\n" not in lock] == []
    manifest = json.loads((PROJECT / "package.json").read_text())
    packages = json.loads((PROJECT / "package-lock.json").read_text())["packages"]
    for name, version in manifest["dependencies"].items():
        assert packages[f"node_modules/{name}"]["version"] == version
    assert not [name for name, package in packages.items() if "resolved" in package]


@pytest.mark.parametrize("variable", ["CI", "TEST_REQUIRE_COMPONENTS"])
def test_either_variable_requires_every_component(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "TEST_REQUIRE_COMPONENTS"):
        monkeypatch.delenv(name, raising=False)
    assert not install.required()
    monkeypatch.setenv(variable, "true")
    assert install.required()
