"""``--engine FILE``, an engine that was compiled ahead of time, on the command line and with backend ``auto``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import pytest
import torch

from sapnet import derainer
from sapnet.backends import BackendSpec, create_backend
from sapnet.commands.common import add_network_arguments, derainer_from


def test_reaches_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    specs: list[BackendSpec] = []
    create = derainer.create_backend
    monkeypatch.setattr(derainer, "create_backend", lambda name, spec: specs.append(spec) or create(name, spec))
    parser = argparse.ArgumentParser()
    add_network_arguments(parser)
    for arguments in ([], ["--engine", "my.engine"]):
        derainer_from(parser.parse_args(["--backend", "fake", *arguments])).close()
    assert [spec.engine for spec in specs] == ["", "my.engine"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_auto_says_that_the_file_is_of_no_use_here(caplog: pytest.LogCaptureFixture, tiny_weights: Path) -> None:
    with caplog.at_level(logging.WARNING, logger="sapnet"):
        create_backend("auto", BackendSpec(str(tiny_weights), engine="my.engine")).close()
    assert "a faster one is missing: " in caplog.text
