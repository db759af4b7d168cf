"""What tests of the intake share: DICOM files, and drops of them."""

import csv
import errno
import hashlib
import io
import os

import fsspec
import numpy as np
import pydicom
from fsspec.implementations.local import LocalFileSystem
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ttl.intake.identity import Pseudonyms
from ttl.intake.spec import IntakeSpec

SPEC = IntakeSpec(incoming="incoming", classes=("normal", "finding"), size=64)
PSEUDONYMS = Pseudonyms(bytes(range(32)))


def film(seed, side=96):
    """Give smooth values, uint16 [side, side] up to 4095, of another patient for another seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    waves = sum(
        np.sin(2 * np.pi * (a * x + b * y) + c)
        for a, b, c in zip(rng.normal(0, 2, 8), rng.normal(0, 2, 8), rng.uniform(0, 6, 8), strict=True)
    )
    waves = waves + rng.normal(0, 0.05, waves.shape)
    return (3000 * (waves - waves.min()) / np.ptp(waves) + 500).astype(np.uint16)


def dataset(values=None, *, patient="P0001", **changes):
    """Give a de-identified CT slice; of `changes`, None removes an attribute."""
    values = film(0) if values is None else values
    bits = values.dtype.itemsize * 8
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.PatientID = made.PatientName = patient
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethodCodeSequence = [code("113100"), code("113107")]
    made.Modality, made.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.AcquisitionDate, made.StudyDate = "20240305", "20240301"
    made.Rows, made.Columns = values.shape[:2]
    made.SamplesPerPixel = 3 if values.ndim == 3 else 1
    if values.ndim == 3:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    made.PixelData = np.ascontiguousarray(values).tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def code(value):
    """Give an item of DeidentificationMethodCodeSequence."""
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", "an option"
    return item


def as_bytes(made):
    """Give a data set's file."""
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def write_drop(folder, files, labels, *, columns=("image", "label"), listed=None):
    """Write a drop: content by path, rows of labels, and a manifest of `listed`, by default of all files."""
    folder.mkdir(parents=True)
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    write_csv(folder / "labels.csv", columns, labels)
    rows = [(path, hashlib.sha256(files[path]).hexdigest(), len(files[path])) for path in listed or files]
    write_csv(folder / "MANIFEST.csv", ("path", "sha256", "size"), rows)
    return folder


def write_csv(path, columns, rows):
    """Write a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


class Refusing(LocalFileSystem):
    """A local folder as `refusing:///…`, of which nothing with `SHUT` in its path can be opened or listed.

    As root, that is: whoever is not root is kept out by a file's mode.
    """

    protocol = "refusing"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("refusing://"))

    def _open(self, path, *arguments, **options):
        refuse(path)
        return super()._open(path, *arguments, **options)

    def ls(self, path, *arguments, **options):
        refuse(path)
        return super().ls(path, *arguments, **options)


def refuse(path):
    """Answer as an operating system does of what it keeps somebody from."""
    if "SHUT" in os.path.realpath(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))


fsspec.register_implementation("refusing", Refusing, clobber=True)
