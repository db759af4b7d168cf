"""Aggregation and selection on made predictions whose truth is known."""

import numpy as np
import polars as pl
import pytest

from ttl.errors import ParamsError, SearchError
from ttl.search.results import TRIALS_SCHEMA, leaderboard, ordinary, settled, why_no_release
from ttl.search.rule import SelectionRule
from ttl.search.selection import pareto_front, select

PATIENTS = 150


def sweep(models, seeds=(0, 1), failed=()):
    """Return trials and predictions; `models` maps (strategy, cut) to (params, signal)."""
    rows, tables = [], {}
    generator = np.random.default_rng(0)
    labels = np.repeat(generator.integers(0, 2, PATIENTS), 2)
    shared = generator.normal(size=2 * PATIENTS)
    for (strategy, cut), (params, signal) in models.items():
        for seed in seeds:
            name = f"{strategy}-{cut}-{seed}"
            noise = 0.9 * shared + 0.1 * np.random.default_rng(seed).normal(size=2 * PATIENTS)
            positive = 1 / (1 + np.exp(-(signal * (2 * labels - 1) + noise)))
            frames = [
                pl.DataFrame(
                    {
                        "sample_id": [f"{split}{i}" for i in range(2 * PATIENTS)],
                        "patient_id": [f"p{i // 2}" for i in range(2 * PATIENTS)],
                        "split": split,
                        "label": labels,
                        "scores": np.stack([1 - positive, positive], axis=1).tolist(),
                    }
                )
                for split in ("val", "test")
            ]
            tables[name] = pl.concat(frames)
            row = dict.fromkeys(TRIALS_SCHEMA)
            row |= {
                "trial_id": name, "dataset": "d", "backbone": "net", "source": "imagenet",
                "strategy": strategy, "cut": cut, "cut_index": 0, "granularity": "stage", "seed": seed,
                "recipe": "fast",
                "image_size": 32, "processes": 1, "source_sha256": "", "params": params, "macs": params,
                "model_bytes": 4 * params, "latency_ms": 1.0, "threshold": 0.5, "val_loss": 0.5,
                "val_auroc": 0.9 + seed / 100, "test_auroc": 0.8, "train_seconds": 1.0,
                "status": "failed" if name in failed else "completed",
            }  # fmt: skip
            rows.append(row)
    return pl.DataFrame(rows, schema=TRIALS_SCHEMA, orient="row"), tables.__getitem__


MODELS = {
    ("ftl", "full"): (1000, 1.5),
    ("ttl", "a"): (10, 0.6),  # much worse
    ("ttl", "b"): (100, 1.5),  # as good
    ("ttl", "c"): (300, 1.7),  # better, and larger than b
}


def test_the_smallest_non_inferior_model_is_chosen_not_the_best():
    trials, predictions = sweep(MODELS)
    found = select(trials, predictions, SelectionRule(margin=0.02))
    assert found["chosen"]["cut"] == "b"
    assert found["reference"]["strategy"] == "ftl"
    rows = {row["cut"]: row for row in found["candidates"]}
    assert [row["cut"] for row in found["candidates"]] == ["a", "b", "c", "full"]
    assert {cut: row["non_inferior"] for cut, row in rows.items()} == {
        "a": False,
        "b": True,
        "c": True,
        "full": True,
    }
    assert rows["a"]["difference"]["high"] < -0.02
    assert rows["c"]["difference"]["low"] > 0
    assert abs(found["test_difference"]["value"]) < 0.01


def test_like_is_compared_with_like():
    """Of two heads the better whole network decides; shares of the data and other splits take no part."""
    one, first = sweep(MODELS)
    names = pl.col("trial_id")
    flat, second = sweep({("ftl", "full"): (2000, 2.5), ("ttl", "a"): (20, 2.5), ("ttl", "b"): (200, 1.0)})
    half, third = sweep({("ftl", "full"): (1000, 9.0), ("ttl", "a"): (1, 9.0)})
    trials = pl.concat(
        [
            one,
            flat.with_columns(head=pl.lit("flattened"), trial_id="flat-" + names),
            half.with_columns(share=pl.lit(0.5), trial_id="half-" + names),
            half.with_columns(resplit=pl.lit("val"), trial_id="split-" + names),
        ]
    )
    tables = {"flat": second, "half": third, "split": third}

    def predictions(name):
        kind, _, rest = name.partition("-")
        return tables[kind](rest) if kind in tables else first(name)

    found = select(trials, predictions, SelectionRule(margin=0.02))
    assert (found["reference"]["head"], found["reference"]["share"]) == ("flattened", 1.0)
    assert (found["chosen"]["cut"], found["chosen"]["params"]) == ("a", 20)
    assert [row["params"] for row in found["candidates"]] == [20, 200, 2000]
    assert any(
        "4 models were trained by another recipe or with another head" in note for note in found["notes"]
    )
    board = leaderboard(trials.with_columns(pl.col("resplit").fill_null("none")))
    assert board.filter(pl.col("cut") == "full").height == 4


def test_experiments_alone_select_nothing_and_say_why():
    trials, predictions = sweep(MODELS)
    half = trials.with_columns(share=pl.lit(0.5))
    with pytest.raises(SearchError, match="no trial of the whole network"):
        select(half, predictions, SelectionRule())
    assert "a share of the data" in why_no_release(settled(half))
    assert "a split of its own" in why_no_release(settled(trials.with_columns(resplit=pl.lit("val"))))
    assert ordinary(half).is_empty()
    assert ordinary(trials).height == trials.height


def test_a_wide_margin_lets_the_worse_one_in_and_a_narrow_one_none():
    trials, predictions = sweep(MODELS)
    assert select(trials, predictions, SelectionRule(margin=0.4))["chosen"]["cut"] == "a"
    worse = {**MODELS, ("ttl", "b"): (100, 1.45)}
    del worse["ttl", "c"]
    trials, predictions = sweep(worse)
    assert select(trials, predictions, SelectionRule(margin=0.0))["chosen"]["cut"] == "full"


def test_the_network_to_release_is_the_seed_best_on_validation_data():
    found = select(*sweep(MODELS, seeds=(0, 1, 2)), SelectionRule(margin=0.02))
    assert found["figures"]["chosen"]["trial_id"] == "ttl-b-2"
    assert found["chosen"]["seeds"] == [0, 1, 2]
    figures = found["figures"]["chosen"]["validation"]
    assert set(figures) == {
        "auroc",
        "auprc",
        "accuracy",
        "balanced_accuracy",
        "sensitivity",
        "specificity",
        "ece",
    }
    for one in figures.values():
        assert one["low"] <= one["value"] <= one["high"] or one is figures["ece"]


def test_a_model_with_a_failed_seed_is_left_out_and_said():
    found = select(*sweep(MODELS, failed=("ttl-b-1",)), SelectionRule(margin=0.02))
    assert found["chosen"]["cut"] == "c"
    assert found["notes"] == ["net ttl b was left out: 1 of its 2 trials failed"]


def test_no_reference_is_an_error():
    with pytest.raises(SearchError, match=r"1 of the 2 trials of the whole network"):
        select(*sweep(MODELS, failed=("ftl-full-0",)), SelectionRule())
    with pytest.raises(SearchError, match="add the strategy ftl"):
        select(*sweep({("ttl", "a"): (10, 0.6)}), SelectionRule())


def test_a_handful_of_patients_proves_nothing():
    """Both models are perfect: a bootstrap of five patients a class would say that they are the same."""
    trials, predictions = sweep({("ftl", "full"): (1000, 50.0), ("ttl", "a"): (10, 50.0)})

    def few(name):
        table = predictions(name)
        return table.filter(pl.int_range(pl.len()).over("split", "label") < 10)

    found = select(trials, few, SelectionRule())
    assert found["chosen"]["cut"] == "full"
    assert "A class has only 5 patients in the validation split" in found["notes"][0]
    enough = select(trials, few, SelectionRule(patients=5))
    assert enough["chosen"]["cut"] == "a"
    assert "has no width" in enough["notes"][0]


@pytest.mark.parametrize(
    ("field", "value"), [("margin", -0.1), ("confidence", 1.0), ("resamples", 10), ("patients", 1)]
)
def test_a_rule_that_is_none_is_refused(field, value):
    with pytest.raises(ParamsError, match=f"selection.{field} is {value}"):
        SelectionRule(**{field: value})


def test_the_leaderboard_is_mean_and_deviation_over_seeds():
    trials, _ = sweep(MODELS, seeds=(0, 1, 2), failed=("ttl-a-2",))
    rows = {row["cut"]: row for row in leaderboard(trials).iter_rows(named=True)}
    assert rows["b"]["val_auroc_mean"] == pytest.approx(0.91)
    assert rows["b"]["val_auroc_std"] == pytest.approx(0.01)
    assert (rows["a"]["seeds"], rows["a"]["failed"]) == (2, 1)
    assert rows["a"]["val_auroc_mean"] == pytest.approx(0.905)


def test_pareto_front():
    points = [(1, 0.5), (2, 0.4), (2, 0.9), (3, 0.9), (4, 0.95)]
    assert pareto_front(points) == [0, 2, 4]


def test_what_a_planner_gave_up_is_no_candidate_and_is_counted():
    trials, predictions = sweep(MODELS)
    stopped = pl.col("trial_id").is_in(["ttl-b-0", "ttl-b-1"])
    trials = trials.with_columns(pl.when(stopped).then(pl.lit("stopped")).otherwise("status").alias("status"))
    trials = trials.filter(pl.col("trial_id") != "ttl-a-1")
    found = select(trials, predictions, SelectionRule(margin=0.02))
    assert found["chosen"]["cut"] == "c"
    assert [one["cut"] for one in found["candidates"]] == ["c", "full"]
    assert found["notes"][0].startswith("2 models were not trained to the end with every seed")
