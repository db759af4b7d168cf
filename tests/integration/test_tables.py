"""Sweeps over one dataset after another, and what stands in the tables then."""

import json

from tests.projects import Project
from ttl.search.results import read_selections, read_trials


def test_options_add_to_the_tables_and_a_plain_sweep_writes_its_own(datasets, tmp_path):
    project = Project.make(tmp_path / "project", datasets, strategies=["ftl"])
    packed = project.folder / "data" / "packed"
    info = json.loads((packed / "toy" / "dataset.json").read_text())
    (packed / "toy").rename(packed / "other")
    (packed / "other" / "dataset.json").write_text(json.dumps({**info, "name": "other"}))
    text = (project.folder / "params.yaml").read_text()
    (project.folder / "params.yaml").write_text(text.replace("toy:", "other:"))
    assert project.run("sweep")[0] == 0
    (packed / "toy").mkdir()
    for path in (packed / "other").iterdir():
        (packed / "toy" / path.name).write_bytes(path.read_bytes())
    (packed / "toy" / "dataset.json").write_text(json.dumps(info))
    (project.folder / "params.yaml").write_text(text)
    status, output = project.run("sweep", "--dataset", "toy")
    assert status == 0, output
    names = sorted(set(read_trials(project.folder / "results")["dataset"]))
    assert names == ["other", "toy"]
    assert set(read_selections(project.folder / "results")) == {"other", "toy"}
    assert project.run("sweep")[0] == 0
    assert read_trials(project.folder / "results")["dataset"].unique().to_list() == ["toy"]
