"""A simulated hospital: drops of synthetic films as a site would deliver them, and what can be wrong there.

The films are the phantom's (`ttl.data.sources.phantom`), the files are real: CR or DX images in explicit
little endian, 16 bits deep, de-identified after DICOM PS3.15. A drop is determined by site, name, day and
seed; a patient's anatomy by the pseudonym and the seed. A file with something planted in it says so in its
name: `films/0007.checksum.dcm`.
"""

import csv
import datetime
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pydicom

from ttl.data.sources.phantom import PhantomOptions
from ttl.errors import DataError, ParamsError
from ttl.intake.phantom_faults import FAULTS, FAULTS_BY_NAME, PLANTED, Draft, expected
from ttl.intake.phantom_film import OTHER_MACHINE, Clinic, Film, encode, machine_of

__all__ = ["FAULTS", "PLANTED", "SHIFTS", "expected", "planted", "write_drop"]

SHIFTS = ("scanner",)
FILMS, LABELS, MANIFEST = "films", "labels.csv", "MANIFEST.csv"


def write_drop(
    incoming: Path,
    *,
    site: str,
    drop: str,
    patients: int,
    date: datetime.date,
    seed: int = 0,
    size: int = 64,
    shift: str | None = None,
    faults: Sequence[str] = (),
    known_patients: Sequence[str] = (),
    prevalence: float = 0.6,
    strength: float = 1.0,
) -> Path:
    """Write the drop `incoming/<site>/<drop>`, its manifest last of all and in one step; return its folder.

    Each of `patients` has one to three films, square, of side `size`. `shift` is `scanner` for a machine that
    no site had. `faults` are of `FAULTS`; `leak` delivers a film of each of `known_patients`, by default of
    all patients in the site's first drop that lies in `incoming`.
    Raises `ParamsError` for a value that makes no drop, and `DataError` for one that is there already.
    """
    options = PhantomOptions(patients=patients, prevalence=prevalence, strength=strength)
    _check(site, drop, size, shift, faults)
    folder = incoming / site / drop
    if folder.exists():
        raise DataError(f"{folder} is there already; give the drop another name")
    clinic = Clinic(
        site=site,
        drop=drop,
        date=date,
        seed=seed,
        size=size,
        strength=options.strength,
        machine=OTHER_MACHINE if shift else machine_of(site),
    )
    known = tuple(known_patients) or (_first_patients(incoming / site) if "leak" in faults else ())
    draft = Draft(clinic, _draw(clinic, options), known)
    for fault in faults:
        FAULTS_BY_NAME[fault].plant(draft)
    _write(draft.films, folder, whole=draft.whole)
    return folder


def planted(folder: Path) -> dict[str, str]:
    """Return the files of a drop that have something planted in them, there or not: path and fault."""
    paths = {path.relative_to(folder).as_posix() for path in folder.glob(f"{FILMS}/*")}
    if (folder / MANIFEST).is_file():
        with (folder / MANIFEST).open(encoding="utf-8", newline="") as file:
            paths |= {row["path"] for row in csv.DictReader(file)}
    return {path: path.split(".")[1] for path in sorted(paths) if path.count(".") == 2}


def _draw(clinic: Clinic, options: PhantomOptions) -> list[Film]:
    rng = clinic.stream("patients")
    films: list[Film] = []
    for place in range(options.patients):
        count = int(rng.integers(1, 4))
        # As in the phantom: an ill patient's first film may lie before the onset.
        onset = int(rng.integers(0, 2)) if rng.random() < options.prevalence else count
        for visit in range(count):
            films.append(clinic.draw(clinic.patient(place), len(films), ill=visit >= onset))
    return films


def _write(films: Sequence[Film], folder: Path, *, whole: bool) -> None:
    (folder / FILMS).mkdir(parents=True)
    listed: list[tuple[str, str, int]] = []
    labels: list[tuple[str, str, str]] = []
    for number, film in enumerate(films, 1):
        path = f"{FILMS}/{number:04d}{'.' * bool(film.fault)}{film.fault}.dcm"
        content = film.damage(encode(film))
        if film.listed:
            listed.append(_entry(path, content))
        if film.label is not None:
            labels.append((path, film.label, film.day.isoformat()))
        there = film.tamper(content)
        if there is not None:
            (folder / path).write_bytes(there)
    table = _csv(("image", "label", "acquired_at"), labels)
    (folder / LABELS).write_bytes(table)
    listed.append(_entry(LABELS, table))
    if whole:
        aside = folder / f".{MANIFEST}"
        aside.write_bytes(_csv(("path", "sha256", "size"), listed))
        aside.rename(folder / MANIFEST)


def _entry(path: str, content: bytes) -> tuple[str, str, int]:
    return path, hashlib.sha256(content).hexdigest(), len(content)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _first_patients(site: Path) -> tuple[str, ...]:
    """Return the pseudonyms of all patients in a site's first drop, in order."""
    first = min((path for path in site.glob("*") if path.is_dir()), default=None)
    if first is None:
        return ()
    # Not those of files with something planted in them, of which some cannot be read.
    files = sorted(path for path in first.glob(f"{FILMS}/*.dcm") if path.name.count(".") == 1)
    found = [pydicom.dcmread(path, stop_before_pixels=True).PatientID for path in files]
    return tuple(dict.fromkeys(map(str, found)))


def _check(site: str, drop: str, size: int, shift: str | None, faults: Sequence[str]) -> None:
    for what, name in (("site", site), ("drop", drop)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", name):
            raise ParamsError(
                f"{what} is {name!r}; give letters, digits, - and _, at most 32, the first not - or _"
            )
    if not 16 <= size <= 4096:
        raise ParamsError(f"size is {size}; films are from 16 to 4096 pixels wide")
    if shift is not None and shift not in SHIFTS:
        raise ParamsError(f"shift is {shift!r}; it must be one of: {', '.join(SHIFTS)}")
    for fault in faults:
        if fault not in FAULTS_BY_NAME:
            raise ParamsError(f"no fault is called {fault!r}; there are: {', '.join(FAULTS)}")
