"""On which samples a trial is trained: shares, repeated splits, and what they leave of a trial."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from ttl.errors import TrialError
from ttl.training.accelerator import make_accelerator
from ttl.training.division import divide
from ttl.training.job import Datasets, run_step
from ttl.training.loop import Trainer
from ttl.training.pixels import Pixels
from ttl.training.recipe import make_recipe
from ttl.training.runs import Runs
from ttl.training.trial import Step, Trial


@pytest.fixture
def trial(toy):
    return Trial(
        dataset="toy", revision=toy.revision, backbone="resnet18", source="random", strategy="ttl",
        cut="layer1", recipe=make_recipe({"base": "fast", "epochs": 1, "batch_size": 16}), image_size=32,
        seed=0,
    )  # fmt: skip


def patients(toy, rows):
    return set(toy.samples["patient_id"].to_numpy()[rows].tolist())


def test_as_it_is_the_datasets_own_split(trial, toy):
    found = divide(trial, toy)
    assert {split: rows.tolist() for split, rows in found.items()} == {
        split: toy.indices(split).tolist() for split in ("train", "val", "test")
    }


def test_a_share_leaves_validation_and_test_whole(trial, toy):
    small, large = (divide(dataclasses.replace(trial, share=share), toy) for share in (0.2, 0.6))
    for split in ("val", "test"):
        assert small[split].tolist() == large[split].tolist() == toy.indices(split).tolist()
    assert set(small["train"]) < set(large["train"]) < set(toy.indices("train"))
    assert len(large["train"]) == pytest.approx(0.6 * len(toy.indices("train")), abs=4)
    assert not patients(toy, small["train"]) & (
        patients(toy, toy.indices("train")) - patients(toy, small["train"])
    )


@pytest.mark.parametrize(
    ("resplit", "changed"), [("val", ("train", "val")), ("all", ("train", "val", "test"))]
)
def test_each_seed_has_a_split_of_its_own_without_leaks(trial, toy, resplit, changed):
    ones = [divide(dataclasses.replace(trial, resplit=resplit, seed=seed), toy) for seed in (1, 2)]
    for found in ones:
        sides = [patients(toy, rows) for rows in found.values()]
        assert not any(one & other for i, one in enumerate(sides) for other in sides[i + 1 :])
        assert sorted(np.concatenate(list(found.values()))) == list(range(toy.samples.height))
        for split, rows in found.items():
            assert len(rows) == pytest.approx(len(toy.indices(split)), abs=4)
            assert (rows.tolist() != toy.indices(split).tolist()) == (split in changed)
    assert ones[0]["train"].tolist() != ones[1]["train"].tolist()
    # What a model is, is no matter: all of a seed have one split.
    other = dataclasses.replace(trial, resplit=resplit, seed=1, cut="layer2", share=0.5)
    assert set(divide(other, toy)["train"]) < set(ones[0]["train"])
    assert divide(other, toy)["val"].tolist() == ones[0]["val"].tolist()


def test_a_test_split_that_was_given_is_not_drawn_anew(trial, toy):
    published = dataclasses.replace(toy, info=dataclasses.replace(toy.info, given_split=True))
    with pytest.raises(TrialError, match="toy has a test split of its own, which is kept"):
        divide(dataclasses.replace(trial, resplit="all"), published)
    kept = divide(dataclasses.replace(trial, resplit="val"), published)
    assert kept["test"].tolist() == toy.indices("test").tolist()


def test_the_order_of_the_rows_is_no_matter(trial, toy):
    wanted = dataclasses.replace(trial, resplit="all", share=0.5)
    order = np.random.default_rng(0).permutation(toy.samples.height)
    shuffled = dataclasses.replace(toy, samples=toy.samples[order])
    found, again = divide(wanted, toy), divide(wanted, shuffled)
    for split in found:
        ids = [
            one.samples["sample_id"].to_numpy()[rows[split]].tolist()
            for one, rows in ((toy, found), (shuffled, again))
        ]
        assert ids[0] == ids[1]


def test_what_a_trial_leaves_is_of_its_own_split(trial, toy, datasets, tmp_path):
    wanted = dataclasses.replace(trial, resplit="all", share=0.5, head="flattened", seed=3)
    runs = Runs(tmp_path)
    packed = Datasets(datasets, torch.device("cpu"))
    run_step(Step(trial=wanted), packed, runs, make_accelerator("no", cpu=True), lambda _: None)
    result, table = runs.result(wanted.trial_id), runs.predictions(wanted.trial_id)
    expected = divide(wanted, toy)
    for split in ("val", "test"):
        ids = toy.samples["sample_id"].to_numpy()[expected[split]].tolist()
        assert sorted(table.filter(pl.col("split") == split)["sample_id"]) == sorted(ids)
    # The stem, layer1, and a head of 64 channels at 8 × 8 positions.
    assert result["params"] == 157_504 + 2 * (64 * 64 + 1)


@pytest.mark.parametrize("schedule", ["one-cycle", "plateau"])
def test_sgd_has_its_momentum_and_keeps_it(trial, toy, tmp_path, schedule):
    recipe = make_recipe(
        {
            "base": "fast",
            "epochs": 2,
            "batch_size": 16,
            "optimizer": "sgd",
            "momentum": 0.8,
            "schedule": schedule,
        }
    )
    accelerator = make_accelerator("no", cpu=True)
    pixels = Pixels(toy, accelerator.device)
    trainer = Trainer(dataclasses.replace(trial, recipe=recipe, share=0.3), pixels, accelerator, tmp_path)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.run(lambda _: None, epochs=1)
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)
    assert [group["momentum"] for group in trainer.optimizer.param_groups] == [0.8]
    assert trainer.optimizer.state_dict()["state"][0]["momentum_buffer"] is not None
    assert any(not torch.equal(before[name], value) for name, value in trainer.network.state_dict().items())
    trainer.close()
