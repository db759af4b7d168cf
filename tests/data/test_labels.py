"""Several labels an image: what they may be, what becomes of uncertain ones, and how they are packed."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

from ttl.data.dataset import PackedDataset
from ttl.data.labels import (
    ABSENT,
    NOT_KNOWN,
    PRESENT,
    UNCERTAIN,
    read_label,
    resolve_uncertain,
    uncertain_notes,
)
from ttl.data.pack import pack
from ttl.data.prepare import prepare
from ttl.data.sources.base import Contents, Sample
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError

CLASSES = ("edema", "fracture")
SPLIT = ("train",) * 6 + ("val",) * 4 + ("test",) * 4
LABELS = [
    (1, 0), (0, 1), (UNCERTAIN, 0), (0, UNCERTAIN), (1, NOT_KNOWN), (0, 0),
    (1, 0), (0, 1), (UNCERTAIN, 1), (0, 0),
    (1, 1), (0, 0), (1, UNCERTAIN), (0, NOT_KNOWN),
]  # fmt: skip


def contents(labels=LABELS, **changes):
    rng = np.random.default_rng(0)
    samples = [
        Sample(
            sample_id=f"s{i:02d}",
            pixels=rng.integers(0, 256, (1, 8, 8), dtype=np.uint8),
            label=label,
            split=side,
        )
        for i, (label, side) in enumerate(zip(labels, SPLIT, strict=False))
    ]
    given = {
        "task": "multilabel", "classes": CLASSES, "shape": (1, 8, 8), "licence": "CC0", "source": "noise",
        "given_split": True, "samples": iter(samples),
    }  # fmt: skip
    return Contents(**{**given, **changes})


def packed(folder, **changes):
    return pack("made", contents(**changes), folder, fractions={}, seed=0)


@pytest.mark.parametrize(("policy", "becomes"), [("ignore", NOT_KNOWN), ("zeros", ABSENT), ("ones", PRESENT)])
def test_a_policy_is_for_uncertain_labels_alone(policy, becomes):
    found = resolve_uncertain([[1, 0, -1], [UNCERTAIN, 1, UNCERTAIN]], policy)
    assert found.dtype == np.int8
    assert found.tolist() == [[1, 0, -1], [becomes, 1, becomes]]


def test_what_is_no_label_is_named():
    with pytest.raises(DataError, match=r"^3 is no label"):
        resolve_uncertain([0, 3], "ones")
    with pytest.raises(DataError, match="'yes' is no label"):
        read_label("yes")


def test_cells_as_chexpert_writes_them():
    cells = {"1.0": PRESENT, "0.0": ABSENT, "-1.0": UNCERTAIN, "": NOT_KNOWN, "1": PRESENT, " 0": ABSENT}
    assert [read_label(cell) for cell in cells] == list(cells.values())


def test_the_note_counts_each_class():
    values = [[UNCERTAIN, 0], [UNCERTAIN, UNCERTAIN], [1, 0]]
    (note,) = uncertain_notes(values, CLASSES, "ones")
    assert note.startswith("3 labels are uncertain and count as present in training (U-Ones)")
    assert note.endswith("edema 2, fracture 1.")
    assert uncertain_notes([[1, 0]], CLASSES, "ones") == []


@pytest.mark.parametrize(("policy", "becomes"), [("ignore", -1), ("zeros", 0), ("ones", 1)])
def test_the_policy_is_for_training_and_no_figure_rests_on_it(tmp_path, policy, becomes):
    data = packed(tmp_path / "d", uncertain=policy)
    assert data.labels.dtype == np.int64
    assert data.labels[2].tolist() == [becomes, 0]
    assert data.labels[3].tolist() == [0, becomes]
    assert data.labels[[8, 12]].tolist() == [[-1, 1], [1, -1]]
    assert "4 labels are uncertain" in data.info.notes[0]
    # Images that have the label, of all that there are.
    more = int(policy == "ones")
    assert data.info.counts["train"] == {"edema": 2 + more, "fracture": 1 + more}
    assert data.info.sizes == {"train": 6, "val": 4, "test": 4}


def test_labels_are_a_part_of_the_revision_and_come_back(tmp_path):
    one, other = packed(tmp_path / "a"), packed(tmp_path / "b", uncertain="ones")
    again = PackedDataset.open(tmp_path / "a")
    assert again.samples.schema["label"] == pl.Array(pl.Int8, 2)
    assert (again.labels == one.labels).all()
    assert again.revision == one.revision != other.revision
    assert json.loads((tmp_path / "a" / "dataset.json").read_text())["task"] == "multilabel"


def test_datasets_of_one_label_keep_their_revision(tmp_path):
    samples = [
        Sample(sample_id=f"s{i}", pixels=np.full((1, 8, 8), i, np.uint8), label=i % 2, split=SPLIT[2:][i])
        for i in range(12)
    ]
    one_label = contents(task="binary", samples=iter(samples))
    data = pack("made", one_label, tmp_path / "d", fractions={}, seed=0)
    assert data.revision == REVISION
    assert data.labels.tolist() == [0, 1] * 6


REVISION = "8299b4088abd8d56"
"""Of the dataset above, before there were several labels."""


@pytest.mark.parametrize(
    ("label", "said"),
    [((1,), "s00 has 1 labels"), ((1, 5), "s00: 5 is no label"), (1, "s00 has label 1; the task is multi")],
)
def test_a_label_that_does_not_fit_names_its_sample(tmp_path, label, said):
    with pytest.raises(DataError, match=said):
        packed(tmp_path / "d", labels=[label, *LABELS[1:]])


def folder(tmp_path, cells, **options):
    rng = np.random.default_rng(0)
    lines = ["image,patient_id,split,edema,fracture"]
    for i, (one, other) in enumerate(cells):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,p{i},{SPLIT[i]},{one},{other}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    settings = {"labels": list(CLASSES), **options}
    spec = DatasetSpec(source="folder", input=str(tmp_path), size=8, options=settings)
    return prepare("made", spec, tmp_path / "packed")


def test_a_table_has_a_column_a_label(tmp_path):
    text = {1: "1.0", 0: "0", -1: "", UNCERTAIN: "-1.0"}
    data = folder(tmp_path, [[text[one] for one in row] for row in LABELS], uncertain="zeros")
    assert data.info.task == "multilabel"
    assert data.info.classes == CLASSES
    assert data.labels.tolist() == packed(tmp_path / "d", uncertain="zeros").labels.tolist()


def test_every_bad_cell_is_named_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"(?s)2 rows cannot.*line 3: 1.png: 'x'.*line 4: 2.png: '2'"):
        folder(tmp_path, [(1, 0), ("x", 0), (0, 2), (0, 1)])


def test_a_missing_label_column_is_named(tmp_path):
    with pytest.raises(DataError, match="has no column swelling"):
        folder(tmp_path, [(1, 0)], labels=["edema", "swelling"])


def test_the_phantoms_findings_are_correlated_and_partly_unknown(tmp_path):
    options = {"patients": 150, "labels": 4, "unknown": 0.1, "unsure": 0.1, "uncertain": "ignore"}
    data = prepare("p", DatasetSpec(source="phantom", size=16, options=options), tmp_path / "p")
    assert data.info.classes == ("texture", "nodules", "effusion", "large heart")
    shares = [(data.labels == one).mean(axis=0) for one in (PRESENT, NOT_KNOWN)]
    assert (np.diff(shares[0]) < 0).all()
    assert shares[1] == pytest.approx([0.2] * 4, abs=0.08)
    known = (data.labels != NOT_KNOWN).all(axis=1)
    correlation = np.corrcoef(data.labels[known].T)[np.triu_indices(4, 1)]
    assert (correlation > 0.05).all()
    assert (correlation < 0.6).all()
