"""Equal random images each time, and networks with random weights in place of ImageNet's, which need not be there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.losses.contrastive import Vgg16


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small ResNet."""
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("resnet")
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a VGG16, with a layer of torchvision's that is not used."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({**Vgg16().state_dict(), "classifier.0.weight": torch.zeros(2)}, path)
    return path
