"""What `ttl similarity` leaves of a dataset, and its figure: features before and after finetuning.

What is compared with what, `ttl.release.transferability` says. Nothing here needs torch: the report draws
from the files.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from ttl.errors import SearchError
from ttl.release import svg

TABLE, DESCRIPTION, FIGURE = "similarity.parquet", "similarity.json", "similarity.svg"

PAIRS = ("finetuned", "random")
METRICS = ("val_auroc", "test_auprc")

_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "backbone": pl.String,
    "layer": pl.String,
    "stage": pl.String,
    "index": pl.Int64,
    "pair": pl.String,
    "measure": pl.String,
    "positions": pl.Int64,
    "values": pl.List(pl.Float64),
}
SCHEMA = pl.Schema(_COLUMNS)
"""Columns of `similarity.parquet`. `measure` is `svcca`, whose `values` are all canonical correlations, or
`cka`, with one value; `positions` is the number of samples that they follow from."""

LINES = {"test_auprc": ("test AUPRC", "o", "-"), "val_auroc": ("validation AUROC", "s", (0, (4, 2)))}
BOX = 0.32
WHISKERS = (5, 95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found for one backbone: rows of `SCHEMA`, and its entry of `similarity.json`."""

    table: pl.DataFrame
    entry: dict[str, Any]


def write(folder: Path, found: Sequence[Found], about: Mapping[str, Any]) -> None:
    """Write the table, the description and the figure of one dataset, each in one step.

    `about` is what holds for all backbones: the dataset, its revision, the split, the variance kept.
    """
    table = pl.concat([one.table for one in found])
    description = {**about, "backbones": [one.entry for one in found]}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    picture = svg.standalone(draw(table, description))
    for name, save in (
        (TABLE, table.write_parquet),
        (DESCRIPTION, lambda path: path.write_text(text, encoding="utf-8")),
        (FIGURE, lambda path: path.write_text(picture, encoding="utf-8")),
    ):
        aside = folder / f".{name}"
        save(aside)
        aside.replace(folder / name)


def read(folder: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the table and the description that lie in a dataset's folder."""
    for name in (TABLE, DESCRIPTION):
        if not (folder / name).is_file():
            raise SearchError(f"{folder / name} does not exist; `ttl similarity` makes it")
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return pl.read_parquet(folder / TABLE), description


def summary(table: pl.DataFrame, description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row a layer: means of the correlations, CKA, and the figures of the network cut there."""
    means = table.with_columns(pl.col("values").list.mean().alias("mean"))
    known = {
        (row["backbone"], row["layer"], row["measure"], row["pair"]): row["mean"]
        for row in means.iter_rows(named=True)
    }
    return [
        {
            "backbone": entry["backbone"],
            **{name: layer[name] for name in ("layer", "stage", "index")},
            **{
                f"{measure}_{pair}": known[entry["backbone"], layer["layer"], measure, pair]
                for measure in ("svcca", "cka")
                for pair in PAIRS
            },
            **{metric: layer["network"][metric]["mean"] if layer["network"] else None for metric in METRICS},
        }
        for entry in description["backbones"]
        for layer in entry["layers"]
    ]


def draw(table: pl.DataFrame, description: Mapping[str, Any], *, name: str = "similarity") -> str:
    """Return the figure as an `<svg>` element for a page: a panel a backbone.

    Boxes hold the middle half of a layer's canonical correlations, whiskers 90 % of them, the line is the
    median: before against after finetuning in the stage's colour, a random network against the finetuned one
    in grey. Diamonds are linear CKA. On the second axis, in ink, stand the metrics of the network cut there.
    """
    entries = description["backbones"]
    most = max(len(entry["layers"]) for entry in entries)
    tips: dict[str, str] = {}
    with svg.drawing(min(max(30 * most + 260, 640), 1500), 450 * len(entries)) as (figure, axes):
        axes.remove()
        panels = figure.subplots(len(entries), squeeze=False)[:, 0]
        handles: dict[str, Any] = {}
        synthetic = " — SYNTHETIC images" if description["synthetic"] else ""
        for number, (panel, entry) in enumerate(zip(panels, entries, strict=True)):
            mine = table.filter(pl.col("backbone") == entry["backbone"])
            drawn = _panel(panel, mine, entry, tips, number)
            handles |= {handle.get_label(): handle for handle in drawn if handle.get_label() not in handles}
            title = f"{description['dataset']}, {entry['backbone']}{synthetic}".replace("$", r"\$")
            panel.set_title(title, loc="left", fontsize=11, pad=10)
        figure.legend(
            handles=list(handles.values()), loc="outside lower center", ncols=3, frameon=False, fontsize=10
        )
        words = (
            f"Canonical correlations of features before and after finetuning on {description['dataset']}, by "
            f"layer, beside those of a random network, for {', '.join(one['backbone'] for one in entries)}"
        )
        return svg.finish(figure, name=name, label=words, tips=tips)


def _panel(
    axes: Any, table: pl.DataFrame, entry: Mapping[str, Any], tips: dict[str, str], number: int
) -> list[Any]:
    """Draw one backbone; return what the legend shows."""
    layers = entry["layers"]
    stages = list(dict.fromkeys(layer["stage"] for layer in layers))
    colours = {stage: svg.shade(place / max(len(stages) - 1, 1))[0] for place, stage in enumerate(stages)}
    values = {(row["layer"], row["measure"], row["pair"]): row["values"] for row in table.to_dicts()}
    for place, layer in enumerate(layers):
        for pair, shift in zip(PAIRS, (-BOX / 2 - 0.02, BOX / 2 + 0.02), strict=True):
            colour = colours[layer["stage"]] if pair == "finetuned" else svg.MUTED
            correlations = values[layer["layer"], "svcca", pair]
            cka = values[layer["layer"], "cka", pair][0]
            gid = f"box-{number}-{place}-{pair}"
            _box(axes, correlations, place + shift, colour, faint=pair == "random", gid=gid)
            axes.plot(place + shift, cka, marker="D", ms=5, color=colour, mec=svg.PAPER, mew=1.0, zorder=5)
            mean = sum(correlations) / len(correlations)
            against = "before finetuning" if pair == "finetuned" else "random network"
            tips[gid] = (
                f"{layer['layer']}, {against}: mean of {len(correlations)} correlations {mean:.3f}, "
                f"CKA {cka:.3f}"
            )
    drawn = _metrics(axes, layers, entry["whole"])
    names = [layer["layer"] for layer in layers] + ["whole network"]
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("layer, from the bottom; coloured by stage")
    axes.set_ylabel("correlation with the finetuned network")
    middle = colours[stages[len(stages) // 2]]
    return [
        Patch(facecolor=middle, alpha=0.55, edgecolor=middle, label="SVCCA, before finetuning"),
        Patch(facecolor=svg.MUTED, alpha=0.25, edgecolor=svg.MUTED, label="SVCCA, random network"),
        Line2D([], [], ls="none", marker="D", ms=5, color=middle, label="CKA, before finetuning"),
        Line2D([], [], ls="none", marker="D", ms=5, color=svg.MUTED, label="CKA, random network"),
        *drawn,
    ]


def _box(axes: Any, values: Sequence[float], place: float, colour: str, *, faint: bool, gid: str) -> None:
    made = axes.boxplot(
        [values],
        positions=[place],
        widths=BOX,
        whis=WHISKERS,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": (colour, 0.25 if faint else 0.55), "edgecolor": colour, "linewidth": 1.0},
        medianprops={"color": colour if faint else svg.INK, "linewidth": 1.6},
        whiskerprops={"color": colour, "linewidth": 1.0},
        capprops={"color": colour, "linewidth": 1.0},
    )
    made["boxes"][0].set_gid(gid)


def _metrics(axes: Any, layers: Sequence[Mapping[str, Any]], whole: Mapping[str, Any] | None) -> list[Line2D]:
    """Draw the metrics of the networks cut at each layer on a second axis; return what the legend shows."""
    second = axes.twinx()
    second.grid(visible=False)
    second.spines["right"].set_visible(True)
    second.set_ylabel("AUPRC, AUROC of the network cut there")
    handles, lowest = [], 1.0
    for metric, (title, marker, dash) in LINES.items():
        style: dict[str, Any] = {"color": svg.INK, "marker": marker, "mec": svg.PAPER, "mew": 0.8}
        cut = list(_known(enumerate(layer["network"] for layer in layers), metric))
        # Apart from the line: it is at no layer.
        for points, line in ((cut, dash), (list(_known([(len(layers), whole)], metric)), "none")):
            if not points:
                continue
            places, means, deviations = zip(*points, strict=True)
            drawn, *_ = second.errorbar(
                places, means, yerr=deviations, ls=line, lw=1.4, elinewidth=1.0, ms=5.5, **style
            )
            # Readable where it crosses boxes.
            drawn.set_path_effects([withStroke(linewidth=3.4, foreground=svg.PAPER)])
            lowest = min(lowest, *(mean - deviation for _, mean, deviation in points))
        handles.append(Line2D([], [], ls=dash, lw=1.4, ms=5.5, label=f"{title}, network cut there", **style))
    second.set_ylim(lowest - 0.12 * (1 - lowest) - 0.005, 1.0 + 0.03 * (1 - lowest))
    return handles


def _known(
    networks: Iterable[tuple[int, Mapping[str, Any] | None]], metric: str
) -> Iterator[tuple[int, float, float]]:
    """Yield place, mean and deviation of the networks that have the metric."""
    for place, network in networks:
        if network and network[metric]["mean"] is not None:
            yield place, network[metric]["mean"], network[metric]["deviation"] or 0.0
