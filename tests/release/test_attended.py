import dataclasses
import io
import json
import re

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from typer.testing import CliRunner

from ttl import tables
from ttl.cli import app
from ttl.data.dataset import INFO, SAMPLES, PackedDataset
from ttl.data.transforms import prepare
from ttl.errors import DataError, SearchError
from ttl.evaluation.attention import UNCHANGED, Maps, Randomised
from ttl.evaluation.metrics import softmax
from ttl.layout import Layout
from ttl.models.network import build_network
from ttl.release.attention import attention
from ttl.release.attention_figures import Measured, figures, notes
from ttl.search import results
from ttl.training.loop import image_steps, network_spec
from ttl.training.recipe import make_recipe
from ttl.training.runs import PREDICTIONS, WEIGHTS
from ttl.training.trial import Trial

CUTS = {"ftl": "full", "lwft": "blocks.2", "tf": "blocks.2", "ttl": "blocks.3"}


@pytest.fixture(scope="module")
def project(datasets, toy, tmp_path_factory):
    """A folder as a sweep leaves it, of networks that nobody has trained. Read it, save for its analysis."""
    layout = Layout(root=tmp_path_factory.mktemp("project"))
    layout.datasets.parent.mkdir()
    layout.datasets.symlink_to(datasets)
    rows = [write_trial(layout, toy, strategy, cut) for strategy, cut in CUTS.items()]
    layout.results.mkdir()
    pl.DataFrame(rows, schema=results.TRIALS_SCHEMA).write_parquet(layout.results / results.TRIALS)
    (layout.results / results.SELECTION).write_text(json.dumps({"toy": {"unselected": "nobody chose"}}))
    return layout


def write_trial(layout, toy, strategy, cut):
    trial = Trial(
        dataset="toy",
        revision=toy.revision,
        backbone="efficientnet_lite0",
        source="random",
        strategy=strategy,
        cut=cut,
        seed=7,
        image_size=64,
        recipe=make_recipe("fast"),
    )
    spec = network_spec(trial, toy.info)
    network = build_network(spec, seed=7).net.eval()
    folder = layout.runs.work(trial.trial_id)
    save_file(network.state_dict(), folder / WEIGHTS)
    samples = toy.samples.with_row_index().filter(pl.col("split") == "test")
    images = prepare(
        torch.from_numpy(toy.read(samples["index"].to_numpy())), image_size=64, steps=image_steps(trial)
    )
    with torch.no_grad():
        scores = softmax(network(images).double().numpy())
    columns = samples.select("sample_id", "patient_id", "split", "label")
    predicted = columns.with_columns(scores=pl.Series(scores.tolist()))
    predicted.write_parquet(folder / PREDICTIONS)
    layout.runs.publish(trial, {"status": "completed", "epochs": 1})
    threshold = float(np.median(scores[:, 1]))
    known = {**trial.to_dict(), "recipe": "fast", "trial_id": trial.trial_id, "status": "completed"}
    known |= {"params": 1000, "val_auroc": 0.5, "test_auroc": 0.5, "threshold": threshold}
    return {name: known.get(name) for name in results.TRIALS_SCHEMA}


@pytest.fixture(scope="module", autouse=True)
def _few():
    """Few draws of random weights: what they come to on average is no matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttl.release.attention.CHECKED", 4)
        patch.setattr("ttl.release.attention.DRAWS", 1)
        yield


@pytest.fixture(scope="module")
def values(project):
    return attention(project, images=8, seed=1)


def test_each_strategy_has_its_layer_its_area_and_what_random_weights_leave(project, values):
    found = values["strategies"]
    assert {name: (one["layer"], one["grid"]) for name, one in found.items()} == {
        "ftl": ("blocks.6", [2, 2]),
        "lwft": ("blocks.6", [2, 2]),
        "tf": ("blocks.6", [2, 2]),
        "ttl": ("blocks.3", [4, 4]),
    }
    assert {tuple(one["common_grid"]) for one in found.values()} == {(2, 2)}
    for one in found.values():
        assert one["trial_id"] in {folder.name for folder in project.runs.root.iterdir()}
        assert one["empty"] == values["measured_images"] or 0 < one["area"] < 1
        assert one["cascade"][-1]["part"] == "everything"
        left = one["absolute_rank_correlation"]
        assert left is None or left >= abs(one["rank_correlation"])
        # Of four positions ranks agree by chance.
        judged = left is not None and one["grid"] != [2, 2]
        assert one["explains"] is (left < UNCHANGED if judged else None)
    # On fewer positions no area is smaller; on as many it is the same.
    assert found["ttl"]["area_on_common_grid"] > found["ttl"]["area"]
    assert found["ftl"]["area_on_common_grid"] == found["ftl"]["area"]
    assert found["ftl"]["less_ftl"] == {}


def test_samples_are_of_the_test_split_with_what_each_network_said(project, values, toy):
    known = {row["sample_id"]: row for row in toy.samples.iter_rows(named=True)}
    kinds = [one["kind"] for one in values["samples"]]
    assert len(kinds) == 8
    assert kinds.count("disagreement") == 2
    for sample in values["samples"]:
        row = known[sample["sample_id"]]
        assert row["split"] == "test"
        assert sample["label"] == toy.info.classes[row["label"]]
        assert sample["target"] == toy.info.classes[1]
        for name, one in values["strategies"].items():
            told = project.runs.predictions(one["trial_id"]).filter(sample_id=sample["sample_id"])
            assert sample["probabilities"][name] == pytest.approx(told["scores"][0][1])
            positive = sample["probabilities"][name] >= one["threshold"]
            assert sample["predicted"][name] == toy.info.classes[int(positive)]


def test_nothing_of_a_patient_is_written_beside_the_sample_id(project, values, toy):
    text = (project.analysis / "toy" / "attention.json").read_text()
    assert json.loads(text) == values
    named = {name for name in toy.samples["patient_id"] if name in text.replace(str(values["samples"]), "")}
    ids = " ".join(sample["sample_id"] for sample in values["samples"])
    assert all(name in ids for name in named)


def test_the_sheet_is_one_picture_below_a_megabyte_that_says_what_it_shows(project, values):
    content = (project.analysis / "toy" / "attention.png").read_bytes()
    assert len(content) < 1_000_000
    with Image.open(io.BytesIO(content)) as sheet:
        assert sheet.info["Description"] == values["alt"]
        assert sheet.width > 5 * 168
        assert sheet.height > 8 * 168
    assert "toy" in values["alt"]
    for strategy, cut in CUTS.items():
        assert f"{strategy} ({cut}," in values["alt"]


def test_the_command_gives_the_same_for_the_same_seed_and_warns_of_patients(project, values, monkeypatch):
    monkeypatch.chdir(project.root)
    printed = CliRunner().invoke(
        app, ["attention", "--images", "8", "--seed", "1", "--json"], catch_exceptions=False
    )
    assert json.loads(printed.output) == values
    told = " ".join(CliRunner().invoke(app, ["attention", "--help"]).output.split())
    assert "PATIENTS' IMAGES" in told


def test_volumes_several_labels_and_other_data_are_errors_that_say_so(project, toy, tmp_path):
    def changed(**values):
        folder = tmp_path / "-".join(values)
        layout = Layout(root=folder)
        (layout.datasets / "toy").mkdir(parents=True)
        for file in toy.root.iterdir():
            (layout.datasets / "toy" / file.name).symlink_to(file)
        (layout.datasets / "toy" / INFO).unlink()
        info = dataclasses.replace(toy.info, **values).to_dict()
        (layout.datasets / "toy" / INFO).write_text(json.dumps(info))
        if values.get("task") == "multilabel":
            (layout.datasets / "toy" / SAMPLES).unlink()
            two = (
                pl.concat_list(pl.col("label"), 1 - pl.col("label")).cast(pl.Array(pl.Int8, 2)).alias("label")
            )
            toy.samples.with_columns(two).write_parquet(layout.datasets / "toy" / SAMPLES)
        (folder / "results").symlink_to(project.results)
        return layout

    with pytest.raises(DataError, match="toy has several labels an image"):
        attention(changed(task="multilabel"))
    with pytest.raises(DataError, match="toy holds volumes"):
        attention(changed(shape=(1, 4, 8, 32)))
    other = changed(classes=("none", "some"))
    revision = PackedDataset.open(other.datasets / "toy").revision
    with pytest.raises(SearchError, match=f"and the dataset is of revision {revision}; run `ttl sweep`"):
        attention(other)


@pytest.mark.parametrize("how", ["val", "all"])
def test_networks_of_splits_of_their_own_are_not_shown(project, tmp_path, monkeypatch, how):
    """Not on any image: that `ttl sweep` should run again would be no help."""
    layout = Layout(root=tmp_path)
    layout.datasets.parent.mkdir()
    for link, target in ((layout.datasets, project.datasets), (layout.runs.root, project.runs.root)):
        link.symlink_to(target)
    layout.results.mkdir()
    (layout.results / results.SELECTION).write_text(json.dumps({"toy": {"unselected": "nobody chose"}}))
    drawn = results.read_trials(project.results).with_columns(resplit=pl.lit(how))
    drawn.write_parquet(layout.results / results.TRIALS)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["attention"])
    assert isinstance(result.exception, SearchError)
    said = str(result.exception)
    assert "no trial of toy with efficientnet_lite0 was completed on the dataset's own split" in said
    assert "run `ttl sweep` without `--resplit`" in said
    assert not layout.analysis.exists()


FOUND = {
    "grid": [4, 4],
    "common_grid": [2, 2],
    "layer": "blocks.6",
    "image_size": 64,
    "empty": 0,
    "less_ftl": {},
    "rank_correlation": 0.1,
    "absolute_rank_correlation": 0.2,
    "explains": True,
}


@pytest.mark.parametrize(
    ("absolute", "side", "explains"), [(0.35, 4, True), (0.6, 4, False), (0.6, 3, None), (np.nan, 4, None)]
)
def test_a_map_is_judged_by_magnitudes_where_there_are_positions_enough(absolute, side, explains):
    row = dict.fromkeys(results.TRIALS_SCHEMA, 0)
    random = Randomised(part="everything", correlation=0.05, absolute=absolute, vanished=0.0)
    maps = Maps(raw=np.ones((2, side, side), dtype=np.float32), size=64)
    one = Measured(row=row, layer="blocks.3", maps=maps, cascade=[random])
    found = figures({"ttl": one}, np.array(["a", "b"]))["ttl"]
    assert found["explains"] is explains
    assert found["rank_correlation"] == found["cascade"][-1]["correlation"] == 0.05
    assert found["absolute_rank_correlation"] == pytest.approx(absolute, nan_ok=True)


def test_a_difference_is_over_the_images_that_both_have_maps_of():
    row = dict.fromkeys(results.TRIALS_SCHEMA, 0)
    random = Randomised(part="everything", correlation=0.05, absolute=0.1, vanished=0.0)
    half = np.ones((3, 4, 4), dtype=np.float32)
    half[:, 2:] = 0
    half[0] = 0
    raw = {"ftl": half, "ttl": np.ones((3, 4, 4), dtype=np.float32)}
    measured = {
        name: Measured(row=row, layer="blocks.3", maps=Maps(raw=maps, size=64), cascade=[random])
        for name, maps in raw.items()
    }
    found = figures(measured, np.array(["a", "b", "c"]))
    assert found["ftl"]["empty"] == 1
    assert found["ttl"]["less_ftl"]["area"]["images"] == 2
    gap = found["ttl"]["area"] - found["ftl"]["area"]
    assert found["ttl"]["less_ftl"]["area"]["value"] == pytest.approx(gap)


class TestNotes:
    def told(self, *, asked=2, kinds=("correct", "correct"), missing=None, synthetic=False, **changes):
        values = {
            "synthetic": synthetic,
            "strategies": {"ftl": FOUND, "ttl": {**FOUND, **changes}},
            "missing": missing or {},
            "measured_images": 96,
            "unchanged_from": 0.5,
            "samples": [{"kind": kind} for kind in kinds],
        }
        return " ".join(notes(values, asked=asked))

    def test_there_are_none_where_all_is_well(self):
        assert self.told() == ""

    def test_a_map_that_random_weights_leave_as_it_is_explains_nothing(self):
        told = self.told(absolute_rank_correlation=0.83, explains=False)
        assert "ttl: with random weights the maps stay as they are, or turn into their opposites" in told
        assert "(mean magnitude of the rank correlation 0.83, bound 0.5; signed 0.10)" in told
        assert "explain nothing" in told
        for nothing in (None, float("nan")):
            told = self.told(rank_correlation=nothing, absolute_rank_correlation=nothing, explains=None)
            assert "no map is left" in told

    def test_a_single_position_says_nothing_of_where(self):
        told = self.told(grid=[1, 1], explains=None)
        assert "has 1×1 positions at 64 px, and a map cannot say where" in told
        assert "no map is left" not in told
        assert "on the common 2 × 2 grid" in told

    def test_few_positions_say_little_of_where(self):
        assert "ttl: blocks.6 has 3×3 positions at 64 px, and with fewer than 16" in self.told(grid=[3, 3])
        assert "a map says little of where" in self.told(grid=[3, 3])
        # By chance 1/√(4π): half of the bound.
        told = self.told(grid=[3, 3], explains=None)
        assert "by chance (a magnitude of about 0.28), so the check by random weights is not judged" in told
        assert "no map is left" not in told

    def test_what_is_empty_or_lacking_is_said(self):
        assert "ttl: 3 of 96 maps are empty" in self.told(empty=3)
        both = self.told(less_ftl={"area": {"value": 0.1, "images": 90}})
        assert "ttl: the difference from ftl is over the 90 of 96 images of which both have a map." in both
        assert not self.told(less_ftl={"area": {"value": 0.1, "images": 96}})
        assert "tf is not shown: no trial" in self.told(missing={"tf": "no trial"})
        assert "do ftl and ttl disagree" in self.told(asked=4, kinds=["correct"] * 3 + ["error"])
        assert "No strategy errs" in self.told(asked=4, kinds=["correct"] * 3 + ["disagreement"])
        assert "4 images were asked for, and the test split has 3" in self.told(
            asked=4, kinds=["correct"] * 3
        )
        assert "synthetic" in self.told(synthetic=True)


def test_the_table_has_a_row_a_strategy(values):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(tables.attention(values))
    printed = console.export_text()
    for name, one in values["strategies"].items():
        [row] = [line for line in printed.splitlines() if line.startswith(name)]
        assert f"{one['cut']}" in row
        assert f"{one['grid'][0]} × {one['grid'][1]}" in row
        left = [one[kind] for kind in ("absolute_rank_correlation", "rank_correlation")]
        first, second = ("–" if value is None else re.escape(f"{value:.2f}") for value in left)
        assert re.search(rf"  {first}\s+{second}(\s|$)", row)
