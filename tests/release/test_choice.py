import numpy as np
import polars as pl
import pytest

from tests.release.sweeps import trials as made_trials
from ttl.errors import SearchError
from ttl.release.choice import best_trials, choose_images, the_backbone, the_dataset

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
RIGHT = {"ftl": LABELS.copy(), "ttl": LABELS.copy()}


def kinds(choices):
    return [(one.place, one.kind) for one in choices]


class TestImages:
    def choose(self, decisions, *, count=8, seed=0, truth=None):
        truth = np.linspace(0.9, 0.1, len(LABELS)) if truth is None else truth
        return choose_images(LABELS, decisions=decisions, truth=truth, count=count, seed=seed)

    def test_half_are_correct_of_each_class_and_a_quarter_each_are_disagreements_and_errors(self):
        ftl, ttl = LABELS.copy(), LABELS.copy()
        ftl[[2, 8, 9]] = 1 - LABELS[[2, 8, 9]]
        ttl[[3, 7, 8, 9]] = 1 - LABELS[[3, 7, 8, 9]]
        found = self.choose({"ftl": ftl, "ttl": ttl})
        # 9 and 8 have the lowest probability of the truth; of 2, 3 and 7, where they differ, two are drawn.
        assert sorted(one for one in kinds(found) if one[1] == "error") == [(8, "error"), (9, "error")]
        apart = [one.place for one in found if one.kind == "disagreement"]
        assert len(apart) == 2
        assert set(apart) < {2, 3, 7}
        correct = [one.place for one in found if one.kind == "correct"]
        assert LABELS[correct].tolist() == [0, 0, 1, 1]
        assert not set(correct) & {2, 3, 7, 8, 9}
        assert [one.kind for one in found] == ["correct"] * 4 + ["disagreement"] * 2 + ["error"] * 2

    def test_errors_are_the_most_confident_over_all_strategies(self):
        wrong = 1 - LABELS
        truth = np.array([0.4, 0.1, 0.3, 0.2, 0.4, 0.05, 0.4, 0.4, 0.4, 0.4])
        found = self.choose({"ftl": wrong, "ttl": wrong}, truth=truth)
        assert kinds(found)[:4] == [(5, "error"), (1, "error"), (3, "error"), (2, "error")]

    def test_where_none_is_right_errors_fill_what_is_lacking(self):
        assert [one.kind for one in self.choose(dict.fromkeys(("ftl", "ttl"), 1 - LABELS))] == ["error"] * 8

    def test_correct_ones_fill_what_is_lacking(self):
        found = self.choose(RIGHT)
        assert [one.kind for one in found] == ["correct"] * 8
        assert LABELS[[one.place for one in found]].tolist() == [0] * 4 + [1] * 4
        assert len(self.choose(RIGHT, count=30)) == len(LABELS)

    def test_the_seed_draws_them(self):
        assert self.choose(RIGHT, count=4) == self.choose(RIGHT, count=4)
        assert len({str(self.choose(RIGHT, count=4, seed=seed)) for seed in range(5)}) > 1

    def test_without_ftl_there_is_nothing_to_disagree_with(self):
        assert {one.kind for one in self.choose({"lwft": 1 - LABELS, "ttl": LABELS})} == {"error"}


class TestTrials:
    def test_the_best_on_validation_data_is_shown_not_the_best_on_test_data(self):
        table = made_trials()
        found, missing = best_trials(table, {}, dataset="pneumonia", backbone="efficientnet_lite0")
        assert list(found) == ["ftl", "lwft", "tf", "ttl"]
        assert missing == {}
        for strategy, row in found.items():
            assert row["val_auroc"] == table.filter(pl.col("strategy") == strategy)["val_auroc"].max()

    def test_the_selected_model_is_shown_where_it_is_of_ttl(self):
        table = made_trials()
        [selected] = table.filter(pl.col("cut") == "blocks.1", strategy="ttl", seed=2)["trial_id"]
        [tf] = table.filter(pl.col("cut") == "blocks.1", strategy="tf", seed=2)["trial_id"]

        def shown(trial_id):
            selection = {"figures": {"chosen": {"trial_id": trial_id}}}
            return best_trials(table, selection, dataset="pneumonia", backbone="efficientnet_lite0")[0]

        assert shown(selected)["ttl"]["trial_id"] == selected
        assert shown(tf) == best_trials(table, {}, dataset="pneumonia", backbone="efficientnet_lite0")[0]

    def test_networks_of_one_condition_are_shown_those_of_all_data_first(self):
        whole = made_trials().with_columns(share=pl.lit(1.0), head=pl.lit("pooled"), resplit=pl.lit("none"))
        better = pl.min_horizontal(pl.col("val_auroc") + 0.1, 0.9999)
        others = [
            whole.with_columns(better.alias("val_auroc"), trial_id=f"{name} " + pl.col("trial_id"), **change)
            for name, change in (
                ("part", {"share": pl.lit(0.5)}),
                ("drawn", {"resplit": pl.lit("all")}),
            )
        ]
        flat = whole.with_columns(trial_id="flat " + pl.col("trial_id"), head=pl.lit("flattened"))
        of = {"dataset": "pneumonia", "backbone": "efficientnet_lite0"}
        alone = best_trials(whole, {}, **of)
        assert best_trials(pl.concat([*others, whole]), {}, **of) == alone
        selection = {"figures": {"chosen": {"trial_id": flat["trial_id"][0]}}}
        found, _ = best_trials(pl.concat([whole, flat]), selection, **of)
        assert {row["head"] for row in found.values()} == {"flattened"}
        # Of splits of their own none is shown: their networks were trained on test images of this one.
        with pytest.raises(SearchError, match="on the dataset's own split"):
            best_trials(others[1], {}, **of)

    def test_a_strategy_without_a_completed_trial_is_said_to_lack(self):
        table = made_trials(seeds=1).with_columns(
            pl.when(pl.col("strategy") == "lwft").then(pl.lit("failed")).otherwise("status").alias("status")
        )
        table = table.filter(pl.col("strategy") != "tf")
        found, missing = best_trials(table, {}, dataset="pneumonia", backbone="efficientnet_lite0")
        assert list(found) == ["ftl", "ttl"]
        assert missing == {
            "lwft": "none of its 6 trials was completed",
            "tf": "the last sweep has no trial of it",
        }

    def test_a_strategy_of_another_condition_alone_is_said_to_be_unlike(self):
        tf = pl.col("strategy") == "tf"
        table = made_trials(seeds=1).with_columns(
            resplit=pl.when(tf).then(pl.lit("val")).otherwise(pl.lit("none"))
        )
        found, missing = best_trials(table, {}, dataset="pneumonia", backbone="efficientnet_lite0")
        assert list(found) == ["ftl", "lwft", "ttl"]
        assert missing == {"tf": "its trials are not alike in weights, recipe, size, data or split"}

    def test_none_at_all_is_an_error(self):
        table = made_trials(seeds=1).with_columns(pl.lit("failed").alias("status"))
        with pytest.raises(SearchError) as caught:
            best_trials(table, {}, dataset="pneumonia", backbone="efficientnet_lite0")
        said = str(caught.value)
        assert "no trial of pneumonia with efficientnet_lite0 was completed (they are: failed)" in said
        assert "resplit" not in said


class TestNames:
    def test_the_only_dataset_is_meant_and_one_of_several_has_to_be_named(self):
        one = made_trials(seeds=1)
        both = pl.concat([one, made_trials(dataset="skin", seeds=1)])
        assert the_dataset(one, None) == "pneumonia"
        assert the_dataset(both, "skin") == "skin"
        with pytest.raises(
            SearchError, match="more than one dataset, so name it; there are: pneumonia, skin"
        ):
            the_dataset(both, None)
        with pytest.raises(SearchError, match="no dataset 'bone'; there are: pneumonia, skin"):
            the_dataset(both, "bone")

    def test_of_several_backbones_the_selected_models_is_meant(self):
        table = made_trials(backbones=("efficientnet_lite0", "resnet50"), seeds=1)
        assert the_backbone(table, {"chosen": {"backbone": "resnet50"}}, None) == "resnet50"
        assert the_backbone(table, {"chosen": {"backbone": "resnet50"}}, "efficientnet_lite0") != "resnet50"
        with pytest.raises(SearchError, match="more than one backbone"):
            the_backbone(table, {}, None)
