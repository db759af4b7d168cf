"""Source `ham10000`: dermatoscopic images of seven kinds of pigmented skin lesions.

Tschandl, Rosendahl and Kittler, "The HAM10000 dataset", Scientific Data 5:180161 (2018),
https://doi.org/10.1038/sdata.2018.161; the files are at https://doi.org/10.7910/DVN/DBW86T.
"""

import contextlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ttl.data.fields import settle_types
from ttl.data.images import Fit, read_image
from ttl.data.sources.archive import Read, input_folder, open_zip, read_entry, read_text
from ttl.data.sources.base import Contents, Request, Sample, Source
from ttl.data.sources.entries import Entry, read_entries
from ttl.data.sources.table import Record, Records, read_records, repeated_notes
from ttl.errors import DataError

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")
"""The table's name at Kaggle, and at Harvard Dataverse in its original and its converted form."""

DEFAULT_SIZE = 224
LICENCE = "CC BY-NC 4.0 (the terms at doi.org/10.7910/DVN/DBW86T decide)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ham10000Options:
    """`fit` brings the images, of 600×450 pixels, to the square."""

    fit: Fit = "pad"

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        settle_types(self, where="options")


def open_ham10000(request: Request) -> Contents:
    """Open the folder `input`: the table, and the images in it, in folders of it, or in zip files of it.

    Raises `DataError` for a table or column that is missing, or where no image is there.
    """
    options: Ham10000Options = request.options
    root = input_folder(request, "ham10000")
    table = next((root / name for name in TABLES if (root / name).is_file()), root / TABLES[0])
    records = _read(table)
    size, channels = request.size or DEFAULT_SIZE, request.channels or 3
    lesions = len({row.values["lesion_id"] for row in records.rows})
    return Contents(
        task="multiclass",
        classes=CLASSES,
        shape=(channels, size, size),
        licence=LICENCE,
        source="HAM10000 (Tschandl et al., Scientific Data 2018), https://doi.org/10.7910/DVN/DBW86T",
        samples=_samples(root, table, records, options.fit, channels=channels, size=size),
        notes=(
            f"{len(records.rows)} images of {lesions} lesions. Patients are not published, so lesions stand "
            "for them: images of a lesion are on one side, two lesions of a patient may be on two.",
            *repeated_notes(records.repeated, table.name),
        ),
        fit=options.fit,
    )


def _read(table: Path) -> Records:
    text = read_text(table)
    return read_records(
        text,
        str(table),
        key="image_id",
        required=("lesion_id", "dx"),
        once=("dataset",),
        delimiter="\t" if "\t" in text.partition("\n")[0] else ",",
    )


def _samples(
    root: Path, table: Path, records: Records, fit: Fit, *, channels: int, size: int
) -> Iterator[Sample]:
    def entry(row: Record) -> Entry:
        name, problem = row.values.get("image_id", ""), row.problem
        if problem is None:
            problem = _problem(row.values, name)
        return Entry(
            place=f"line {row.line}",
            sample_id=name,
            label=CLASSES.index(row.values["dx"]) if problem is None else -1,
            load=lambda: read_image(
                read(name), name=f"{name}.jpg", channels=channels, size=(size, size), fit=fit
            ),
            patient_id=row.values.get("lesion_id"),
            site=row.values.get("dataset") or None,
            problem=problem,
        )

    with _images(root) as read:
        yield from read_entries(map(entry, records.rows), str(table))


def _problem(values: dict[str, str], name: str) -> str | None:
    if not values["lesion_id"]:
        return f"{name} has no lesion_id"
    if values["dx"] not in CLASSES:
        return f"{name} has dx {values['dx']!r}; the diagnoses are: {', '.join(CLASSES)}"
    return None


@contextlib.contextmanager
def _images(root: Path) -> Iterator[Read]:
    """Give what reads an image by its id. Copies of a file, as at Kaggle, must be of one length."""
    files: dict[str, Path] = {}
    for path in sorted([*root.glob("*.jpg"), *root.glob("*/*.jpg")]):
        first = files.setdefault(path.stem, path)
        if first is not path and first.stat().st_size != path.stat().st_size:
            raise DataError(f"{first} and {path} are two images of one name; remove one of them")
    with contextlib.ExitStack() as stack:
        zipped: dict[str, tuple[zipfile.ZipFile, str]] = {}
        for path in sorted(root.glob("*.zip")):
            archive = stack.enter_context(open_zip(path))
            for entry in archive.namelist():
                name = PurePosixPath(entry)
                if name.suffix == ".jpg" and not name.name.startswith("."):
                    zipped.setdefault(name.stem, (archive, entry))
        if not files and not zipped:
            raise DataError(
                f"{root} has no images: put HAM10000_images_part_1 and _part_2 there, as folders or zip files"
            )

        def read(name: str) -> Path | bytes:
            if name in files:
                return files[name]
            if name in zipped:
                return read_entry(*zipped[name])
            raise DataError(f"{name}.jpg: the image is missing")

        yield read


SOURCE = Source(title="HAM10000 skin lesions, as published", options=Ham10000Options, open=open_ham10000)
