"""CheXpert as published: 14 labels, some uncertain or blank; the published validation set tests."""

import numpy as np
import polars as pl
import pytest

from tests.data.imitations import CHEXPERT_HEADER, chexpert, chexpert_row, write_table
from ttl.data.prepare import prepare
from ttl.data.sources.chexpert import OBSERVATIONS
from ttl.data.sources.table import BadRowsError
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError, ParamsError


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "chexpert"
    chexpert(root)
    return root


def load(root, tmp_path, seed=0, **options):
    options = {"validation": 0.25, **options}
    spec = DatasetSpec(source="chexpert", input=str(root), size=12, seed=seed, options=options)
    return prepare("chexpert", spec, tmp_path / "packed")


def label(data, name):
    return data.samples.filter(sample_id=name)["label"].to_list()[0]


def test_the_published_validation_set_tests_and_training_patients_validate(source, tmp_path):
    data = load(source, tmp_path)
    assert data.info.task == "multilabel"
    assert data.info.classes == OBSERVATIONS
    assert data.info.shape == (1, 12, 12)
    sides = data.samples.with_columns(table=pl.col("sample_id").str.split("/").list.first())
    assert sides.filter(table="valid")["split"].unique().to_list() == ["test"]
    assert set(sides.filter(table="train")["split"]) == {"train", "val"}
    assert (data.samples.group_by("patient_id").agg(pl.col("split").n_unique())["split"] == 1).all()
    assert data.info.images == {"train": 68, "val": 22, "test": 18}
    assert data.info.notes[0].startswith("The published validation set (18 images, read by three")
    other = load(source, tmp_path, seed=1).samples
    assert not other["split"].equals(data.samples["split"])


def test_uncertain_and_blank_labels(source, tmp_path):
    # Of this patient, who trains, the labels are, in turn, blank, −1, 1, 0.
    name = "train/patient00006/study1/view1_frontal.jpg"
    data = load(source, tmp_path)
    assert data.samples.filter(sample_id=name)["split"].to_list() == ["train"]
    assert label(data, name)[:4] == [0, -1, 1, 0]
    assert label(load(source, tmp_path, uncertain="ones"), name)[:4] == [0, 1, 1, 0]
    assert label(load(source, tmp_path, uncertain="zeros", blank="not known"), name)[:4] == [-1, 0, 1, 0]
    validating = data.samples.filter(split="val")["label"].to_numpy()
    for policy in ("ones", "zeros"):
        resolved = load(source, tmp_path, uncertain=policy).samples.filter(split="val")["label"].to_numpy()
        assert np.array_equal(resolved, validating)
    assert any("labels are uncertain and count as not known (U-Ignore)" in note for note in data.info.notes)
    assert "What a report does not mention (a blank) counts as absent." in data.info.notes


def test_views_and_labels_can_be_chosen(source, tmp_path):
    five = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
    data = load(source, tmp_path, views="frontal", labels=five)
    assert data.info.classes == tuple(five)
    assert len(data.samples) == 72
    assert data.samples["sample_id"].str.ends_with("view1_frontal.jpg").all()
    whole = label(load(source, tmp_path), "train/patient00002/study1/view1_frontal.jpg")
    chosen = [whole[OBSERVATIONS.index(one)] for one in five]
    assert label(data, "train/patient00002/study1/view1_frontal.jpg") == chosen
    assert "Only the frontal images are taken." in data.info.notes


def test_bad_rows_of_both_tables_are_named(source, tmp_path):
    marks = ["0.0"] * 14
    rows = [
        chexpert_row("CheXpert-v1.0-small/train/patient00900/study1/view1_frontal.jpg", 1, marks),
        chexpert_row("CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg", 1, marks),
        chexpert_row(
            "CheXpert-v1.0-small/train/patient00004/study1/view1_frontal.jpg", 1, ["2.0", *marks[1:]]
        ),
        chexpert_row("CheXpert-v1.0-small/train/nobody/view1_frontal.jpg", 1, marks),
        chexpert_row("../patient00001/view1_frontal.jpg", 1, marks),
    ]
    write_table(source / "train.csv", CHEXPERT_HEADER, rows)
    (source / "valid" / "patient64542" / "study1" / "view1_frontal.jpg").write_bytes(b"no image")
    with pytest.raises(BadRowsError) as caught:
        load(source, tmp_path)
    said = "\n".join(caught.value.problems)
    assert "train.csv, line 2: train/patient00900/study1/view1_frontal.jpg: the image is missing" in said
    assert (
        "train.csv, line 4: train/patient00004/study1/view1_frontal.jpg: No Finding '2.0' is no label" in said
    )
    assert "train.csv, line 5: train/nobody/view1_frontal.jpg names no patient" in said
    assert "train.csv, line 6: ../patient00001/view1_frontal.jpg points outside" in said
    assert "valid.csv, line 4: valid/patient64542/study1/view1_frontal.jpg: the image cannot be read" in said
    assert len(caught.value.problems) == 5


def test_images_in_another_place_are_one_error(source, tmp_path):
    (source / "train").rename(source / "films")
    with pytest.raises(DataError, match=r"train\.csv: none of its 90 images is there; the first would be"):
        load(source, tmp_path)


def test_a_missing_table_or_column_is_named(source, tmp_path):
    write_table(source / "valid.csv", CHEXPERT_HEADER[:-1], [])
    with pytest.raises(DataError, match=r"valid\.csv has no column Support Devices"):
        load(source, tmp_path)
    (source / "valid.csv").unlink()
    with pytest.raises(DataError, match=r"valid\.csv is missing; .* has: train, train\.csv, valid"):
        load(source, tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"validation": 0}, "options.validation is 0"),
        ({"labels": ["Edema", "Cough"]}, "options.labels has 'Cough'; the observations are: No Finding"),
        ({"labels": ["Edema"]}, "at least two observations"),
        ({"uncertain": "maybe"}, "uncertain is 'maybe'"),
        ({"blank": "zero"}, "it must be one of: absent, not known"),
    ],
)
def test_options_that_cannot_be_used_are_named(source, tmp_path, options, said):
    with pytest.raises(ParamsError, match=said):
        load(source, tmp_path, **options)


def test_labels_of_a_dataset_are_those_of_its_tables(source, tmp_path):
    data = load(source, tmp_path)
    marks = pl.read_csv(source / "valid.csv").select(OBSERVATIONS).to_numpy()
    packed = data.samples.filter(split="test")["label"].to_numpy()
    assert np.array_equal(packed, marks)
