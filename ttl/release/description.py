"""What `model.json` says: all that is needed to rebuild a released network and to prepare its images."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ttl.data.dataset import Task
from ttl.data.images import Fit, Windowing
from ttl.data.steps import ImageSteps, depth_at
from ttl.errors import ReleaseError
from ttl.files import sha256
from ttl.models.names import Head
from ttl.models.weights import VIDEO
from ttl.training.identity import identity, later

FORMAT = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
ONNX = "model.onnx"
INT8 = "model.int8.onnx"
CARD = "card.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFacts:
    """The ONNX file: its logits were within `tolerance` of torch's on `images` validation images.

    `val_auroc_change` is ONNX Runtime's validation AUROC less torch's.
    """

    opset: int
    images: int
    tolerance: float
    sha256: str
    val_auroc_change: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Facts:
    """The quantised ONNX file, calibrated on `calibration` training images, judged on `images` of validation.

    `val_auroc_change` is its validation AUROC less torch's. `threshold` is its own, chosen as the model's;
    with both, `agreement` is the share of validation images, or of their labels, of which the two say
    the same.
    """

    calibration: int
    images: int
    val_auroc_change: float
    threshold: float | tuple[float, ...] | None
    agreement: float
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A released model.

    `channels` and `packed_size` are of the packed images it was trained on: 1 or 3 channels, (height,
    width), or of volumes (depth, height, width); `fit` is how an image of another shape is brought to that
    size, and `window` how the values of DICOM files became 8 bits, None of images that came otherwise.
    `source` is `imagenet`, `kinetics`, `random` or the name of the weights file whose SHA-256 is
    `source_sha256`. `threshold` is on the probability of the second class of a binary task, or one on that of
    each label where an image may have several, chosen on validation data; None for other tasks.
    """

    dataset: str
    revision: str
    synthetic: bool
    task: Task
    classes: tuple[str, ...]
    trial_id: str
    backbone: str
    source: str
    source_sha256: str
    strategy: str
    cut: str
    image_size: int
    channels: int
    packed_size: tuple[int, ...]
    fit: Fit
    steps: ImageSteps
    threshold: float | tuple[float, ...] | None
    params: int
    weights_sha256: str
    onnx: OnnxFacts
    versions: dict[str, str]
    int8: Int8Facts | None = None
    in_chans: int = 3
    head: Head = later("pooled")
    window: Windowing | None = later(None)
    format: int = FORMAT

    @property
    def num_classes(self) -> int:
        """The number of outputs."""
        return len(self.classes)

    @property
    def depth(self) -> int | None:
        """The depth of the volumes that the network takes; None for images."""
        return depth_at((self.channels, *self.packed_size), self.image_size)

    @property
    def sliced(self) -> bool:
        """Whether the network is one of images, and sees volumes slice by slice."""
        return self.depth is not None and self.backbone not in VIDEO

    @property
    def network(self) -> str:
        """The network in a few words: `efficientnet_lite0 ttl blocks.3`."""
        more = "" if self.head == "pooled" else f", {self.head} head"
        return f"{self.backbone} {self.strategy} {self.cut}{more}"

    def to_json(self) -> str:
        """Return the text of `model.json`; the same values give the same bytes."""
        values = {**identity(self), "num_classes": self.num_classes}
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Description":
        """Return what `to_json` wrote. Raises `ReleaseError` that says what of it is wrong."""
        try:
            values: Any = json.loads(text)
        except ValueError as error:
            raise ReleaseError(f"it is not JSON: {error}") from error
        found = values.get("format") if isinstance(values, dict) else None
        if found != FORMAT:
            raise ReleaseError(
                f"its format is {found!r} and this version of ttl reads {FORMAT}; "
                "use the version of the release's own commit"
            )
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ReleaseError(f"{place}: {first['msg']}") from error


def read_description(folder: Path) -> Description:
    """Return the description of the model in `folder`."""
    path = folder / DESCRIPTION
    try:
        return Description.from_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReleaseError(f"{folder} holds no model: {DESCRIPTION} is missing") from error
    except (OSError, UnicodeDecodeError, ReleaseError) as error:
        raise ReleaseError(f"{path} cannot be read: {error}") from error


def fingerprint(folder: Path) -> str:
    """Return 16 hexadecimal digits that stand for a model: its weights, its ONNX file and its description.

    What was measured when it was written, an int8 copy among it, may differ without making it another model,
    and so may the card.
    """
    values = identity(read_description(folder))
    del values["int8"], values["onnx"]["val_auroc_change"]
    both = sha256(folder / WEIGHTS) + json.dumps(values, sort_keys=True)
    return hashlib.sha256(both.encode()).hexdigest()[:16]
