"""The two segmenting networks: shapes, seeds, and where weights come from."""

from __future__ import annotations

import logging

import pytest
import torch

from training.fpn import ResNetFPN, StreakFPN


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.fixture(scope="module")
def resnet() -> ResNetFPN:
    return ResNetFPN(pretrained=None).eval()


class TestStreakFPN:
    @pytest.mark.parametrize("size", [(16, 16), (17, 31), (40, 23)])
    def test_logits_have_the_images_size(self, size):
        assert StreakFPN()(torch.rand(2, 3, *size)).shape == (2, 2, *size)

    def test_is_small(self):
        assert sum(parameter.numel() for parameter in StreakFPN().parameters()) < 250_000

    def test_sees_across_its_levels(self):
        """A pixel's logits depend on others far from it: the coarse levels reach the finest."""
        network = StreakFPN().eval()
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        network(image)[0, 1, 32, 32].backward()
        rows = image.grad[0].abs().sum((0, 2)).nonzero()
        assert rows.min() <= 12
        assert rows.max() >= 52

    def test_seeds(self):
        assert equal(StreakFPN(seed=1), StreakFPN(seed=1))
        assert not equal(StreakFPN(seed=1), StreakFPN(seed=2))

    @pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 4, 16, 16)])
    def test_wrong_shapes(self, shape):
        with pytest.raises(ValueError, match=r"expected images \(B, 3, H, W\)") as caught:
            StreakFPN()(torch.zeros(shape))
        assert str(shape) in str(caught.value)


class TestResNetFPN:
    @pytest.mark.parametrize(("size", "quarter"), [((32, 32), (8, 8)), ((33, 18), (9, 5))])
    def test_logits_have_a_quarter_of_the_images_size(self, resnet, size, quarter):
        assert resnet(torch.rand(2, 3, *size)).shape == (2, 21, *quarter)

    def test_seeds(self, resnet):
        assert equal(ResNetFPN(pretrained=None), resnet)
        assert not equal(ResNetFPN(pretrained=None, seed=1), resnet)

    def test_takes_a_folder_with_weights(self, tmp_path):
        from transformers import ResNetConfig, ResNetModel

        small = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"))
        small.save_pretrained(tmp_path)
        network = ResNetFPN(classes=4, width=6, pretrained=str(tmp_path))
        assert equal(network.backbone, small)
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 4, 8, 8)

    def test_starts_at_random_where_the_hub_is_out_of_reach_and_says_so(self, resnet, monkeypatch, caplog):
        def unreachable(*args: object, **kwargs: object) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
        with caplog.at_level(logging.WARNING, logger="training.fpn"):
            network = ResNetFPN()
        assert equal(network, resnet)
        assert [record.levelname for record in caplog.records if record.name == "training.fpn"] == ["WARNING"]

    def test_starts_at_random_from_a_folder_without_weights(self, resnet, tmp_path):
        assert equal(ResNetFPN(pretrained=str(tmp_path)), resnet)

    def test_wrong_shape(self, resnet):
        with pytest.raises(ValueError, match=r"got \(1, 1, 32, 32\)"):
            resnet(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("make", [StreakFPN, lambda: ResNetFPN(pretrained=None)])
def test_the_random_start_leaves_other_random_numbers_alone(make):
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    make()
    assert torch.equal(torch.rand(4), expected)
