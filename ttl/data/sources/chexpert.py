"""Source `chexpert`: chest radiographs with 14 observations from their reports, some of them uncertain.

Irvin et al., "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison", AAAI
2019, https://arxiv.org/abs/1901.07031.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from ttl.data.fields import settle_types
from ttl.data.images import Fit, read_image
from ttl.data.labels import ABSENT, NOT_KNOWN, Policy, read_label
from ttl.data.sources.archive import input_folder, read_text
from ttl.data.sources.base import Contents, Request, Sample, Source
from ttl.data.sources.entries import Entry, read_entries
from ttl.data.sources.table import BadRowsError, Record, Records, points_outside, read_records, repeated_notes
from ttl.errors import DataError, ParamsError

OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The columns of labels, in the order of the published tables."""

VIEW = "Frontal/Lateral"
PATIENT = re.compile(r"patient\d+")
DEFAULT_SIZE = 224
LICENCE = "Stanford University School of Medicine CheXpert Dataset Research Use Agreement"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChexpertOptions:
    """What is made of the published labels and split.

    `uncertain` is what becomes of −1 (`ttl.data.labels`), `blank` of what a report does not mention.
    `validation` is the share of the training patients who validate. `views` are the images taken, `labels`
    the observations. `fit` brings the images to the square.
    """

    uncertain: Policy = "ignore"
    blank: Literal["absent", "not known"] = "absent"
    validation: float = 0.1
    views: Literal["all", "frontal", "lateral"] = "all"
    labels: tuple[str, ...] = OBSERVATIONS
    fit: Fit = "pad"

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        settle_types(self, where="options")
        if not 0 < self.validation < 1:
            raise ParamsError(f"options.validation is {self.validation}; it must be between 0 and 1")
        if unknown := [name for name in self.labels if name not in OBSERVATIONS]:
            raise ParamsError(
                f"options.labels has {unknown[0]!r}; the observations are: {', '.join(OBSERVATIONS)}"
            )
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ParamsError("options.labels must name at least two observations, each once")


def open_chexpert(request: Request) -> Contents:
    """Open the folder `input`, which holds `train.csv`, `valid.csv` and the folders `train` and `valid`.

    Raises `DataError` for a table or column that is missing, or where none of a table's images is there.
    """
    options: ChexpertOptions = request.options
    root = input_folder(request, "chexpert")
    tables = {name: _read(root, name, options) for name in ("train", "valid")}
    size, channels = request.size or DEFAULT_SIZE, request.channels or 1
    read = len(tables["valid"].rows)
    notes = [
        f"The published validation set ({read} images, read by three radiologists) is the test "
        f"split; {options.validation:.0%} of the patients of train.csv validate, drawn by their names. The "
        "labels of training and validation come from reports, by a labeller.",
        f"What a report does not mention (a blank) counts as {options.blank}.",
    ]
    if options.views != "all":
        notes.append(f"Only the {options.views} images are taken.")
    for name, records in tables.items():
        notes += repeated_notes(records.repeated, f"{name}.csv")
    return Contents(
        task="multilabel",
        classes=options.labels,
        shape=(channels, size, size),
        licence=LICENCE,
        source="CheXpert (Irvin et al., AAAI 2019), https://stanfordmlgroup.github.io/competitions/chexpert/",
        samples=_samples(root, tables, options, seed=request.seed, channels=channels, size=size),
        given_split=True,
        notes=tuple(notes),
        fit=options.fit,
        uncertain=options.uncertain,
    )


def _read(root: Path, name: str, options: ChexpertOptions) -> Records:
    """Return the rows of a table that are wanted."""
    table = root / f"{name}.csv"
    required = options.labels if options.views == "all" else (*options.labels, VIEW)
    records = read_records(read_text(table), str(table), key="Path", required=required)
    rows = records.rows
    if options.views != "all":
        rows = tuple(row for row in rows if row.problem or row.values[VIEW].lower() == options.views)
        if not rows:
            raise DataError(f"{table} has no image whose {VIEW} is {options.views}")
    paths = [root / _inside(row.values["Path"]) for row in rows if row.problem is None]
    if paths and not any(path.is_file() for path in paths):
        raise DataError(
            f"{table}: none of its {len(paths)} images is there; the first would be {paths[0]}. The input is "
            f"the folder that holds {name}.csv and the folder {name}"
        )
    return Records(columns=records.columns, rows=rows, repeated=records.repeated)


def _inside(path: str) -> str:
    """Return a published path from the folder of the tables: they begin with the download's own name."""
    parts = PurePosixPath(path).parts
    return str(PurePosixPath(*(parts[1:] if parts and parts[0].startswith("CheXpert") else parts)))


def _samples(
    root: Path, tables: dict[str, Records], options: ChexpertOptions, *, seed: int, channels: int, size: int
) -> Iterator[Sample]:
    def entry(row: Record, side: str) -> Entry:
        name, problem = _inside(row.values.get("Path", "")), row.problem
        label: tuple[int, ...] = ()
        if problem is None:
            try:
                label = _labels(row.values, options)
            except DataError as error:
                problem = f"{name}: {error}"
        if problem is None and points_outside(name):
            problem = f"{name} points outside the folder of images"
        patient = PATIENT.search(name)
        if problem is None and patient is None:
            problem = f"{name} names no patient; its path should have a part such as patient00001"
        return Entry(
            place=f"line {row.line}",
            sample_id=name,
            label=label,
            load=lambda: read_image(
                root / name, name=name, channels=channels, size=(size, size), fit=options.fit
            ),
            patient_id=patient[0] if patient else None,
            split=_side(patient[0], side, options, seed) if patient else None,
            problem=problem,
        )

    problems: list[str] = []
    for name, records in tables.items():
        try:
            yield from read_entries((entry(row, name) for row in records.rows), str(root / f"{name}.csv"))
        except BadRowsError as error:
            problems += [f"{name}.csv, {problem}" for problem in error.problems]
    if problems:
        raise BadRowsError(str(root), problems)


def _labels(values: dict[str, str], options: ChexpertOptions) -> tuple[int, ...]:
    """Return a row's labels. Raises `DataError` naming a cell that is none."""
    blank = ABSENT if options.blank == "absent" else NOT_KNOWN
    labels = []
    for name in options.labels:
        try:
            labels.append(read_label(values[name]) if values[name] else blank)
        except DataError as error:
            raise DataError(f"{name} {error}") from error
    return tuple(labels)


def _side(patient: str, table: str, options: ChexpertOptions, seed: int) -> str:
    """Return the split of a patient, of the training ones by a hash: it does not depend on the others."""
    if table == "valid":
        return "test"
    digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()
    return "val" if int.from_bytes(digest[:8]) < options.validation * 2**64 else "train"


SOURCE = Source(title="CheXpert chest radiographs, as published", options=ChexpertOptions, open=open_chexpert)
