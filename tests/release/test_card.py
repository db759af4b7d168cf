import copy
import dataclasses
from pathlib import Path

import polars as pl
import pytest

from tests.release.trained import Trained, interval, metrics
from ttl.release import card
from ttl.release.description import read_description
from ttl.units import percentage

DEVICES = {"chosen": "cpu", "reference": "cpu"}


def write(trained: Trained, exported: Path, selection: dict | None = None, **changes: object) -> str:
    devices = changes.pop("devices", DEVICES)
    dataset = changes.pop("dataset", trained.dataset)
    description = dataclasses.replace(read_description(exported), **changes)
    return card.write_card(
        selection or trained.selection, description=description, dataset=dataset, devices=devices
    )


def one_line(text: str) -> str:
    return " ".join(text.replace("\n> ", " ").split())


def with_samples(trained: Trained, *columns: pl.Expr) -> object:
    return dataclasses.replace(trained.dataset, samples=trained.dataset.samples.with_columns(*columns))


def test_the_card_beside_the_model_states_the_data_and_the_figures(trained: Trained, exported: Path) -> None:
    text = (exported / "card.md").read_text()
    assert text == write(trained, exported)
    known = read_description(exported)
    for line in [
        "# Model card: squares",
        f"| dataset | squares, revision `{trained.dataset.revision}`, **synthetic** |",
        "| source | drawn by tests |",
        "| licence | CC0 |",
        "| split | plain | square | images | patients |",
        "| training | 24 | 24 | 48 | 24 |",
        "| validation | 20 | 20 | 40 | 20 |",
        "| test | 12 | 12 | 24 | 12 |",
        "No patient and no identical image occurs in more than one split.",
        "- Drawn, not \\| taken.",
        "| AUROC | 0.982 (0.972 to 0.992) | 0.973 (0.963 to 0.983) | 0.952 (0.942 to 0.962) |",
        "| sensitivity | 0.950 (0.940 to 0.960) | 0.960 (0.950 to 0.970) | 0.900 (0.890 to 0.910) |",
        "−0.01.",
        "| parameters | 15,842 | 3,373,570 | 0.47 % |",
        f"| trial | `{trained.trial.trial_id}` |",
        f"| ONNX, SHA-256 | `{known.onnx.sha256}` |",
        "- Two trials failed.",
        "Time: median, warmed up, measured on cpu.",
        "ttl predict squares IMAGE…            # a release from the registry",
    ]:
        assert line in text.splitlines(), line
    flat = one_line(text)
    for sentence in [
        "efficientnet_lite0 by truncated transfer learning at `blocks.1`: 15,842 parameters, 0.47 % of the",
        "**Not a medical device.**",
        "of 100 test images of *square* the model finds 96 (95 to 97); "
        "of 100 test images of *plain* it clears 68 (67 to 69).",
        "a 95 % interval (paired bootstrap over patients) that stays above −0.01.",
        "- Compared on validation images: 2 models; non-inferior: 2.",
        "Training runs (seeds) of this model: 1; the one",
        "this model 0.981 (0.971 to 0.991), FTL 0.984 (0.974 to 0.994).",
        "Difference on validation images: −0.0030 (−0.0079 to 0.0019): **non-inferior**.",
        "this model 0.972 (0.962 to 0.982), FTL 0.951 (0.941 to 0.961); "
        "difference 0.0210 (0.0100 to 0.0320), which stays above −0.01.",
        "grey, 8 bits, 28 × 28 pixels (height × width); another shape is kept whole between black bars.",
        "resized (bicubic) to 40 × 40, of which the central 32 × 32 are taken, and repeated",
        "mean 0.485, 0.456, 0.406 and deviation 0.229, 0.224, 0.225.",
        "From a probability of *square* of 0.4375 on, the answer is *square*.",
        "50 % of the test images are *square*.",
        "On 32 validation images it agreed with PyTorch within 0.0001.",
        "**SYNTHETIC DATA.** This model was trained and tested on computer-generated pictures, not on "
        "images of patients. It shows that the software works, and says nothing about any disease.",
        "Test images decided nothing: each network was scored on them once, for the record.",
    ]:
        assert sentence in flat, sentence
    assert "clearly lower" not in flat


def test_real_data_are_not_called_synthetic(trained: Trained, exported: Path) -> None:
    info = dataclasses.replace(trained.dataset.info, synthetic=False)
    real = dataclasses.replace(trained.dataset, info=info)
    assert "ynthetic" not in write(trained, exported, synthetic=False, dataset=real)


def test_leaks_are_counted_and_stated(trained: Trained, exported: Path) -> None:
    first = pl.int_range(pl.len())
    shared = with_samples(
        trained,
        pl.when(first.is_in([0, 48, 88])).then(pl.lit("same")).otherwise("sha256").alias("sha256"),
        pl.when(first.is_in([50, 51, 90])).then(pl.lit("p0")).otherwise("patient_id").alias("patient_id"),
    )
    assert card.leaks(shared.samples) == {"patients": 1, "images": 1}
    assert card.leaks(trained.dataset.samples) == {"patients": 0, "images": 0}
    flat = one_line(write(trained, exported, dataset=shared))
    assert (
        "**The splits are not clean:** 1 known patients and 1 distinct images occur in more than one" in flat
    )
    assert "No patient and no identical" not in flat


def test_unknown_patients_are_not_vouched_for(trained: Trained, exported: Path) -> None:
    unknown = with_samples(trained, ("image-" + pl.col("sha256").str.head(16)).alias("patient_id"))
    flat = one_line(write(trained, exported, dataset=unknown))
    assert "No identical image occurs in more than one split. The dataset does not say" in flat
    assert "No patient" not in flat


def test_a_shift_from_validation_to_test_is_said_aloud(trained: Trained, exported: Path) -> None:
    selection = copy.deepcopy(trained.selection)
    selection["figures"]["chosen"]["test"]["auroc"] = interval(0.96)
    selection["test_difference"] = interval(-0.02)
    flat = one_line(write(trained, exported, selection))
    assert "**The test figures are clearly lower than the validation figures**" in flat
    assert "difference −0.0200 (−0.0300 to −0.0100), which does **not** stay above −0.01." in flat


def test_ftl_itself_may_be_the_model(trained: Trained, exported: Path) -> None:
    selection = copy.deepcopy(trained.selection)
    selection["chosen"] = selection["reference"]
    selection["figures"]["chosen"] = selection["figures"]["reference"]
    selection["candidates"][0]["non_inferior"] = False
    text = write(trained, exported, selection, strategy="ftl", cut="full")
    assert (
        "It is the whole of efficientnet_lite0, retrained (full transfer learning, FTL for short)"
        in one_line(text)
    )
    assert "- None that is smaller was non-inferior, so FTL itself is the model." in text.splitlines()
    assert "| metric | this model, validation | this model, test |" in text.splitlines()
    assert "| AUROC | 0.985 (0.975 to 0.995) | 0.952 (0.942 to 0.962) |" in text.splitlines()


def test_more_classes_have_no_threshold(trained: Trained, exported: Path) -> None:
    selection = copy.deepcopy(trained.selection)
    absent = {"value": None, "low": None, "high": None}
    figures = {**metrics(auroc=0.9), "sensitivity": absent, "specificity": absent}
    selection["figures"]["chosen"] |= {"validation": figures, "test": figures, "threshold": None}
    counts = {split: {"a": 10, "b": 20, "c|d": 1234} for split in ("train", "val", "test")}
    info = dataclasses.replace(
        trained.dataset.info, task="multiclass", classes=("a", "b", "c|d"), counts=counts
    )
    dataset = dataclasses.replace(trained.dataset, info=info)
    text = write(
        trained, exported, selection, dataset=dataset, task="multiclass", classes=info.classes, threshold=None
    )
    assert "| split | a | b | c\\|d | images | patients |" in text.splitlines()
    assert "| training | 10 | 20 | 1,234 | 1,264 | 24 |" in text.splitlines()
    assert "5. The answer is the likeliest class." in text.splitlines()
    assert "sensitivity" not in text
    assert "clears" not in text


def test_latencies_of_two_devices_are_not_compared(trained: Trained, exported: Path) -> None:
    text = write(trained, exported, devices={"chosen": "cpu", "reference": "NVIDIA H100"})
    assert "| – |" in next(line for line in text.splitlines() if line.startswith("| time"))
    assert "this model was measured on cpu and FTL on NVIDIA H100, so the two do not compare." in one_line(
        text
    )


def test_every_table_is_whole(trained: Trained, exported: Path) -> None:
    """Each row has as many cells as its header, and a blank line stands before each table."""
    lines = write(trained, exported).splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        cells = line.replace("\\|", "").count("|")
        if line.startswith("| ") or line.startswith("|-"):
            assert above == "" or above.replace("\\|", "").count("|") == cells, line
    assert "\n\n\n" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("part", "total", "expected"),
    [(55586, 3372570, "1.6 %"), (1858, 3372570, "0.055 %"), (3, 3, "100 %"), (0, 5, "0 %"), (5, 4, "125 %")],
)
def test_shares(part: float, total: float, expected: str) -> None:
    assert percentage(part, total) == expected


def test_numbers() -> None:
    assert card.interval({"value": 0.97049, "low": 0.9583, "high": None}) == "0.970 (0.958 to –)"
    assert card.interval({"value": float("nan"), "low": 0.1, "high": 0.2}) == "–"
    assert card.interval(None) == "–"
    assert (card.count(3372570.0), card.millions(6.13e6), card.millions(12_345)) == (
        "3,372,570",
        "6.1 M",
        "0.012 M",
    )
    assert (card.megabytes(222_344), card.megabytes(94_000_000)) == ("0.22 MB", "94.0 MB")
    assert card.cell("two\nlines | one") == "two lines \\| one"
