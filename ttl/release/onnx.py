"""Writing a network as ONNX, and checking that ONNX Runtime gives what torch gives."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from torch import Tensor, nn

from ttl.errors import ReleaseError

OPSET = 18
TOLERANCE = 1e-4
INPUT, OUTPUT = "images", "logits"

RUNTIME_ERRORS = (
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.InvalidProtobuf,
    runtime.NoSuchFile,
    runtime.NotImplemented,
    runtime.RuntimeException,
)


def write_onnx(network: nn.Module, example: Tensor, path: Path) -> None:
    """Write `network` to one ONNX file: input `images` [batch, 3, (d,) h, w], normalised; output `logits`.

    Raises `ReleaseError` for a network that torch's exporter cannot trace.
    """
    batch = torch.export.Dim("batch", min=1)
    # torch specialises a graph to a batch of one, so that the example has two.
    twice = torch.cat([example[:1], example[:1]])
    try:
        with _quiet():
            program = torch.onnx.export(
                network.eval(),
                (twice,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ReleaseError(f"the network cannot be written as ONNX: {str(error).splitlines()[0]}") from error
    if program is None:
        raise ReleaseError("the network cannot be written as ONNX: torch's exporter returned nothing")
    model = program.model_proto
    _strip(model)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def check_onnx(network: nn.Module, path: Path, images: Tensor) -> float:
    """Return the largest difference between torch's and ONNX Runtime's logits, at batch 1 and all at once.

    `images` [n, 3, (d,) h, w] are real ones, prepared for the network: noise would not exercise its range.
    Raises `ReleaseError` above 1e-4.
    """
    session = open_session(path)
    with torch.inference_mode():
        expected = network.eval()(images).numpy()
    together = run_session(session, images.numpy())
    alone = np.concatenate([run_session(session, image[None]) for image in images.numpy()])
    worst = max(float(np.abs(expected - got).max()) for got in (together, alone))
    # Written so that NaN fails too.
    if not worst <= TOLERANCE:
        raise ReleaseError(
            f"the ONNX file differs from the network by {worst:.2g} on {len(images)} images; "
            f"at most {TOLERANCE:g} is accepted"
        )
    return worst


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU."""
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        raise ReleaseError(f"ONNX Runtime cannot open {path}: {error}") from error


def run_session(session: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits [n, classes] of images [n, 3, h, w]."""
    return np.asarray(session.run([OUTPUT], {INPUT: images})[0])


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: they name the source files of the machine that ran it."""
    for part in (model, model.graph, *model.graph.node, *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for values in (model.graph.value_info, model.graph.input, model.graph.output, model.graph.initializer):
        for value in values:
            value.doc_string = ""
            del value.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and remarks off the terminal; its errors come as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
