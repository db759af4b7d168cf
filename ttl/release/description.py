"""What `model.json` says: all that is needed to rebuild a released network and to prepare its images."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttl.errors import ReleaseError

FORMAT = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
ONNX = "model.onnx"
CARD = "card.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSteps:
    """From packed pixels to the network's input: repeat grey, resize, crop the centre, normalise.

    `resize` is the side before the crop in multiples of the image size. `mean` and `std` are of pixels
    in [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFacts:
    """How the ONNX file was made, and how far it was from torch on real images (largest difference)."""

    opset: int
    images: int
    largest_difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A released model.

    `channels` and `packed_size` are of the packed images it was trained on: 1 or 3 channels, (height,
    width). `threshold` is on the probability of the second class of a binary task, chosen on validation
    data; None for other tasks.
    """

    dataset: str
    revision: str
    synthetic: bool
    task: str
    classes: tuple[str, ...]
    trial_id: str
    backbone: str
    source: str
    strategy: str
    cut: str
    image_size: int
    channels: int
    packed_size: tuple[int, int]
    steps: ImageSteps
    threshold: float | None
    params: int
    weights_sha256: str
    onnx: OnnxFacts
    versions: dict[str, str]
    in_chans: int = 3
    format: int = FORMAT

    @property
    def num_classes(self) -> int:
        """The number of outputs."""
        return len(self.classes)

    @property
    def network(self) -> str:
        """The network in a few words: `efficientnet_lite0 ttl blocks.3`."""
        return f"{self.backbone} {self.strategy} {self.cut}"

    def to_json(self) -> str:
        """Return the text of `model.json`; the same values give the same bytes."""
        values = {**dataclasses.asdict(self), "num_classes": self.num_classes}
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Description":
        """Return what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        if values.get("format") != FORMAT:
            raise ReleaseError(
                f"its format is {values.get('format')!r} and this version of ttl reads {FORMAT}; "
                "use the version of the release's own commit"
            )
        values.pop("num_classes", None)
        steps = values["steps"]
        return cls(
            **{
                **values,
                "classes": tuple(values["classes"]),
                "packed_size": (int(values["packed_size"][0]), int(values["packed_size"][1])),
                "steps": ImageSteps(**{**steps, "mean": tuple(steps["mean"]), "std": tuple(steps["std"])}),
                "onnx": OnnxFacts(**values["onnx"]),
            }
        )


def read_description(folder: Path) -> Description:
    """Return the description of the model in `folder`."""
    path = folder / DESCRIPTION
    try:
        return Description.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReleaseError(f"{folder} holds no model: {DESCRIPTION} is missing") from error
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"{path} cannot be read: {error}") from error
    except ReleaseError as error:
        raise ReleaseError(f"{path} cannot be used: {error}") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(folder: Path) -> str:
    """Return 16 hexadecimal digits that stand for a model: its weights and its description.

    The card and the ONNX file are made from these, and may change without making it another model.
    """
    both = sha256(folder / WEIGHTS) + sha256(folder / DESCRIPTION)
    return hashlib.sha256(both.encode()).hexdigest()[:16]
