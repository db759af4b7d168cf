"""Identities that were written down before: a setting that came later does not change them."""

import dataclasses
from dataclasses import dataclass

import pytest

from ttl.errors import ParamsError, TrialError
from ttl.training.identity import identity, later
from ttl.training.recipe import RECIPES, make_recipe, with_optimizer
from ttl.training.trial import TRAINING_VERSION, Trial


def trial(recipe="fast", **changes):
    values = {"strategy": "ttl", "cut": "blocks.2", "cut_index": 2, "source_sha256": "ab" * 32, "seed": 1}
    return Trial(
        dataset="films",
        revision="0123456789abcdef",
        backbone="efficientnet_lite0",
        recipe=make_recipe(recipe),
        image_size=64,
        **{**values, **changes},
    )


WHOLE = {"strategy": "ftl", "cut": "full"}


@pytest.mark.skipif(TRAINING_VERSION != 3, reason="written down with training version 3")
def test_identities_of_before_stay():
    assert trial().trial_id == "f5bf6e6c7a581045"
    assert trial(**WHOLE).trial_id == "d1f8adbdce7e4259"
    assert trial("paper").trial_id == "2a449ad8b6291645"
    assert trial({"base": "fast", "epochs": 3, "lr": 0.002}).trial_id == "bac1fc6fc076a361"
    small = {"backbone": "resnet18", "source": "random", "source_sha256": "", "seed": 0, "processes": 2}
    assert dataclasses.replace(trial(**WHOLE), **small).trial_id == "e34d10d03a3e67e5"


@pytest.mark.parametrize(
    "change",
    [{"share": 0.5}, {"head": "flattened"}, {"resplit": "val"}, {"resplit": "all"}, {"seed": 2}],
    ids=str,
)
def test_every_ablation_is_a_trial_of_its_own(change):
    other = trial(**change)
    assert other.trial_id != trial().trial_id
    assert Trial.from_dict(other.to_dict()) == other
    assert dataclasses.replace(other, share=0.25).trial_id != other.trial_id


def test_a_setting_counts_from_its_default_on():
    @dataclass(frozen=True)
    class Inner:
        old: int = 1
        new: float = later(0.5)

    @dataclass(frozen=True)
    class Outer:
        inner: Inner
        added: str = later("as before")

    assert identity(Outer(Inner())) == {"inner": {"old": 1}}
    assert identity(Outer(Inner(new=0.6), "else")) == {"inner": {"old": 1, "new": 0.6}, "added": "else"}


def test_a_trial_of_before_is_read():
    values = trial().to_dict()
    for name in ("head", "share", "resplit"):
        del values[name]
    del values["recipe"]["momentum"]
    assert Trial.from_dict(values) == trial()


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_is_a_part(share):
    with pytest.raises(TrialError, match="it must be over 0, at most 1"):
        trial(share=share)


def test_another_optimizer_has_a_learning_rate_of_its_scale():
    fast, paper = RECIPES["fast"], RECIPES["paper"]
    sgd = with_optimizer(fast, "sgd")
    assert (sgd.lr, sgd.momentum, sgd.name) == (0.01, 0.9, "fast(lr=0.01,optimizer=sgd)")
    assert with_optimizer(paper, "sgd").lr == 0.001
    assert with_optimizer(fast, "adam").name == "fast(optimizer=adam)"
    assert with_optimizer(fast, "adamw") is fast
    assert with_optimizer(sgd, "adamw") == fast
    slow = make_recipe({"base": "fast", "optimizer": "sgd", "momentum": 0.5, "lr": 0.3})
    assert with_optimizer(slow, "sgd").name == "fast(lr=0.3,momentum=0.5,optimizer=sgd)"
    with pytest.raises(ParamsError, match="momentum belongs to the optimizer sgd, not to adamw"):
        make_recipe({"base": "fast", "momentum": 0.5})
    with pytest.raises(ParamsError, match="momentum is 1"):
        make_recipe({"base": "fast", "optimizer": "sgd", "momentum": 1.0})
