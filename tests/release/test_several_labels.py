"""Images with several labels from trained trials to a release: selection, export, card, prediction, gate."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ttl.data.dataset import PackedDataset
from ttl.data.prepare import prepare
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError, ReleaseError
from ttl.evaluation.labels import mean_auroc
from ttl.intake.append import append
from ttl.intake.spec import IntakeSpec
from ttl.release.card import write_card
from ttl.release.description import Description, read_description
from ttl.release.evidence import reliability
from ttl.release.export import export_model
from ttl.release.gate import judge
from ttl.release.gate_rule import Both, GateRule
from ttl.release.int8 import Int8Rule
from ttl.release.predict import load_model, predict
from ttl.release.testsets import score_tests
from ttl.search import results
from ttl.search.plan import Known, Progress
from ttl.search.rule import SelectionRule
from ttl.search.selection import select
from ttl.sweep import describe
from ttl.training.accelerator import make_accelerator
from ttl.training.job import Datasets, run_step
from ttl.training.recipe import make_recipe
from ttl.training.runs import Runs
from ttl.training.trial import Step, Trial

NAME = "several"
CLASSES = ("texture", "nodules", "effusion")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A whole and a truncated network trained for one epoch, selected and exported."""
    root = tmp_path_factory.mktemp(NAME)
    options = {"patients": 60, "labels": 3, "strength": 2.0, "unknown": 0.1}
    spec = DatasetSpec(source="phantom", size=32, options=options)
    dataset = prepare(NAME, spec, root / "packed" / NAME)
    runs = Runs(root / "runs")
    common = {
        "dataset": NAME, "revision": dataset.revision, "backbone": "resnet10t", "source": "random",
        "image_size": 32, "seed": 0, "recipe": make_recipe({"base": "fast", "epochs": 1, "batch_size": 16}),
    }  # fmt: skip
    trials = [Trial(strategy="ftl", **common), Trial(strategy="ttl", cut="layer2", cut_index=1, **common)]
    opened, accelerator = Datasets(root / "packed", torch.device("cpu")), make_accelerator("no", cpu=True)
    for trial in trials:
        run_step(Step(trial=trial), opened, runs, accelerator, lambda _: None)
    known = {trial.trial_id: Known(status="completed") for trial in trials}
    progress = Progress(waiting=[], known=known, trials={trial.trial_id: trial for trial in trials})
    table = results.collect(progress, runs)
    rule = SelectionRule(margin=0.49, resamples=200, patients=2)
    chosen = select(table, runs.predictions, rule, dataset.info.classes)
    selection = json.loads(json.dumps({"data": describe(dataset), **chosen}))
    out = export_model(
        selection,
        runs=runs.root,
        dataset=dataset,
        out=root / "models",
        int8_rule=Int8Rule(largest_auroc_change=1, least_gain=0),
    )
    return SimpleNamespace(
        root=root, dataset=dataset, runs=runs, trials=trials, table=table, selection=selection, model=out
    )


def test_the_truncated_network_is_released_with_a_threshold_a_label(workspace):
    known = read_description(workspace.model)
    assert (known.task, known.classes, known.strategy) == ("multilabel", CLASSES, "ttl")
    assert len(known.threshold) == len(known.int8.threshold) == 3
    assert known.threshold == tuple(workspace.runs.result(known.trial_id)["threshold"])
    assert 0.5 < known.int8.agreement <= 1
    assert abs(known.onnx.val_auroc_change) < 1e-6
    # The tables have room for one threshold: they have none here.
    assert workspace.table["threshold"].to_list() == [None, None]
    assert Description.from_json(known.to_json()) == known


def test_descriptions_of_before_are_read(workspace):
    values = json.loads(read_description(workspace.model).to_json())
    old = {**values, "task": "binary", "classes": ["no", "yes"], "threshold": 0.25, "int8": None}
    assert Description.from_json(json.dumps(old)).threshold == 0.25
    with pytest.raises(ReleaseError, match="threshold"):
        Description.from_json(json.dumps({**old, "threshold": "high"}))


@pytest.mark.parametrize("engine", ["onnx", "int8", "torch"])
def test_files_get_each_labels_probability_and_decision(workspace, engine, tmp_path):
    model, dataset = load_model(workspace.model, engine=engine), workspace.dataset
    rows = dataset.indices("val")[:6]
    paths = []
    for row, pixels in zip(rows, dataset.read(rows), strict=True):
        paths.append(tmp_path / f"{row}.png")
        Image.fromarray(pixels[0]).save(paths[-1])
    found = predict(model, paths)
    recorded = workspace.runs.predictions(model.description.trial_id)
    scores = dict(recorded.select("sample_id", "scores").iter_rows())
    for row, one in zip(rows, found, strict=True):
        assert list(one.probabilities) == list(CLASSES)
        if engine != "int8":
            expected = scores[dataset.samples["sample_id"][int(row)]]
            assert list(one.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        reached = zip(one.probabilities.items(), model.threshold, strict=True)
        assert one.predicted == tuple(name for (name, share), cut in reached if share >= cut)


def test_the_card_has_a_row_a_label(workspace):
    lines = (workspace.model / "card.md").read_text().splitlines()
    text = " ".join(" ".join(lines).split())
    figures = workspace.selection["figures"]["chosen"]
    for name, row in zip(CLASSES, figures["labels"], strict=True):
        (line,) = [line for line in lines if line.startswith(f"| {name} | ")]
        assert f"| {row['threshold']:.4f} |" in line
        found = row["test"]["auroc"]
        # An interval where there are patients enough.
        assert f"| {found['value']:.3f} {'|' if found['low'] is None else '('}" in line
    counts, sizes = workspace.dataset.info.counts["test"], workspace.dataset.info.sizes
    shown = " | ".join(str(counts[name]) for name in CLASSES)
    assert f"| test | {shown} | {sizes['test']} |" in text
    assert sum(counts.values()) != sizes["test"]
    assert "of which any number may apply: texture, nodules, effusion." in text
    assert "probabilities (sigmoid, each label by itself)" in text
    assert "No label does not mean that an image is normal." in text
    assert "softmax" not in text


def test_a_label_without_figures_is_a_dash_on_the_card(workspace):
    selection = json.loads(json.dumps(workspace.selection))
    row = selection["figures"]["chosen"]["labels"][2]
    selection["figures"]["chosen"]["labels"][1]["test"]["auroc"] |= {"low": None, "high": None}
    row["test"] = {"patients": 0, **dict.fromkeys(("auroc", "auprc", "sensitivity", "specificity", "ece"))}
    selection["labels"]["test"] = [0, 1]
    known = read_description(workspace.model)
    devices = {"chosen": "cpu", "reference": "cpu"}
    text = write_card(selection, description=known, dataset=workspace.dataset, devices=devices)
    (line,) = [line for line in text.splitlines() if line.startswith("| effusion | ")]
    assert "| 0 | – | – | – |" in line
    assert "in test texture, nodules." in text
    (line,) = [line for line in text.splitlines() if line.startswith("| nodules | ")]
    value = selection["figures"]["chosen"]["labels"][1]["test"]["auroc"]["value"]
    assert f"| {value:.3f} |" in line


RULE = GateRule(resamples=200, patients=Both(frozen=2, rolling=2), floor=0.5)


def test_the_gate_judges_by_the_mean_auroc(workspace):
    sets = score_tests(workspace.dataset, workspace.model, None)
    scores = sets["frozen"]
    verdict = judge(RULE, sets)
    line = next(one for one in verdict.comparisons if one.metric == "auroc")
    assert line.challenger.value == pytest.approx(mean_auroc(scores.labels, scores.challenger))
    recorded = workspace.runs.result(read_description(workspace.model).trial_id)
    assert line.challenger.value == pytest.approx(recorded["test_auroc"], abs=1e-4)
    rows = reliability(sets)
    assert sum(row["images"] for row in rows) == (scores.labels >= 0).sum()


def test_the_gate_counts_patients_of_the_rarest_side_of_any_label(workspace):
    scores = score_tests(workspace.dataset, workspace.model, workspace.model)["frozen"]
    sides = [len(set(scores.patients[scores.labels[:, c] == side])) for c in range(3) for side in (0, 1)]
    assert scores.fewest_patients == min(sides)
    lost = dataclasses.replace(scores, labels=scores.labels.copy())
    lost.labels[lost.labels[:, 1] == 1, 1] = -1
    verdict = judge(RULE, {"frozen": lost, "rolling": lost})
    assert any("labels number 1 cannot be scored on the frozen test set" in one for one in verdict.reasons)


def test_drops_give_one_label_and_are_refused(workspace):
    spec = IntakeSpec(classes=("no", "yes"), incoming="x", size=32)
    with pytest.raises(DataError, match="several labels an image; drops give one"):
        append(NAME, spec, [], workspace.dataset.root)


def test_models_of_other_tasks_are_not_compared(workspace, tmp_path):
    known = read_description(workspace.model)
    folder = tmp_path / "other"
    folder.mkdir()
    for path in workspace.model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "model.json").write_text(dataclasses.replace(known, task="multiclass").to_json())
    with pytest.raises(ReleaseError, match=r"\(multiclass\)"):
        score_tests(workspace.dataset, folder, None)


def test_the_dataset_is_read_back_as_it_was_packed(workspace):
    again = PackedDataset.open(Path(workspace.dataset.root))
    assert np.array_equal(again.labels, workspace.dataset.labels)
