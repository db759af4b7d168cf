"""Published files: kept as published, read without pickle, refused when they are something else."""

import hashlib
import zipfile

import numpy as np
import pytest

from ttl.data.prepare import prepare
from ttl.data.sources.medmnist_catalogue import CATALOGUE, file_name
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError, ParamsError


def arrays(*, size=28, colour=False, classes=2, counts=(("train", 30), ("val", 12), ("test", 12))):
    rng = np.random.default_rng(0)
    made = {}
    for split, count in counts:
        shape = (count, size, size, 3) if colour else (count, size, size)
        made[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        made[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % classes)[:, None]
    return made


def checksum(path):
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def write(tmp_path, made, *, flag="pneumoniamnist", size=None, save=np.savez_compressed, **spec):
    mirror = tmp_path / "mirror"
    mirror.mkdir(exist_ok=True)
    path = mirror / file_name(flag, size or 28)
    save(path, **made)
    options = {"flag": flag, "accept_checksum": checksum(path)}
    settings = DatasetSpec(source="medmnist", size=size, input=str(path), options=options, **spec)
    return prepare("made", settings, tmp_path / "packed")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_labels_and_split_are_kept(tmp_path, save):
    made = arrays()
    data = write(tmp_path, made, save=save)
    assert data.info.task == "binary"
    assert data.info.classes == ("normal", "pneumonia")
    assert data.info.licence == "CC BY 4.0"
    for split, count in (("train", 30), ("val", 12), ("test", 12)):
        rows = data.indices(split)
        assert np.array_equal(data.read(rows)[:, 0], made[f"{split}_images"])
        assert data.samples[rows]["label"].to_list() == made[f"{split}_labels"][:, 0].tolist()
        assert sum(data.info.counts[split].values()) == count


def test_colour_images_come_channels_first(tmp_path):
    made = arrays(colour=True, classes=8, size=64)
    data = write(tmp_path, made, flag="bloodmnist", size=64)
    assert data.info.task == "multiclass"
    assert data.info.shape == (3, 64, 64)
    assert np.array_equal(data.read(data.indices("val")), made["val_images"].transpose(0, 3, 1, 2))


def test_leaks_of_the_published_split_are_reported(tmp_path):
    made = arrays()
    made["val_images"][:3] = made["train_images"][4:7]
    data = write(tmp_path, made)
    assert (
        "3 images occur in both train and val of the given split, which is kept as it is." in data.info.notes
    )
    assert len(data.samples.filter(data.samples["patient_id"].is_duplicated())) == 6


def test_the_mirror_is_where_a_file_is_looked_for(tmp_path, monkeypatch):
    write(tmp_path, arrays())
    monkeypatch.setenv("TTL_DATA_MIRROR", str(tmp_path / "mirror"))
    accepted = checksum(tmp_path / "mirror" / "pneumoniamnist.npz")
    spec = DatasetSpec(source="medmnist", options={"accept_checksum": accepted})
    assert len(prepare("pneumoniamnist", spec, tmp_path / "p").samples) == 54
    official = "md5:28209eda62fecd6e6a2d98b1501bb15f"
    with pytest.raises(DataError, match=f"dataset pneumoniamnist: .*expected is {official}.*{accepted}"):
        prepare("pneumoniamnist", DatasetSpec(source="medmnist"), tmp_path / "q")


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


def _broken():
    def changed(**changes):
        made = arrays() | changes
        return {name: array for name, array in made.items() if array is not None}

    return {
        "absent": (changed(val_labels=None), "has no array val_labels; it has: test_images.npy"),
        "volumes": (
            changed(train_images=np.zeros((30, 28, 28, 28), np.uint8)),
            r"train_images has shape \(30, 28, 28, 28\): volumes; expected are images",
        ),
        "type": (changed(train_images=np.zeros((30, 28, 28))), "train_images is float64"),
        "multilabel": (changed(train_labels=np.zeros((30, 14), np.uint8)), "train_labels has 14 labels"),
        "flat": (changed(train_labels=np.zeros(30, np.uint8)), r"train_labels is uint8 \(30,\)"),
        "label": (
            changed(val_labels=np.full((12, 1), 5, np.uint8)),
            r"val_labels\[0\] is 5; the 2 classes .*12 such",
        ),
        "count": (changed(test_images=np.zeros((7, 28, 28), np.uint8)), "test_images has 7 images for 12"),
        "size": (changed(train_images=np.zeros((30, 32, 32), np.uint8)), r"is uint8 \(1, 32, 32\)"),
        "columns": (
            changed(train_images=np.asfortranarray(arrays()["train_images"])),
            "train_images is stored by columns",
        ),
        "class": (changed(val_labels=np.zeros((12, 1), np.uint8)), "class 'pneumonia' has no sample .* val"),
        "empty": (
            changed(val_labels=np.zeros((0, 1), np.uint8), val_images=np.zeros((0, 28, 28), np.uint8)),
            "the split val is empty",
        ),
        "pickle": (
            changed(train_labels=np.array([[Trap()]] * 30, dtype=object)),
            "train_labels holds pickled Python objects",
        ),
    }


@pytest.mark.parametrize("case", _broken())
def test_arrays_that_are_something_else_are_named(tmp_path, case, capfd):
    made, said = _broken()[case]
    with pytest.raises(DataError, match=said):
        write(tmp_path, made)
    assert "executed" not in capfd.readouterr().out
    assert not (tmp_path / "packed").exists()


def _truncate(path, **made):
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in made.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
                file.write(array.tobytes()[: array.nbytes - 5 * (name == "val_images")])


def test_an_array_that_ends_too_early_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read as a MedMNIST file: an array ends 5 bytes too early"):
        write(tmp_path, arrays(), save=_truncate)


def test_a_file_that_is_no_npz_is_named(tmp_path):
    with pytest.raises(DataError, match=r"pneumoniamnist\.npz cannot be read as a MedMNIST file"):
        write(tmp_path, arrays(), save=lambda path, **_: path.write_bytes(b"<html>not here</html>"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"size": 32, "options": {"flag": "pathmnist"}},
            "size is 32; pathmnist is published in .*28, 64, 128, 224",
        ),
        ({"channels": 3, "options": {"flag": "octmnist"}}, "channels is 3; the images of octmnist have 1"),
        ({}, "MedMNIST has no dataset 'mine'"),
    ],
)
def test_settings_that_the_files_do_not_allow_are_named(tmp_path, values, said):
    with pytest.raises(ParamsError, match=said):
        prepare("mine", DatasetSpec(source="medmnist", **values), tmp_path / "p")


def test_the_catalogue_is_complete():
    assert len(CATALOGUE) == 18
    assert sum(about.volumes for about in CATALOGUE.values()) == 6
    for about in CATALOGUE.values():
        assert set(about.md5) == ({28, 64} if about.volumes else {28, 64, 128, 224})
        assert all(len(md5) == 32 for md5 in about.md5.values())
        assert len(set(about.classes)) == len(about.classes) >= 2
    sums = [md5 for about in CATALOGUE.values() for md5 in about.md5.values()]
    assert len(set(sums)) == 12 * 4 + 6 * 2
