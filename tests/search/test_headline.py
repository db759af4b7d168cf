"""The headline table on made trials whose answer is known."""

import numpy as np
import polars as pl
import pytest

from ttl.errors import SearchError
from ttl.evaluation.metrics import auroc
from ttl.search.headline import METHODS, conditions, headline
from ttl.search.results import LEDGER_SCHEMA, TRIALS_SCHEMA

STAGES = ("s0", "s1", "s2")
BLOCKS = tuple(f"{stage}.{block}" for stage in STAGES for block in range(3))
PARAMS = {
    "s0": 10,
    "s1": 20,
    "s2": 30,
    **{name: 10 * (i // 3) + 4 + 3 * (i % 3) for i, name in enumerate(BLOCKS)},
}
VAL = {"full": 0.90, "s0": 0.80, "s1": 0.93, "s2": 0.85, "s1.1": 0.95, "s2.0": 0.91}
PATIENTS = 60


def book(granularities=("stage", "block"), strategies=("ftl", "ttl", "lwft", "tf")):
    rows = []
    for strategy in strategies:
        cuts = [("full", -1, "stage")] if strategy == "ftl" else []
        if strategy != "ftl":
            for granularity, names in (("stage", STAGES), ("block", BLOCKS)):
                if granularity in granularities:
                    cuts += [(name, i, granularity) for i, name in enumerate(names)]
        for cut, index, granularity in cuts:
            row = dict.fromkeys(LEDGER_SCHEMA)
            row |= {"dataset": "d", "backbone": "net", "source": "imagenet", "strategy": strategy, "cut": cut}
            rows.append(row | {"cut_index": index, "granularity": granularity})
    return pl.DataFrame(rows, schema=LEDGER_SCHEMA, orient="row")


def swept(cuts=("s0", "s1", "s2", "s1.0", "s1.1", "s2.0", "s2.1"), seeds=(0, 1, 2), **changes):
    """Return trials of ttl at some cuts and of the whole network, and their predictions."""
    rows, tables = [], {}
    labels = np.arange(2 * PATIENTS) // 2 % 2
    for cut in ("full", *cuts):
        for seed in seeds:
            name = f"{cut}-{seed}"
            # `s1.1` tells the classes apart; the others are as good as the whole network, in their own way.
            noise = np.random.default_rng([seed, len(rows)]).normal(size=2 * PATIENTS)
            positive = labels + (0.1 if cut == "s1.1" else 1.2) * noise
            scores = 1 / (1 + np.exp(-positive))
            tables[name] = pl.DataFrame(
                {
                    "sample_id": [f"i{i:03}" for i in range(2 * PATIENTS)],
                    "patient_id": [f"p{i // 2}" for i in range(2 * PATIENTS)],
                    "split": "test",
                    "label": labels,
                    "scores": np.stack([1 - scores, scores], axis=1).tolist(),
                }
            )
            row = dict.fromkeys(TRIALS_SCHEMA)
            row |= {
                "trial_id": name, "dataset": "d", "backbone": "net", "source": "imagenet",
                "strategy": "ftl" if cut == "full" else "ttl", "cut": cut, "seed": seed, "recipe": "fast",
                "granularity": "block" if cut in BLOCKS else "stage", "image_size": 32, "processes": 1,
                "cut_index": -1, "source_sha256": "", "params": PARAMS.get(cut, 100), "macs": 5,
                "latency_ms": 1.0 + seed, "val_auroc": VAL.get(cut, 0.5) + 0.01 * (seed - 1), "device": "cpu",
                "test_auroc": auroc(labels, np.stack([1 - scores, scores], axis=1)),
                "test_auprc": 0.7 + 0.1 * seed, "status": "completed",
            }  # fmt: skip
            rows.append(row | changes)
    return pl.DataFrame(rows, schema=TRIALS_SCHEMA, orient="row"), tables.__getitem__


def table(trials, predictions, ledger=None, **options):
    ledger = book() if ledger is None else ledger
    rows = headline(trials, ledger, predictions, dataset="d", backbone="net", resamples=400, **options)
    assert tuple(row.method for row in rows) == METHODS
    return {row.method: row for row in rows}


def test_cuts_are_chosen_on_validation_data_and_reported_on_test_data():
    rows = table(*swept())
    assert (rows["TTL-1"].cut, rows["TTL-2"].cut) == ("s1", "s1.1")
    assert rows["FTL"].cut == "full"
    best = rows["TTL-2"]
    assert best.val_auroc.mean == pytest.approx(0.95)
    assert best.val_auroc.deviation == pytest.approx(0.01)
    assert (best.test_auprc.mean, best.test_auprc.deviation) == (pytest.approx(0.8), pytest.approx(0.1))
    assert (best.params, best.macs, best.latency_ms, best.devices) == (17, 5, 2.0, ("cpu",))
    assert best.seeds == (0, 1, 2)
    assert not best.notes


def test_a_method_that_is_better_is_found_so_and_one_that_is_not_is_not():
    trials, predictions = swept()
    rows = table(trials, predictions)
    means = dict(trials.group_by("cut").agg(pl.col("test_auroc").mean()).iter_rows())
    better, same = rows["TTL-2"], rows["TTL-1"]
    assert better.difference.value == pytest.approx(means["s1.1"] - means["full"])
    assert same.difference.value == pytest.approx(means["s1"] - means["full"])
    assert better.difference.low > 0.1
    assert better.p < 0.01
    assert same.p > 0.1
    # Two are compared: the smaller p is doubled, and the other stays.
    assert better.p_holm == pytest.approx(2 * better.p)
    assert same.p_holm == same.p
    assert rows["FTL"].p is None


def test_what_is_missing_is_said():
    rows = table(*swept())
    assert rows["TF-1"].cut is None
    assert rows["TF-1"].notes == rows["TF-2"].notes == ("TF is missing: the sweep has no tf",)
    trials, predictions = swept()
    parts = table(trials.filter(~((pl.col("strategy") == "ttl") & (pl.col("seed") == 0))), predictions)
    assert parts["TTL-1"].notes == (
        "TTL-1 is the best stage cut, and there is none that was trained with every seed",
    )
    stages = table(*swept(cuts=STAGES), ledger=book(("stage",)))
    assert stages["TTL-1"].cut == "s1"
    assert stages["TTL-2"].notes == ("TTL-2 is missing: no block cuts were swept",)
    assert stages["TTL-2"].p is None
    half = table(*swept(cuts=("s0", "s1", "s2", "s1.0", "s2.0")))
    assert half["TTL-2"].cut == "s1"
    assert half["TTL-2"].notes == (
        "TTL-2 is the best of 2 of 4 block cuts: s1.1, s2.1 not trained with every seed",
        "TTL-2 is TTL-1: no block cut around it was better on validation data",
    )
    assert half["TTL-2"].difference == half["TTL-1"].difference
    # The same networks are one comparison.
    assert half["TTL-2"].p_holm == half["TTL-1"].p_holm == half["TTL-1"].p
    trials, predictions = swept()
    lost = table(trials.filter(pl.col("strategy") != "ftl"), predictions)
    assert lost["FTL"].notes[0].startswith("FTL is missing")
    assert lost["TTL-2"].p is None


def test_a_cut_without_all_seeds_is_not_chosen():
    trials, predictions = swept()
    broken = (pl.col("trial_id") == "s1-2") | (pl.col("trial_id") == "s1.1-0")
    status = pl.when(broken).then(pl.lit("failed")).otherwise("status").alias("status")
    rows = table(trials.with_columns(status), predictions)
    assert rows["TTL-1"].cut == "s2"
    assert rows["TTL-2"].cut == "s2.0"


def test_stages_that_are_blocks_themselves():
    """A ViT's: a ledger lists each cut once, as a stage cut where it is one."""
    every = [f"b{i}" for i in range(9)]
    stages = ["b2", "b5", "b8"]
    rows = []
    for strategy, whole in (("ttl", 1), ("lwft", 0)):
        for i, name in enumerate(every[: len(every) - whole]):
            place = (stages.index(name), "stage") if name in stages else (i, "block")
            row = dict.fromkeys(LEDGER_SCHEMA) | {"dataset": "d", "backbone": "net", "strategy": strategy}
            rows.append(row | {"cut": name, "cut_index": place[0], "granularity": place[1]})
    ledger = pl.DataFrame(rows, schema=LEDGER_SCHEMA, orient="row")
    trials, predictions = swept(cuts=("b2", "b5", "b0", "b1", "b3", "b4", "b6", "b7"))
    kind = pl.when(pl.col("cut").is_in(stages)).then(pl.lit("stage")).otherwise(pl.lit("block"))
    best = {"b5": 0.9, "b6": 0.95, "b1": 0.99}
    value = pl.col("cut").replace_strict(best, default=0.5, return_dtype=pl.Float64)
    trials = trials.with_columns(val_auroc=value, granularity=kind)
    rows = table(trials, predictions, ledger)
    assert (rows["TTL-1"].cut, rows["TTL-2"].cut) == ("b5", "b6")
    assert not rows["TTL-2"].notes


def test_one_seed_has_no_deviation():
    rows = table(*swept(seeds=(7,)))
    assert rows["TTL-2"].test_auroc.deviation is None
    assert rows["TTL-2"].p < 0.01


def several(trials, predictions, *, positives, patients=200, classes=3):
    """Return predictions in which images have several labels; `positives` patients have each, at random."""

    def labelled(trial_id):
        rng = np.random.default_rng(0)
        tables = []
        for split in ("val", "test"):
            labels = np.zeros((patients, classes), dtype=np.int64)
            for label, count in enumerate(positives):
                labels[rng.choice(patients, count, replace=False), label] = 1
            noise = np.random.default_rng(list(trial_id.encode())).normal(size=labels.shape)
            scores = 1 / (1 + np.exp(-(labels + noise)))
            tables.append(
                pl.DataFrame(
                    {
                        "sample_id": [f"{split}{i:03}" for i in range(patients)],
                        "patient_id": [f"p{i}" for i in range(patients)],
                        "split": split,
                        "label": pl.Series(labels.astype(np.int8), dtype=pl.Array(pl.Int8, classes)),
                        "scores": scores.tolist(),
                    }
                )
            )
        return pl.concat(tables)

    return trials, labelled


def test_rare_labels_are_left_out_of_the_test_and_named():
    entry = {"data": {"classes": ["mass", "rare", "scar"]}, "rule": {"patients": 12}}
    trials, predictions = several(*swept(), positives=(60, 1, 80))
    rows = table(trials, predictions, entry=entry)

    def mean_of_two(trial_id):
        test = predictions(trial_id).filter(split="test")
        truth, scores = test["label"].to_numpy(), np.array(test["scores"].to_list())
        each = [auroc(truth[:, one], np.stack([1 - scores[:, one], scores[:, one]], 1)) for one in (0, 2)]
        return np.mean(each)

    gaps = [mean_of_two(f"s1-{seed}") - mean_of_two(f"full-{seed}") for seed in range(3)]
    assert rows["TTL-1"].difference.value == pytest.approx(np.mean(gaps))
    assert 0 < rows["TTL-1"].p <= rows["TTL-1"].p_holm <= 1
    assert rows["TTL-1"].notes == rows["TTL-2"].notes
    assert rows["TTL-1"].notes == (
        "AUROC less FTL's, with its p, is of the mean over mass, scar: fewer than 12 patients of the "
        "validation or the test split have, or lack, each of the others. The column AUROC is of all labels "
        "that can be scored",
    )
    # Enough patients have each: there is nothing to say.
    assert not table(*several(*swept(), positives=(60, 70, 80)), entry=entry)["TTL-1"].notes


def test_what_cannot_be_tested_keeps_its_row_and_says_why():
    rows = table(*several(*swept(), positives=(1, 1, 1)))
    for row in (rows["TTL-1"], rows["TTL-2"]):
        assert (row.difference, row.p, row.p_holm) == (None, None, None)
        assert row.test_auroc.mean > 0.5
        assert len(row.notes) == 1
        assert row.notes[0].startswith("There is no test against FTL: ")
        assert "resamples of 200 patients lack a class" in row.notes[0]


def test_predictions_that_are_not_here_are_missed_by_their_row_alone():
    trials, predictions = swept()

    def without(*lost):
        def read(trial_id):
            if trial_id in lost:
                raise FileNotFoundError(trial_id)
            return predictions(trial_id)

        return read

    rows = table(trials, without("s1-1"))
    assert rows["TTL-1"].notes == (
        "There is no test against FTL: the predictions of trial s1-1 are not here (`ttl sweep` brings them)",
    )
    assert rows["TTL-1"].p is None
    # The other is now the only one.
    assert rows["TTL-2"].p_holm == rows["TTL-2"].p < 0.01
    rows = table(trials, without("full-0"))
    assert {row.p for row in rows.values()} == {None}
    assert rows["TTL-1"].notes == rows["TTL-2"].notes


def test_a_split_for_each_seed_widens_the_interval_as_nadeau_and_bengio_have_it():
    trials, predictions = swept()
    ordinary = table(trials, predictions)["TTL-1"]
    widths = {}
    for resplit in ("val", "all"):
        entry = {"data": {"images": {"train": 200, "val": 50, "test": 100}}}
        row = table(trials.with_columns(resplit=pl.lit(resplit)), predictions, entry=entry)["TTL-1"]
        assert row.difference.value == ordinary.difference.value
        widths[resplit] = row.difference.high - row.difference.low
    assert ordinary.difference.high - ordinary.difference.low < widths["val"] < widths["all"]
    # The part of the patients is the same: what is added to the seeds' is in proportion.
    base = (ordinary.difference.high - ordinary.difference.low) ** 2
    assert (widths["all"] ** 2 - base) / (widths["val"] ** 2 - base) == pytest.approx(3)
    unknown = table(trials.with_columns(resplit=pl.lit("val")), predictions)["TTL-1"]
    assert unknown.p is None
    assert "how many images a split has is not known" in unknown.notes[0]


def test_conditions_are_tables_of_their_own():
    one, predictions = swept()
    other, _ = swept(share=0.1)
    both = pl.concat([one, other])
    found = conditions(both, dataset="d", backbone="net")
    assert [condition["share"] for condition in found] == [1.0, 0.1]
    with pytest.raises(SearchError, match="under 2 conditions"):
        table(both, predictions)
    assert table(both, predictions, condition=found[1])["TTL-2"].seeds == (0, 1, 2)
    with pytest.raises(SearchError, match="no trial of other on d"):
        headline(both, book(), predictions, dataset="d", backbone="other")
