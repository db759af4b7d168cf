"""What a dataset's settings may be, and what is said when they are not."""

import dataclasses

import pytest

from ttl.data.sources import SOURCES
from ttl.data.sources.folder import FolderOptions
from ttl.data.sources.phantom import PhantomOptions
from ttl.data.spec import DatasetSpec, Fractions
from ttl.errors import ParamsError


def test_plain_values_become_typed_settings():
    spec = DatasetSpec.from_dict(
        {
            "source": "folder",
            "input": "images.zip",
            "size": 128,
            "channels": 3,
            "split": {"train": 0.5, "val": 0.25, "test": 0.25},
            "seed": 4,
            "options": {"classes": ["a", "b"], "fit": "crop"},
        }
    )
    assert spec.options == FolderOptions(classes=("a", "b"), fit="crop")
    assert spec.split == Fractions(train=0.5, val=0.25, test=0.25)
    assert DatasetSpec.from_dict(spec.to_dict()) == spec
    assert DatasetSpec(source="phantom", options={"patients": 7}).options == PhantomOptions(patients=7)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_complete_defaults(source):
    assert isinstance(DatasetSpec(source=source).options, SOURCES[source].options)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("phantom", ["prepare.x", "'phantom'", "mapping"]),
        ({}, ["prepare.x", "'source'"]),
        ({"source": "dicom"}, ["'dicom'", "phantom, medmnist, folder"]),
        ({"source": "phantom", "sise": 64}, ["'sise'", "size"]),
        ({"source": "phantom", "size": "64"}, ["size", "'64'", "whole number"]),
        ({"source": "phantom", "size": True}, ["size", "True", "whole number"]),
        ({"source": "phantom", "size": 4}, ["size", "4", "from 8"]),
        ({"source": "phantom", "channels": 2}, ["channels", "2", "1, 3"]),
        ({"source": "phantom", "seed": -1}, ["seed", "-1"]),
        ({"source": "phantom", "input": 3}, ["input", "3", "quotes"]),
        ({"source": "phantom", "split": {"train": 0.9}}, ["split", "1.2", "add up"]),
        ({"source": "phantom", "split": {"train": 1, "val": 0, "test": 0}}, ["split.val", "0"]),
        ({"source": "phantom", "split": {"train": float("nan")}}, ["split.train", "nan"]),
        ({"source": "phantom", "options": {"patient": 3}}, ["'patient'", "patients"]),
        ({"source": "phantom", "options": {"patients": 0}}, ["options.patients", "0"]),
        ({"source": "phantom", "options": {"sites": 0}}, ["options.sites", "0"]),
        ({"source": "phantom", "options": {"prevalence": 1}}, ["options.prevalence", "1"]),
        ({"source": "phantom", "options": {"label_noise": 0.5}}, ["options.label_noise", "0.5"]),
        ({"source": "phantom", "options": {"strength": -1.0}}, ["options.strength", "-1"]),
        ({"source": "medmnist", "options": {"flag": "x"}}, ["options.flag", "'x'", "pneumoniamnist"]),
        ({"source": "phantom", "options": {"labels": 1}}, ["options.labels", "1", "from 2 to 6"]),
        ({"source": "phantom", "options": {"unsure": 0.1}}, ["options.unsure", "0.1", "options.labels"]),
        ({"source": "folder", "options": {"labels": ["a"]}}, ["options.labels", "a", "at least two"]),
        ({"source": "medmnist", "options": {"flag": "nodulemnist4d"}}, ["nodulemnist4d", "nodulemnist3d"]),
        (
            {"source": "medmnist", "options": {"accept_checksum": "abc"}},
            ["accept_checksum", "'abc'", "sha256:"],
        ),
        ({"source": "folder", "options": {"classes": ["a"]}}, ["options.classes", "1"]),
        ({"source": "folder", "options": {"classes": ["a", "a"]}}, ["options.classes", "twice"]),
        ({"source": "folder", "options": {"classes": [0, 1]}}, ["classes[0]", "0", "quotes"]),
        ({"source": "folder", "options": {"classes": "ab"}}, ["classes", "'ab'", "list"]),
        ({"source": "folder", "options": {"fit": "squash"}}, ["fit", "'squash'", "pad, crop, stretch"]),
        ({"source": "folder", "options": {"images": "../up"}}, ["options.images", "'../up'", "within"]),
        ({"source": "folder", "options": {"table": "/labels.csv"}}, ["options.table", "'/labels.csv'"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(values, said):
    with pytest.raises(ParamsError) as caught:
        DatasetSpec.from_dict(values, name="x")
    assert str(caught.value).startswith("prepare.x")
    for part in said:
        assert part in str(caught.value)


def test_a_spec_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DatasetSpec(source="phantom").size = 3
