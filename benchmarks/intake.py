"""Slices a second and peak memory of checking a drop.

    python -m benchmarks.intake [--slices 600 1200] [--workers 2]

Writes CT-like slices (512×512, 16 bits, not compressed) of four a patient to a temporary folder, and checks
them. The memory is the sum of the processes' own (USS), at its peak.
"""

import argparse
import hashlib
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ttl.data.sources.phantom import draw_anatomy, draw_film
from ttl.intake.check import check_drop, summary
from ttl.intake.drop import open_drop
from ttl.intake.identity import Pseudonyms
from ttl.intake.similar import Known
from ttl.intake.spec import IntakeSpec

SIDE = 512
SPEC = IntakeSpec(incoming="", classes=("normal", "finding"), size=224)


def write_drop(folder: Path, slices: int) -> None:
    """Write a drop of so many slices: a section of a body in air, each with grain of its own."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    body = (x / 0.85) ** 2 + (y / 0.65) ** 2 < 1
    manifest, labels = ["path,sha256,size"], ["image,label"]
    for number in range(slices):
        patient = number // 4
        if number % 4 == 0:
            film = draw_film(draw_anatomy(rng), patient, 0.0, SIDE, rng).astype(np.int16) * 8
        grain = rng.normal(0, 30, film.shape)
        values = np.clip(np.where(body, film, 0) + grain, 0, 2047).astype(np.int16)
        name = f"{number:05d}.dcm"
        path = folder / name
        make_slice(values, f"P{patient:05d}").save_as(path, enforce_file_format=True)
        data = path.read_bytes()
        manifest.append(f"{name},{hashlib.sha256(data).hexdigest()},{len(data)}")
        labels.append(f"{name},{SPEC.classes[patient % 2]}")
    (folder / "labels.csv").write_text("\n".join(labels))
    (folder / "MANIFEST.csv").write_text("\n".join(manifest))


def make_slice(values: np.ndarray, patient: str) -> pydicom.Dataset:
    """Return a de-identified CT slice with the attributes that scanners usually write."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.PatientID = dataset.PatientName = patient
    dataset.PatientIdentityRemoved = "YES"
    method = pydicom.Dataset()
    method.CodeValue, method.CodingSchemeDesignator = "113107", "DCM"
    dataset.DeidentificationMethodCodeSequence = [method]
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20240102"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, keyword, generate_uid())
    for number in range(80):
        dataset.add_new((0x0019, 0x1001 + number), "LO", f"private {number}")
    dataset.add_new((0x0019, 0x0010), "LO", "SCANNER")
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    dataset.WindowCenter, dataset.WindowWidth = ["0", "-600"], ["2000", "1500"]
    dataset.PixelData = values.tobytes()
    return dataset


class Watch:
    """Adds up this process's and its children's memory, while it runs."""

    def __init__(self) -> None:
        self.peak, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self.done.wait(0.2):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_full_info().uss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


def measure(slices: int, workers: int) -> dict[str, float]:
    """Check a drop of so many slices, and return what it took; the rate leaves out the first chunks."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "site" / "drop"
        place.mkdir(parents=True)
        write_drop(place, slices)
        drop, known, verdicts, began = open_drop(str(place)), Known.of(None), [], time.perf_counter()
        cpu = psutil.cpu_times()
        own = _cpu()
        with Watch() as watch:
            for checked in check_drop(drop, SPEC, known, Pseudonyms(b"k" * 32), workers=workers):
                verdicts.append(checked.verdict)
                if len(verdicts) == 64:
                    warm = time.perf_counter()
        ended, used = time.perf_counter(), psutil.cpu_times()
        busy = sum(getattr(used, kind) - getattr(cpu, kind) for kind in ("user", "system"))
    print(slices, summary(verdicts))
    return {
        "slices": slices,
        "a second": (slices - 64) / (ended - warm),
        "a second, start included": slices / (ended - began),
        "CPU ms a slice": 1000 * (_cpu() - own) / slices,
        "machine busy, cores": busy / (ended - began),
        "peak MB": watch.peak / 1e6,
    }


def _cpu() -> float:
    """Return seconds of CPU that this process, and children that have ended, took."""
    times = psutil.Process().cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    """Measure, and print a line for each size of drop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slices", type=int, nargs="+", default=[600, 1200])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    for slices in options.slices:
        print({name: round(value, 1) for name, value in measure(slices, options.workers).items()})


if __name__ == "__main__":
    main()
