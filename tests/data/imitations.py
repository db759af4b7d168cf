"""Tiny imitations of published datasets: their files, folders, tables and names, with noise for images."""

import csv
import json

import numpy as np
from PIL import Image

from ttl.data.sources.chexpert import OBSERVATIONS


def noise(number, height=12, width=16, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(number)
    shape = (height, width, channels) if channels == 3 else (height, width)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def write_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_table(path, header, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)


HAM_HEADER = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset"]
HAM_SOURCES = ("vidir_modern", "rosendahl", "vidir_molemax", "vienna_dias")


def ham10000(root, *, lesions=42):
    """Lesions of each diagnosis in turn, of 1 to 3 images, in the two folders of the download."""
    diagnoses = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    rows = []
    for lesion in range(lesions):
        for _ in range(1 + lesion % 3):
            number = len(rows)
            name = f"ISIC_{24306 + number:07d}"
            write_image(root / f"HAM10000_images_part_{1 + number % 2}" / f"{name}.jpg", noise(number))
            dx, site = diagnoses[lesion % 7], HAM_SOURCES[lesion % 4]
            rows.append([f"HAM_{lesion:07d}", name, dx, "histo", "80.0", "male", "scalp", site])
    write_table(root / "HAM10000_metadata.csv", HAM_HEADER, rows)
    return rows


CHEXPERT_HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS]


def chexpert_row(path, number, marks):
    view = ["Frontal", "AP"] if "frontal" in path else ["Lateral", ""]
    return [path, "Female", 40 + number % 50, *view, *marks]


def chexpert(root, *, patients=60, valid=12):
    """Patients with a frontal and, every second of them, a lateral film; each label 1, 0, −1 or blank."""
    for folder, first, count in (("train", 1, patients), ("valid", 64541, valid)):
        rows = []
        for number in range(first, first + count):
            for view in ["view1_frontal", "view2_lateral"][: 1 + number % 2]:
                name = f"{folder}/patient{number:05d}/study1/{view}.jpg"
                write_image(root / name, noise(number * 2 + len(view), channels=1))
                written = ("1.0", "0.0", "", "-1.0") if folder == "train" else ("1.0", "0.0")
                marks = [written[(number + i) % len(written)] for i in range(len(OBSERVATIONS))]
                rows.append(chexpert_row(f"CheXpert-v1.0-small/{name}", number, marks))
        write_table(root / f"{folder}.csv", CHEXPERT_HEADER, rows)


def dicom_json(tag_values):
    return {tag: {"vr": "US", "Value": list(values)} for tag, values in tag_values.items()}


def bimcv_film(root, folder, subject, session, view="_vp-ap", pixels=None, tags=None):
    stem = f"sub-S{subject:05d}_ses-E{session:05d}_run-1_bp-chest{view}_dx"
    path = root / folder / f"sub-S{subject:05d}" / f"ses-E{session:05d}" / "mod-rx" / f"{stem}.png"
    write_image(path, noise(session, channels=1, dtype=np.uint16) if pixels is None else pixels)
    given = {"00280004": ["MONOCHROME2"], "00281050": [2048], "00281051": [4096], "00080020": ["20200331"]}
    path.with_suffix(".json").write_text(json.dumps(dicom_json(given if tags is None else tags)))
    return path


def bimcv(root, *, subjects=16):
    """Subjects of both collections, each with two sessions of a frontal and a lateral film."""
    for folder, first in (("covid19_posi", 3000), ("covid19_neg", 9000)):
        for subject in range(first, first + subjects):
            for session in (2 * subject, 2 * subject + 1):
                bimcv_film(root, folder, subject, session)
                bimcv_film(root, folder, subject, session, view="_vp-ll")


MIDOG_CATEGORIES = [{"id": 1, "name": "mitotic figure"}, {"id": 2, "name": "not mitotic figure"}]


def midog(root, *, cases=12, width=160, height=120, ending="tiff", **saving):
    """Cases with three figures each, the last case without any; boxes by two corners, of side 50."""
    root.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for case in range(1, cases + 2):
        name = f"{case:03d}.{ending}"
        Image.fromarray(noise(case, height, width)).save(root / name, **saving)
        images.append({"license": 1, "file_name": name, "id": case, "width": width, "height": height})
        for left, top in ((-20, 10), (55.5, 30), (125, 85)) if case <= cases else ():
            box = [left, top, left + 50, top + 50]
            number = len(annotations) + 1
            annotations.append(
                {"bbox": box, "category_id": 1 + number % 2, "image_id": case, "labels": [1], "id": number}
            )
    content = {
        "info": {"description": "MItosis Domain Generalization Challenge (MIDOG) 2022 - Training set"},
        "licenses": [{"url": "", "id": 1, "name": "Attribution-NonCommercial-NoDerivs License"}],
        "images": images,
        "categories": MIDOG_CATEGORIES,
        "annotations": annotations,
    }
    (root / "MIDOG2022_training.json").write_text(json.dumps(content))
    return content


def radfusion(root, *, studies=18, slices=9, side=20):
    """Studies in the folders 0 to 7, in Hounsfield units, with their table; half of them positive."""
    rows = []
    for study in range(studies):
        folder = root / str(study % 8)
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(study)
        np.save(
            folder / f"{study}.npy", rng.integers(-1024, 1500, (slices + study, side, side), dtype=np.int16)
        )
        split = ("train", "val", "test")[study // 2 % 3]
        rows.append([study, study, study % 2, "central" if study % 2 else "", split])
    write_table(root / "Labels.csv", ["", "idx", "label", "pe_type", "split"], rows)
    return rows
