"""Images with several labels from the command line: prepare, sweep, leaderboard, report, predict."""

import json
import re

import numpy as np
import yaml
from PIL import Image

from tests.projects import SWEEP, Project
from ttl.data.dataset import PackedDataset
from ttl.search.results import read_selections, read_trials

CLASSES = ["texture", "nodules", "effusion", "large heart"]


def test_a_sweep_over_films_with_several_findings(tmp_path):
    project = Project(tmp_path)
    options = {
        "patients": 80,
        "labels": 4,
        "strength": 2.0,
        "unknown": 0.1,
        "unsure": 0.1,
        "uncertain": "ones",
    }
    values = {
        "prepare": {
            "films": {
                "source": "phantom",
                "input": "x",
                "size": 32,
                "options": options,
                "split": {"train": 0.5, "val": 0.25, "test": 0.25},
            }
        },
        "sweep": {**SWEEP, "backbones": ["resnet10t"], "cuts": ["layer2", "layer3"]},
        "selection": {"margin": 0.45, "resamples": 200, "patients": 3},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    status, said = project.run("data", "prepare")
    assert status == 0, said
    assert "labels are uncertain and count as present in training (U-Ones)" in said

    status, said = project.run("sweep")
    assert status == 0, said
    assert "AUROC is the mean over" in said
    trials = read_trials(tmp_path / "results")
    assert trials["status"].to_list() == ["completed"] * 3
    assert trials["val_auroc"].is_finite().all()
    selection = read_selections(tmp_path / "results")["films"]
    assert selection["data"]["classes"] == CLASSES
    assert len(selection["figures"]["chosen"]["threshold"]) == 4

    status, said = project.run("leaderboard")
    assert all(name in said for name in CLASSES)
    assert project.run("report")[0] == 0
    page = (tmp_path / "reports" / "index.html").read_text()
    assert "Each label" in page
    assert page.count('<th scope="row" class="text">') == 4

    data = PackedDataset.open(tmp_path / "data" / "packed" / "films")
    pixels = data.read(data.indices("test")[:2])
    for number, one in enumerate(pixels):
        Image.fromarray(one[0]).save(tmp_path / f"{number}.png")
    status, said = project.run("predict", "models/films", "0.png", "1.png")
    assert status == 0, said
    assert len(re.findall(r"\d\.\d{4} (?:yes| no)", said)) == 8
    status, said = project.run("predict", "models/films", "--json", "0.png", "1.png")
    rows = json.loads(said)
    thresholds = np.array(selection["figures"]["chosen"]["threshold"])
    for row in rows:
        assert list(row["probabilities"]) == CLASSES
        reached = np.array(list(row["probabilities"].values())) >= thresholds
        assert row["predicted"] == [name for name, there in zip(CLASSES, reached, strict=True) if there]
