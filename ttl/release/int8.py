"""A quantised copy of the ONNX file, and what it costs in accuracy and wins in time."""

import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ttl.evaluation.scoring import Threshold
from ttl.files import sha256
from ttl.release.description import INT8, ONNX, Int8Facts
from ttl.release.onnx import INPUT, open_session, run_session
from ttl.release.parity import Parity

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


def offer_int8(
    folder: Path, parity: Parity, *, calibration: Images, threshold: Threshold, rule: Int8Rule
) -> Int8Facts | None:
    """Write a quantised copy beside the ONNX file in `folder` if the rule allows; say in the log why not.

    `calibration` [n, 3, h, w] are prepared training images, since validation images judge the result.
    `threshold` is the model's own, for the share of decisions that stay.
    """
    path = folder / INT8
    try:
        with _quiet():
            quantise(folder / ONNX, calibration, path)
        probabilities = parity.run(partial(run_session, open_session(path)))
        speed = measure_speed(path, folder / ONNX, calibration[:1])
    except Exception as error:  # noqa: BLE001 - the quantiser fails in many ways, and the model can do without
        reason = " ".join(str(error).split())[:300]
        logger.warning("no int8 file: %s: %s", type(error).__name__, reason)
        path.unlink(missing_ok=True)
        return None
    change = parity.auroc_change(probabilities)
    # Written so that NaN is left out too.
    if not (abs(change) <= rule.largest_auroc_change and speed.gain >= rule.least_gain):
        logger.info(
            "no int8 file: validation AUROC %+.4f (at most %g is accepted), %.2f times as fast (at least %g)",
            change, rule.largest_auroc_change, speed.gain, rule.least_gain,
        )  # fmt: skip
        path.unlink()
        return None
    scoring = parity.scoring
    own = scoring.choose_threshold(parity.labels, probabilities)
    same = scoring.decide(probabilities, own) == scoring.decide(parity.probabilities, threshold)
    return Int8Facts(
        calibration=len(calibration),
        images=len(parity.labels),
        val_auroc_change=change,
        threshold=tuple(own) if isinstance(own, Sequence) else own,
        agreement=float(same.mean()),
        sha256=sha256(path),
    )


def quantise(source: Path, calibration: Images, out: Path) -> None:
    """Write a static int8 copy of an ONNX file: weights int8 by channel, activations uint8."""
    # The quantiser takes seconds to import.
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice off the log: it writes to the root logger."""

    def ours(record: logging.LogRecord) -> bool:
        return record.name != "root"

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(ours)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(ours)


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
