"""What each planner would have spent, and selected, on trials that an exhaustive sweep has trained.

`python benchmarks/planners.py --dataset pneumoniamnist --seed 0 --seed 1 --seed 2` in a project's folder,
after `ttl sweep` with the same options. Nothing is trained: a planner is shown of each recorded trial what
its own steps would have brought. The cost is in multiply-accumulates of training, as a share of the
exhaustive sweep's; regret is the validation AUROC (mean over seeds) of the exhaustive sweep's model less
that of the planner's.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ttl.errors import SearchError
from ttl.layout import Layout
from ttl.params import load_params
from ttl.search.results import collect
from ttl.search.selection import select
from ttl.sweep import Sweep

PLANNERS = ("exhaustive", "two-stage", "race")


def main(
    dataset: Annotated[list[str], typer.Option(help="Repeatable.")],
    strategy: Annotated[list[str] | None, typer.Option(help="Repeatable; as in params.yaml if none.")] = None,
    granularity: Annotated[str | None, typer.Option(help="stage or block.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable.")] = None,
) -> None:
    """Print a row for each dataset and planner."""
    layout = Layout(root=Path.cwd())
    table = Table("dataset", "planner", "MACs", "trials", "selected", "size", "regret", box=None)
    for name in dataset:
        whole: dict[str, Any] = {}
        for planner in PLANNERS:
            given = {"strategies": strategy, "granularity": granularity, "seeds": seed, "planner": planner}
            overrides = {"datasets": [name]} | {key: value for key, value in given.items() if value}
            found = replay(Sweep(load_params(overrides=overrides), layout))
            if isinstance(found, str):
                table.add_row(name, planner, "–", "–", found)
                continue
            whole = whole or found
            chosen = found["chosen"]
            table.add_row(
                name,
                planner,
                f"{found['macs'] / whole['macs']:.1%}",
                str(found["trials"]),
                f"{chosen['strategy']} {chosen['cut']}",
                f"{chosen['params'] / whole['chosen']['params']:.2f}",
                f"{whole['chosen']['val_auroc']['value'] - chosen['val_auroc']['value']:+.4f}",
            )
    Console(width=120).print(table)


def replay(sweep: Sweep) -> dict[str, Any] | str:
    """Return what a planner's sweep comes to, and costs; or why that is not known."""
    progress, runs = sweep.progress(), sweep.layout.runs
    if progress.waiting:
        return f"not known: {len(progress.waiting)} of its trials were never trained"
    macs = 0.0
    for trial_id, known in progress.known.items():
        result = runs.result(trial_id)
        if result and result["epochs"]:
            macs += result["train_macs"] * len(known.curve) / result["epochs"]
    try:
        chosen = select(collect(progress, runs), runs.predictions, sweep.params.selection)["chosen"]
    except SearchError as error:
        return str(error)
    return {"macs": macs, "trials": len(progress.trials), "chosen": chosen}


if __name__ == "__main__":
    typer.run(main)
