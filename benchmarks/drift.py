"""How often a drop is said to have drifted: when nothing has changed, and when the scanner has.

`python -m benchmarks.drift`. Every reference and every drop has patients of its own, and a drop is of its
reference's site. The network has ImageNet's weights, and a logistic regression on its features at the cut,
made for other patients still, stands for the champion's head.
"""

import datetime
import math
import time
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ttl.evaluation.appearance import pixel_statistics
from ttl.evaluation.drift import DriftReport, Observed, assess, calibrate
from ttl.intake.phantom_film import MACHINES, OTHER_MACHINE, Clinic, Machine
from ttl.models.network import NetworkSpec, build_network

DAY = datetime.date(2026, 3, 1)


class Champion:
    """What a model sees of films: features at a cut, and outputs of a head made for them."""

    def __init__(self, backbone: str, cut: str, size: int) -> None:
        spec = NetworkSpec(backbone=backbone, strategy="ttl", cut=cut, num_classes=2, image_size=size)
        self.network: Any = build_network(spec).eval().net
        self.head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))

    @torch.inference_mode()
    def features(self, films: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the features [n, d] of films [n, size, size], as the pooling before the head gives them."""
        found = []
        for part in np.array_split(films, math.ceil(len(films) / 128)):
            images = (torch.from_numpy(part).float() / 255 - 0.45) / 0.225
            maps = self.network.forward_features(images[:, None].expand(-1, 3, -1, -1))
            found.append(self.network.forward_head(maps, pre_logits=True).double().numpy())
        return np.concatenate(found)

    def observe(self, films: NDArray[np.uint8], patients: list[str]) -> Observed:
        """Return the three views of films."""
        features = self.features(films)
        views = {
            "pixels": pixel_statistics(films[:, None]),
            "features": features,
            "outputs": self.head.decision_function(features),
        }
        return Observed(views, patients)


def draw(
    site: int, machine: Machine, name: str, *, patients: int, size: int
) -> tuple[NDArray[np.uint8], list[str], NDArray[np.int64]]:
    """Return films, whose they are and their labels, of new patients who have one to three each."""
    clinic = Clinic(site=f"s{site}", drop=name, date=DAY, seed=0, size=size, strength=1.0, machine=machine)
    rng = clinic.stream("patients")
    films = []
    for place in range(patients):
        onset = int(rng.integers(0, 2)) if rng.random() < 0.6 else 9
        for visit in range(int(rng.integers(1, 4))):
            films.append(clinic.draw(clinic.patient(place), len(films), ill=visit >= onset))
    labels = np.array([film.label == "finding" for film in films], dtype=np.int64)
    return np.stack([film.pixels for film in films]), [film.patient for film in films], labels


def main(
    drops: Annotated[int, typer.Option(help="Drops of each kind.")] = 200,
    per_reference: Annotated[int, typer.Option(help="Drops that share a reference.")] = 5,
    reference_patients: Annotated[int, typer.Option(help="Of one to three films each.")] = 120,
    drop_patients: Annotated[int, typer.Option(help="Of one to three films each.")] = 40,
    backbone: Annotated[str, typer.Option(help="A timm model.")] = "efficientnet_lite0",
    cut: Annotated[str, typer.Option(help="Where it is cut.")] = "blocks.1",
    size: Annotated[int, typer.Option(help="Side of the films in pixels.")] = 64,
    alpha: Annotated[float, typer.Option(help="The false-alarm rate that is asked for.")] = 0.05,
) -> None:
    """Print a row for what has changed, and a column for each view."""
    champion = Champion(backbone, cut, size)
    films, _, labels = zip(
        *(draw(s, m, "train", patients=200, size=size) for s, m in enumerate(MACHINES)), strict=True
    )
    champion.head.fit(champion.features(np.concatenate(films)), np.concatenate(labels))
    found: dict[str, list[DriftReport]] = {"nothing": [], "scanner": []}
    scores: dict[str, list[tuple[NDArray[np.float64], NDArray[np.int64]]]] = {"nothing": [], "scanner": []}
    seconds = []
    for number in range(math.ceil(drops / per_reference)):
        site = number % len(MACHINES)
        ours = draw(site, MACHINES[site], f"ref{number}", patients=reference_patients, size=size)
        reference = champion.observe(ours[0], ours[1])
        for change, machine in (("nothing", MACHINES[site]), ("scanner", OTHER_MACHINE)):
            for turn in range(min(per_reference, drops - number * per_reference)):
                name = f"drop{number}-{turn}-{change}"
                theirs, patients, truth = draw(site, machine, name, patients=drop_patients, size=size)
                drop = champion.observe(theirs, patients)
                start = time.perf_counter()
                calibration = calibrate(reference, drop.films, alpha=alpha, seed=number)
                found[change].append(assess(reference, drop, calibration))
                seconds.append(time.perf_counter() - start)
                scores[change].append((drop.views["outputs"][:, 0], truth))
    _show(found, scores, seconds)


def _show(
    found: dict[str, list[DriftReport]],
    scores: dict[str, list[tuple[NDArray[np.float64], NDArray[np.int64]]]],
    seconds: list[float],
) -> None:
    views = list(found["nothing"][0].views)
    table = Table("what has changed", "drops", "films", "said to drift", *views, "AUROC", box=None)
    for change, reports in found.items():
        outputs, truth = (np.concatenate(column) for column in zip(*scores[change], strict=True))
        table.add_row(
            change,
            str(len(reports)),
            f"{np.mean([r.images for r in reports]):.0f}",
            f"{np.mean([r.drifted for r in reports]):.1%}",
            *(f"{np.mean([r.views[view].fired for r in reports]):.1%}" for view in views),
            f"{roc_auc_score(truth, outputs):.3f}",
        )
    Console().print(table)
    imitations = found["nothing"][0].resamples
    print(f"{np.median(seconds):.2f} s a drop, its {imitations} imitations included")


if __name__ == "__main__":
    typer.run(main)
