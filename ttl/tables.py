"""Tables for the terminal, in the command line's words and units."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ttl.layout import Layout
from ttl.search import results
from ttl.units import magnitude

if TYPE_CHECKING:
    from ttl.release.paper import Printed
    from ttl.search.outcome import Outcome

Row = Mapping[str, Any]

NUMERIC = {"parameters", "params", "MACs", "train", "val", "test", "#"}

MARKS = {"selected": "bold green", "reference": "bold"}
"""How a row is drawn that the selection names."""


def spread(mean: float | None, deviation: float | None) -> str:
    """Return a mean and its deviation over seeds: `0.9713 ±0.0042`."""
    if mean is None:
        return "–"
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ±{deviation:.4f}"


def datasets(rows: Sequence[Row]) -> Table:
    """Return the table of `ttl data list`."""
    table = _table("dataset", "source", "task", "classes", "train", "val", "test", "revision")
    table.columns[3].no_wrap, table.columns[3].min_width = False, 12
    for row in rows:
        if not row["packed"]:
            table.add_row(row["dataset"], row["source"], "", "[dim]not packed[/]", *[""] * 4)
            continue
        sizes = [str(row["images"][split]) for split in ("train", "val", "test")]
        name = row["dataset"] + (" [yellow](synthetic)[/]" if row["synthetic"] else "")
        table.add_row(
            name, str(row["source"]), row["task"], ", ".join(row["classes"]), *sizes, row["revision"]
        )
    return table


def intakes(found: Mapping[str, Row]) -> Table:
    """Return the table of `ttl intake`: what was taken of each drop, and which wait."""
    table = _table("dataset", "drop", "accepted", "quarantined", right=0)
    table.columns[3].no_wrap = False
    for name, one in found.items():
        for row in one["taken"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in row["quarantined"].items())
            table.add_row(name, row["drop"], str(row["accepted"]), reasons or "[dim]none[/]")
        for row in one["waiting"]:
            table.add_row(name, row["drop"], "", f"[yellow]waits:[/] {row['reason']}")
        if not one["taken"] and not one["waiting"]:
            table.add_row(name, "", "", "[dim]nothing new has arrived[/]")
    return table


def drift(rows: Sequence[Row]) -> Table:
    """Return the table of how new drops compare with earlier ones."""
    table = _table("drop", "drifted", "views", "rank")
    table.columns[2].no_wrap = False
    table.caption = "rank: share of undrifted drops that would be as far"
    table.caption_justify = "left"
    for row in rows:
        colour = {"yes": "[yellow]yes[/]"}.get(row["drifted"], row["drifted"])
        table.add_row(row["drop"], colour, row["views"], "" if row["rank"] is None else f"{row['rank']:.3f}")
    return table


def similarity(about: Row, rows: Sequence[Row]) -> Table:
    """Return the table of `ttl similarity`: how much of each layer is as it was before finetuning."""
    synthetic = " — SYNTHETIC images" if about["synthetic"] else ""
    figures = ["SVCCA", "(random)", "CKA", "(random)", "val AUROC", "test AUPRC"]
    several = len(about["backbones"]) > 1
    images = f"{about['images']['used']} of {about['images']['of']} validation images"
    title = f"{about['dataset']}{synthetic}, {images}"
    table = _table(*(["backbone"] if several else []), "layer", *figures, title=title, right=6)
    keys = ("svcca_finetuned", "svcca_random", "cka_finetuned", "cka_random", "val_auroc", "test_auprc")
    for row in rows:
        cells = ["–" if row[key] is None else f"{row[key]:.3f}" for key in keys]
        table.add_row(*([row["backbone"]] if several else []), row["layer"], *cells)
    return table


def verdicts(rows: Sequence[Row]) -> Table:
    """Return the table of `ttl data check DROP`: the files that would not get in."""
    table = _table("file", "reason", "")
    table.columns[2].no_wrap = False
    for row in rows:
        table.add_row(row["path"], row["reason"], row["detail"])
    return table


def lives(rows: Sequence[Row]) -> Table:
    """Return the table of `ttl models history`."""
    table = _table("version", "from", "to", "approved by", "reason", "network", "revision")
    table.columns[4].no_wrap = table.columns[5].no_wrap = False
    table.columns[4].min_width = 24
    for row in rows:
        until = f"{row['until']:%Y-%m-%d %H:%M}" if row["until"] else "now"
        table.add_row(
            row["version"],
            f"{row['since']:%Y-%m-%d %H:%M}",
            until,
            row["approved_by"] or f"[dim]not recorded; set by {row['set_by']}[/]",
            f"roll back: {row['reason']}" if row["decision"] == "roll back" else row["reason"],
            row["network"],
            row["revision"],
        )
    return table


def cuts(backbone: str, rows: Sequence[Row]) -> Table:
    """Return the table of `ttl cuts`."""
    table = _table("granularity", "#", "cut", "channels", "", title=backbone)
    for row in rows:
        note = "[dim]nothing but the head lies above: ttl and tf there are ftl[/]" if row["whole"] else ""
        table.add_row(row["granularity"], str(row["index"]), row["name"], str(row["channels"]), note)
    return table


def cost(backbone: str, image_size: int, rows: Sequence[Row], *, depth: int | None = None) -> Table:
    """Return the table of `ttl cost`."""
    columns = ("strategy", "cut", "parameters", "MACs", "size (MB)", "latency (ms)")
    of = "" if depth is None else f", {depth} slices"
    table = _table(*columns, title=f"{backbone} at {image_size} px{of}", right=4)
    for row in rows:
        table.add_row(
            row["strategy"],
            row["cut"],
            magnitude(row["params"]),
            magnitude(row["macs"]),
            f"{row['model_bytes'] / 1e6:.2f}",
            f"{row['latency_ms']:.2f}",
        )
    return table


def predictions(rows: Sequence[Row]) -> Table:
    """Return the table of `ttl predict`."""
    classes = list(rows[0]["probabilities"]) if rows else []
    table = _table("image", "predicted", *[f"P({name})" for name in classes], right=len(classes))
    for row in rows:
        shares = [f"{row['probabilities'][name]:.4f}" for name in classes]
        predicted = row["predicted"]
        if not isinstance(predicted, str):
            shares = [
                f"{share} {'yes' if name in predicted else 'no':>3}"
                for name, share in zip(classes, shares, strict=True)
            ]
            predicted = ", ".join(predicted) or "none"
        table.add_row(row["image"], predicted, *shares)
    return table


def attention(values: Row) -> Table:
    """Return the table of `ttl attention`: where the best network of each strategy looks."""
    target = values["target"] or "each image's own class"
    of = f"images with {target}" if values["target"] else "images"
    columns = (
        "strategy",
        "cut",
        "map of",
        "grid",
        "area",
        "on common grid",
        "less ftl",
        "random",
        "signed",
        "check",
    )
    table = _table(*columns, title=f"{values['dataset']} {values['backbone']}: what speaks for {target}")
    for name, one in values["strategies"].items():
        gap = one["less_ftl"].get("area_on_common_grid")
        table.add_row(
            name,
            one["cut"],
            one["layer"],
            " × ".join(str(side) for side in one["grid"]),
            *["–" if one[kind] is None else f"{one[kind]:.3f}" for kind in ("area", "area_on_common_grid")],
            "" if gap is None else f"{gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})",
            *[
                "–" if one[kind] is None else f"{one[kind]:.2f}"
                for kind in ("absolute_rank_correlation", "rank_correlation")
            ],
            {False: "[red]explains nothing[/]", None: "not judged", True: ""}[one["explains"]],
        )
    table.caption = (
        f"area: share of the image above half of the map's maximum, mean of {values['measured_images']} "
        f"{of}; random: rank correlation with the maps of random weights, mean magnitude (from "
        f"{values['unchanged_from']} on the maps explain nothing) and signed mean"
    )
    return table


def releases(rows: Sequence[Row]) -> Table:
    """Return the table of `ttl models`."""
    table = _table("release", "stages", "network", "parameters", "when", "by")
    for column in table.columns[1:]:
        column.no_wrap = False
    for row in rows:
        table.add_row(
            row["tag"],
            ", ".join(row["stages"]),
            row["network"],
            magnitude(row["params"]),
            f"{row['when']:%Y-%m-%d}",
            row["author"].partition(" <")[0],
        )
    if not rows:
        table.caption = "no releases yet: `ttl release DATASET` makes one"
    return table


def print_leaderboard(console: Console, board: pl.DataFrame, entries: Mapping[str, Any]) -> None:
    """Print a table for each dataset; the selected model and the reference are marked.

    `entries` are those of `selection.json`.
    """
    for dataset in board["dataset"].unique(maintain_order=True):
        rows = board.filter(pl.col("dataset") == dataset)
        entry = entries.get(dataset, {})
        selection = None if "unselected" in entry else entry or None
        synthetic = " — SYNTHETIC images" if entry and entry["data"]["synthetic"] else ""
        factors = results.factors(rows)
        seeds = rows["seeds"].max()
        uneven = rows["seeds"].n_unique() > 1 or bool((rows["failed"] > 0).any())
        means = f", means over {seeds} seeds" if isinstance(seeds, int) and seeds > 1 else ""
        table = _table(
            *factors,
            "strategy",
            "cut",
            "params",
            "MACs",
            "val AUROC",
            "test AUROC",
            *(["seeds"] if uneven else []),
            "",
            title=f"{dataset}{synthetic}{means}",
        )
        for row in rows.iter_rows(named=True):
            mark = marked(row, selection)
            failed = f" ({row['failed']} failed)" if row["failed"] else ""
            table.add_row(
                *[f"{row[name]:g}" if isinstance(row[name], float) else row[name] for name in factors],
                row["strategy"],
                row["cut"],
                magnitude(row["params"]),
                magnitude(row["macs"]),
                spread(row["val_auroc_mean"], row["val_auroc_std"]),
                spread(row["test_auroc_mean"], row["test_auroc_std"]),
                *([f"{row['seeds']}{failed}"] if uneven else []),
                mark,
                style=MARKS.get(mark),
            )
        console.print(table)
        if selection:
            console.print(verdict(dataset, selection), highlight=False, soft_wrap=True)
            if "labels" in selection:
                console.print(labels(selection))
                console.print(label_means(selection), highlight=False, soft_wrap=True)
        console.print()


def labels(selection: Mapping[str, Any]) -> Table:
    """Return the selected model's figures by label; what has no interval is in no mean."""
    table = _table("label", "threshold", "val AUROC", "test AUROC", "sensitivity", "specificity", right=5)
    classes = selection["data"]["classes"]
    for row in selection["figures"]["chosen"]["labels"]:
        found = (
            row["validation"]["auroc"],
            *(row["test"][metric] for metric in ("auroc", "sensitivity", "specificity")),
        )
        table.add_row(classes[row["label"]], f"{row['threshold']:.4f}", *[_estimate(one) for one in found])
    return table


def label_means(selection: Mapping[str, Any]) -> str:
    """Return in a sentence which labels the selection's means are over, and why not over all."""
    classes, found = selection["data"]["classes"], selection["labels"]
    means = {split: ", ".join(classes[number] for number in found[split]) for split in found}
    if all(len(one) == len(classes) for one in found.values()):
        return "AUROC is the mean over all labels"
    least = selection["rule"]["patients"]
    return (
        f"AUROC is the mean over the labels that at least {least} patients have and lack: in validation "
        f"{means['validation']}; in test {means['test']}. The leaderboard's is over all that can be scored"
    )


def _estimate(values: Mapping[str, float | None] | None) -> str:
    if values is None:
        return "–"
    if values["low"] is None:
        return f"{values['value']:.3f}"
    return f"{values['value']:.3f} ({values['low']:.3f}–{values['high']:.3f})"


def verdict(dataset: str, selection: Mapping[str, Any]) -> str:
    """Return in a sentence which model was selected, and by what."""
    chosen, reference, rule = selection["chosen"], selection["reference"], selection["rule"]
    share = chosen["params"] / reference["params"]
    if chosen["trial_ids"] == reference["trial_ids"]:
        return (
            f"{dataset}: no smaller model of {len(selection['candidates']) - 1} is non-inferior to the whole "
            f"network at margin {rule['margin']}; it stays"
        )
    row = next(one for one in selection["candidates"] if one["trial_ids"] == chosen["trial_ids"])
    gap = row["difference"]
    return (
        f"{dataset}: selected {chosen['strategy']} {chosen['cut']}, {magnitude(chosen['params'])} parameters "
        f"({share:.1%} of {reference['backbone']}). Validation AUROC less the whole network's: "
        f"{gap['value']:+.4f}, {rule['confidence']:.0%} interval {gap['low']:+.4f} to {gap['high']:+.4f}, "
        f"margin {rule['margin']}"
    )


def print_outcome(console: Console, outcome: "Outcome", layout: Layout) -> None:
    """Print what a sweep has come to: the leaderboard, the failures, and where things lie."""
    print_leaderboard(console, results.leaderboard(outcome.trials), results.read_entries(layout.results))
    for dataset, reason in outcome.unselected.items():
        console.print(f"[red]{dataset}: no model was selected: {reason}[/]", highlight=False, soft_wrap=True)
        if (layout.models / dataset).exists():
            console.print(f"models/{dataset} is an earlier sweep's; it stays", highlight=False)
    for dataset, reason in outcome.experiments.items():
        console.print(f"{dataset}: an experiment: {reason}", highlight=False, soft_wrap=True)
    if outcome.failed:
        count = f"{outcome.failed} of {outcome.trials.height} trials failed"
        console.print(f"[red]{count}; `ttl sweep` tries them again[/]")
        reasons = outcome.trials.filter(pl.col("status") == "failed").group_by("error").len()
        for error, many in reasons.sort("len", descending=True).iter_rows():
            console.print(f"  {many} × {error}", highlight=False, markup=False, soft_wrap=True)
    if outcome.lost_strategies:
        console.print(f"[red]every trial failed of: {', '.join(outcome.lost_strategies)}[/]")
    for dataset in outcome.selections:
        where = (layout.models / dataset).relative_to(layout.root)
        console.print(f"model of {dataset}: {where}", highlight=False, soft_wrap=True)


def print_paper(console: Console, printed: "Printed") -> None:
    """Print the paper's headline table, and below it what must be known to read it."""
    table = _table(*printed.header, title=escape(printed.title), right=len(printed.header) - 2)
    # It has many columns.
    table.padding = (0, 1, 0, 0)
    for row, marks in zip(printed.rows, printed.marks, strict=True):
        raised = f" [dim]({', '.join(map(str, marks))})[/]" if marks else ""
        table.add_row(escape(row[0]) + raised, *map(escape, row[1:]))
    console.print(table)
    notes = [f"({place}) {one}." for place, one in enumerate(printed.footnotes, 1)]
    for note in [*notes, *[f"{one}." for one in printed.remarks]]:
        console.print(note, style="dim", highlight=False, markup=False, soft_wrap=True)


def marked(row: Row, selection: Mapping[str, Any] | None) -> str:
    """Return what a row of the leaderboard is to a selection: `selected`, `reference`, or nothing."""
    keys = ("backbone", "source", "strategy", "cut", "recipe", "image_size", "processes", *results.ABLATIONS)
    for mark, role in (("selected", "chosen"), ("reference", "reference")):
        known = {} if selection is None else {**results.ABLATIONS, **selection[role]}
        if known and all(known[key] == row[key] for key in keys):
            return mark
    return ""


def _table(*columns: str, title: str | None = None, right: int = 0) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        numeric = place >= len(columns) - right or column in NUMERIC
        # The column of remarks has no name; it must not give way to the others.
        least = None if column else 9
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True, min_width=least)
    return table
