"""What the report computes: against closed forms, scikit-learn and the gate."""

import base64
import io
import re

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score

from tests.release.swept import CLASSES, Left, labels_of, leave, predictions
from ttl.release.report import operating
from ttl.release.report.confusion import matrix
from ttl.release.report.differences import Difference, differences
from ttl.release.report.images import examples, open_dataset
from ttl.release.report.mistakes import mistakes
from ttl.release.report.pictures import document, sheet, thumbnail
from ttl.release.report.roles import CHOSEN, Line, lines
from ttl.release.report.scores import Scored
from ttl.release.report.search import course
from ttl.release.report.subgroups import groups_of, subgroups
from ttl.release.report.tables import KEYS, model_of
from ttl.release.report.tested import on_test
from ttl.search.results import LEDGER_SCHEMA

ORDINARY = ("fast", "pooled", 1.0, "none")
RULE = {"confidence": 0.95, "resamples": 300, "patients": 10}


def scored(classes: tuple[str, ...] = CLASSES, **changes: object) -> Scored:
    left = Left(classes=classes)
    ours, theirs = predictions("ttl", left), predictions("ftl", left)
    values = {
        "classes": classes,
        "samples": tuple(ours["sample_id"]),
        "patients": ours["patient_id"].to_numpy().astype(np.str_),
        "labels": ours["label"].to_numpy(),
        "chosen": np.array(ours["scores"].to_list()),
        "reference": np.array(theirs["scores"].to_list()),
        "thresholds": (0.4,) if len(classes) == 2 else None,
        "same": False,
    }
    return Scored(**{**values, **changes})  # type: ignore[arg-type]


def several_labels() -> Scored:
    """Return three labels an image; of the first image none is known."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, (60, 3))
    chosen = np.clip(0.6 * labels + rng.normal(0.2, 0.2, labels.shape), 0, 1)
    labels[0] = -1
    return scored(
        classes=("a", "b", "c"),
        labels=labels,
        chosen=chosen,
        reference=chosen[::-1],
        thresholds=(0.5, 0.4, 0.6),
    )


@pytest.mark.parametrize("classes", [CLASSES, ("a", "b", "c")])
def test_the_matrix_is_scikit_learns(classes: tuple[str, ...]) -> None:
    tested = scored(classes)
    rows = matrix(tested.labels, tested.predicted, classes)
    expected = confusion_matrix(tested.labels, tested.predicted)
    assert [[cell.images for cell in row.cells] for row in rows] == expected.tolist()
    assert [row.images for row in rows] == expected.sum(axis=1).tolist()
    assert rows[0].cells[1].share == expected[0, 1] / expected[0].sum()
    assert [[cell.right for cell in row.cells] for row in rows] == np.eye(len(classes), dtype=bool).tolist()


def test_a_class_without_images_has_a_row_of_nothing() -> None:
    rows = matrix(np.array([0, 0]), np.array([0, 1]), CLASSES)
    assert [cell.share for cell in rows[1].cells] == [0.0, 0.0]


def test_mistakes_are_at_the_threshold_and_the_most_confident_come_first() -> None:
    tested = scored()
    found = mistakes(tested, each=3)
    wrong = np.flatnonzero(tested.predicted != tested.labels)
    assert {one.place for one in found} <= set(wrong.tolist())
    assert found[0].sample_id == "test-000"
    for name in CLASSES:
        mine = [one for one in found if one.actual == name]
        given = [tested.chosen[one.place].max() for one in mine]
        assert 0 < len(mine) <= 3
        assert all(one.predicted != name for one in mine)
        assert [one.probability for one in mine] == sorted((one.probability for one in mine), reverse=True)
        assert max(given) == mine[0].probability
    # With a lower threshold an image with 0.45 of the second class is taken for it, at 0.45.
    one = scored(labels=np.zeros(60, dtype=np.int64), chosen=np.tile([0.55, 0.45], (60, 1)))
    assert {(found.predicted, found.probability) for found in mistakes(one)} == {("<ill>", 0.45)}


def test_a_label_that_is_not_known_is_no_mistake_and_no_figure() -> None:
    tested = several_labels()
    assert all(one.place != 0 for one in mistakes(tested))
    assert {one.actual for one in mistakes(tested)} <= {"a", "b", "c", "no a", "no b", "no c"}
    told = on_test(tested, {"chosen": {}, "reference": {}}, name="x")
    assert [row["images"] for row in told["by_class"]] == [59, 59, 59]
    for number, row in enumerate(told["by_class"]):
        truth, score = tested.labels[1:, number], tested.chosen[1:, number]
        assert row["chosen_auroc"] == pytest.approx(roc_auc_score(truth, score))
        assert row["hits"] + row["missed"] == row["present"] == int(truth.sum())
        assert row["sensitivity"] == pytest.approx((score >= tested.thresholds[number])[truth == 1].mean())
    assert told["rows"] == []
    assert len(told["curves"]) == 3
    assert told["unscored"] == []


def test_labels_that_cannot_be_scored_are_named_and_take_no_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttl.release.report.tested.MOST_PANELS", 2)
    labels = np.tile(np.random.default_rng(0).integers(0, 2, (60, 1)), 6)
    # Of the second all are absent, of the last present; of the fourth no absence is known.
    labels[:, 1], labels[:, 5], labels[labels[:, 3] == 0, 3] = 0, 1, -1
    scores = np.clip(0.4 * labels + 0.3, 0, 1)
    tested = scored(
        classes=tuple("abcdef"), labels=labels, chosen=scores, reference=scores[::-1], thresholds=(0.5,) * 6
    )
    told = on_test(tested, {"chosen": {}, "reference": {}}, name="x")
    assert told["unscored"] == ["b", "d", "f"]
    assert (len(told["curves"]), told["undrawn"]) == (2, 1)
    assert [row["name"] for row in told["by_class"]] == list("abcdef")
    assert [row["chosen_auroc"] is None for row in told["by_class"]] == [
        False,
        True,
        False,
        True,
        False,
        True,
    ]


def test_subgroups_are_told_from_enough_patients_alone() -> None:
    tested = scored()
    sites = np.where(np.arange(60) < 44, "north", "")
    found = subgroups(tested, {"site": sites, "year": np.full(60, "2020")}, RULE)
    assert [(one.kind, one.value, one.images, one.patients) for one in found] == [
        ("site", "north", 44, 22),
        ("site", "not known", 16, 8),
    ]
    first, second = found
    expected = roc_auc_score(tested.labels[:44], tested.chosen[:44, 1])
    assert first.chosen is not None
    assert first.chosen.value == pytest.approx(expected)
    assert first.chosen.low < expected < first.chosen.high
    assert first.difference is not None
    assert first.reference is not None
    assert first.difference.value == pytest.approx(expected - first.reference.value)
    assert second.chosen is None
    assert second.refused == "a class has 4 patients, and 10 are needed"


def test_groups_are_those_of_the_images_by_their_ids() -> None:
    samples = pl.DataFrame(
        {"sample_id": ["b", "a"], "site": ["north", None], "acquired_at": [None, "2021-03-01"]},
        schema_overrides={"acquired_at": pl.String},
    ).with_columns(pl.col("acquired_at").str.to_date())
    found = groups_of(samples, ("a", "b", "c"))
    assert found["site"].tolist() == ["", "north", ""]
    assert found["year"].tolist() == ["2021", "", ""]


def pixels_of(uri: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_a_picture_is_the_images_pixels_or_a_volumes_middle_slice() -> None:
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 256, (1, 9, 7), np.uint8), rng.integers(0, 256, (3, 9, 7), np.uint8)
    volume = rng.integers(0, 256, (1, 5, 9, 7), np.uint8)
    assert np.array_equal(pixels_of(thumbnail(grey)), grey[0])
    assert np.array_equal(pixels_of(thumbnail(colour)), np.moveaxis(colour, 0, -1))
    assert np.array_equal(pixels_of(thumbnail(volume)), volume[0, 2])
    assert pixels_of(thumbnail(np.zeros((1, 400, 200), np.uint8), 100)).shape == (100, 50)


def test_examples_are_of_the_images_that_were_mistaken(tmp_path) -> None:
    layout = leave(tmp_path, Left(packed=True))
    dataset = open_dataset(layout.datasets / "films", {"revision": open_revision(layout)})
    assert not isinstance(dataset, str)
    found = examples(dataset, mistakes(scored()), side=160)
    rows = dict(zip(dataset.samples["sample_id"], range(dataset.samples.height), strict=True))
    for one in found:
        expected = dataset.read(np.array([rows[one.mistake.sample_id]]))[0, 0]
        assert np.array_equal(pixels_of(one.picture), expected)
        assert one.alt == f"An image of {one.mistake.actual}, taken for {one.mistake.predicted}"
    assert examples(dataset, [], side=160) == []


def open_revision(layout) -> str:
    from ttl.data.dataset import PackedDataset  # noqa: PLC0415

    return PackedDataset.open(layout.datasets / "films").revision


def test_a_sheet_is_made_narrower_and_a_drawing_is_no_part_of_the_page(tmp_path) -> None:
    Image.new("RGB", (2000, 1000), "#808080").save(tmp_path / "sheet.png")
    uri, width, height = sheet(tmp_path / "sheet.png", 500)
    assert (width, height) == (500, 250)
    assert uri.startswith("data:image/webp;base64,")
    assert pixels_of(uri).shape == (250, 500, 3)
    (tmp_path / "drawn.svg").write_text('<svg viewBox="0 0 320.4 200"><script>alert(1)</script></svg>')
    uri, width, height = document(tmp_path / "drawn.svg")
    assert (width, height) == (320, 200)
    assert uri.startswith("data:image/svg+xml;base64,")


def test_a_curve_of_many_images_is_thinned_and_one_of_few_is_whole() -> None:
    rng = np.random.default_rng(0)
    found = rng.random(20_000) < 0.5
    one = Line(name="selected", look=CHOSEN, scores=rng.random(20_000))
    text = operating.roc(found, [one], name="x", title="ill")
    assert len(text) < 20_000
    assert 'aria-label="ROC curve of ill"' in text


def test_where_the_whole_network_was_chosen_it_is_drawn_once() -> None:
    every = np.ones(60, dtype=bool)
    assert [one.name for one in lines(scored(), 1, every)] == ["whole network", "selected"]
    assert [one.name for one in lines(scored(same=True), 1, every)] == ["selected"]
    assert [one.threshold for one in lines(scored(), 1, every)] == [None, 0.4]
    assert labels_of(4, 2).tolist() == [0, 0, 1, 1]


def test_the_search_shows_every_model_and_why() -> None:
    of = ("films", "net", "imagenet")
    rows = [
        (*of, "ftl", "full", -1, "stage", "to the end", 6, 6, "", *ORDINARY),
        (*of, "ttl", "a.0", 0, "stage", "in part", 2, 6, "no <hope>", *ORDINARY),
        (*of, "ttl", "a.1", 1, "stage", "never", 0, 6, "larger", *ORDINARY),
    ]
    text = course(pl.DataFrame(rows, schema=LEDGER_SCHEMA, orient="row"), name="x")
    assert "1 to the end, 1 in part, 1 never" in text
    assert "<title>ttl a.0: no &lt;hope&gt;</title>" in text
    assert len(re.findall(r"2/6 in part|6/6 to the end|>never<", text)) == 3


def test_an_interval_beyond_the_axis_ends_in_an_arrow() -> None:
    """The axis ends at twelve margins: a network that learnt nothing would squeeze all others together."""

    def drawn(low: float) -> int:
        model = model_of(dict(zip(KEYS, ("net", "imagenet", "ttl", "layer1", *ORDINARY), strict=True)))
        row = Difference(model=model, params=10, value=0.0, low=low, high=0.01)
        text = differences([row], margin=0.01, chosen=None, reference=None, name="gap")
        return len(re.findall(r"<use [^>]*fill: var\(--fig-ttl", text))

    assert [drawn(low) for low in (-0.02, -0.121, -0.5)] == [1, 1, 2]
