"""A job whose trials take no time: what is left is what a sweep costs beside its training."""

import json
import sys
from pathlib import Path

import polars as pl

from ttl.processes import die_with
from ttl.training.events import Event, encode
from ttl.training.runs import HISTORY, HISTORY_SCHEMA, PREDICTIONS, PREDICTIONS_SCHEMA, WEIGHTS, Runs
from ttl.training.trial import Step


def main(order: Path) -> None:
    """Publish a result for each step that comes, with no training behind it."""
    wanted = json.loads(order.read_text(encoding="utf-8"))
    die_with(wanted["parent"])
    runs = Runs(Path(wanted["runs"]))
    with (Path(wanted["pipes"]) / "0").open(encoding="utf-8") as steps:
        for line in steps:
            trial = Step.from_dict(json.loads(line)).trial
            work, score = runs.work(trial.trial_id), 0.5 + trial.seed % 100 / 1000
            epoch = dict.fromkeys(HISTORY_SCHEMA, 1.0) | {"epoch": 1, "val_auroc": score}
            pl.DataFrame([epoch], schema=HISTORY_SCHEMA).write_parquet(work / HISTORY)
            pl.DataFrame(schema=PREDICTIONS_SCHEMA).write_parquet(work / PREDICTIONS)
            (work / WEIGHTS).write_bytes(bytes(1000))
            result = {"status": "completed", "error": None, "epochs": 1, "val_auroc": score, "val_loss": 1.0}
            runs.publish(trial, {**result, "params": 1, "macs": 1, "model_bytes": 1})
            end = Event(kind="completed", trial_id=trial.trial_id, epoch=1, val_auroc=score)
            sys.stdout.write(encode(end) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
