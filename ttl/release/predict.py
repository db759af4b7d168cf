"""Using a released model: find it, load it, and give the probabilities of images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttl.cache import cache_folder
from ttl.data.images import DICOM_START, MAX_PIXELS, fit_pixels, is_dicom, read_image
from ttl.data.transforms import prepare
from ttl.data.volume_files import read_volume
from ttl.errors import DataError, ReleaseError
from ttl.evaluation.metrics import Probabilities
from ttl.evaluation.scoring import Threshold, scoring_of
from ttl.files import sha256
from ttl.release import registry
from ttl.release.description import DESCRIPTION, INT8, ONNX, WEIGHTS, Description, read_description
from ttl.release.onnx import open_session, run_session

if TYPE_CHECKING:
    from ttl.models.network import NetworkSpec

Engine = Literal["auto", "onnx", "int8", "torch"]
BATCH, VOLUME_BATCH = 64, 8
"""Images, and volumes, at a time."""

MAX_BYTES = 1_000_000_000
"""A deflated DICOM file that unpacks to more is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to predict. `engine` is what runs it: `onnx`, `int8` or `torch`.

    `threshold` is that of the engine: the quantised network has one of its own.
    """

    folder: Path
    description: Description
    engine: Engine
    threshold: Threshold
    forward: Callable[[Tensor], NDArray[np.float32]]

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits [n, classes] of packed samples, uint8 [n, *shape], prepared as in validation."""
        known = self.description
        images = prepare(torch.from_numpy(pixels), image_size=known.image_size, steps=known.steps)
        return self.forward(images)

    def probabilities(self, pixels: NDArray[np.uint8]) -> Probabilities:
        """Return probabilities [n, classes] of packed samples, uint8 [n, c, (d,) h, w]."""
        return scoring_of(self.description.task).probabilities(self.logits(pixels).astype(np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says of one image.

    `predicted` is the second class of a binary task where its probability reaches the model's threshold,
    and the likeliest class of other tasks. Where an image may have several labels, it is those whose
    probability reaches their threshold, none perhaps.
    """

    image: Path
    probabilities: dict[str, float]
    predicted: str | tuple[str, ...]


def resolve_model(text: str, repo: Path, *, cache: Path | None = None) -> Path:
    """Return the folder of the model that `text` names.

    It is a folder, or a release: `DATASET` (its champion, or else its newest version), `DATASET@VERSION` or
    `DATASET#STAGE`. A release is fetched into `cache`, by default under `TTL_CACHE` or `~/.cache/ttl`.
    Raises `ReleaseError` when there is neither.
    """
    folder = Path(text)
    if (folder / DESCRIPTION).is_file():
        return folder
    # A dataset's name has no such form; a folder that is not there must not become a talk of releases.
    if text in (".", "..") or text.startswith(("./", "../", "~")) or folder.is_absolute():
        read_description(folder)
    return registry.fetch(text, cache or cache_folder("releases"), repo=repo)


def load_model(folder: Path, *, engine: Engine = "auto") -> LoadedModel:
    """Load the model in `folder` to run on the CPU.

    `auto` takes ONNX Runtime, which starts sooner and runs faster, and torch where there is no ONNX file.
    Raises `ReleaseError` for a file that is missing, or not the one that the description was written with.
    """
    description = read_description(folder)
    if engine == "auto":
        engine = "onnx" if (folder / ONNX).is_file() else "torch"
    forward: Callable[[Tensor], NDArray[np.float32]]
    threshold: Threshold = description.threshold
    if engine in ("onnx", "int8"):
        file, checksum = ONNX, description.onnx.sha256
        if engine == "int8":
            if description.int8 is None:
                raise ReleaseError(
                    f"{folder} has no int8 file: it was not offered, for accuracy or for speed; use onnx"
                )
            file, checksum, threshold = INT8, description.int8.sha256, description.int8.threshold
        session = open_session(_intact(folder / file, checksum))

        def forward(images: Tensor) -> NDArray[np.float32]:
            return run_session(session, images.numpy())

    else:
        network = rebuild(description, folder / WEIGHTS)

        def forward(images: Tensor) -> NDArray[np.float32]:
            with torch.inference_mode():
                logits: NDArray[np.float32] = network(images).numpy()
            return logits

    return LoadedModel(
        folder=folder, description=description, engine=engine, threshold=threshold, forward=forward
    )


def predict(model: LoadedModel, images: Sequence[Path]) -> list[Prediction]:
    """Return the model's prediction for each image file, or volume (see `read_volume`), in their order.

    Each goes the way of the images that the model was trained and validated on: packed size, then the
    network's own preprocessing. DICOM files are read by models that were trained on drops of them. Raises
    `DataError` naming the first image that is missing or unreadable.
    """
    step = BATCH if model.description.depth is None else VOLUME_BATCH
    batches = (images[start : start + step] for start in range(0, len(images), step))
    return [prediction for batch in batches for prediction in _predict(model, batch)]


def load_network(spec: "NetworkSpec", weights: Path) -> nn.Module:
    """Return the network of `spec` with the trained weights of a safetensors file, in evaluation mode.

    It is what takes the prepared samples: the backbone's network, or for volumes that it sees slice by slice
    the whole that makes the slices.
    """
    # ONNX Runtime needs none of these, and timm takes seconds to import.
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    from ttl.models.network import build_network  # noqa: PLC0415

    network = build_network(spec, pretrained=False)
    try:
        network.net.load_state_dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise ReleaseError(f"the weights {weights} cannot be read: {error}") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ReleaseError(
            f"the weights {weights} are not of {spec.backbone} {spec.strategy} {spec.cut}: {reason}"
        ) from error
    return network.runnable.eval()


def rebuild(description: Description, weights: Path) -> nn.Module:
    """Return a described network with its weights, which must be those of the description."""
    from ttl.models.network import NetworkSpec  # noqa: PLC0415 - as above

    spec = NetworkSpec(
        backbone=description.backbone,
        strategy=description.strategy,
        num_classes=description.num_classes,
        image_size=description.image_size,
        cut=description.cut,
        head=description.head,
        depth=description.depth,
    )
    return load_network(spec, _intact(weights, description.weights_sha256))


def _intact(path: Path, expected: str) -> Path:
    if not path.is_file():
        raise ReleaseError(f"{path} is missing; `dvc checkout {path.parent}` or `dvc repro` restores it")
    found = sha256(path)
    if found != expected:
        raise ReleaseError(
            f"{path} has SHA-256 {found[:12]}…, and {DESCRIPTION} beside it says {expected[:12]}…: it is "
            f"damaged or of another model; `dvc checkout {path.parent}` or `dvc repro` restores it"
        )
    return path


def _read(path: Path, known: Description) -> NDArray[np.uint8]:
    *depth, height, width = known.packed_size
    if depth:
        return read_volume(path, shape=(depth[0], height, width), fit=known.fit)
    if _begins_as_dicom(path):
        return _read_dicom(path, known)
    return read_image(path, name=str(path), channels=known.channels, size=(height, width), fit=known.fit)


def _begins_as_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(DICOM_START))
    except OSError:
        # What is wrong is said where it is read.
        return False


def _read_dicom(path: Path, known: Description) -> NDArray[np.uint8]:
    """Return a film as the intake has packed those that the model was trained on."""
    from ttl.intake.dicom import read_pixels  # noqa: PLC0415 - few need pydicom
    from ttl.intake.verdict import RefusedError  # noqa: PLC0415 - as above

    if known.window is None:
        raise DataError(
            f"{path}: it is DICOM, and {DESCRIPTION} does not say how its values become 8 bits: the model "
            "was trained on other files, or by an earlier version; export it as those images were, or retrain"
        )
    try:
        pixels = read_pixels(path.read_bytes(), known.window, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
    except RefusedError as refused:
        raise DataError(f"{path}: {refused.detail}") from refused
    height, width = known.packed_size
    return fit_pixels(pixels, channels=known.channels, size=(height, width), fit=known.fit)


def _predict(model: LoadedModel, images: Sequence[Path]) -> list[Prediction]:
    known = model.description
    pixels = np.stack([_read(path, known) for path in images])
    probabilities = model.probabilities(pixels)
    decided = scoring_of(known.task).decide(probabilities, model.threshold)
    return [
        Prediction(
            image=path,
            probabilities=dict(zip(known.classes, row.tolist(), strict=True)),
            predicted=_named(known.classes, choice),
        )
        for path, row, choice in zip(images, probabilities, decided, strict=True)
    ]


def _named(classes: Sequence[str], choice: NDArray[np.int64]) -> str | tuple[str, ...]:
    if choice.ndim == 0:
        return classes[int(choice)]
    return tuple(name for name, there in zip(classes, choice, strict=True) if there)
