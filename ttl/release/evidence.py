"""The evidence for a proposal: everything that a person decides by, as Markdown, as a page, and as JSON."""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markdown_it import MarkdownIt
from markupsafe import Markup

from ttl.data.dataset import PackedDataset
from ttl.data.labels import NOT_KNOWN
from ttl.evaluation.drift import DriftReport
from ttl.evaluation.reliability import binned
from ttl.intake.received import ROLLING, taken
from ttl.models.cost import cost
from ttl.models.network import Network
from ttl.release import svg
from ttl.release.champion import Model
from ttl.release.description import CARD, WEIGHTS, Description, fingerprint, read_description
from ttl.release.evidence_files import MARKDOWN, PAGE, VALUES
from ttl.release.gate import Verdict
from ttl.release.gate_rule import GateRule, RuleVersion
from ttl.release.head_to_head import HeadToHead, TestName
from ttl.release.predict import rebuild
from ttl.release.watch import MOST_IMAGES, Watched
from ttl.search import results
from ttl.training.runs import COMPLETED

PAGE_TEMPLATE = "evidence.html.j2"
BINS = 5

MARKUP = re.compile(r"[&<>|`\\\[\]*#!~]|(?<!\w)_|_(?!\w)")
"""What Markdown or HTML may take for more than text."""

COMPARED, CALIBRATED = "Champion and challenger, on the same images", "Calibration of the challenger"
"""The headings that have a figure on the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is shown; `drift` are the drops since the champion's data."""

    dataset: PackedDataset
    verdict: Verdict
    rule: GateRule
    rule_version: RuleVersion
    challenger: Model
    champion: Model | None
    scores: Mapping[TestName, HeadToHead]
    drift: Sequence[Watched]
    results: Path


def write_evidence(evidence: Evidence, folder: Path) -> str:
    """Write the three files into a folder, which is made, and return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    values = _values(evidence)
    text = _render(values)
    (folder / MARKDOWN).write_text(text, encoding="utf-8")
    (folder / PAGE).write_text(_page(values, text), encoding="utf-8")
    plain = {name: value for name, value in values.items() if name != "card"}
    (folder / VALUES).write_text(
        json.dumps(plain, indent=2, default=str, allow_nan=False) + "\n", encoding="utf-8"
    )
    return text


def _values(evidence: Evidence) -> dict[str, Any]:
    ours = read_description(evidence.challenger.folder)
    theirs = None if evidence.champion is None else read_description(evidence.champion.folder)
    dataset = evidence.dataset
    card = evidence.challenger.folder / CARD
    return {
        "name": dataset.info.name,
        "title": "a proposal" if evidence.verdict.outcome == "propose" else "no proposal",
        "synthetic": dataset.info.synthetic,
        "made": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        "verdict": evidence.verdict.to_dict(),
        "rule": asdict(evidence.rule),
        "challenger": _model(ours, ""),
        "champion": None if theirs is None else _model(theirs, evidence.champion.version),  # type: ignore[union-attr]
        "costs": {
            role: _cost(model.folder)
            for role, model in (("challenger", evidence.challenger), ("champion", evidence.champion))
            if model is not None
        },
        "reliability": reliability(evidence.scores),
        "drift": _drift(evidence.drift),
        "untold": [f"{one.title}: {one.found}" for one in evidence.drift if isinstance(one.found, str)],
        "most_images": MOST_IMAGES,
        "data": _data_sheet(dataset),
        "search": _search(evidence.results, dataset.info.name),
        "hashes": _hashes(evidence, ours, theirs),
        "card": card.read_text(encoding="utf-8") if card.is_file() else f"{CARD} is missing.",
    }


def reliability(scores: Mapping[TestName, HeadToHead]) -> list[dict[str, Any]]:
    """Return how often what was predicted was found, by the probability of the last class, in equal bins.

    Of images with several labels, all known labels are taken together.
    """
    rows = []
    for where, one in scores.items():
        if one.labels.ndim == 2:
            known = one.labels != NOT_KNOWN
            predicted, found = one.challenger[known], one.labels[known]
        elif one.challenger.shape[1] == 2:
            predicted, found = one.challenger[:, 1], one.labels
        else:
            continue
        rows += [
            {
                "where": where,
                "bin": f"{one_bin.low:.1f} to {one_bin.high:.1f}",
                "images": one_bin.images,
                "predicted": one_bin.predicted,
                "found": one_bin.found,
            }
            for one_bin in binned(found == 1, predicted, BINS)
        ]
    return rows


def _model(known: Description, version: str) -> dict[str, Any]:
    return {
        "version": version,
        "network": known.network,
        "revision": known.revision,
        "params": known.params,
        "threshold": known.threshold,
    }


def _cost(folder: Path) -> dict[str, Any]:
    known = read_description(folder)
    return asdict(cost(Network(rebuild(known, folder / WEIGHTS)), known.image_size))


def _drift(drops: Sequence[Watched]) -> list[dict[str, Any]]:
    return [
        {
            "drop": drop.title,
            "drifted": "yes" if drop.changed else "no",
            "view": view + (" (alarm)" if one.fired else ""),
            "statistic": one.statistic,
            "threshold": one.threshold,
            "rank": one.rank,
        }
        for drop in drops
        if isinstance(drop.found, DriftReport)
        for view, one in drop.found.views.items()
    ]


def _data_sheet(dataset: PackedDataset) -> dict[str, Any]:
    samples = dataset.samples
    people = pl.col("patient_id").n_unique().alias("patients")
    tested = pl.col("patient_id").filter(pl.col("split").is_in(["test", ROLLING])).n_unique()
    sites = samples.with_columns(pl.col("site").fill_null("not stated")).group_by("site")
    return {
        **dataset.info.to_dict(),
        "revision": dataset.revision,
        "patients": dict(samples.group_by("split").agg(people).iter_rows()),
        "sites": sites.agg(pl.len().alias("images"), people, tested.alias("tested")).sort("site").to_dicts(),
        "drops": [
            {
                "drop": f"{one.site}/{one.drop}",
                "digest": one.digest,
                "received_at": f"{one.received_at:%Y-%m-%d %H:%M} UTC",
                "accepted": one.accepted,
                "quarantined": ", ".join(f"{n} {reason}" for reason, n in one.reasons.items()) or "none",
            }
            for one in taken(dataset.root)
        ],
    }


def _search(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the ledger of a dataset's search with what came of it, and what all its models have alike."""
    if not (folder / results.LEDGER).is_file():
        return None
    book = results.read_ledger(folder).filter(pl.col("dataset") == name)
    model = [one for one in results.MODEL if one in book.columns and one not in {"cut_index", "granularity"}]
    found = pl.col("val_auroc").filter(pl.col("status") == COMPLETED).mean()
    if (folder / results.TRIALS).is_file():
        trained = results.read_trials(folder).group_by(model).agg(found)
        book = book.join(trained, on=model, how="left", maintain_order="left")
    else:
        book = book.with_columns(val_auroc=pl.lit(None, pl.Float64))
    differ = results.factors(book)
    return {
        "rows": book.drop("dataset").to_dicts(),
        "shown": [*differ, "strategy", "cut", "trained", "epochs", "full_epochs", "val_auroc", "reason"],
        "alike": {}
        if book.is_empty()
        else {one: book[one][0] for one in results.FACTORS if one not in differ},
    }


def _hashes(evidence: Evidence, ours: Description, theirs: Description | None) -> dict[str, str]:
    found = {
        "dataset revision": evidence.dataset.revision,
        "challenger (weights and description)": fingerprint(evidence.challenger.folder),
        "challenger's weights, SHA-256": ours.weights_sha256,
        "challenger's trial": ours.trial_id,
        "rule, SHA-256": evidence.rule_version.sha256,
        "rule, commit": evidence.rule_version.commit,
    }
    if evidence.champion is not None and theirs is not None:
        found["champion (weights and description)"] = fingerprint(evidence.champion.folder)
        found["champion's weights, SHA-256"] = theirs.weights_sha256
    for one in taken(evidence.dataset.root):
        found[f"manifest of {one.site}/{one.drop}, SHA-256"] = one.digest
    return found


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ttl.release", "templates"),
        autoescape=lambda name: name == PAGE_TEMPLATE,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "figure": _figure,
        "interval": _interval,
        "cell": _cell,
        "plain": lambda value: "" if value is None else f"{value:.4g}" if isinstance(value, float) else value,
    }
    return environment


def _render(values: Mapping[str, Any]) -> str:
    headings = {"compared": COMPARED, "calibrated": CALIBRATED}
    return _environment().get_template("evidence.md.j2").render({**values, **headings})


def _figure(value: float | Sequence[float] | None) -> str:
    if isinstance(value, Sequence):
        return ", ".join(_figure(one) for one in value)
    return "–" if value is None else f"{value:.4f}"


def _interval(value: Mapping[str, float] | None, signed: bool = False) -> str:
    if value is None:
        return "–"
    sign = "+" if signed else ""
    low, high = f"{value['low']:{sign}.4f}", f"{value['high']:{sign}.4f}"
    return f"{value['value']:{sign}.4f} ({low} to {high})"


def _cell(value: object) -> str:
    """Return a text as it stands in a line: what came from outside ends no cell, and is no markup."""
    return MARKUP.sub(lambda one: f"&#{ord(one[0])};", " ".join(str(value).split()))


def _page(values: Mapping[str, Any], text: str) -> str:
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for heading, figure in (
        (COMPARED, _differences(values["verdict"]["comparisons"], values["rule"])),
        (CALIBRATED, _curve(values["reliability"])),
    ):
        title = f"<h2>{heading}</h2>"
        body = body.replace(title, f"{title}<figure>{figure}</figure>" if figure else title, 1)
    page = _environment().get_template(PAGE_TEMPLATE)
    return page.render(name=values["name"], synthetic=values["synthetic"], body=Markup(body)) + "\n"


def _differences(comparisons: Sequence[Mapping[str, Any]], rule: Mapping[str, Any]) -> str:
    """Return the differences in AUROC with their intervals, and what may be lost, as an `<svg>` element."""
    shown = [one for one in comparisons if one["difference"] is not None and one["metric"] == "auroc"]
    if not shown:
        return ""
    with svg.drawing(560, 60 + 26 * len(shown)) as (figure, axes):
        for place, one in enumerate(shown):
            lost = rule["margin"].get(one["where"], rule["subgroups"]["loss"])
            known = one["difference"]
            axes.plot([known["low"], known["high"]], [place, place], color=svg.INK)
            axes.plot(known["value"], place, marker="o", color=svg.INK)
            axes.plot([-lost, -lost], [place - 0.4, place + 0.4], color=svg.CHOSEN)
        axes.axvline(0, color=svg.MUTED, linewidth=0.8)
        # Names come from outside, and a dollar sign would begin a formula.
        axes.set_yticks(range(len(shown)), [_short(one["where"]).replace("$", "\\$") for one in shown])
        axes.invert_yaxis()
        axes.set_xlabel("AUROC, challenger less champion; the short line is what may be lost")
        return svg.finish(figure, name="differences", label="Differences in AUROC with their intervals")


def _curve(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what was predicted against what was found, as an `<svg>` element."""
    if not rows:
        return ""
    with svg.drawing(380, 320) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=svg.MUTED, linewidth=0.8)
        for where, style in (("frozen", "o-"), ("rolling", "s--")):
            mine = [one for one in rows if one["where"] == where and one["images"]]
            if mine:
                places = [one["predicted"] for one in mine], [one["found"] for one in mine]
                axes.plot(*places, style, color=svg.INK, label=where)
        axes.set_xlabel("mean predicted probability")
        axes.set_ylabel("share with the finding")
        axes.legend(frameon=False)
        return svg.finish(
            figure, name="reliability", label="Predicted probability and share with the finding"
        )


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"
