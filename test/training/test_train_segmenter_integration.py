"""The shipped streak segmenter on benchmark rain that it was not trained on."""

from __future__ import annotations

import cv2
import pytest
import torch

from sapnet.images.frame import to_tensor
from training.metrics import MaskCounts, true_streaks
from training.train_segmenter import load_segmenter


@pytest.mark.parametrize(("dev_set", "least"), [("rain100l_dev", 0.45), ("heavy_dev", 0.35)])
def test_finds_the_streaks_of_the_dev_sets_and_few_on_their_clean_images(shared_data, dev_set, least):
    network = load_segmenter()
    counts, dry = MaskCounts(), []
    for path in sorted((shared_data / dev_set / "rainy").iterdir())[:4]:
        clean_path = next((shared_data / dev_set / "clean").glob(f"{path.stem}.*"))
        rainy, clean = cv2.imread(str(path)), cv2.imread(str(clean_path))
        with torch.no_grad():
            streaks, on_clean = (network(to_tensor(image)).argmax(1)[0].bool() for image in (rainy, clean))
        counts += MaskCounts.of(streaks.numpy(), true_streaks(rainy, clean))
        dry.append(on_clean.float().mean().item())
    assert counts.matthews > least
    assert sum(dry) / len(dry) < 0.05
