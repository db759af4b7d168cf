"""The phantom with several findings: any of them on a film, more often together than by chance.

Each is of low or middle level, and of another kind, so that a network may find one early and another late. A
patient's tendency to have findings is one number, which the findings share: so their labels are correlated,
as those of chest films are.
"""

import datetime
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from scipy.stats import norm

from ttl.data.labels import NOT_KNOWN, UNCERTAIN
from ttl.data.sources.base import Sample
from ttl.data.sources.phantom import (
    FIRST_DAY,
    Anatomy,
    Image,
    PhantomOptions,
    draw_anatomy,
    draw_film,
    fine_texture,
    smooth_noise,
    soft,
)

CORRELATION = 0.4
"""Of the tendencies to any two findings."""

RARER = 0.75
"""A finding's prevalence is so many times that of the one before it."""

HEART = 1.45
"""By so much is an enlarged heart wider."""


def nodules(lungs: Image, x: Image, y: Image, rng: np.random.Generator) -> Image:
    """Return a few small bright discs in the lungs."""
    film = np.zeros_like(lungs)
    for _ in range(int(rng.integers(3, 7))):
        centre = rng.choice((-1, 1)) * rng.uniform(0.3, 0.6), rng.uniform(-0.5, 0.4)
        radius = rng.uniform(0.05, 0.09)
        film += np.exp(-((((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2) ** 2))
    return np.asarray(rng.uniform(0.15, 0.25) * film * lungs, dtype=np.float32)


def effusion(lungs: Image, x: Image, y: Image, rng: np.random.Generator) -> Image:
    """Return brightness that fills the bottom of one lung."""
    side = rng.choice((-1, 1))
    level = soft(np.asarray(y - rng.uniform(0.15, 0.4), dtype=np.float32), 18)
    return np.asarray(rng.uniform(0.28, 0.4) * level * lungs * (side * x > 0), dtype=np.float32)


def stripes(lungs: Image, x: Image, y: Image, rng: np.random.Generator) -> Image:
    """Return fine parallel lines in the lungs."""
    angle = rng.uniform(0, np.pi)
    lines = np.maximum(np.sin(rng.uniform(28, 36) * (x * np.cos(angle) + y * np.sin(angle))), 0)
    return np.asarray(rng.uniform(0.1, 0.16) * lines * lungs, dtype=np.float32)


def clouds(lungs: Image, x: Image, y: Image, rng: np.random.Generator) -> Image:
    """Return coarse patches in the upper halves of both lungs."""
    del x
    noise = smooth_noise(len(lungs), 5 * len(lungs) / 64, rng)
    upper = soft(np.asarray(-y, dtype=np.float32), 8)
    return np.asarray(rng.uniform(0.14, 0.2) * np.maximum(noise, 0) * upper * lungs, dtype=np.float32)


Draw = Callable[[Image, Image, Image, np.random.Generator], Image]

FINDINGS: dict[str, Draw | None] = {
    "texture": fine_texture,
    "nodules": nodules,
    "effusion": effusion,
    "large heart": None,
    "stripes": stripes,
    "clouds": clouds,
}
"""The findings in their order, and what each adds to a film; a large heart is the anatomy's own."""


def make_samples(options: PhantomOptions, *, size: int, channels: int, seed: int) -> Iterator[Sample]:
    """Yield the images of all patients, each patient from a random stream of its own."""
    assert options.labels is not None
    names = list(FINDINGS)[: options.labels]
    prevalence = options.prevalence * RARER ** np.arange(len(names))
    for number in range(options.patients):
        rng = np.random.default_rng([seed, number])
        site = int(rng.integers(options.sites))
        anatomy = draw_anatomy(rng)
        count = int(rng.integers(2, 5))
        shared, own = rng.standard_normal(), rng.standard_normal(len(names))
        tendency = np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * own
        # As with one finding: an ill patient's first film may lie before the onset.
        onset = np.where(tendency > norm.isf(prevalence), rng.integers(0, 2, len(names)), count)
        day = FIRST_DAY + datetime.timedelta(days=int(rng.integers(0, 1200)))
        for visit in range(count):
            present = onset <= visit
            shown = {name for name, there in zip(names, present, strict=True) if there}
            pixels = draw_film(_anatomy(anatomy, shown), site, 0.0, size, rng, add=_add(shown, options))
            labels = present.astype(int) ^ (rng.random(len(names)) < options.label_noise)
            drawn = rng.random(len(names))
            labels[drawn < options.unknown + options.unsure] = UNCERTAIN
            labels[drawn < options.unknown] = NOT_KNOWN
            yield Sample(
                sample_id=f"phantom-{number:05d}-{visit}",
                pixels=np.repeat(pixels[None], channels, axis=0),
                label=tuple(labels.tolist()),
                patient_id=f"patient-{number:05d}",
                site=f"site-{site}",
                acquired_at=day,
            )
            day += datetime.timedelta(days=int(rng.integers(7, 200)))


def _anatomy(anatomy: Anatomy, shown: set[str]) -> Anatomy:
    return replace(anatomy, heart=HEART * anatomy.heart) if "large heart" in shown else anatomy


def _add(shown: set[str], options: PhantomOptions) -> Draw:
    def add(lungs: Image, x: Image, y: Image, rng: np.random.Generator) -> Image:
        film = np.zeros_like(lungs)
        for name, draw in FINDINGS.items():
            if name in shown and draw is not None:
                film += options.strength * draw(lungs, x, y, rng)
        return film

    return add
