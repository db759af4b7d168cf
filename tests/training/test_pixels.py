"""Where pixels come from."""

import numpy as np
import pytest
import torch

from ttl.training.pixels import Pixels


def test_on_a_cpu_they_come_from_the_shards(toy):
    pixels = Pixels(toy, torch.device("cpu"))
    rows = np.array([5, 0, 5])
    assert pixels.resident is None
    assert np.array_equal(pixels(rows).numpy(), toy.read(rows))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("share", [0.25, 0.0])
def test_on_a_gpu_a_dataset_that_fits_lies_there(toy, share):
    pixels = Pixels(toy, torch.device("cuda"), share=share)
    rows = np.array([5, 0, 5])
    assert (pixels.resident is not None) == (share > 0)
    assert pixels(rows).device.type == "cuda"
    assert np.array_equal(pixels(rows).cpu().numpy(), toy.read(rows))
