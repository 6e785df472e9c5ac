"""The locks of a vehicle's installation: every pin of the plain requirement files, and a hash for every file.

And what uv is told of pip's settings when an environment is made.
"""

from __future__ import annotations

import os
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

FOLDER = Path(__file__).resolve().parents[1] / "requirements"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
# What a vehicle may have: Ubuntu's Python of ROS 2 Jazzy and Kilted, and the others that the pins have wheels for.
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")

of_both_kinds = pytest.mark.parametrize("kind", ["cpu", "cuda"])


def pins(file: Path) -> Iterator[Requirement]:
    """The requirements of a plain file and of those it includes."""
    for line in file.read_text().splitlines():
        if line.startswith("-r "):
            yield from pins(file.parent / line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            yield Requirement(line)


def entries(kind: str) -> list[tuple[Requirement, list[str]]]:
    """Requirements of a lock, and the words that follow them."""
    text = re.sub(r"^ *#.*\n", "", (FOLDER / f"vehicle-{kind}.lock").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    parts = (line.partition(" --hash") for line in lines)
    return [(Requirement(head), (mark + rest).split()) for head, mark, rest in parts]


def version(requirement: Requirement) -> Version:
    (pin,) = requirement.specifier
    assert pin.operator in ("==", "==="), f"{requirement} is not pinned"
    return Version(pin.version)


@of_both_kinds
def test_every_entry_is_one_version_from_an_index_and_has_a_hash(kind: str) -> None:
    for requirement, words in entries(kind):
        assert version(requirement)
        assert not requirement.url
        assert words, f"{requirement} has no hash"
        assert all(HASH.fullmatch(word) for word in words)
    assert "://" not in (FOLDER / f"vehicle-{kind}.lock").read_text()


@of_both_kinds
def test_the_lock_has_the_pins_of_the_plain_file(kind: str) -> None:
    locked = {canonicalize_name(requirement.name): requirement for requirement, _ in entries(kind)}
    for pin in pins(FOLDER / f"{kind}.txt"):
        found = locked.get(canonicalize_name(pin.name))
        assert found is not None, f"{pin} is not in the lock: make locks"
        assert found.marker is None
        # A local version, as of the CPU build 2.13.0+cpu, is one of the version's builds.
        assert SpecifierSet(f"=={version(pin)}").contains(version(found)), f"{found} for {pin}: make locks"


@of_both_kinds
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_no_vehicle_gets_two_versions(kind: str, python: str, machine: str) -> None:
    # Else as here: CPython on Linux.
    environment = {"python_version": python, "python_full_version": f"{python}.3", "platform_machine": machine}
    names = [
        canonicalize_name(requirement.name)
        for requirement, _ in entries(kind)
        if requirement.marker is None or requirement.marker.evaluate(environment)
    ]
    assert len(set(names)) == len(names)
    assert {"numpy", "torch", "networkx"} <= set(names)  # what torch needs, as well


class TestInstall:
    def test_uv_is_told_of_pips_files_and_variables(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        install = runpy.run_path(str(FOLDER / "install.py"))
        file = tmp_path / "pip.conf"
        file.write_text(
            "[global]\nindex-url = https://mirror/simple\nextra-index-url = https://a\n  https://b\ncert = /ca.pem\n"
            "[install]\nfind-links = /wheels\n[download]\nfind-links = /elsewhere\n"
        )
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
        monkeypatch.setenv("PIP_INDEX_URL", "https://nearer/simple")
        monkeypatch.setenv("PIP_QUIET", "1")
        settings = install["pip_settings"]()
        words = " ".join(install["uv_command"](settings))
        assert "--default-index https://nearer/simple --index https://a --index https://b --find-links /wheels" in words
        assert install["uv_variables"](settings)["SSL_CERT_FILE"] == "/ca.pem"

    @pytest.mark.parametrize(
        ("setting", "uv_fails", "tools"),
        [("retries", False, ["pip"]), ("cert", True, ["pip", "uv", "pip"]), ("cert", False, ["pip", "uv"])],
    )
    def test_pip_installs_where_uv_cannot(self, setting: str, uv_fails: bool, tools: list[str]) -> None:
        install = runpy.run_path(str(FOLDER / "install.py"))
        called = []

        def call(command: list[str], **_: object) -> int:
            called.append(command[2])
            return int(command[2] == "uv" and uv_fails)

        changed = {"pip_settings": lambda: {setting: "x"}, "subprocess": SimpleNamespace(call=call)}
        install["main"].__globals__.update(changed)
        assert install["main"](["base.txt"]) == 0
        assert called == tools
