"""A GPU without room: the allocator of a real trainer is given too little, and raises by itself."""

import os

import numpy as np
import pytest
import torch

from tests.gpu.trials import apart, make_trial, train
from ttl.data.dataset import PackedDataset
from ttl.training.accelerator import make_accelerator
from ttl.training.loop import Trainer
from ttl.training.pixels import Pixels
from ttl.training.runs import Runs

LIMIT = """
import sys
if "ttl.training.job" in " ".join(sys.orig_argv) and "accelerate.commands.launch" not in sys.orig_argv:
    import torch
    torch.cuda.set_per_process_memory_fraction({bytes} / torch.cuda.get_device_properties(0).total_memory)
"""


def make_large(data, backbone):
    """Return a trial of two batches an epoch, in which a batch takes most of the memory."""
    cut = {"convnext_atto": "stages.1", "efficientnet_lite0": "blocks.1"}[backbone]
    recipe = {"epochs": 2, "batch_size": 64, "crop_scale": 1.0}
    return make_trial(data, backbone=backbone, source="random", cut=cut, image_size=224, recipe=recipe)


def most_memory(root, folder, backbone):
    """Return the bytes that the training of an epoch takes, as its allocator counts them."""
    data, accelerator = PackedDataset.open(root), make_accelerator("no", cpu=False)
    pixels = Pixels(data, accelerator.device)
    Trainer(make_large(data, backbone), pixels, accelerator, folder).run(lambda _: None, epochs=1)
    return torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("backbone", ["convnext_atto", "efficientnet_lite0"])
def test_a_trial_that_does_not_fit_is_run_in_smaller_parts_of_the_same_batches(
    backbone, toy, datasets, tmp_path, slot, monkeypatch
):
    trial, events = make_large(toy, backbone), []
    (tmp_path / "kept").mkdir()
    taken = apart(most_memory, toy.root, tmp_path / "kept", backbone)
    whole, parts = Runs(tmp_path / "whole"), Runs(tmp_path / "parts")
    (expected,) = train(slot, whole, datasets, trial)
    assert expected["micro_batches"] == 1
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(LIMIT.format(bytes=int(0.6 * taken)))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}")
    (result,) = train(slot, parts, datasets, trial, on_event=events.append)
    assert result["status"] == "completed", result
    assert result["micro_batches"] in (2, 4)
    said = [event.text for event in events if event.kind == "message"]
    assert said[0].startswith(
        "out of memory; again with each batch in 2 parts (OutOfMemoryError: CUDA out of"
    )
    assert len(said) == {2: 1, 4: 2}[result["micro_batches"]]
    one, other = (runs.history(trial.trial_id) for runs in (whole, parts))
    assert one["lr"].equals(other["lr"])
    losses = [table.select("train_loss", "val_loss").to_numpy() for table in (one, other)]
    if backbone == "convnext_atto":
        # Without batch norm, which sees a part of a batch at a time, the gradients are the same.
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    else:
        assert np.isfinite(losses[1]).all()
