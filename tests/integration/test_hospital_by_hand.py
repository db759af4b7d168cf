"""The loop of a hospital by hand, in small: drops, a retraining, a decision, and the release from its tag."""

import json

import pytest
import yaml
from PIL import Image

from tests.flows.hospital import DAY, INTAKE, NAME, Hospital
from tests.projects import ROOT, Project
from ttl.data.dataset import PackedDataset, pixel_hash
from ttl.data.images import fit_pixels
from ttl.files import sha256
from ttl.intake.dicom import read
from ttl.params import load_params
from ttl.release.evidence_files import evidence_sha256

PARAMS = {
    "prepare": {},
    "intake": {NAME: INTAKE},
    "sweep": {
        "backbones": ["resnet10t"],
        "sources": ["random"],
        "strategies": ["ftl", "ttl"],
        "planner": "exhaustive",
        "seeds": [0],
        "recipe": {"base": "fast", "epochs": 1, "batch_size": 16},
        "image_size": 32,
    },
    "selection": {"margin": 0.4, "resamples": 200, "patients": 2},
}

GATE = yaml.safe_load((ROOT / "gate.yaml").read_text()) | {
    "floor": 0.5,
    "confidence": 0.5,
    "resamples": 200,
    "patients": {"frozen": 2, "rolling": 2},
    "subgroups": {"by": ["site", "year"], "loss": 0.05, "patients": 2},
    "drift": {"patients": 2},
}

DVC_YAML = {
    "stages": {
        "sweep": {
            "cmd": "ttl sweep",
            "deps": ["data/packed"],
            "params": ["sweep", "selection"],
            "outs": [{"results": {"persist": True}}, {"models": {"persist": True}}],
        }
    },
    "artifacts": {NAME: {"path": f"models/{NAME}", "type": "model"}},
}

VERSION = "v1.0.0"
TAG = f"{NAME}@{VERSION}"
FILES = ("evidence.md", "evidence.html", "evidence.json")


def ttl(hospital, *arguments, status=0):
    """Run `ttl …` in the project, and return what it printed."""
    ended, output = hospital.project.run(*arguments)
    assert ended == status, output
    return output


@pytest.fixture(scope="session")
def proposed(tmp_path_factory):
    """A hospital whose first model has been proposed, with what its project was before, and what was said."""
    files = {"gate.yaml": yaml.safe_dump(GATE), "dvc.yaml": yaml.safe_dump(DVC_YAML)}
    hospital = Hospital.make(tmp_path_factory.mktemp("loop") / "hospital", PARAMS, files)
    for site in ("north", "south"):
        hospital.drop("2026-01-31", site, patients=40, date=DAY, strength=3.0)
    taken = ttl(hospital, "intake", "--push")
    before = checked_out(hospital)
    told = ttl(hospital, "retrain", "--push")
    return hospital, taken, before, told


@pytest.fixture(scope="session")
def decided(proposed):
    """That hospital, after a person has approved."""
    hospital, *_ = proposed
    ttl(
        hospital, "models", "decide", TAG, "--decision", "approve", "--name", "Dr. Ada Hart", "--reason",
        "checked on 40 films", "--push",
    )  # fmt: skip
    return hospital


def checked_out(hospital):
    names = hospital.run("git", "ls-files").split()
    return {
        "head": hospital.run("git", "rev-parse", "HEAD"),
        "branch": hospital.run("git", "branch", "--show-current"),
        "status": hospital.run("git", "status", "--porcelain"),
        "files": {name: sha256(hospital.work / name) for name in names},
    }


def test_a_retraining_proposes_and_leaves_what_is_checked_out_as_it_was(proposed):
    hospital, taken, before, told = proposed
    assert "north/2026-01-31" in taken
    assert "propose" in told
    assert f"ttl models decide {TAG}" in " ".join(told.split())
    assert checked_out(hospital) == before
    assert before["status"] == ""


def test_the_tag_holds_the_evidence_and_says_by_which_rule(proposed):
    hospital, *_ = proposed
    folder = hospital.work / "evidence" / NAME
    message = hospital.run("git", "tag", "-l", "--format=%(contents)", TAG)
    assert f"Rule: {sha256(hospital.work / 'gate.yaml')}" in message
    assert f"Evidence: {evidence_sha256(folder)}" in message
    assert "Flow-Run: by hand" in message
    for at in (hospital.work, hospital.folder / "origin.git"):
        for file in FILES:
            shown = hospital.run("git", "show", f"{TAG}:evidence/{NAME}/{file}", at=at)
            assert shown == (folder / file).read_text(), f"{file} in {at.name} is not what was judged on"
    values = json.loads((folder / "evidence.json").read_text())
    assert values["verdict"]["outcome"] == "propose"
    assert values["data"]["revision"] == hospital.dataset().revision
    assert {one["digest"] for one in values["data"]["drops"]} == {
        record.digest for record in hospital.records().values()
    }


def test_approved_it_is_the_champion_and_the_registry_says_by_whom_and_on_which_data(decided):
    (live,) = json.loads(ttl(decided, "models", "history", NAME, "--json"))
    assert live["version"] == VERSION
    assert (live["approved_by"], live["reason"]) == ("Dr. Ada Hart", "checked on 40 films")
    assert live["until"] is None
    assert live["rule"] == sha256(decided.work / "gate.yaml")
    assert live["evidence"] == evidence_sha256(decided.work / "evidence" / NAME)
    assert live["revision"] == decided.dataset().revision
    day = live["since"][:10]
    assert len(json.loads(ttl(decided, "models", "history", NAME, "--day", day, "--json"))) == 1
    assert json.loads(ttl(decided, "models", "history", NAME, "--day", "2020-01-01", "--json")) == []
    (known,) = json.loads(ttl(decided, "models", "--json"))
    assert "champion" in known["stages"]
    there = decided.run("git", "tag", "-l", at=decided.folder / "origin.git").splitlines()
    assert there == [f"decided/{NAME}/{VERSION}", *decided.run("git", "tag", "-l").splitlines()]


def test_what_no_gate_has_proposed_cannot_be_decided_on(proposed):
    hospital, *_ = proposed
    words = ("--decision", "approve", "--name", "N", "--reason", "R")
    assert "there is no hospital@v9.0.0" in ttl(
        hospital, "models", "decide", f"{NAME}@v9.0.0", *words, status=1
    )
    words = ("--decision", "approve", "--name", " ", "--reason", "R")
    assert "needs the name of who decides" in ttl(hospital, "models", "decide", TAG, *words, status=1)


def test_from_the_tag_alone_the_model_predicts_the_same_to_the_bit(decided, tmp_path):
    dataset = decided.dataset()
    for row, pixels in enumerate(dataset.read(dataset.indices("test")[:6])):
        Image.fromarray(pixels[0]).save(tmp_path / f"{row}.png")
    images = sorted(str(path) for path in tmp_path.glob("*.png"))
    here = json.loads(ttl(decided, "predict", TAG, *images, "--json"))
    elsewhere = decided.folder / "elsewhere"
    decided.run("git", "clone", "-q", "origin.git", "elsewhere", at=decided.folder)
    decided.run("git", "checkout", "-q", TAG, at=elsewhere)
    assert not (elsewhere / "models").exists()
    decided.run("dvc", "pull", "-q", at=elsewhere)
    other = Project(elsewhere, {**decided.environment, "TTL_CACHE": str(tmp_path / "cache")})
    status, output = other.run("predict", f"models/{NAME}", *images, "--json")
    assert status == 0, output
    there = json.loads(output)
    assert len(here) == 6
    assert [one["probabilities"] for one in there] == [one["probabilities"] for one in here]
    assert len({one["probabilities"]["finding"] for one in here}) > 1
    assert not decided.run("git", "status", "--porcelain", at=elsewhere)
    assert PackedDataset.open(elsewhere / "data" / "packed" / NAME).revision == dataset.revision
    sweep = yaml.safe_load((elsewhere / "params.yaml").read_text())["sweep"]
    assert sweep["datasets"] == [NAME]


def test_a_film_is_predicted_as_the_image_that_was_made_of_it(decided, tmp_path):
    film = next(path for path in sorted(decided.incoming.rglob("*.dcm")))
    spec = load_params(decided.work / "params.yaml").intake[NAME]
    pixels = fit_pixels(
        read(film.read_bytes(), spec).pixels, channels=1, size=(spec.size, spec.size), fit=spec.fit
    )
    assert pixel_hash(pixels) in decided.dataset().samples["sha256"]
    Image.fromarray(pixels[0]).save(tmp_path / "film.png")
    of_film, of_image = json.loads(
        ttl(decided, "predict", TAG, str(film), str(tmp_path / "film.png"), "--json")
    )
    assert of_film["probabilities"] == of_image["probabilities"]


def test_a_rule_that_is_younger_than_the_drop_is_refused(decided, tmp_path):
    hospital = decided.copy(tmp_path / "hospital")
    path = hospital.work / "gate.yaml"
    path.write_text(path.read_text().replace("floor: 0.5", "floor: 0.6"))
    assert "not committed" in ttl(hospital, "retrain", status=1)
    hospital.run("git", "commit", "-q", "-a", "-m", "Another rule")
    assert "no rule may be written once the data are known" in ttl(hospital, "retrain", status=1)
    # Neither when its author's clock says that it was written before.
    before = {f"GIT_{role}_DATE": "2020-01-01T00:00:00+00:00" for role in ("AUTHOR", "COMMITTER")}
    hospital.run("git", "commit", "-q", "--amend", "--no-edit", env=before)
    assert "which is not among what came before" in ttl(hospital, "retrain", status=1)
