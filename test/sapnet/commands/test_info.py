"""``sapnet info``: weights, backends, versions."""

from __future__ import annotations

import json
import sys

import pytest

import sapnet
from sapnet import backends
from sapnet.cli import main
from sapnet.commands import info
from sapnet.config import PRESETS
from sapnet.model.sapnet import SAPNet


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["info", *arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture
def few_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only ``fake`` runs; making the real ones takes seconds."""
    why = {"tensorrt": "no GPU; buy one", "torch": "", "fake": ""}
    monkeypatch.setattr(backends, "available_backends", lambda: why)
    monkeypatch.setattr(info, "_auto", lambda: None)


def test_the_real_thing(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(printed(capsys, "--json"))
    assert facts["sapnet"] == sapnet.__version__
    assert set(facts["backends"]) == {*backends.BACKENDS} - {"auto"}
    assert all(facts["backends"][name] == {"available": True, "why_not": ""} for name in ("torch", "openvino", "fake"))
    tensorrt = facts["backends"]["tensorrt"]
    assert tensorrt["available"] == (not tensorrt["why_not"])
    assert tensorrt["available"] or "install" in tensorrt["why_not"]
    assert facts["auto"]["backend"] in facts["backends"]
    assert facts["auto"]["weights"] == "sapnet_fast"
    assert facts["hardware"]["cores"] >= 1
    assert facts["hardware"]["cpu"]


@pytest.mark.usefixtures("few_backends")
def test_shipped_weights_have_their_numbers_and_a_line_in_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    shipped = json.loads(printed(capsys, "--json"))["weights"]["sapnet_fast"]
    network = SAPNet(PRESETS["sapnet_fast"])
    assert shipped["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert shipped["stages"] == PRESETS["sapnet_fast"].stages
    assert shipped["path"].endswith("sapnet_fast.safetensors")
    assert 0 < shipped["bytes"] < 2e6
    assert {"rain100l", "heavy"} <= set(shipped["psnr"])
    assert all(20 < decibels < 45 for decibels in shipped["psnr"].values())
    assert shipped["licence"].startswith("Apache-2.0")
    assert shipped["provenance"]["training"]
    assert "model_config" not in shipped["provenance"]
    heading, *rows = [line for line in printed(capsys).splitlines()[2:] if line][:3]
    assert [row.split()[0] for row in rows] == ["sapnet", "sapnet_fast"]
    assert rows[1].split()[1:5] == ["188,268", "4", "0.76", "rain100l"]
    assert {row.index("rain100l") for row in rows} == {heading.index("PSNR")}
    assert rows[0].endswith("Apache-2.0, MIT")
    assert all(len(line) <= 80 for line in [heading, *rows])


@pytest.mark.usefixtures("few_backends")
def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(info, "_PACKAGES", ("left-pad-for-python",))
    monkeypatch.setattr(info, "find_spec", lambda name: None)
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    facts = json.loads(printed(capsys, "--json"))
    assert facts["versions"]["left-pad-for-python"] is None
    assert facts["ros"] == {"available": False, "distro": None}
    assert facts["weights"] == {}
    assert facts["hardware"]["gpus"] == []
    text = printed(capsys)
    assert "\n  missing    left-pad-for-python" in text
    assert "\n  ros 2      not found\n" in text
    assert "cannot be read without torch: pip install torch" in text


@pytest.mark.usefixtures("few_backends")
@pytest.mark.parametrize("columns", ["80", "200"])
def test_text_fits_a_terminal_and_is_whole_in_a_pipe(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    why = {"tensorrt": "it is missing " * 20}
    monkeypatch.setattr(backends, "available_backends", lambda: why)
    monkeypatch.setenv("COLUMNS", columns)
    piped = printed(capsys)
    assert f"  tensorrt   {why['tensorrt'].strip()}\n" in piped
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "0")  # as some consoles do
    assert "machine" in printed(capsys)
    monkeypatch.setenv("COLUMNS", columns)
    shown = printed(capsys)
    assert [line for line in shown.splitlines() if len(line) > int(columns)] == []
    assert shown.split() == piped.split()
