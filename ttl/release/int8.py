"""A quantised copy of the ONNX file, and what it costs in accuracy and wins in time."""

import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ttl.release.onnx import INPUT, RUNTIME_ERRORS, open_session, run_session

logger = logging.getLogger(__name__)

Images = NDArray[np.float32]

CALIBRATION_BATCH = 32

REPEATS, WARM_UP = 200, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Rule:
    """When a quantised copy is offered.

    Its validation AUROC may change by so much, up or down, and at batch 1 it must be so many times faster:
    else it is only another file to answer for.
    """

    largest_auroc_change: float = 0.005
    least_gain: float = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Median times of one image in milliseconds, on one thread, taken in turns."""

    ms: float
    float_ms: float

    @property
    def gain(self) -> float:
        """How many times faster the quantised network is."""
        return self.float_ms / self.ms


def quantise(source: Path, calibration: Images, out: Path) -> bool:
    """Write a static int8 copy of an ONNX file; return whether ONNX Runtime could.

    Weights are int8 by channel, activations uint8 with ranges from `calibration` [n, 3, h, w]: prepared
    training images, since validation images are to judge the result.
    """
    # The quantiser takes seconds to import, and prints advice that does not apply.
    from onnxruntime.quantization import (  # noqa: PLC0415
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            starts = range(0, len(calibration), CALIBRATION_BATCH)
            self.batches: Iterator[Images] = iter(calibration[i : i + CALIBRATION_BATCH] for i in starts)

        def get_next(self) -> dict[str, Images] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)
        try:
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(out),
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
        except (*RUNTIME_ERRORS, ValueError, RuntimeError, NotImplementedError) as error:
            logger.warning("no int8 copy of %s: %s", source.name, " ".join(str(error).split())[:300])
            out.unlink(missing_ok=True)
            return False
        finally:
            logging.getLogger().setLevel(level)
    return True


def run_batches(path: Path, images: Images, batch: int = 256) -> NDArray[np.float64]:
    """Return the logits [n, classes] of images [n, 3, h, w]."""
    session = open_session(path)
    parts = [run_session(session, images[i : i + batch]) for i in range(0, len(images), batch)]
    return np.concatenate(parts).astype(np.float64)


def measure_speed(quantised: Path, source: Path, image: Images) -> Speed:
    """Return the times of one image [1, 3, h, w] through both files."""
    sessions = [_single_thread(path) for path in (quantised, source)]
    times: list[list[float]] = [[], []]
    for _ in range(WARM_UP + REPEATS):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            run_session(session, image)
            taken.append(1000 * (time.perf_counter() - start))
    ms, float_ms = (statistics.median(taken[WARM_UP:]) for taken in times)
    return Speed(ms=ms, float_ms=float_ms)


def _single_thread(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
