"""The models of a sweep: who they are, what they cost, and the figures that compare them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from markupsafe import Markup

from ttl.release import svg
from ttl.release.report.curves import curves
from ttl.release.report.cuts import by_cut
from ttl.release.report.differences import Difference, differences
from ttl.release.report.frontier import frontier
from ttl.release.report.tables import KEYS, Model, cut_order, means, model_of, strategies_of, told
from ttl.search import results
from ttl.search.selection import pareto_front

SYMBOLS = {"s": "■", "o": "●", "^": "▲", "D": "◆", "P": "✚"}


def role(row: Mapping[str, Any], chosen: Model | None, reference: Model | None) -> str:
    """Return what a row of the leaderboard is to the selection."""
    model = model_of(row)
    return ", ".join(
        word for word, known in (("selected", chosen), ("reference", reference)) if model == known
    )


def front_of(rows: Sequence[Mapping[str, Any]], selection: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the leaderboard's rows that no smaller model equals on validation data, the smallest first.

    `difference` and `non_inferior` are the selection's, None where it did not compare the model.
    """
    scored = [row for row in rows if row["val_auroc_mean"] is not None and row["params"] is not None]
    front = pareto_front([(row["params"], row["val_auroc_mean"]) for row in scored])
    known = {model_of(one): one for one in (selection["candidates"] if selection else [])}
    nothing: dict[str, Any] = {"difference": None, "non_inferior": None}
    return [
        {**row, **{key: known.get(model_of(row), nothing)[key] for key in nothing}}
        for row in (scored[place] for place in front)
    ]


def legend(trials: pl.DataFrame) -> list[dict[str, str]]:
    """Return each strategy's name, colour variable and marker."""
    return [
        {
            "name": strategy,
            "variable": f"--fig-{strategy if strategy in svg.MARKS else 'other'}",
            "symbol": SYMBOLS[svg.mark(strategy).marker],
        }
        for strategy in strategies_of(trials)
    ]


def draw(
    name: str,
    *,
    completed: pl.DataFrame,
    history: pl.DataFrame,
    selection: Mapping[str, Any] | None,
    chosen: Model | None,
    reference: Model | None,
) -> dict[str, Any]:
    """Return the figures of a dataset's completed trials, for the template."""
    table = means(completed, "val_auroc")
    models: list[Model] = list(table.select(KEYS).iter_rows())
    points = list(table.select("params", "mean").iter_rows())
    front = [models[index] for index in pareto_front(points)]
    floor = None
    if selection and not _narrowed(selection):
        floor = selection["reference"]["val_auroc"]["value"] - selection["rule"]["margin"]
    drawn: dict[str, Any] = {
        "frontier": [
            Markup(
                frontier(
                    completed,
                    metric=metric,
                    front=front,
                    chosen=chosen,
                    reference=reference,
                    floor=floor if metric == "val_auroc" else None,
                    name=f"{name}-{metric}-front",
                )
            )
            for metric in ("val_auroc", "test_auroc")
        ],
        "cuts": [],
        "curves": [],
        "differences": None,
        "floor": floor is not None,
    }
    factors = results.factors(completed)
    for number_, (_, group) in enumerate(completed.group_by(results.FACTORS, maintain_order=True)):
        title = ", ".join(told(factor, group[factor][0]) for factor in factors)
        if group.filter(pl.col("strategy") != "ftl").height:
            panels = [
                Markup(by_cut(group, metric=metric, name=f"{name}-{number_}-{metric}-cut"))
                for metric in ("val_auroc", "test_auroc")
            ]
            drawn["cuts"].append({"title": title, "panels": panels})
        drawn["curves"].append(_curves(f"{name}-{number_}", title, group, history))
    if selection and len(selection["candidates"]) > 1:
        rows = [_difference(one) for one in selection["candidates"] if model_of(one) != reference]
        drawn["differences"] = Markup(
            differences(
                rows,
                margin=selection["rule"]["margin"],
                chosen=chosen,
                reference=reference,
                name=f"{name}-differences",
            )
        )
    return drawn


def _narrowed(selection: Mapping[str, Any]) -> bool:
    """Return whether models were compared over some labels alone: on the figures' axes are means over all."""
    return len(selection.get("labels", {}).get("validation", ())) < len(
        selection["figures"]["chosen"].get("labels", ())
    )


def _difference(candidate: Mapping[str, Any]) -> Difference:
    return Difference(model=model_of(candidate), params=candidate["params"], **candidate["difference"])


def _curves(name: str, title: str, trials: pl.DataFrame, history: pl.DataFrame) -> dict[str, Any]:
    """Return a panel of training curves for each strategy, on the same axes, and the key of the cuts."""
    joined = history.join(trials.select("trial_id", "strategy", "cut", "seed"), on="trial_id")
    order = cut_order(trials) if trials.filter(pl.col("strategy") != "ftl").height else []
    shades = {cut: place / max(len(order) - 1, 1) for place, cut in enumerate(order)}
    finite = joined.filter(pl.col("val_auroc").is_finite())["val_auroc"]
    limits = (_floor(finite), 1.005) if len(finite) else None
    epochs = max(joined["epoch"].to_list(), default=1)
    panels = [
        {
            "strategy": strategy,
            "svg": Markup(
                curves(
                    joined.filter(pl.col("strategy") == strategy),
                    shades=shades,
                    limits=limits,
                    epochs=epochs,
                    name=f"{name}-{strategy}-curves",
                )
            ),
        }
        for strategy in strategies_of(trials)
        if joined.filter(pl.col("strategy") == strategy).height
    ]
    steps = [
        {"cut": cut, "variable": f"--fig-step-{round(place * (svg.STEPS - 1))}"}
        for cut, place in shades.items()
    ]
    return {"title": title, "panels": panels, "steps": steps}


def _floor(values: pl.Series) -> float:
    """Return where the axis of AUROC starts: room for all but a few outliers."""
    low: Sequence[Any] = [values.quantile(0.02)]
    return max(0.0, math.floor((float(low[0]) - 0.01) * 20) / 20)
