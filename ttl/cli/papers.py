"""`ttl paper`: the headline table of the paper, from the last sweep's results."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ttl.cli.shared import Json, console, escaped, show

# Polars, scikit-learn and rich's tables take a second to import: each command imports what it needs.
# ruff: noqa: PLC0415


def paper(
    dataset: Annotated[list[str] | None, typer.Option(help="Repeatable; all if not given.")] = None,
    backbone: Annotated[list[str] | None, typer.Option(help="Repeatable; all if not given.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="A file to write the tables to as Markdown.")] = None,
    latex: Annotated[Path | None, typer.Option(help="A file to write them to as LaTeX (booktabs).")] = None,
    as_json: Json = False,
) -> None:
    """Print the paper's table: FTL, and the best stage (-1) and block (-2) cut of TF, LWFT and TTL.

    One table for each dataset, backbone and condition (weights, recipe, share of the data …) of the last
    sweep, with a paired test of each method against FTL. Cuts are chosen on validation data alone.
    """
    from ttl import tables
    from ttl.layout import Layout
    from ttl.release.paper import incomplete, printed, sweep_command, to_latex, to_markdown
    from ttl.search import results
    from ttl.search.headline import conditions, headline

    layout = Layout(root=Path.cwd())
    trials, ledger = results.read_trials(layout.results), results.read_ledger(layout.results)
    entries = results.read_entries(layout.results)
    swept = trials.select("dataset", "backbone").unique(maintain_order=True)
    results.check_known(trials, "dataset", dataset)
    results.check_known(trials, "backbone", backbone)
    found: list[dict[str, Any]] = []
    texts: dict[str, list[str]] = {"markdown": [], "latex": []}
    for which, net in swept.iter_rows():
        if (dataset and which not in dataset) or (backbone and net not in backbone):
            continue
        for condition in conditions(trials, dataset=which, backbone=net):
            rows = headline(
                trials,
                ledger,
                layout.runs.predictions,
                dataset=which,
                backbone=net,
                condition=condition,
                entry=entries[which],
            )
            synthetic = bool(entries[which]["data"]["synthetic"])
            table = printed(rows, dataset=which, backbone=net, condition=condition, synthetic=synthetic)
            command = sweep_command(which, net, condition) if incomplete(rows) else None
            texts["markdown"].append(to_markdown(table))
            texts["latex"].append(to_latex(table))
            found.append(
                {
                    "dataset": which,
                    "backbone": net,
                    **condition,
                    "synthetic": synthetic,
                    "rows": [asdict(row) for row in rows],
                    "complete_with": command,
                }
            )
            if not as_json:
                tables.print_paper(console, table)
                if command:
                    console.print(f"the whole table: {escaped(command)}", highlight=False, soft_wrap=True)
                console.print()
    if as_json:
        show(found, None, as_json)
    for path, form in ((markdown, "markdown"), (latex, "latex")):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(texts[form]), encoding="utf-8")
            if not as_json:
                console.print(f"{form}: {path}", highlight=False, soft_wrap=True)
