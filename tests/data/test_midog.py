"""MIDOG 2022 as published: patches around annotations, mapped from the file or decoded, cases together."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.data.imitations import midog, noise
from ttl.data.prepare import prepare
from ttl.data.sources.regions import open_regions
from ttl.data.sources.table import BadRowsError
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError, ParamsError


def load(root, tmp_path, size=None, **options):
    spec = DatasetSpec(source="midog", input=str(root), size=size, options={"patch": 32, **options})
    return prepare("midog", spec, tmp_path / "packed")


def change(root, **changes):
    path = root / "MIDOG2022_training.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_patches_are_of_their_cases_and_around_their_boxes(tmp_path):
    midog(tmp_path / "m")
    data = load(tmp_path / "m", tmp_path)
    assert data.info.classes == ("hard negative", "mitotic figure")
    assert data.info.shape == (3, 32, 32)
    assert data.info.licence == "Attribution-NonCommercial-NoDerivs License"
    assert data.samples["sample_id"].to_list()[:4] == ["001-1", "001-2", "001-3", "002-4"]
    # Category 1 is the mitotic figure; the imitation's annotations are of 2 and 1 in turn.
    assert data.samples["label"].to_list()[:4] == [0, 1, 0, 1]
    for _, patches in data.samples.group_by("patient_id"):
        assert len(patches) == 3
        assert patches["split"].n_unique() == 1
    assert set(data.samples["site"]) == {"human breast cancer, Hamamatsu XR"}
    assert data.info.notes[0].startswith("36 patches of 12 cases, which are kept together; 1 cases without")
    case = noise(1, 120, 160).transpose(2, 0, 1)
    pixels = data.read(np.arange(3))
    assert np.array_equal(pixels[0], case[:, 19:51, 0:32])  # its centre is (5, 35): moved inside
    assert np.array_equal(pixels[1], case[:, 39:71, 64:96])  # (80.5, 55); half a pixel is rounded to even
    assert np.array_equal(pixels[2], case[:, 88:120, 128:160])  # (150, 110): moved inside


@pytest.mark.parametrize(
    ("ending", "saving", "mapped"),
    [
        ("tiff", {}, True),
        ("tiff", {"compression": "tiff_lzw"}, False),
        ("png", {}, False),
    ],
)
def test_every_kind_of_file_gives_the_same_patches(tmp_path, ending, saving, mapped):
    one = tmp_path / "one"
    midog(one)
    other = tmp_path / "other"
    midog(other, ending=ending, **saving)
    regions = open_regions(other / f"001.{ending}")
    assert regions.extent == (160, 120)
    assert regions.mapped == mapped
    assert np.array_equal(regions.cut(3, 5, 8), noise(1, 120, 160)[5:13, 3:11])
    assert load(one, tmp_path).revision == load(other, tmp_path).revision


def test_patches_are_brought_to_the_size_wanted(tmp_path):
    midog(tmp_path / "m")
    data = load(tmp_path / "m", tmp_path, size=16)
    assert data.info.shape == (3, 16, 16)
    whole = Image.fromarray(noise(1, 120, 160)[88:120, 128:160]).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(data.read(np.array([2]))[0], np.asarray(whole).transpose(2, 0, 1))


def test_a_files_own_domain_comes_before_the_list(tmp_path):
    content = midog(tmp_path / "m")
    images = [{**image, "tumor_type": "canine lymphoma", "scanner": "X"} for image in content["images"]]
    change(tmp_path / "m", images=images)
    assert set(load(tmp_path / "m", tmp_path).samples["site"]) == {"canine lymphoma, X"}


BAD_ANNOTATIONS = {
    "size": ({"bbox": [55, 30, 50, 50]}, r"annotation 1: its bbox .* is not \[left, top, right, bottom\]"),
    "outside": ({"bbox": [500, 30, 550, 80]}, r"annotation 1: its bbox .* outside of its image of 160×120"),
    "image": ({"image_id": 77}, "annotation 1: its image_id 77 is none of the images"),
    "category": ({"category_id": 3}, "annotation 1: its category_id 3 is none of the categories"),
    "twice": ({"id": 2}, "annotation 2: it is there twice, with different content"),
    "bare": ({"bbox": None}, "is not as MIDOG publishes it"),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_a_bad_annotation_is_named(tmp_path, case):
    changed, said = BAD_ANNOTATIONS[case]
    content = midog(tmp_path / "m")
    first, *others = content["annotations"]
    change(tmp_path / "m", annotations=[{**first, **changed}, *others])
    with pytest.raises(DataError, match=said):
        load(tmp_path / "m", tmp_path)


def test_bad_images_are_named(tmp_path):
    root = tmp_path / "m"
    midog(root)
    (root / "001.tiff").unlink()
    (root / "002.tiff").write_bytes(b"no image")
    Image.fromarray(noise(3, 100, 100)).save(root / "003.tiff")
    (root / "004.tiff").write_bytes((root / "004.tiff").read_bytes()[:5000])
    with pytest.raises(BadRowsError) as caught:
        load(root, tmp_path)
    said = "\n".join(caught.value.problems)
    assert "001.tiff: the image is missing" in said
    assert "002.tiff: the image cannot be read" in said
    assert "003.tiff has 100×100 pixels; the annotations are of 160×120" in said
    assert "004.tiff" in said
    with pytest.raises(BadRowsError, match="is smaller than a patch of 128 pixels"):
        load(root, tmp_path, patch=128)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"info": {"description": "MIDOG++: A Data Set"}},
            r"is of MIDOG\+\+, which numbers its cases otherwise",
        ),
        ({"categories": [{"id": 1, "name": "cell"}]}, "has a category 'cell'; known are: hard negative"),
        ({"annotations": []}, "has no annotations"),
        ({"images": None}, "has no list 'images'"),
    ],
)
def test_another_annotation_file_is_refused(tmp_path, changes, said):
    midog(tmp_path / "m")
    change(tmp_path / "m", **changes)
    with pytest.raises(DataError, match=said):
        load(tmp_path / "m", tmp_path)


def test_what_is_missing_is_named(tmp_path):
    midog(tmp_path / "m")
    with pytest.raises(DataError, match=r"truth\.json is missing; .*m has: 001\.tiff"):
        load(tmp_path / "m", tmp_path, annotations="truth.json")
    with pytest.raises(ParamsError, match=r"options\.patch is 4; it must be from 8"):
        load(tmp_path / "m", tmp_path, patch=4)
    with pytest.raises(ParamsError, match=r"options\.images is '\.\./x'; it must be a path within"):
        load(tmp_path / "m", tmp_path, images="../x")
