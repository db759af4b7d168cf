"""The table of a made-up sweep, with the columns of a real one."""

from collections.abc import Sequence

import numpy as np
import polars as pl

LITE0 = {
    "blocks.0": (1_858, 0.946, 0.943),
    "blocks.1": (15_842, 0.974, 0.942),
    "blocks.2": (55_586, 0.997, 0.970),
    "blocks.3": (254_146, 0.998, 0.966),
    "blocks.4": (700_994, 0.998, 0.964),
    "blocks.5": (2_353_794, 0.996, 0.970),
}
WHOLE = (3_372_570, 0.996, 0.939)


def trials(
    *,
    dataset: str = "pneumonia",
    backbones: Sequence[str] = ("efficientnet_lite0",),
    seeds: int = 3,
    failed: int = 0,
    cuts: int = 6,
) -> pl.DataFrame:
    """Return a sweep of all strategies at stage cuts; the last `failed` trials have failed."""
    rng = np.random.default_rng(0)
    plans = [("ftl", "full", -1, *WHOLE)]
    for index, (cut, (params, val, test)) in enumerate(list(LITE0.items())[:cuts]):
        plans.append(("ttl", cut, index, params, val, test))
        plans.append(("tf", cut, index, params + (WHOLE[0] - params) // 4, 0.5 * (val + 0.994), test - 0.004))
        plans.append(("lwft", cut, index, WHOLE[0], 0.997 - 0.012 * index / 5, 0.955 - 0.01 * index))
    rows = []
    for backbone in backbones:
        size = 1.0 if backbone == backbones[0] else 6.9
        for strategy, cut, index, params, val, test in plans:
            for seed in range(seeds):
                rows.append(
                    {
                        "trial_id": f"{len(rows):016x}",
                        "dataset": dataset,
                        "revision": "0123456789abcdef",
                        "backbone": backbone,
                        "source": "imagenet",
                        "source_sha256": "a" * 64,
                        "strategy": strategy,
                        "cut": cut,
                        "cut_index": index,
                        "granularity": "stage",
                        "seed": seed,
                        "recipe": "fast",
                        "image_size": 64,
                        "processes": 1,
                        "status": "completed",
                        "error": None,
                        "epochs": 6,
                        "train_seconds": 20.0 + params / 1e5,
                        "train_macs": int(params * 1e6),
                        "params": int(params * size),
                        "macs": int(6e6 * size * (index + 1 or 7)),
                        "model_bytes": int(params * size * 4),
                        "latency_ms": 0.6 * size * (index + 1 or 7),
                        **{
                            f"{split}_{metric}": float(np.clip(mean + rng.normal(0, 0.002), 0.5, 0.9995))
                            for split, mean in (("val", val), ("test", test))
                            for metric in ("auroc", "auprc", "accuracy", "balanced_accuracy")
                        },
                        "val_loss": 0.12,
                        "test_ece": 0.05,
                        "device": "cpu",
                    }
                )
    table = pl.DataFrame(rows, infer_schema_length=None)
    lost = pl.int_range(pl.len()) >= table.height - failed
    empty = [c for c in table.columns if c[:4] in ("val_", "test") or c in ("params", "macs", "latency_ms")]
    return table.with_columns(
        pl.when(lost).then(pl.lit("failed")).otherwise("status").alias("status"),
        pl.when(lost).then(pl.lit("the loss is not finite after epoch 2 <nan>")).alias("error"),
        *(pl.when(~lost).then(column).alias(column) for column in empty),
    )
