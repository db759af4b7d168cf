"""The paper's headline table, from the tables of a sweep: pure functions, no files.

For each strategy, "-1" is its best stage cut, and "-2" the best of that and the block cuts between its
neighbours, by mean validation AUROC over the seeds (Peng et al., BMVC 2023). What is reported is of the test
split, which has no part in the choice.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from ttl.errors import SearchError
from ttl.evaluation.paired import Tested, holm
from ttl.evaluation.statistics import Interval
from ttl.search.contrast import contrasts
from ttl.search.results import CONDITION, alike, settled
from ttl.search.scores import Predictions
from ttl.search.space import between
from ttl.training.runs import COMPLETED

METHODS = ("FTL", "TF-1", "LWFT-1", "TTL-1", "TF-2", "LWFT-2", "TTL-2")
"""The rows of the table, in the paper's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A mean over seeds, and their deviation; none of a single seed."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of one value a seed."""
        return cls(
            mean=statistics.fmean(values), deviation=statistics.stdev(values) if len(values) > 1 else None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method of the table. `cut` is None, and so are the figures, where the sweep has no trial of it.

    `params` and `macs` are counts, `latency_ms` a mean over seeds, measured on `devices`. `difference` is
    test AUROC less FTL's, `p` of its paired test, and `p_holm` adjusted for the number of networks compared;
    None for FTL itself, and for what cannot be tested. `notes` are sentences on what is missing, or must be
    known to read the row.
    """

    method: str
    strategy: str
    cut: str | None = None
    seeds: tuple[int, ...] = ()
    trial_ids: tuple[str, ...] = ()
    val_auroc: Spread | None = None
    test_auroc: Spread | None = None
    test_auprc: Spread | None = None
    params: int | None = None
    macs: int | None = None
    latency_ms: float | None = None
    devices: tuple[str, ...] = ()
    difference: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    notes: tuple[str, ...] = ()


def conditions(trials: pl.DataFrame, *, dataset: str, backbone: str) -> list[dict[str, Any]]:
    """Return the conditions under which a backbone was trained on a dataset: one makes one table."""
    found = settled(trials).filter(dataset=dataset, backbone=backbone)
    return found.select(CONDITION).unique(maintain_order=True).to_dicts()


def headline(
    trials: pl.DataFrame,
    ledger: pl.DataFrame,
    predictions: Predictions,
    *,
    dataset: str,
    backbone: str,
    condition: Mapping[str, Any] | None = None,
    entry: Mapping[str, Any] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[Row, ...]:
    """Return the seven rows of the table, those without trials included.

    `trials` and `ledger` are the tables of that name. `condition` is one of `conditions`, and need not be
    given where there is only one. `entry`, the dataset's of `selection.json`, names the labels and says how
    many patients one must have, where images have several, and how many images were divided where each seed
    has a split of its own. What cannot be tested has a note that says why.
    Raises `SearchError` where there are no trials, or several conditions.
    """
    known = conditions(trials, dataset=dataset, backbone=backbone)
    if not known:
        raise SearchError(f"the sweep has no trial of {backbone} on {dataset}")
    if condition is None and len(known) > 1:
        raise SearchError(
            f"{backbone} was trained on {dataset} under {len(known)} conditions; say which is meant"
        )
    wanted = known[0] if condition is None else condition
    table = alike(trials.filter(dataset=dataset, backbone=backbone), wanted)
    book = ledger.filter(dataset=dataset, backbone=backbone)
    seeds = tuple(sorted(table["seed"].unique().to_list()))
    rows = {"FTL": _row("FTL", "ftl", _done(table, "ftl", ["full"], seeds))}
    for strategy in ("tf", "lwft", "ttl"):
        first, second = _cuts(strategy, table, book, seeds)
        rows[first.method], rows[second.method] = first, second
    return _tested(
        [rows[name] for name in METHODS],
        predictions,
        entry=entry or {},
        resplit=wanted["resplit"],
        confidence=confidence,
        resamples=resamples,
    )


def _cuts(strategy: str, table: pl.DataFrame, book: pl.DataFrame, seeds: tuple[int, ...]) -> tuple[Row, Row]:
    """Return the rows -1 and -2 of a strategy."""
    names = strategy.upper()
    stages = _names(book, "stage")
    blocks = _blocks(book, stages)
    wanted = _names(book.filter(strategy=strategy), "stage")
    coarse = _done(table.filter(granularity="stage"), strategy, wanted, seeds)
    first = _row(f"{names}-1", strategy, coarse)
    best = first.cut
    if best is None:
        swept = not table.filter(strategy=strategy).is_empty()
        why = (
            f"{names}-1 is the best stage cut, and there is none that was trained with every seed"
            if swept
            else f"{names} is missing: the sweep has no {strategy}"
        )
        return replace(first, notes=(why,)), Row(method=f"{names}-2", strategy=strategy, notes=(why,))
    first = _left_out(first, coarse, wanted, "stage")
    second = replace(first, method=f"{names}-2", notes=())
    if not blocks:
        why = f"{names}-2 is missing: no block cuts were swept"
        return first, Row(method=second.method, strategy=strategy, notes=(why,))
    own = set(_names(book.filter(strategy=strategy), "block"))
    near = [name for name in between(stages, blocks, best) if name in own]
    fine = _done(table.filter(granularity="block"), strategy, near, seeds)
    if near and not fine:
        why = f"{names}-2 is missing: the block cuts around {best} were not trained with every seed"
        return first, Row(method=second.method, strategy=strategy, notes=(why,))
    # The stage cut comes first: of equals, it stays.
    second = _row(second.method, strategy, {best: coarse[best], **fine})
    second = _left_out(second, fine, near, "block")
    if second.cut == best:
        why = f"{names}-2 is {names}-1: no block cut around it was better on validation data"
        second = replace(second, notes=(*second.notes, why))
    return first, second


def _names(book: pl.DataFrame, granularity: str) -> list[str]:
    cuts = book.filter((pl.col("granularity") == granularity) & (pl.col("cut") != "full"))
    return cuts.unique("cut").sort("cut_index")["cut"].to_list()


def _blocks(book: pl.DataFrame, stages: Sequence[str]) -> list[str]:
    """Return the block cuts, those among them that a ledger lists as stage cuts: every third of a ViT's."""
    listed = book.filter((pl.col("granularity") == "block") & (pl.col("cut") != "full"))
    known = dict(listed.select("cut_index", "cut").iter_rows())
    # A stage of blocks has a listed block in it; one that has none is a block itself, at an index left out.
    alone = [one for one in stages if not any(f"{name}.".startswith(f"{one}.") for name in known.values())]
    found = []
    for index in range(max(known, default=-1) + 1):
        if index in known:
            found.append(known[index])
        elif alone:
            found.append(alone.pop(0))
    return found + alone if known else []


def _done(
    table: pl.DataFrame, strategy: str, cuts: Sequence[str], seeds: tuple[int, ...]
) -> dict[str, pl.DataFrame]:
    """Return the completed trials at each of some cuts that has all seeds."""
    done = table.filter((pl.col("strategy") == strategy) & (pl.col("status") == COMPLETED))
    groups = {cut: done.filter(cut=cut).unique("seed").sort("seed") for cut in cuts}
    return {cut: group for cut, group in groups.items() if tuple(group["seed"]) == seeds}


def _row(method: str, strategy: str, found: Mapping[str, pl.DataFrame]) -> Row:
    """Return a method's row from the best cut found; of equals, the smaller network, then the first."""
    if not found:
        return Row(method=method, strategy=strategy)

    def key(cut: str) -> tuple[float, float]:
        mean = statistics.fmean(found[cut]["val_auroc"].to_list())
        return (mean if math.isfinite(mean) else -math.inf, -found[cut]["params"][0])

    cut = max(found, key=key)
    group = found[cut]
    return Row(
        method=method,
        strategy=strategy,
        cut=cut,
        seeds=tuple(group["seed"].to_list()),
        trial_ids=tuple(group["trial_id"].to_list()),
        val_auroc=Spread.of(group["val_auroc"].to_list()),
        test_auroc=Spread.of(group["test_auroc"].to_list()),
        test_auprc=Spread.of(group["test_auprc"].to_list()),
        params=group["params"][0],
        macs=group["macs"][0],
        latency_ms=statistics.fmean(group["latency_ms"].to_list()),
        devices=tuple(sorted({str(one) for one in group["device"].to_list()})),
    )


def _left_out(row: Row, done: Mapping[str, Any], wanted: Sequence[str], kind: str) -> Row:
    lost = [cut for cut in wanted if cut not in done]
    if not lost:
        return row
    some = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    why = (
        f"{row.method} is the best of {len(done)} of {len(wanted)} {kind} cuts: {some} not trained with "
        "every seed"
    )
    return replace(row, notes=(*row.notes, why))


def _tested(rows: Sequence[Row], predictions: Predictions, **how: Any) -> tuple[Row, ...]:
    """Return the rows with their comparison with FTL, the first."""
    reference = rows[0]
    if reference.cut is None:
        why = "FTL is missing: there is no whole network, trained with every seed, to compare with"
        return (replace(reference, notes=(why,)), *rows[1:])
    # By networks: where -2 is -1, that is one comparison.
    networks = dict.fromkeys(row.trial_ids for row in rows[1:] if row.cut is not None)
    compared = contrasts(networks, reference.trial_ids, predictions, **how)
    tests = {ids: one for ids, one in compared.found.items() if isinstance(one, Tested)}
    adjusted = dict(zip(tests, holm([one.p for one in tests.values()]), strict=True))

    def with_test(row: Row) -> Row:
        found = compared.found[row.trial_ids]
        if isinstance(found, str):
            return replace(row, notes=(*row.notes, found))
        notes = (*row.notes, compared.note) if compared.note else row.notes
        holm_p = adjusted[row.trial_ids]
        return replace(row, difference=found.difference, p=found.p, p_holm=holm_p, notes=notes)

    return (reference, *[row if row.cut is None else with_test(row) for row in rows[1:]])
