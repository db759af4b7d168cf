"""What `params.yaml` says of a dataset that grows by drops, under `intake.<dataset>`."""

from dataclasses import dataclass, field
from typing import Literal

from ttl.data.fields import settle_types
from ttl.data.images import FITS, Fit, Window, Windowing
from ttl.data.spec import Fractions
from ttl.errors import ParamsError

PatientIds = Literal["of-site", "shared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeSpec:
    """One entry of `intake:` in `params.yaml`.

    `incoming` is the folder or bucket with `<site>/<drop>/` in it. `size`, `channels` and `fit` make the
    packed images, `window` their 8 bits: `voi` is the file's own window or LUT and, without one, the whole
    range of its values; `range` is always the latter; and `centre` with `width` is one window for all.
    `split` and `seed` divide the patients of a dataset that has none yet; of later patients the share
    `rolling` goes to the rolling test set, and the rest to training and validation in their proportion.

    A `PatientID` is known at its site alone, `of-site`: that of another is another patient, whatever it says.
    Where all sites take theirs from one register, they are `shared`.

    A file of more than `max_bytes`, or whose image has more than `max_pixels`, is refused unread, and one
    that takes more than `seconds` to read, the waits for a slow storage included. Images of two patients
    that differ in at most `near` of 256 bits of their perceptual hash, and correlate, are one.
    """

    incoming: str
    classes: tuple[str, ...]
    size: int
    channels: Literal[1, 3] = 1
    patient_ids: PatientIds = "of-site"
    modalities: tuple[str, ...] = ("CR", "DX", "CT", "MR", "MG")
    window: Window = "voi"
    centre: float | None = None
    width: float | None = None
    fit: Fit = "pad"
    licence: str = "not stated"
    split: Fractions = field(default_factory=Fractions)
    seed: int = 0
    rolling: float = 0.2
    max_bytes: int = 64_000_000
    max_pixels: int = 16_000_000
    seconds: int = 300
    near: int = 24
    synthetic: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no intake can run with."""
        settle_types(self, where="intake")
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ParamsError(f"classes is {list(self.classes)}; give two or more, each once")
        if self.size < 8:
            raise ParamsError(f"size is {self.size}; it must be at least 8 pixels")
        if self.fit not in FITS:
            raise ParamsError(f"fit is {self.fit!r}; it must be one of: {', '.join(FITS)}")
        if not 0 <= self.rolling < 1:
            raise ParamsError(f"rolling is {self.rolling}; it must be from 0 to under 1")
        if (self.centre is None) != (self.width is None) or (self.width is not None and self.width <= 0):
            raise ParamsError("centre and width are one window: give both, width above 0, or neither")
        for name in ("max_bytes", "max_pixels", "seconds"):
            if getattr(self, name) < 1:
                raise ParamsError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.near <= 64:
            raise ParamsError(f"near is {self.near}; it must be from 0 to 64 bits of 256")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of each image: channels, height, width."""
        return (self.channels, self.size, self.size)

    @property
    def windowing(self) -> Windowing:
        """How the values of DICOM files become 8 bits."""
        return self.window if self.centre is None or self.width is None else (self.centre, self.width)
