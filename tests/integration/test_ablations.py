"""Ablations and the headline table from the command line: what a researcher types, and what comes of it."""

import json

import polars as pl
import pytest

from tests.projects import Project
from ttl.search.results import read_entries, read_trials
from ttl.training.runs import Runs


@pytest.fixture
def project(datasets, tmp_path):
    recipe = {"base": "fast", "epochs": 1, "batch_size": 16}
    return Project.make(tmp_path / "project", datasets, recipe=recipe, cuts=["blocks.1"], seeds=[0, 1])


def test_an_experiment_is_compared_and_releases_nothing(project):
    options = ("--share", "0.5", "--head", "flattened", "--optimizer", "sgd", "--resplit", "all")
    status, output = project.run("sweep", *options)
    assert status == 0, output
    assert "toy: an experiment: each seed has a split of its own" in output
    trials = read_trials(project.folder / "results")
    assert trials.height == 4
    assert trials.select("share", "head", "resplit", "recipe").unique().row(0)[:3] == (
        0.5,
        "flattened",
        "all",
    )
    assert "optimizer=sgd" in trials["recipe"][0]
    assert read_entries(project.folder / "results")["toy"]["experiment"]
    assert not (project.folder / "models").exists()
    # Each seed was tested on a split of its own, which is the same for both models.
    runs = Runs(project.folder / "runs")
    tested = {
        (row["seed"], row["strategy"]): frozenset(
            runs.predictions(row["trial_id"]).filter(pl.col("split") == "test")["sample_id"]
        )
        for row in trials.iter_rows(named=True)
    }
    assert tested[0, "ftl"] == tested[0, "ttl"] != tested[1, "ftl"] == tested[1, "ttl"]
    # Asked again, nothing is trained; and the report shows it.
    status, again = project.run("sweep", *options)
    assert (status, "to run" in again) == (0, False)
    assert project.run("report")[0] == 0
    status, output = project.run("sweep", *options, "--planner", "race")
    assert status == 1
    assert "take the planner exhaustive or two-stage" in output


def test_the_headline_table_of_a_sweep(project):
    status, output = project.run("sweep", "--planner", "two-stage")
    assert status == 0, output
    status, output = project.run("paper", "--markdown", "out/t.md", "--latex", "out/t.tex")
    assert status == 0, output
    assert "SYNTHETIC images" in output
    assert "the whole table: ttl sweep --dataset toy --backbone efficientnet_lite0" in output
    assert "| FTL | full |" in (project.folder / "out" / "t.md").read_text()
    assert r"\toprule" in (project.folder / "out" / "t.tex").read_text()
    status, output = project.run("paper", "--json")
    (table,) = json.loads(output)
    rows = {row["method"]: row for row in table["rows"]}
    assert rows["TTL-1"]["cut"] == "blocks.1"
    assert rows["TTL-1"]["seeds"] == [0, 1]
    assert 0 < rows["TTL-1"]["p"] <= rows["TTL-1"]["p_holm"] <= 1
    assert rows["TF-1"]["cut"] is None
    status, output = project.run("paper", "--backbone", "resnet50")
    assert status == 1
    assert "has no backbone 'resnet50'" in output
