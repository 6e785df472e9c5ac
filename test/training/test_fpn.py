"""The segmenting network: shapes, seeds, and where its weights come from."""

from __future__ import annotations

import pytest
import torch

from sapnet.errors import CheckpointError
from training.fpn import ResNetFPN


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.fixture(scope="module")
def resnet() -> ResNetFPN:
    return ResNetFPN(pretrained=None).eval()


class TestResNetFPN:
    @pytest.mark.parametrize(("size", "quarter"), [((32, 32), (8, 8)), ((33, 18), (9, 5))])
    def test_logits_have_a_quarter_of_the_images_size(self, resnet, size, quarter):
        assert resnet(torch.rand(2, 3, *size)).shape == (2, 21, *quarter)

    def test_takes_a_folder_with_weights(self, tmp_path):
        from transformers import ResNetConfig, ResNetModel

        small = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"))
        small.save_pretrained(tmp_path)
        network = ResNetFPN(classes=4, width=6, pretrained=str(tmp_path))
        assert equal(network.backbone, small)
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 4, 8, 8)

    def test_weights_that_cannot_be_had_are_an_error(self, tmp_path, monkeypatch):
        def unreachable(*args: object, **kwargs: object) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
        with pytest.raises(CheckpointError, match=r"resnet-18 cannot be loaded \(no route to host\); give loss"):
            ResNetFPN()
        with pytest.raises(CheckpointError, match="cannot be loaded"):
            ResNetFPN(pretrained=str(tmp_path))
