"""Selection over several labels: which labels a comparison rests on, and each label's own figures."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from ttl.evaluation.labels import choose_thresholds
from ttl.search.results import TRIALS_SCHEMA
from ttl.search.rule import SelectionRule
from ttl.search.scores import judged_labels, patients_by_label
from ttl.search.selection import compare, select

PATIENTS = 120
CLASSES = ("common", "rarer", "rare", "absent")
RULE = SelectionRule(margin=0.03, resamples=300)


def truth(seed=0):
    """Labels of patients with two images each: of the third there are 3 patients, of the fourth none."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((PATIENTS, 4), dtype=np.int64)
    labels[: PATIENTS // 2, 0] = 1
    labels[rng.choice(PATIENTS, 30, replace=False), 1] = 1
    labels[[4, 50, 90], 2] = 1
    labels = np.repeat(labels, 2, axis=0)
    labels[rng.random(labels.shape) < 0.05] = -1
    return labels


def sweep(signals, lost=None):
    """Return trials and predictions; `signals` maps a model to its size and signal by label."""
    rows, tables = [], {}
    shared = np.random.default_rng(1).normal(size=(2 * PATIENTS, 4))
    for (strategy, cut), (params, signal) in signals.items():
        frames = []
        for place, split in enumerate(("val", "test")):
            labels = truth(place)
            scores = 1 / (1 + np.exp(-(np.asarray(signal) * (2 * (labels == 1) - 1) + shared)))
            frames.append(
                pl.DataFrame(
                    {
                        "sample_id": [f"{split}{i}" for i in range(len(labels))],
                        "patient_id": [f"p{i // 2}" for i in range(len(labels))],
                        "split": split,
                        "label": pl.Series(labels.astype(np.int8), dtype=pl.Array(pl.Int8, 4)),
                        "scores": scores.tolist(),
                    }
                )
            )
        name = f"{strategy}-{cut}"
        tables[name] = pl.concat(frames)
        row = dict.fromkeys(TRIALS_SCHEMA)
        row |= {
            "trial_id": name, "dataset": "d", "backbone": "net", "source": "imagenet",
            "strategy": strategy, "cut": cut, "cut_index": 0, "granularity": "stage", "seed": 0,
            "recipe": "fast", "image_size": 32, "processes": 1, "source_sha256": "", "params": params,
            "macs": params, "model_bytes": 4 * params, "latency_ms": 1.0, "val_loss": 0.5,
            "val_auroc": 0.9, "test_auroc": 0.8, "train_seconds": 1.0, "status": "completed",
        }  # fmt: skip
        rows.append(row)
    return pl.DataFrame(rows, schema=TRIALS_SCHEMA, orient="row"), tables.__getitem__


MODELS = {
    ("ftl", "full"): (1000, [1.5, 1.5, 1.5, 0]),
    ("ttl", "a"): (10, [1.5, 0.3, 1.5, 0]),  # loses one label
    ("ttl", "b"): (100, [1.5, 1.5, 0.0, 0]),  # loses a label of 3 patients
}


@pytest.fixture(scope="module")
def found():
    return select(*sweep(MODELS), RULE, CLASSES)


def test_models_are_compared_over_labels_of_enough_patients_and_the_others_are_named(found):
    assert found["labels"] == {"validation": [0, 1], "test": [0, 1]}
    assert found["chosen"]["cut"] == "b"
    assert "mean over common, rarer. In the validation split, fewer than 10 patients" in found["notes"][-1]
    assert found["notes"][-1].endswith("rare, absent")
    labels, scores = truth(), np.array(sweep(MODELS)[1]("ttl-a").filter(split="val")["scores"].to_list())
    each = [
        roc_auc_score(labels[known, c], scores[known, c]) for c in (0, 1) for known in [labels[:, c] >= 0]
    ]
    row = next(one for one in found["candidates"] if one["cut"] == "a")
    assert row["val_auroc"]["value"] == pytest.approx(np.mean(each))
    assert not row["non_inferior"]


def test_each_label_has_its_figures_and_those_of_few_patients_no_interval(found):
    common, _, rare, absent = found["figures"]["chosen"]["labels"]
    assert common["validation"]["auroc"]["low"] < common["validation"]["auroc"]["value"]
    assert common["test"]["patients"] == PATIENTS // 2
    assert rare["test"]["auroc"]["value"] > 0
    assert rare["test"]["auroc"]["low"] is None
    assert absent["test"] == {
        "patients": 0,
        **dict.fromkeys(("auroc", "auprc", "sensitivity", "specificity", "ece")),
    }
    means = found["figures"]["chosen"]["test"]
    rows = found["figures"]["chosen"]["labels"][:2]
    for metric in ("auroc", "sensitivity", "specificity", "ece"):
        assert means[metric]["value"] == pytest.approx(
            np.mean([row["test"][metric]["value"] for row in rows])
        )


def test_the_thresholds_are_the_trials_own(found):
    table = sweep(MODELS)[1]("ttl-b").filter(split="val")
    expected = choose_thresholds(truth(), np.array(table["scores"].to_list()))
    assert found["figures"]["chosen"]["threshold"] == expected
    assert [row["threshold"] for row in found["figures"]["chosen"]["labels"]] == list(expected)


def test_a_planner_compares_as_the_selection_does(found):
    predictions = sweep(MODELS)[1]
    row = next(one for one in found["candidates"] if one["cut"] == "a")
    difference = compare(["ttl-a"], ["ftl-full"], predictions, RULE)
    assert difference.high == row["difference"]["high"] < 0


def test_without_a_label_of_enough_patients_the_whole_network_stays():
    rule = SelectionRule(margin=0.03, resamples=300, patients=100)
    # Not of the rarest: a bootstrap of 3 patients has no interval.
    trials, predictions = sweep(MODELS)

    def two_labels(name):
        return predictions(name).with_columns(
            pl.col("label").arr.to_list().list.head(2).list.to_array(2), pl.col("scores").list.head(2)
        )

    found = select(trials, two_labels, rule, CLASSES[:2])
    assert found["chosen"]["cut"] == "full"
    assert any("the whole network stays" in note for note in found["notes"])


def test_patients_are_counted_on_both_sides_of_a_label():
    labels = np.array([[1, 0], [1, 0], [0, -1], [0, 1]])
    patients = np.array(["a", "a", "b", "b"])
    assert patients_by_label(labels, patients).tolist() == [[1, 1], [1, 1]]
    assert judged_labels(labels, patients, 1).tolist() == [True, True]
    assert judged_labels(np.array([0, 1, 1, 0]), patients, 1) is None
    # Where there is none, what can be scored.
    assert judged_labels(np.array([[1, 1], [0, 1], [0, 1], [0, 1]]), patients, 2).tolist() == [True, False]
