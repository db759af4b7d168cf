"""What `ttl similarity` finds in networks whose difference is known, what it writes, and what it refuses."""

import dataclasses
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from tests.release.trained import NAME, make_dataset
from ttl.cli import app
from ttl.data.dataset import PackedDataset
from ttl.errors import DataError, SearchError
from ttl.evaluation.activations import list_layers
from ttl.layout import Layout
from ttl.models.backbones import create, weights_sha256
from ttl.models.network import build_network
from ttl.release import svg
from ttl.release.finetuned import best_whole
from ttl.release.report import analysis
from ttl.release.similarity import DESCRIPTION, FIGURE, SCHEMA, TABLE, draw, read
from ttl.release.transferability import analyse, choose_images, compare, passes
from ttl.search.results import TRIALS, TRIALS_SCHEMA, read_trials
from ttl.training.loop import network_spec
from ttl.training.recipe import make_recipe
from ttl.training.runs import WEIGHTS, Runs
from ttl.training.trial import Trial

BACKBONE = "resnet10t"


@dataclass(frozen=True)
class Project:
    """A folder after a sweep whose whole network was "finetuned" in its last stage alone."""

    root: Path
    dataset: PackedDataset
    trial: Trial

    @property
    def layout(self) -> Layout:
        return Layout(root=self.root)

    @property
    def table(self):
        return read_trials(self.layout.results)

    def trials(self, rows=None):
        """Return the sweep's table, after writing it with other rows if they are given."""
        path = self.layout.results / TRIALS
        if rows is not None:
            path.parent.mkdir(exist_ok=True)
            pl.DataFrame(rows, schema=TRIALS_SCHEMA, orient="row").write_parquet(path)
        return pl.read_parquet(path).to_dicts()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    dataset = make_dataset(root / "data" / "packed" / NAME)
    source = root / "own.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        save_file(create(BACKBONE).state_dict(), source)
    trial = Trial(
        dataset=NAME,
        revision=dataset.revision,
        backbone=BACKBONE,
        strategy="ftl",
        source=str(source),
        source_sha256=weights_sha256(BACKBONE, str(source)),
        image_size=32,
        seed=0,
        recipe=make_recipe("fast"),
    )
    runs = Runs(root / "runs")
    network = build_network(network_spec(trial, dataset.info), seed=0).net
    # timm starts with residual branches at zero: now the last block's adds something.
    torch.nn.init.ones_(network.layer4[0].bn2.weight)
    save_file(network.state_dict(), runs.work(trial.trial_id) / WEIGHTS)
    runs.publish(trial, {"status": "completed", "epochs": 6})
    project = Project(root, dataset, trial)
    project.trials(
        [
            row(trial, trial.trial_id, val_auroc=0.93, test_auprc=0.9),
            row(trial, "worse", seed=1, val_auroc=0.91, test_auprc=0.8),
            row(trial, "failed", seed=2, val_auroc=None, status="failed"),
            row(trial, "two-0", strategy="ttl", cut="layer2", val_auroc=0.80, test_auprc=0.7),
            row(trial, "two-1", strategy="ttl", cut="layer2", seed=1, val_auroc=0.90, test_auprc=0.9),
            row(trial, "three-block", strategy="ttl", cut="layer3.0", val_auroc=0.95, test_auprc=0.94),
            row(trial, "other recipe", strategy="ttl", cut="layer1", recipe="paper", val_auroc=0.5),
            row(trial, "lost", strategy="ttl", cut="layer1", status="failed"),
            row(trial, "other strategy", strategy="lwft", cut="layer1", val_auroc=0.6, test_auprc=0.6),
        ]
    )
    return project


@pytest.fixture
def project(made, tmp_path):
    """A copy to change."""
    shutil.copytree(made.root, tmp_path / "copy", ignore=shutil.ignore_patterns("analysis"))
    return dataclasses.replace(made, root=tmp_path / "copy", dataset=made.dataset)


def row(trial, trial_id, **changes):
    values = {**trial.to_dict(), "recipe": trial.recipe.name, "status": "completed", "epochs": 6}
    values |= {"trial_id": trial_id, **changes}
    return {name: values.get(name) for name in TRIALS_SCHEMA}


@pytest.fixture(scope="module")
def found(made):
    (one,) = analyse(made.layout)
    return one


def means(found, pair, measure):
    table = found.table.filter((pl.col("pair") == pair) & (pl.col("measure") == measure)).sort("index")
    return dict(zip(table["layer"], table["values"].list.mean(), strict=True))


def test_layers_below_the_change_are_as_they_were_and_those_above_are_not(found):
    for measure in ("svcca", "cka"):
        finetuned, random = (means(found, pair, measure) for pair in ("finetuned", "random"))
        assert list(finetuned) == [layer.name for layer in list_layers(BACKBONE)]
        for layer in ("act1", "layer1.0", "layer2.0", "layer3.0"):
            assert finetuned[layer] == pytest.approx(1, abs=1e-6)
            assert random[layer] < 0.999
    # So few positions for 512 channels correlate by chance: CKA, which weighs directions, tells them apart.
    assert random["layer4.0"] < finetuned["layer4.0"] < 0.999


def test_the_table_has_every_layer_pair_and_measure(found):
    assert found.table.schema == SCHEMA
    assert found.table.height == 5 * 2 * 2
    assert set(found.table.filter(pl.col("measure") == "cka")["values"].list.len()) == {1}
    assert found.table["stage"].unique(maintain_order=True).to_list() == [
        "stem", "layer1", "layer2", "layer3", "layer4",
    ]  # fmt: skip
    # 40 images of 32 pixels, at a quarter of the side after layer1 and a 32nd after layer4.
    positions = dict(found.table.select("layer", "positions").iter_rows())
    assert positions == {
        "act1": 40 * 256,
        "layer1.0": 40 * 64,
        "layer2.0": 40 * 16,
        "layer3.0": 160,
        "layer4.0": 40,
    }
    assert found.table.filter(pl.col("layer") == "layer4.0")["values"].list.max().max() <= 1


def test_it_says_what_was_compared(found, made):
    about = found.description
    assert (about["dataset"], about["revision"], about["split"]) == (NAME, made.dataset.revision, "val")
    assert about["images"] == {"used": 40, "of": 40}
    assert about["variance"] == 0.99
    assert about["synthetic"] is True
    (entry,) = about["backbones"]
    assert entry["finetuned"]["trial_id"] == made.trial.trial_id
    sha256 = made.trial.source_sha256
    assert entry["before"] == {"source": "own.safetensors", "sha256": sha256, "seed": 0}
    assert str(made.root) not in (found.folder / DESCRIPTION).read_text()
    assert entry["random"] == {"seed": 1}
    assert entry["notes"][0].startswith("fewer than 10 positions for each direction at layer2.0, layer3.0,")
    assert (found.folder / DESCRIPTION).read_text() == json.dumps(about, indent=2, ensure_ascii=False) + "\n"


def test_beside_a_layer_stand_the_networks_cut_there(found):
    layers = {layer["layer"]: layer["network"] for layer in found.description["backbones"][0]["layers"]}
    assert layers["act1"] is layers["layer1.0"] is None
    assert layers["layer2.0"]["val_auroc"] == pytest.approx({"mean": 0.85, "deviation": 0.1 / 2**0.5})
    assert layers["layer2.0"]["trial_ids"] == ["two-0", "two-1"]
    assert layers["layer3.0"]["test_auprc"] == {"mean": 0.94, "deviation": None}
    # Nothing but the head lies above the last stage: the network cut there is the whole one.
    assert layers["layer4.0"]["val_auroc"]["mean"] == pytest.approx(0.92)
    assert layers["layer4.0"] == found.description["backbones"][0]["whole"]


def test_the_same_network_from_its_start_is_one_everywhere_whatever_the_source(project):
    """Source `random`: what the trial began with follows from its seed, and is not the baseline."""
    trial = dataclasses.replace(project.trial, source="random", source_sha256="", seed=7)
    runs = project.layout.runs
    start = build_network(network_spec(trial, project.dataset.info), seed=7).net
    save_file(start.state_dict(), runs.work(trial.trial_id) / WEIGHTS)
    runs.publish(trial, {"status": "completed", "epochs": 6})
    project.trials([row(trial, trial.trial_id, val_auroc=0.7, test_auprc=0.7)])
    one = compared(project)
    assert list(means(one, "finetuned", "cka").values()) == pytest.approx([1] * 5, abs=1e-6)
    assert list(means(one, "finetuned", "svcca").values()) == pytest.approx([1] * 5, abs=1e-6)
    assert max(means(one, "random", "cka").values()) < 0.99


def test_fewer_images_are_the_same_ones_every_time(made):
    all_, most, few = (choose_images(made.dataset, count) for count in (None, 30, 9))
    assert (len(all_), len(most), len(few)) == (40, 30, 9)
    assert set(few) < set(most) < set(all_)
    assert choose_images(made.dataset, 1000).tolist() == all_.tolist()
    ids = [made.dataset.samples["sample_id"][int(place)] for place in few]
    assert ids == sorted(ids)
    with pytest.raises(DataError, match="images is 1; at least 2"):
        choose_images(made.dataset, 1)


def compared(project, **options):
    trials = pl.read_parquet(project.layout.results / TRIALS)
    return compare(trials, backbone=BACKBONE, runs=project.layout.runs, dataset=project.dataset, **options)


def test_images_are_counted_where_they_are_fewer(made):
    one = compared(made, images=9)
    assert one.entry["images"] == 9
    assert one.table.filter(pl.col("layer") == "act1")["positions"].unique().to_list() == [9 * 256]


def test_layers_that_do_not_fit_together_wait_for_another_pass():
    layers = list_layers("resnet18")
    assert [len(group) for group in passes(layers)] == [9]
    one = 48 * 512**2
    groups = list(passes(layers, memory=one + 1))
    assert [layer for group in groups for layer in group] == list(layers)
    assert all(sum(48 * layer.channels**2 for layer in group) <= one + 1 for group in groups)
    assert [len(group) for group in passes(layers, memory=1)] == [1] * 9


def test_passes_do_not_change_what_is_found(made, found, monkeypatch):
    monkeypatch.setattr("ttl.release.transferability.MEMORY", 1)
    one = compared(made)
    for pair in ("finetuned", "random"):
        assert means(one, pair, "svcca") == pytest.approx(means(found, pair, "svcca"), abs=1e-9)


def test_the_figure_is_complete_in_itself(found):
    text = (found.folder / FIGURE).read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(root.get("width")) >= 600
    assert "var(" not in text
    assert "currentColor" not in text
    assert "font-family" in text
    assert not re.search(r'href="[^#]', text)
    words = " ".join("".join(root.itertext()).split())
    for expected in ("SYNTHETIC", "resnet10t", "layer4.0", "whole network", "validation AUROC", "test AUPRC"):
        assert expected in words
    assert words.count("mean of") == 10
    assert "act1, before finetuning: mean of" in words


def test_the_report_shows_it_until_the_sweep_has_more(found, made):
    def missing(*more):
        table = pl.concat([made.table, pl.DataFrame(more, schema=TRIALS_SCHEMA, orient="row")])
        return analysis.similarity(found.folder, table, made.dataset.revision, name="x").missing

    assert missing() == ""
    # Networks of another strategy or recipe, and failed ones, are in no figure.
    assert missing(row(made.trial, "new", seed=9, strategy="lwft", cut="layer2", val_auroc=0.5)) == ""
    for strategy, cut in (("ftl", "full"), ("ttl", "layer1"), ("ttl", "layer3.0")):
        new = row(made.trial, "new", seed=9, strategy=strategy, cut=cut, val_auroc=0.5)
        assert "lacks 1 of this sweep's 6 trials of resnet10t" in missing(new)


def test_in_a_page_the_figure_takes_the_pages_colours(found):
    text = draw(*read(found.folder), name="page")
    assert text.startswith("<svg role")
    assert "var(--fig-muted, " in text
    assert svg.shade(0)[0] in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert all(one.startswith("page-") for one in ids)


def test_the_command_prints_and_writes(made, monkeypatch):
    monkeypatch.chdir(made.root)
    result = CliRunner().invoke(app, ["similarity", "--json", "--images", "9"], catch_exceptions=False)
    (one,) = json.loads(result.output)
    assert one["folder"] == f"results/analysis/{NAME}"
    assert [line["layer"] for line in one["summary"]][-1] == "layer4.0"
    assert one["summary"][0]["svcca_finetuned"] == pytest.approx(1, abs=1e-6)
    assert one["summary"][2]["val_auroc"] == pytest.approx(0.85)
    assert {path.name for path in (made.layout.analysis / NAME).iterdir()} == {TABLE, DESCRIPTION, FIGURE}
    text = CliRunner().invoke(app, ["similarity", "--images", "9"], catch_exceptions=False).output
    assert re.search(r"layer2\.0\s+1\.000\s+0\.\d{3}\s+1\.000\s+0\.\d{3}\s+0\.850\s+0\.800", text)
    assert "squares — SYNTHETIC images, 9 of 40 validation images" in text
    assert f"figure: results/analysis/{NAME}/{FIGURE}" in text


def refused(project, **options):
    with pytest.raises(SearchError) as caught:
        list(analyse(project.layout, **options))
    assert not project.layout.analysis.exists()
    return str(caught.value)


def test_networks_of_splits_of_their_own_are_never_compared(project, monkeypatch):
    """They were trained on most of what the dataset calls validation images."""
    rows = project.trials()
    better = [{**one, "resplit": "all", "trial_id": "drawn", "val_auroc": 0.99} for one in rows[:1]]
    project.trials([*better, *rows])
    assert best_whole(project.table, BACKBONE)["trial_id"] == project.trial.trial_id
    # Also where every trial on the dataset's own split has failed.
    lost = [{**one, "status": "failed"} for one in rows]
    monkeypatch.chdir(project.root)
    for how in ("val", "all"):
        for others in ([], lost):
            project.trials([*({**one, "resplit": how} for one in rows), *others])
            result = CliRunner().invoke(app, ["similarity"])
            assert isinstance(result.exception, SearchError)
            said = str(result.exception)
            assert f"no completed FTL trial of {BACKBONE} on the dataset's own split" in said
            assert "run `ttl sweep --strategy ftl --strategy ttl` without `--resplit`" in said
            assert not project.layout.analysis.exists()


def test_what_cannot_be_compared_is_said_with_what_to_do(project):
    rows = project.trials()
    assert "no dataset 'films' (it had: squares)" in refused(project, datasets=["films"])
    assert "trained no vgg11 (it has: resnet10t)" in refused(project, backbones=["vgg11"])
    project.trials([one for one in rows if one["strategy"] != "ftl"])
    assert "no completed FTL trial of resnet10t (they are: not in it)" in refused(project)
    project.trials([{**one, "status": "failed"} for one in rows])
    said = refused(project)
    assert "(they are: failed)" in said
    assert "resplit" not in said
    project.trials([{**one, "revision": "0" * 16} for one in rows])
    said = refused(project)
    assert f"is now at {project.dataset.revision}; run `ttl sweep` again" in said
    project.trials(rows)
    weights = project.root / "own.safetensors"
    folder = project.layout.runs.folder(project.trial.trial_id)
    trial = json.loads((folder / "trial.json").read_text())
    (folder / "trial.json").write_text(json.dumps({**trial, "seed": 5}))
    assert "was trained by other code" in refused(project)
    (folder / "trial.json").write_text(json.dumps({**trial, "source": str(weights)}))
    save_file(create(BACKBONE).state_dict(), weights)
    assert "are not those that trial" in refused(project)
    shutil.rmtree(folder)
    assert "does not exist, and the last sweep's tables name it" in refused(project)
    (project.layout.results / TRIALS).unlink()
    assert "`ttl sweep` (or `dvc repro`) makes it" in refused(project)
