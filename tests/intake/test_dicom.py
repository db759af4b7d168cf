"""Reading DICOM files: values to 8 bits, compressed syntaxes, and what is refused."""

import datetime
import logging
import struct
import tracemalloc
import warnings
import zlib
from contextlib import suppress
from dataclasses import replace

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.intake.conftest import SPEC, as_bytes, dataset, film
from ttl.intake import codestream
from ttl.intake.dicom import read
from ttl.intake.verdict import Reason, RefusedError

RANGE = replace(SPEC, window="range")


def pixels(made, spec=SPEC):
    return read(as_bytes(made), spec).pixels


def refused(data, spec=SPEC):
    with pytest.raises(RefusedError) as caught:
        read(data if isinstance(data, bytes) else as_bytes(data), spec)
    return caught.value.reason, caught.value.detail


def ramp(low=0, high=4096, step=16):
    return np.arange(low, high, step).reshape(16, -1)


def test_a_reading_has_the_patient_and_the_day():
    reading = read(as_bytes(dataset()), SPEC)
    assert (reading.patient_id, reading.acquired_at) == ("P0001", datetime.date(2024, 3, 5))
    assert read(as_bytes(dataset(AcquisitionDate=None)), SPEC).acquired_at == datetime.date(2024, 3, 1)
    assert read(as_bytes(dataset(AcquisitionDate="19000101", StudyDate="")), SPEC).acquired_at is None


def test_a_window_is_the_standards_formula():
    values = ramp()
    made = dataset(values.astype(np.uint16), RescaleSlope="2", RescaleIntercept="-1000")
    made.WindowCenter, made.WindowWidth = ["1040", "0"], ["400", "1"]
    # PS3.3, C.11.2.1.2.1, on what rescaling gives; the first of two windows.
    x = 2 * values - 1000.0
    shares = np.clip((x - 1039.5) / 399 + 0.5, 0, 1)
    assert np.array_equal(pixels(made), (shares * 255.999).astype(np.uint8))
    assert 0 in pixels(made)
    assert 255 in pixels(made)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_every_window_function_is_pydicoms_own(function, kind):
    values = (ramp() - (2048 if kind is np.int16 else 0)).astype(kind)
    made = dataset(values, WindowCenter="500", WindowWidth="700", VOILUTFunction=function)
    made.RescaleSlope, made.RescaleIntercept = "-1.5", "20"
    made.BitsStored, made.HighBit = 14, 13
    expected = apply_voi_lut(values * -1.5 + 20, made)
    low, high = (0, 2**14 - 1) if kind is np.uint16 else (-(2**13), 2**13 - 1)
    expected = (expected - (low * -1.5 + 20)) / ((high - low) * -1.5)
    assert np.array_equal(pixels(made), (np.clip(expected, 0, 1) * 255.999).astype(np.uint8))


def test_a_voi_lut_goes_before_a_window():
    item = pydicom.Dataset()
    item.LUTDescriptor = [256, 0, 8]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = list(range(255, -1, -1))
    item["LUTData"].VR = "US"
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    made = dataset(values, VOILUTSequence=[item], WindowCenter="10", WindowWidth="2")
    assert np.array_equal(pixels(made).astype(int), 255 - values.astype(int))


def test_a_modality_lut_is_applied():
    item = pydicom.Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [256, 0, 16], "US"
    item["LUTDescriptor"].VR = "US"
    item.LUTData = [(number * 7) % 1000 for number in range(256)]
    item["LUTData"].VR = "US"
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    x = values.astype(int) * 7 % 1000
    expected = ((x - x.min()) / (x.max() - x.min()) * 255.999).astype(np.uint8)
    assert np.array_equal(pixels(dataset(values, ModalityLUTSequence=[item])), expected)


def test_without_a_window_it_is_the_whole_range_and_padding_is_none_of_it():
    values = ramp(100, 1124, 4).astype(np.int16)
    expected = ((values - 100) / 1020 * 255.999).astype(np.uint8)
    assert np.array_equal(pixels(dataset(values)), expected)
    made = dataset(values, WindowCenter="10", WindowWidth="2")
    assert np.array_equal(pixels(made, RANGE), expected)
    padded = np.vstack([np.full_like(values, -2000), values])
    made = dataset(padded, PixelPaddingValue=-2000)
    made["PixelPaddingValue"].VR = "SS"
    assert np.array_equal(pixels(made)[16:], expected)
    assert pixels(made)[:16].max() == 0
    assert pixels(dataset(np.full((16, 16), 7, dtype=np.uint16))).max() == 0


def test_one_window_for_all_is_on_what_rescaling_gives():
    made = dataset(ramp().astype(np.uint16), RescaleSlope="1", RescaleIntercept="-1024")
    made.WindowCenter, made.WindowWidth = "1", "2"
    shares = np.clip((ramp() - 1024 - 39.5) / 399 + 0.5, 0, 1)
    found = pixels(made, replace(SPEC, centre=40.0, width=400.0))
    assert np.array_equal(found, (shares * 255.999).astype(np.uint8))


def test_monochrome1_is_inverted():
    values = film(1)
    plain, inverted = dataset(values), dataset(values, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(pixels(inverted), 255 - pixels(plain))


def test_values_of_32_bits_are_read():
    values = (ramp() * 100_003).astype(np.uint32)
    expected = ((ramp() / ramp().max()) * 255.999).astype(np.uint8)
    assert np.array_equal(pixels(dataset(values)), expected)


def test_colour_is_taken_as_rgb():
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(pixels(dataset(values)), values)
    grey = np.full((32, 32, 3), (90, 128, 128), dtype=np.uint8)
    assert np.array_equal(pixels(dataset(grey, PhotometricInterpretation="YBR_FULL")), np.full_like(grey, 90))


def test_a_palette_is_the_colours_that_it_stands_for():
    values = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    made = dataset(values, PhotometricInterpretation="PALETTE COLOR")
    for shift, name in enumerate(("Red", "Green", "Blue")):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        made[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        table = (np.arange(256, dtype="<u2") + shift) % 256 * 256
        setattr(made, f"{name}PaletteColorLookupTableData", table.astype("<u2").tobytes())
    expected = np.stack([values, values + np.uint8(1), values + np.uint8(2)], axis=2)
    assert np.array_equal(pixels(made), expected)


def compressed(made, syntax, tmp_path):
    """Give a file compressed by GDCM."""
    (tmp_path / "plain.dcm").write_bytes(as_bytes(made))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(tmp_path / "plain.dcm"))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "small.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return (tmp_path / "small.dcm").read_bytes()


LOSSLESS = {
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
    RLELossless: gdcm.TransferSyntax.RLELossless,
}


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("depth", [8, 16])
def test_what_is_compressed_without_loss_is_the_same(syntax, depth, tmp_path):
    values = film(3) if depth == 16 else (film(3) // 16).astype(np.uint8)
    made = dataset(values, WindowCenter="120", WindowWidth="200")
    data = compressed(made, LOSSLESS[syntax], tmp_path)
    assert pydicom.dcmread(tmp_path / "small.dcm").file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(read(data, SPEC).pixels, pixels(made))


def test_jpeg_with_loss_is_nearly_the_same(tmp_path):
    made = dataset((film(3) // 16).astype(np.uint8))
    data = compressed(made, gdcm.TransferSyntax.JPEGBaselineProcess1, tmp_path)
    assert pydicom.dcmread(tmp_path / "small.dcm").file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert np.abs(read(data, RANGE).pixels.astype(int) - pixels(made, RANGE)).mean() < 4


def test_implicit_and_deflated_files_are_read():
    made = dataset()
    expected = pixels(made)
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert np.array_equal(pixels(made), expected)
    made = dataset()
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert np.array_equal(pixels(made), expected)


def test_a_deflated_bomb_is_not_unpacked():
    made = dataset()
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = as_bytes(made)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = data[: 144 + struct.unpack("<I", data[140:144])[0]]
    body = b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()
    tracemalloc.start()
    assert refused(head + body, replace(SPEC, max_bytes=2_000_000))[0] == Reason.TOO_LARGE
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_too_many_pixels_are_refused_before_they_are_decoded():
    made = dataset(Rows=60_000, Columns=60_000)
    assert refused(made) == (Reason.TOO_LARGE, "60000×60000 pixels are more than the 16,000,000 accepted")


@pytest.mark.parametrize(
    ("syntax", "place"),
    [
        (JPEGLosslessSV1, b"\xff\xc3\x00\x0b\x10"),
        (JPEGLSLossless, b"\xff\xf7\x00\x0b\x10"),
        (JPEG2000Lossless, b"\xff\x4f\xff\x51\x00\x29\x00\x00"),
    ],
    ids=lambda value: getattr(value, "keyword", ""),
)
def test_a_codestream_of_another_size_than_the_header_is_not_let_at_its_decoder(syntax, place, tmp_path):
    data = compressed(dataset(), LOSSLESS[syntax], tmp_path)
    at = data.index(place) + len(place)
    size = b"\x00\x00\xea\x60" * 2 if syntax == JPEG2000Lossless else b"\xea\x60" * 2
    bomb = data[:at] + size + data[at + len(size) :]
    assert refused(bomb) == (Reason.UNREADABLE, "its codestream is not of Rows × Columns")


def test_run_lengths_that_unpack_to_more_are_not_unpacked(tmp_path):
    data = compressed(dataset(), gdcm.TransferSyntax.RLELossless, tmp_path)
    made = pydicom.dcmread(tmp_path / "small.dcm")
    bomb = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 100_000
    made.PixelData = pydicom.encaps.encapsulate([bomb])
    assert refused(made) == (Reason.UNREADABLE, "its run lengths do not unpack to Rows × Columns")
    assert codestream.unpacks_within(struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 10, 1280)
    assert not codestream.unpacks_within(struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 10, 1279)
    assert read(data, SPEC).pixels.shape == (96, 96)


def test_other_modalities_and_photometries_are_refused():
    assert refused(dataset(Modality="SR"))[0] == Reason.MODALITY
    assert refused(dataset(Modality=None))[0] == Reason.MODALITY
    assert refused(dataset(PhotometricInterpretation="HSV"))[0] == Reason.PHOTOMETRIC
    deep = np.zeros((8, 8, 3), dtype=np.uint16)
    assert refused(dataset(deep))[0] == Reason.PHOTOMETRIC


def test_several_frames_are_refused():
    made = dataset(NumberOfFrames=3)
    assert refused(made) == (Reason.UNREADABLE, "it has 3 frames; send one image a file")


def test_a_header_that_is_not_deidentified_is_refused_by_names_alone():
    reason, detail = refused(dataset(PatientName="Doe^Jane", PatientBirthDate="19500201"))
    assert reason == Reason.NOT_DEIDENTIFIED
    assert "PatientBirthDate, PatientName" in detail
    assert "Doe" not in detail
    assert "1950" not in detail


def test_declared_writing_is_refused():
    assert refused(dataset(BurnedInAnnotation="YES"))[0] == Reason.BURNED_IN


@pytest.mark.filterwarnings("ignore:Invalid value", "ignore:Unknown encoding")
def test_damaged_files_are_refused_and_nothing_of_them_is_told(capfd, caplog):
    made = dataset(PatientName="P0001", StudyInstanceUID="DOE-JANE", SOPClassUID="DOE-JANE")
    made.SpecificCharacterSet = "DOE-JANE"
    whole = as_bytes(made)
    rng = np.random.default_rng(0)
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for length in range(132, len(whole), 997):
            reason, detail = refused(whole[:length])
            assert "DOE" not in detail, length
        for _ in range(200):
            damaged = bytearray(whole)
            for place in rng.integers(128, 1200, 8):
                damaged[place] = rng.integers(256)
            with suppress(RefusedError):
                read(bytes(damaged), SPEC)
        told = [one for one in caught if "DOE" in str(one.message)]
    assert not told
    assert "DOE" not in caplog.text
    assert not any(capfd.readouterr())
    assert not logging.getLogger("pydicom").disabled
    assert reason == Reason.UNREADABLE
