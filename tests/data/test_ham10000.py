"""HAM10000 as published: lesions stay together, wherever their images lie; bad rows by their line."""

import shutil

import numpy as np
import pytest

from tests.data.imitations import HAM_HEADER, ham10000, noise, write_image, write_table
from ttl.data.prepare import prepare
from ttl.data.sources.table import BadRowsError
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "ham"
    return root, ham10000(root)


def load(root, tmp_path, **options):
    return prepare(
        "ham", DatasetSpec(source="ham10000", input=str(root), size=12, options=options), tmp_path / "p"
    )


def test_lesions_stay_on_one_side_and_every_class_is_on_each(source, tmp_path):
    root, rows = source
    data = load(root, tmp_path)
    assert data.info.task == "multiclass"
    assert data.info.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert data.info.shape == (3, 12, 12)
    assert len(data.samples) == len(rows) == 84
    for lesion, images in data.samples.group_by("patient_id"):
        assert images["split"].n_unique() == 1
        assert len(images) == 1 + int(lesion[0].removeprefix("HAM_")) % 3
    assert all(count > 0 for side in data.info.counts.values() for count in side.values())
    labels = dict(data.samples.select("sample_id", "label").iter_rows())
    assert all(data.info.classes[labels[row[1]]] == row[2] for row in rows)
    assert set(data.samples["site"]) == {"vidir_modern", "rosendahl", "vidir_molemax", "vienna_dias"}
    assert data.info.notes[0].startswith("84 images of 42 lesions. Patients are not published")


def test_zip_files_and_the_converted_table_give_the_same(source, tmp_path):
    root, rows = source
    one = load(root, tmp_path).revision
    for part in ("HAM10000_images_part_1", "HAM10000_images_part_2"):
        shutil.make_archive(str(root / part), "zip", root / part)
        shutil.rmtree(root / part)
    (root / "HAM10000_metadata.csv").unlink()
    write_table(root / "HAM10000_metadata.tab", HAM_HEADER, rows, delimiter="\t")
    assert load(root, tmp_path).revision == one


def test_a_table_without_the_column_dataset_has_no_sites(source, tmp_path):
    root, rows = source
    write_table(root / "HAM10000_metadata.csv", HAM_HEADER[:-1], [row[:-1] for row in rows])
    assert load(root, tmp_path).samples["site"].null_count() == 84


def test_bad_rows_are_named_by_their_lines(source, tmp_path):
    root, rows = source
    (root / "HAM10000_images_part_1" / f"{rows[0][1]}.jpg").unlink()
    (root / "HAM10000_images_part_2" / f"{rows[1][1]}.jpg").write_bytes(b"no image")
    rows[2] = [*rows[2][:2], "mole", *rows[2][3:]]
    rows[3] = ["", *rows[3][1:]]
    rows += [[*rows[10][:2], "nv" if rows[10][2] != "nv" else "mel", *rows[10][3:]], rows[11]]
    write_table(root / "HAM10000_metadata.csv", HAM_HEADER, rows)
    with pytest.raises(BadRowsError) as caught:
        load(root, tmp_path)
    assert caught.value.problems == (
        f"line 2: {rows[0][1]}.jpg: the image is missing",
        next(p for p in caught.value.problems if p.startswith("line 3: ISIC_0024307.jpg: the image cannot")),
        f"line 4: {rows[2][1]} has dx 'mole'; the diagnoses are: akiec, bcc, bkl, df, mel, nv, vasc",
        f"line 5: {rows[3][1]} has no lesion_id",
        f"line 86: {rows[10][1]} is also on line 12, with another dx",
    )


def test_a_repeated_row_is_said(source, tmp_path):
    root, rows = source
    write_table(root / "HAM10000_metadata.csv", HAM_HEADER, [*rows, rows[5]])
    assert "1 rows of HAM10000_metadata.csv repeat" in load(root, tmp_path).info.notes[1]


def test_copies_of_a_folder_are_one_image_and_others_of_its_name_are_not(source, tmp_path):
    root, rows = source
    one = load(root, tmp_path).revision
    shutil.copytree(root / "HAM10000_images_part_1", root / "ham10000_images_part_1")
    assert load(root, tmp_path).revision == one
    write_image(root / f"{rows[0][1]}.jpg", noise(99, 30, 40))
    with pytest.raises(DataError, match="are two images of one name; remove one of them"):
        load(root, tmp_path)


def test_what_is_missing_is_named(source, tmp_path):
    root, _ = source
    shutil.rmtree(root / "HAM10000_images_part_1")
    shutil.rmtree(root / "HAM10000_images_part_2")
    with pytest.raises(DataError, match="has no images: put HAM10000_images_part_1"):
        load(root, tmp_path)
    (root / "HAM10000_metadata.csv").unlink()
    with pytest.raises(DataError, match=r"HAM10000_metadata\.csv is missing; .*ham has: nothing"):
        load(root, tmp_path)
    with pytest.raises(DataError, match="is not a folder; source ham10000 needs"):
        load(root / "gone", tmp_path)


def test_colours_are_kept(source, tmp_path):
    root, rows = source
    write_image(
        root / "HAM10000_images_part_1" / f"{rows[0][1]}.jpg", np.full((12, 12, 3), [200, 30, 90], np.uint8)
    )
    data = load(root, tmp_path)
    first = data.read(np.array([0]))[0].reshape(3, -1).mean(axis=1)
    assert first == pytest.approx([200, 30, 90], abs=3)
