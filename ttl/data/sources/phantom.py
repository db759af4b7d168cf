"""Source `phantom`: synthetic images in the manner of chest films, made from a seed; not medical data.

Each image is a smooth anatomy that varies by patient (body, lungs, heart, spine, ribs), a coarse vascular
texture, a random exposure, and the blur, contrast and grain of its site. A positive image has, besides,
patches of fine-grained texture in the lungs, of varying size and strength. So the finding is of low level:
what the first stages of a network see. With the option `labels` there are several findings, any of which a
film may have (`ttl.data.sources.phantom_labels`).
"""

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ttl.data.dataset import Task
from ttl.data.fields import settle_types
from ttl.data.labels import Policy
from ttl.data.sources.base import Contents, Request, Sample, Source
from ttl.errors import ParamsError

Image = NDArray[np.float32]

CLASSES = ("normal", "finding")
DEFAULT_SIZE = 64
MOST_LABELS = 6
FIRST_DAY = datetime.date(2020, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomOptions:
    """`patients` have 2 to 4 images each; `prevalence` is the share of patients who have the finding.

    `strength` scales the finding's contrast: more is easier. `label_noise` is the share of labels that are
    turned over. `sites` differ in blur, contrast and grain. With a `depth`, each film becomes a volume of so
    many slices: the finding is in some of them.

    With `labels`, so many findings occur, alone or together; the first has this `prevalence`, and each
    further one is rarer. Of their labels, a share `unknown` is not known, and a share `unsure` is uncertain,
    of which `uncertain` says what becomes of it in training.
    """

    patients: int = 256
    sites: int = 3
    prevalence: float = 0.6
    strength: float = 1.0
    label_noise: float = 0.0
    labels: int | None = None
    unknown: float = 0.0
    unsure: float = 0.0
    uncertain: Policy = "ignore"
    depth: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that make no dataset."""
        settle_types(self, where="options")
        for name in ("patients", "sites", "depth"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ParamsError(f"options.{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.prevalence < 1:
            raise ParamsError(f"options.prevalence is {self.prevalence}; it must be between 0 and 1")
        if self.strength < 0:
            raise ParamsError(f"options.strength is {self.strength}; it must not be negative")
        if not 0 <= self.label_noise < 0.5:
            raise ParamsError(f"options.label_noise is {self.label_noise}; it must be from 0 to under 0.5")
        if self.labels is not None and not 2 <= self.labels <= MOST_LABELS:
            raise ParamsError(f"options.labels is {self.labels}; it must be from 2 to {MOST_LABELS}")
        if self.labels is not None and self.depth is not None:
            raise ParamsError(
                f"options.labels is {self.labels} and options.depth is {self.depth}: with several labels "
                "there are films alone"
            )
        for name in ("unknown", "unsure"):
            share = getattr(self, name)
            if not 0 <= share < 0.5:
                raise ParamsError(f"options.{name} is {share}; it must be from 0 to under 0.5")
            if share and self.labels is None:
                raise ParamsError(f"options.{name} is {share}; it goes with options.labels alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """A patient's proportions, in units of half the image's side."""

    width: float
    height: float
    heart: float
    tilt: float
    ribs: float
    phase: float
    density: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """How a site's films look: `blur` in pixels of a film of side 64, and `noise` as a share of the range."""

    blur: float
    contrast: float
    noise: float


SCANNERS = (
    Scanner(blur=0.35, contrast=1.0, noise=0.022),
    Scanner(blur=0.5, contrast=0.85, noise=0.032),
    Scanner(blur=0.65, contrast=1.15, noise=0.027),
)
"""Those of the sites, by the site's number."""

OTHER_SCANNER = Scanner(blur=0.8, contrast=0.75, noise=0.04)
"""One that no site has."""


def open_phantom(request: Request) -> Contents:
    """Return the synthetic samples that the request's seed and options determine."""
    options: PhantomOptions = request.options
    size, channels = request.size or DEFAULT_SIZE, request.channels or 1
    if size < 16:
        raise ParamsError(f"size is {size}; the phantom's texture needs at least 16 pixels")
    if options.depth is not None and channels != 1:
        raise ParamsError(f"channels is {channels}; the phantom's volumes have 1")
    notes = ["The images are synthetic, made from a seed: they show no patient and prove nothing clinical."]
    if options.label_noise:
        notes.append(f"{options.label_noise:.0%} of the labels were turned over on purpose.")
    task: Task = "binary"
    classes: tuple[str, ...] = CLASSES
    make = make_samples
    if options.labels is not None:
        from ttl.data.sources import phantom_labels  # noqa: PLC0415 - it draws with what is here

        task, classes = "multilabel", tuple(phantom_labels.FINDINGS)[: options.labels]
        make = phantom_labels.make_samples
    return Contents(
        task=task,
        classes=classes,
        shape=(channels, size, size) if options.depth is None else (1, options.depth, size, size),
        licence="CC0 1.0",
        source=f"synthetic phantom, {options.patients} patients, seed {request.seed}",
        samples=make(options, size=size, channels=channels, seed=request.seed),
        synthetic=True,
        notes=tuple(notes),
        uncertain=options.uncertain,
    )


def make_samples(options: PhantomOptions, *, size: int, channels: int, seed: int) -> Iterator[Sample]:
    """Yield the images of all patients, each patient from a random stream of its own.

    So more patients leave those before them as they were.
    """
    for number in range(options.patients):
        rng = np.random.default_rng([seed, number])
        site = int(rng.integers(options.sites))
        anatomy = draw_anatomy(rng)
        count = int(rng.integers(2, 5))
        # An ill patient's first films may lie before the onset.
        onset = int(rng.integers(0, 2)) if rng.random() < options.prevalence else count
        day = FIRST_DAY + datetime.timedelta(days=int(rng.integers(0, 1200)))
        for visit in range(count):
            ill = visit >= onset
            strength = options.strength if ill else 0.0
            if options.depth is None:
                pixels = draw_film(anatomy, site, strength, size, rng)
            else:
                pixels = draw_volume(anatomy, site, strength, (options.depth, size), rng)
            label = int(ill) ^ int(rng.random() < options.label_noise)
            yield Sample(
                sample_id=f"phantom-{number:05d}-{visit}",
                pixels=np.repeat(pixels[None], channels, axis=0),
                label=label,
                patient_id=f"patient-{number:05d}",
                site=f"site-{site}",
                acquired_at=day,
            )
            day += datetime.timedelta(days=int(rng.integers(7, 200)))


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Return the proportions of one patient."""
    return Anatomy(
        width=rng.uniform(0.30, 0.38),
        height=rng.uniform(0.58, 0.72),
        heart=rng.uniform(0.22, 0.34),
        tilt=rng.normal(0, 0.03),
        ribs=rng.uniform(17, 22),
        phase=rng.uniform(0, 2 * np.pi),
        density=rng.uniform(0.08, 0.16),
    )


def draw_volume(
    anatomy: Anatomy, site: int, strength: float, sides: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return slices of one patient, uint8 [depth, size, size]; a finding is in half of them, side by side."""
    depth, size = sides
    start = int(rng.integers(0, depth // 2 + 1))
    inside = range(start, start + (depth + 1) // 2)
    return np.stack(
        [draw_film(anatomy, site, strength if at in inside else 0.0, size, rng) for at in range(depth)]
    )


def draw_film(
    anatomy: Anatomy,
    site: int,
    strength: float,
    size: int,
    rng: np.random.Generator,
    *,
    scanner: Scanner | None = None,
    add: Callable[[Image, Image, Image, np.random.Generator], Image] | None = None,
) -> NDArray[np.uint8]:
    """Return one film, uint8 [size, size], by the site's scanner if none is given.

    `strength` 0 is without a finding. `add` gives what else the film shows, from where the lungs are, and
    from each pixel's place across and down, −1 to 1.
    """
    scanner = scanner or SCANNERS[site % len(SCANNERS)]
    grain = size / DEFAULT_SIZE
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    shift = rng.normal(0, 0.03, 2)
    zoom = rng.normal(1, 0.03)
    tilt = anatomy.tilt + rng.normal(0, 0.02)
    down, across = axis[:, None], axis[None, :]
    x = (across + tilt * down - shift[0]) * zoom
    y = (down - tilt * across - shift[1]) * zoom
    lungs, film = _structures(anatomy, x, y)
    # Vessels and overlying tissue: coarse texture that every film has, in an amount that says nothing.
    film += rng.uniform(0.03, 0.12) * lungs * smooth_noise(size, 2.6 * grain, rng)
    film += rng.uniform(0.02, 0.10) * smooth_noise(size, 9 * grain, rng)
    if strength:
        film += strength * fine_texture(lungs, x, y, rng)
    if add is not None:
        film += add(lungs, x, y, rng)
    blur = scanner.blur * grain * rng.uniform(0.9, 1.1)
    film = gaussian_filter(film, blur)
    contrast = scanner.contrast * rng.uniform(0.9, 1.1)
    noise = scanner.noise * rng.uniform(0.7, 1.3)
    film = 0.5 + contrast * (film - film.mean()) + rng.normal(0, 0.03)
    film += noise * rng.standard_normal((size, size), dtype=np.float32)
    return np.asarray(np.clip(film, 0, 1) * 255 + 0.5, dtype=np.uint8)


def _structures(anatomy: Anatomy, x: Image, y: Image) -> tuple[Image, Image]:
    """Return where the lungs are, 0 to 1, and the film of the anatomy alone."""
    edge = 14.0
    body = soft(1 - (x / 0.95) ** 4 - ((y + 0.1) / 1.25) ** 4, edge)
    lungs = sum(
        soft(
            1 - np.abs((x - side * 0.46) / anatomy.width) ** 2.5 - np.abs((y + 0.05) / anatomy.height) ** 2.5,
            edge / 2,
        )
        for side in (-1, 1)
    )
    heart = soft(1 - ((x - 0.14) / anatomy.heart) ** 2 - ((y - 0.32) / 0.38) ** 2, edge / 2)
    spine = np.exp(-((x / 0.10) ** 2))
    bow = y + 0.35 * (np.abs(x) - 0.4) ** 2 - 0.25 * np.abs(x)
    ribs = np.maximum(np.sin(anatomy.ribs * bow + anatomy.phase), 0) ** 2
    aired = np.asarray(lungs * (1 - 0.9 * heart), dtype=np.float32)
    film = 0.55 * body - 0.38 * aired + anatomy.density * ribs * body + 0.18 * spine * body + 0.10 * heart
    return aired, np.asarray(film, dtype=np.float32)


def fine_texture(lungs: Image, x: Image, y: Image, rng: np.random.Generator) -> Image:
    """Return fine texture in a patch of each lung, more of it in one than in the other."""
    stronger = rng.choice((-1, 1))
    patch = np.zeros_like(lungs)
    for side in (-1, 1):
        centre = side * rng.uniform(0.36, 0.54), rng.uniform(-0.35, 0.3)
        radius = rng.uniform(0.3, 0.5)
        weight = 1.0 if side == stronger else rng.uniform(0.2, 0.8)
        patch += weight * np.exp(-((((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2) ** 2))
    texture = smooth_noise(len(lungs), 0.75 * len(lungs) / DEFAULT_SIZE, rng)
    amount = 0.10 * rng.lognormal(0, 0.5)
    return np.asarray(amount * patch * lungs * texture, dtype=np.float32)


def smooth_noise(size: int, sigma: float, rng: np.random.Generator) -> Image:
    """Return smooth noise of deviation 1 whose grain is `sigma` pixels."""
    noise = gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), sigma, mode="wrap")
    # The deviation of filtered white noise, from the filter's own energy, for a grain above half a pixel.
    return np.asarray(noise * (2 * np.sqrt(np.pi) * sigma), dtype=np.float32)


def soft(inside: Image, edge: float) -> Image:
    """Return 1 where `inside` is well above 0 and 0 where it is well below; a larger edge is a harder one."""
    return np.asarray(1 / (1 + np.exp(-np.clip(edge * inside, -30, 30))), dtype=np.float32)


SOURCE = Source(title="synthetic chest films, made from a seed", options=PhantomOptions, open=open_phantom)
