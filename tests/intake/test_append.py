"""Appending drops to a packed dataset: what was there stays, byte for byte, and on its side."""

import datetime
import hashlib
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ttl.data.dataset import PackedDataset, pixel_hash, shard_name
from ttl.errors import DataError
from ttl.intake.append import Delivery, append, side_of
from ttl.intake.received import ROLLING, phashes, received, taken
from ttl.intake.spec import IntakeSpec
from ttl.intake.verdict import Checked, Image, Reason, Verdict

SPEC = IntakeSpec(incoming="incoming", classes=("normal", "finding"), size=16)
THEN = datetime.datetime(2026, 3, 1, 8, tzinfo=datetime.UTC)


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def image(patient, number, label, spec=SPEC):
    rng = np.random.default_rng(int(digest(f"{patient}-{number}")[:8], 16))
    pixels = rng.integers(0, 256, spec.shape, dtype=np.uint8)
    return Image(
        sample_id=digest(f"{patient}-{number}")[:16],
        patient_id=digest(patient)[:16],
        acquired_at=datetime.date(2026, 2, 1),
        label=label,
        pixels=pixels,
        sha256=pixel_hash(pixels),
        phash="0" * 64,
    )


def checked(patients, *, spec=SPEC, films=2, first=0):
    """Give the images of patients, of whom every other has the finding, and one file that is refused."""
    for count, patient in enumerate(patients):
        for number in range(first, first + films):
            one = image(patient, number, count % 2, spec)
            yield Checked(verdict=Verdict(path=f"{patient}/{number}.dcm"), image=one)
    yield Checked(verdict=Verdict(path="DOE^JOHN.dcm", reason=Reason.CHECKSUM))


def delivery(name, images, *, site="north", at=THEN):
    return Delivery(
        site=site,
        drop=name,
        digest=digest(name),
        received_at=at,
        checked=images,
        hide=lambda path: digest(path)[:16],
    )


@pytest.fixture
def root(tmp_path):
    """A dataset of forty patients, who came in one drop."""
    append(
        "toy", SPEC, [delivery("first", checked([f"p{i}" for i in range(40)]))], tmp_path / "packed" / "toy"
    )
    return tmp_path / "packed" / "toy"


def on_side(root, *splits):
    """Return which of the forty patients stand on these sides."""
    sides = dict(PackedDataset.open(root).samples.select("patient_id", "split").iter_rows())
    return [f"p{i}" for i in range(40) if sides[digest(f"p{i}")[:16]] in splits]


def test_the_first_delivery_is_divided_by_patient(root):
    dataset = PackedDataset.open(root)
    dataset.check()
    assert dataset.info.counts["train"] == {"normal": 28, "finding": 28}
    assert dataset.info.counts[ROLLING] == {"normal": 0, "finding": 0}
    sides = dataset.samples.group_by("patient_id").agg(pl.col("split").n_unique())
    assert sides["split"].max() == 1


def test_what_was_there_stays_byte_for_byte_and_on_its_side(root):
    before = PackedDataset.open(root).samples
    files = {path.name: (path.stat().st_ino, path.read_bytes()) for path in root.glob("*.u8")}
    later = THEN + datetime.timedelta(days=30)
    patients = [*on_side(root, "train", "val")[:10], *(f"p{i}" for i in range(40, 50))]
    (record,) = append("toy", SPEC, [delivery("second", checked(patients, films=3, first=9), at=later)], root)
    dataset = PackedDataset.open(root)
    dataset.check()
    assert dataset.samples.head(before.height).equals(before)
    assert {name: (root / name).stat().st_ino for name in files} == {n: one[0] for n, one in files.items()}
    assert all((root / name).read_bytes() == content for name, (_, content) in files.items())
    assert record.accepted == 60
    assert record.reasons == {"checksum": 1}
    new = dataset.samples.tail(60)
    known = dict(before.select("patient_id", "split").iter_rows())
    for patient, split in new.select("patient_id", "split").iter_rows():
        assert split == (known.get(patient) or side_of(patient, SPEC))
    assert set(new.filter(~pl.col("patient_id").is_in(list(known)))["split"]) <= {"train", "val", ROLLING}
    assert [one.drop for one in taken(root)] == ["first", "second"]
    came = received(root).join(new, on="sample_id", how="semi")
    assert came["digest"].unique().to_list() == [record.digest]
    assert came["received_at"].unique().to_list() == [later]
    assert phashes(root).height == dataset.samples.height


def test_a_path_is_recorded_as_its_keyed_hash(root):
    text = "".join(path.read_text() for path in root.glob("*.json"))
    assert "DOE" not in text
    assert digest("DOE^JOHN.dcm")[:16] in text


def test_an_append_that_dies_leaves_the_dataset_as_it_was(root):
    revision, files = PackedDataset.open(root).revision, sorted(path.name for path in root.iterdir())

    def dies():
        yield from list(checked(["q1", "q2"]))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append("toy", SPEC, [delivery("second", dies())], root)
    assert PackedDataset.open(root).revision == revision
    assert sorted(path.name for path in root.iterdir()) == files
    assert sorted(path.name for path in root.parent.iterdir()) == [".toy.lock", "toy"]


def test_a_drop_of_which_nothing_gets_in_is_recorded_and_changes_no_revision(root):
    revision = PackedDataset.open(root).revision
    (record,) = append("toy", SPEC, [delivery("bad", checked([]))], root)
    assert (record.accepted, record.reasons) == (0, {"checksum": 1})
    assert PackedDataset.open(root).revision == revision
    assert len(taken(root)) == 2


def test_a_first_delivery_without_every_class_in_every_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="class 'finding' has no sample"):
        append("toy", SPEC, [delivery("first", checked(["p0", "p2"][:1]))], tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


def contents(root):
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_images_that_were_checked_against_another_revision_are_refused(root, tmp_path):
    seen = PackedDataset.open(root).revision
    append("toy", SPEC, [delivery("second", checked(["q0"]))], root, compared_with=seen)
    before = contents(root)
    with pytest.raises(DataError, match="somebody else has taken drops in"):
        append("toy", SPEC, [delivery("third", checked(["q1"]))], root, compared_with=seen)
    with pytest.raises(DataError, match="checked against none"):
        append("toy", SPEC, [delivery("third", checked(["q1"]))], root, compared_with="")
    assert contents(root) == before


@pytest.mark.parametrize("patients", [[], ["q0"]])
def test_a_drop_that_was_taken_meanwhile_is_refused_and_its_record_stays(root, patients):
    before = contents(root)
    with pytest.raises(DataError, match=r"north/first was taken meanwhile, at 2026-03-01 08:00"):
        append("toy", SPEC, [delivery("first", checked(patients))], root)
    assert contents(root) == before


def test_a_shard_that_no_sample_lies_in_is_not_written_through(root):
    (root / shard_name(1)).write_bytes(b"left by somebody")
    with pytest.raises(DataError, match=r"00001\.u8 of none of its drops"):
        append("toy", SPEC, [delivery("second", checked(["q0"]))], root)
    assert (root / shard_name(1)).read_bytes() == b"left by somebody"


def test_another_kind_of_image_is_refused(root):
    other = IntakeSpec(incoming="incoming", classes=("normal", "finding"), size=32)
    with pytest.raises(DataError, match="a dataset keeps what it began with"):
        append("toy", other, [delivery("second", checked(["q"], spec=other))], root)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fit": "crop"}, r"was made with fit pad; params\.yaml says crop"),
        ({"window": "range"}, r"was made with window voi; params\.yaml says range"),
        ({"centre": 40.0, "width": 400.0}, r"was made with window voi; params\.yaml says \(40\.0, 400\.0\)"),
    ],
)
def test_images_made_in_another_way_are_refused(root, changes, said):
    with pytest.raises(DataError, match=said):
        append("toy", replace(SPEC, **changes), [delivery("second", checked(["q"]))], root)


def test_a_window_for_all_is_kept_to(tmp_path):
    spec, root = replace(SPEC, centre=40.0, width=400.0), tmp_path / "toy"
    append("toy", spec, [delivery("first", checked([f"p{n}" for n in range(40)]))], root)
    assert PackedDataset.open(root).info.window == (40.0, 400.0)
    assert append("toy", spec, [delivery("second", checked(["q"]))], root)[0].accepted == 2


def test_what_pseudonyms_were_made_of_is_recorded_and_kept_to(root):
    assert [one.patient_ids for one in taken(root)] == ["of-site"]
    assert any(
        "one person at two sites counts as two" in note for note in PackedDataset.open(root).info.notes
    )
    shared = replace(SPEC, patient_ids="shared")
    with pytest.raises(DataError, match=r"made with patient_ids: of-site; params\.yaml says shared"):
        append("toy", shared, [delivery("second", checked(["q"]))], root)
    # A record of before there was the setting: sites were not told apart.
    (record,) = root.glob("drop-*.json")
    record.write_text(
        json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "patient_ids"})
    )
    assert [one.patient_ids for one in taken(root)] == ["shared"]
    with pytest.raises(DataError, match=r"made with patient_ids: shared; params\.yaml says of-site"):
        append("toy", SPEC, [delivery("second", checked(["q"]))], root)
    assert append("toy", shared, [delivery("second", checked(["q"]))], root)[0].accepted == 2


def test_a_sample_that_is_there_already_is_not_appended_again(root):
    with pytest.raises(DataError, match="is there already"):
        append("toy", SPEC, [delivery("second", checked(on_side(root, "train")[:1]))], root)


def test_an_image_of_a_patient_of_the_frozen_test_set_is_refused(root):
    with pytest.raises(DataError, match="the test set, which is frozen"):
        append("toy", SPEC, [delivery("second", checked(on_side(root, "test")[:1], first=9))], root)


def test_each_side_gets_its_share_of_new_patients():
    sides = [side_of(digest(str(i))[:16], SPEC) for i in range(20000)]
    shares = {side: sides.count(side) / len(sides) for side in ("train", "val", ROLLING)}
    wanted = {"train": 0.8 * 0.7 / 0.85, "val": 0.8 * 0.15 / 0.85, ROLLING: 0.2}
    assert shares == pytest.approx(wanted, abs=0.01)


def test_a_hundredth_more_images_is_at_most_two_hundredths_more_bytes(tmp_path):
    spec = IntakeSpec(incoming="incoming", classes=("normal", "finding"), size=224)
    root = tmp_path / "toy"
    append("toy", spec, [delivery("first", checked([f"p{i}" for i in range(200)], spec=spec))], root)
    before = {path.name: path.stat().st_ino for path in root.iterdir()}
    whole = sum(path.stat().st_size for path in root.iterdir())
    append("toy", spec, [delivery("second", checked(["q0", "q1"], spec=spec))], root)
    changed = [path for path in root.iterdir() if before.get(path.name) != path.stat().st_ino]
    assert sum(path.stat().st_size for path in changed) <= 0.02 * whole
