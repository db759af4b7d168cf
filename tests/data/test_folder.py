"""A folder or zip of images with a CSV: what is read, and every bad row by its line."""

import datetime
import io
import stat
import zipfile

import numpy as np
import pytest
from PIL import Image

from ttl.data.prepare import prepare
from ttl.data.sources.table import BadRowsError, points_outside
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError, ParamsError

COUNT = 40


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (24, 24), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def table(rows=None, header="image,label"):
    rows = [f"i{n}.png,{'ill' if n % 2 else 'healthy'}" for n in range(COUNT)] if rows is None else rows
    return "\n".join([header, *rows]) + "\n"


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    for number in range(COUNT):
        (folder / "images" / f"i{number}.png").write_bytes(png(number))
    (folder / "labels.csv").write_text(table())
    return folder


def load(path, tmp_path, *, size=24, **options):
    spec = DatasetSpec(source="folder", input=str(path), size=size, options={"images": "images", **options})
    return prepare("mine", spec, tmp_path / "packed")


def zipped(folder, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def add_row(source, *rows):
    with (source / "labels.csv").open("a") as file:
        file.writelines(f"{row}\n" for row in rows)


def test_images_labels_and_classes_are_read(source, tmp_path):
    data = load(source, tmp_path)
    assert data.info.classes == ("healthy", "ill")
    assert data.info.task == "binary"
    assert data.samples["sample_id"].to_list() == [f"i{n}.png" for n in range(COUNT)]
    expected = np.asarray(Image.open(io.BytesIO(png(7))))
    assert np.array_equal(data.read(np.array([7]))[0, 0], expected)
    assert data.samples["label"].to_list() == [n % 2 for n in range(COUNT)]
    assert any("No patients are given" in note for note in data.info.notes)


def test_a_zip_gives_the_same_dataset(source, tmp_path):
    one = load(source, tmp_path)
    two = load(zipped(source, tmp_path / "all.zip"), tmp_path / "z")
    assert one.revision == two.revision


def test_all_columns_are_kept(source, tmp_path):
    splits = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    rows = [
        f"i{n}.png,{'ill' if n % 2 else 'healthy'},p{n // 2},{splits[n]},north,2024-02-{n % 28 + 1:02d}"
        for n in range(COUNT)
    ]
    (source / "labels.csv").write_text(table(rows, "image,label,patient_id,split,site,acquired_at"))
    samples = load(source, tmp_path).samples
    assert samples["split"].to_list() == splits
    assert samples["patient_id"][5] == "p2"
    assert samples["acquired_at"][5] == datetime.date(2024, 2, 6)
    assert set(samples["site"]) == {"north"}


def test_listed_classes_keep_their_order(source, tmp_path):
    data = load(source, tmp_path, classes=["ill", "healthy"])
    assert data.info.classes == ("ill", "healthy")
    assert data.samples["label"].to_list() == [1 - n % 2 for n in range(COUNT)]


def test_copies_of_an_image_stay_together(source, tmp_path):
    for number in range(0, 20, 2):
        (source / "images" / f"copy{number}.png").write_bytes(png(number))
        add_row(source, f"copy{number}.png,healthy")
    data = load(source, tmp_path)
    assert "50 samples are 40 distinct images; the others are exact copies." in data.info.notes
    for _, copies in data.samples.group_by("sha256"):
        assert copies["split"].n_unique() == 1


def test_a_repeated_row_is_read_once_and_said(source, tmp_path):
    add_row(source, "i3.png,ill", "", "i4.png,healthy")
    data = load(source, tmp_path)
    assert len(data.samples) == COUNT
    assert "2 rows of labels.csv repeat another row and were read once." in data.info.notes


def test_a_spreadsheets_byte_order_mark_is_no_column_name(source, tmp_path):
    (source / "labels.csv").write_text("\ufeff" + table().replace("\n", "\r\n"), encoding="utf-8")
    assert len(load(source, tmp_path).samples) == COUNT


@pytest.mark.parametrize("archived", [False, True])
def test_images_in_another_folder_than_was_said_are_one_error(source, tmp_path, archived):
    path = zipped(source, tmp_path / "all.zip") if archived else source
    with pytest.raises(DataError, match=r"none of its 40 images is there; .*films/i0\.png.*options\.images"):
        load(path, tmp_path, images="films")


BAD = {
    "absent": ("gone.png,ill", "line 42: gone.png: the image is missing"),
    "outside": ("../secret.png,ill", r"line 42: ../secret.png points outside"),
    "absolute": ("/etc/passwd,ill", "line 42: /etc/passwd points outside"),
    "damaged": ("broken.png,ill", "line 42: broken.png: the image cannot be read"),
    "cut": ("cut.png,ill", "line 42: cut.png: the image cannot be read"),
    "deep": ("deep.png,ill", "line 42: deep.png: its pixels are deeper than 8 bits"),
    "conflict": ("i3.png,healthy", "line 42: i3.png is also on line 5, with another label"),
    "unlabelled": ("extra.png,", "line 42: extra.png has no label"),
    "unnamed": (",ill", "line 42: names no image"),
    "ragged": ("extra.png,ill,3", "line 42: has 3 cells, the header has 2"),
    "short": ("extra.png", "line 42: has 1 cells, the header has 2"),
}


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_by_its_line(source, tmp_path, case, archived):
    row, said = BAD[case]
    images = source / "images"
    (images / "broken.png").write_bytes(b"\x89PNG no")
    (images / "cut.png").write_bytes(png(0)[:-200])
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(images / "deep.png")
    add_row(source, row)
    path = zipped(source, tmp_path / "all.zip") if archived else source
    if archived:
        said = said.replace("gone.png: the image is missing", "images/gone.png is missing in the zip")
    with pytest.raises(BadRowsError, match=said):
        load(path, tmp_path)
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(
    ("row", "header", "said"),
    [
        (
            "i0.png,ill,middle",
            "image,label,split",
            "line 2: i0.png has split 'middle'; it must be one of train",
        ),
        ("i0.png,ill,", "image,label,split", "line 2: i0.png has split ''"),
        ("i0.png,ill,31.1.2024", "image,label,acquired_at", "line 2: i0.png has acquired_at '31.1.2024'"),
    ],
)
def test_a_bad_cell_is_named_by_its_line(source, tmp_path, row, header, said):
    (source / "labels.csv").write_text(table([row, "i1.png,healthy,"], header))
    with pytest.raises(BadRowsError, match=said):
        load(source, tmp_path)


def test_a_label_out_of_the_list_is_named(source, tmp_path):
    (source / "labels.csv").write_text(table().replace("healthy", "a"))
    said = r"20 rows .*\n  line 3: i1\.png has label 'ill'; the classes are: a, b"
    with pytest.raises(BadRowsError, match=said):
        load(source, tmp_path, classes=["a", "b"])


def test_all_bad_rows_are_counted_and_kept(source, tmp_path):
    add_row(source, *[f"gone{n}.png,ill" for n in range(15)])
    with pytest.raises(BadRowsError) as caught:
        load(source, tmp_path)
    assert len(caught.value.problems) == 15
    message = str(caught.value)
    assert message.startswith("dataset mine: ")
    assert "15 rows cannot be used" in message
    assert "line 51: gone9.png" in message
    assert "gone10.png" not in message
    assert message.endswith("… and 5 more")


def test_a_bad_table_leaves_the_dataset_that_was_there(source, tmp_path):
    before = load(source, tmp_path)
    add_row(source, "gone.png,ill")
    with pytest.raises(BadRowsError):
        load(source, tmp_path)
    before.check()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("picture;label\na;b\n", "has no column image or label; its columns are: picture;label"),
        ("image,diagnosis\na,b\n", "has no column label; its columns are: image, diagnosis"),
        ("", "has no column image or label; its columns are: nothing"),
        ("image,label\n", "has no rows"),
        ("image,label,label\na,b,c\n", "has the column label more than once"),
        ('image,label\n"i0.png,ill\n', "not a CSV file"),
        ("image,label\ni0.png,ill\ni1.png,ill\n", "its labels are ill; at least two classes"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(source, tmp_path, text, said):
    (source / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        load(source, tmp_path)


def test_a_table_in_another_encoding_is_named(source, tmp_path):
    (source / "labels.csv").write_bytes("image,label\nü.png,ill\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"labels\.csv is not UTF-8 at byte 12"):
        load(source, tmp_path)


@pytest.mark.parametrize("archived", [False, True])
def test_an_absent_table_names_what_is_there(source, tmp_path, archived):
    path = zipped(source, tmp_path / "all.zip") if archived else source
    with pytest.raises(DataError, match=r"no table truth\.csv; set options\.table\. It has: images"):
        load(path, tmp_path, table="truth.csv")


def test_a_patient_on_two_sides_of_a_given_split_is_named(source, tmp_path):
    sides = ["train", "train", "val", "val", "test", "test"]
    rows = [f"i{n}.png,{'ill' if n % 2 else 'healthy'},{s},p{n % 5}" for n, s in enumerate(sides)]
    (source / "labels.csv").write_text(table(rows, "image,label,split,patient_id"))
    with pytest.raises(
        DataError, match="1 patient stands on two sides of the given split: p0 in train and test"
    ):
        load(source, tmp_path)


@pytest.mark.parametrize(
    "name", ["../escape.png", "/absolute.png", "a/../../b.png", "..\\up.png", "C:\\x.png"]
)
def test_a_zip_entry_that_points_outside_condemns_the_archive(source, tmp_path, name):
    path = zipped(source, tmp_path / "all.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(DataError, match="has an entry that points outside"):
        load(path, tmp_path)
    assert points_outside(name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.zip", "source"]


def test_a_link_in_a_zip_condemns_the_archive(source, tmp_path):
    path = zipped(source, tmp_path / "all.zip")
    link = zipfile.ZipInfo("images/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"points outside of it: images/link\.png"):
        load(path, tmp_path)


@pytest.mark.parametrize("name", ["a.png", "sub/a.png", "./a.png", "a..b.png", "..a/b.png", "."])
def test_ordinary_names_stay_inside(name):
    assert not points_outside(name)


def test_a_damaged_zip_entry_is_named(source, tmp_path):
    path = zipped(source, tmp_path / "all.zip")
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("images/i5.png").header_offset
    data = bytearray(path.read_bytes())
    data[start + 80 : start + 90] = bytes(10)
    path.write_bytes(data)
    with pytest.raises(BadRowsError, match=r"1 row cannot be used:\n  line 7: images/i5.png in the zip file"):
        load(path, tmp_path)


def test_what_is_no_zip_is_named(tmp_path):
    (tmp_path / "all.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"all\.zip cannot be read as a zip file"):
        load(tmp_path / "all.zip", tmp_path)


def test_an_input_must_be_given(tmp_path):
    with pytest.raises(ParamsError, match="input is not set"):
        prepare("mine", DatasetSpec(source="folder"), tmp_path / "p")


CELLS = {f"ill/C{n}P{n}thin_{n}.png": n for n in range(12)} | {
    f"well/C{n}thin_{n}.png": n for n in range(12, 24)
}


@pytest.fixture
def cells(tmp_path):
    folder = tmp_path / "cells"
    for name, number in CELLS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))
        # A second image of the patient, whose name begins in another way.
        (folder / name).with_name(f"Copy{(folder / name).name}").write_bytes(png(100 + number))
    (folder / "ill" / ".DS_Store").write_bytes(b"")
    (folder / "notes.txt").write_text("not in a class's folder")
    return folder


def load_cells(path, tmp_path, **options):
    spec = DatasetSpec(
        source="folder",
        input=str(path),
        size=24,
        options={"classes_from": "folders", "patient": r"C\d+", **options},
    )
    return prepare("cells", spec, tmp_path / "packed")


@pytest.mark.parametrize("archived", [False, True])
def test_class_folders_give_the_labels_and_names_the_patients(cells, tmp_path, archived):
    path = zipped(cells, tmp_path / "cells.zip") if archived else cells
    data = load_cells(path, tmp_path)
    assert data.info.classes == ("ill", "well")
    assert len(data.samples) == 48
    [row] = data.samples.filter(sample_id="well/CopyC12thin_12.png").to_dicts()
    assert (row["patient_id"], row["label"]) == ("C12", 1)
    for _, images in data.samples.group_by("patient_id"):
        assert len(images) == 2
        assert images["split"].n_unique() == 1
    assert r"Patients are what C\d+ finds in the names of the files." in data.info.notes


def test_the_first_group_of_the_pattern_is_the_patient(cells, tmp_path):
    data = load_cells(cells, tmp_path, patient=r"C(\d+)(P\d+)?thin")
    assert set(data.samples["patient_id"]) == {str(n) for n in range(24)}


def test_class_folders_without_a_pattern_have_no_patients(cells, tmp_path):
    data = load_cells(cells, tmp_path, patient=None, classes=["well", "ill"])
    assert data.info.classes == ("well", "ill")
    assert any("No patients are given" in note for note in data.info.notes)


def test_a_name_in_which_the_pattern_finds_no_patient_is_an_error(cells, tmp_path):
    with pytest.raises(BadRowsError, match=r"12 images cannot be used:\n  ill: options\.patient .* ill/C0P0"):
        load_cells(cells, tmp_path, patient=r"^C\d+thin|^Copy")


def test_another_file_in_a_class_folder_is_named(cells, tmp_path):
    (cells / "well" / "readme.txt").write_text("?")
    with pytest.raises(DataError, match=r"1 files in the classes' folders are no images: well/readme\.txt"):
        load_cells(cells, tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": ["ill", "dead"]}, r"no images are in \./dead; the folders with images are: ill"),
        ({"images": "films"}, "has no folder films; set options.images"),
        ({"images": "ill"}, "its labels are empty; at least two classes"),
    ],
)
def test_class_folders_that_are_not_there_are_named(cells, tmp_path, options, said):
    with pytest.raises(DataError, match=said):
        load_cells(cells, tmp_path, **options)


def test_patients_are_said_in_one_way(source, tmp_path):
    rows = [f"i{n}.png,{'ill' if n % 2 else 'healthy'},p{n}" for n in range(COUNT)]
    (source / "labels.csv").write_text(table(rows, "image,label,patient_id"))
    with pytest.raises(ParamsError, match="has the column patient_id; leave one of them out"):
        load(source, tmp_path, patient="i(.*)")
    with pytest.raises(ParamsError, match="is no regular expression"):
        load(source, tmp_path, patient="(")
