"""The report: complete in itself, and it says what the tables say."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ttl.errors import SearchError
from ttl.release.report import tables, write_report
from ttl.search import results
from ttl.search.results import LEDGER_SCHEMA, TRIALS_SCHEMA
from ttl.training.runs import HISTORY_SCHEMA


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def write_tables(
    folder: Path, *, seeds: int, failed: bool = False, selected: bool = True, raced: bool = False
) -> None:
    models = {("ftl", "full", -1): 1000, ("ttl", "a.0", 0): 10, ("ttl", "a.1", 1): 100, ("tf", "a.0", 0): 500}
    rows, history = [], []
    for (strategy, cut, index), params in models.items():
        for seed in range(seeds):
            name, lost = f"{strategy}-{cut}-{seed}", failed and strategy == "tf"
            row = dict.fromkeys(TRIALS_SCHEMA)
            row |= {
                "trial_id": name, "dataset": "films", "backbone": "net", "source": "imagenet", "seed": seed,
                "source_sha256": "", "strategy": strategy, "cut": cut, "cut_index": index, "recipe": "fast",
                "granularity": "stage", "image_size": 32, "processes": 1,
                "status": "failed" if lost else "completed", "error": "<the loss is nan>" if lost else None,
            }  # fmt: skip
            if not lost:
                value = 0.9 + 0.01 * seed + params / 1e5
                row |= {name: value for name in TRIALS_SCHEMA if name.startswith(("val_", "test_"))}
                row |= {"params": params, "macs": params, "model_bytes": 4 * params, "latency_ms": 1.0}
                row |= {"train_seconds": 5.0, "epochs": 3}
                history += [(name, epoch, 1e-3, 0.5, 0.5, 0.7 + epoch / 10, 1.0) for epoch in range(1, 4)]
            rows.append(row)
    schema = {"trial_id": pl.String, **HISTORY_SCHEMA}
    chosen = {
        "backbone": "net", "source": "imagenet", "strategy": "ttl", "cut": "a.1", "recipe": "fast",
        "image_size": 32, "processes": 1, "params": 100, "macs": 100, "model_bytes": 400, "latency_ms": 1.0,
        "seeds": list(range(seeds)), "trial_ids": ["ttl-a.1-0"], "val_auroc": interval(0.911),
        "test_auroc": interval(0.822),
    }  # fmt: skip
    whole = {**chosen, "strategy": "ftl", "cut": "full", "params": 1000, "trial_ids": ["ftl-full-0"]}
    small = {**chosen, "cut": "a.0", "params": 10, "trial_ids": ["ttl-a.0-0"]}
    difference = {"difference": interval(-0.001), "non_inferior": True}
    selection = {
        "rule": {"margin": 0.01, "confidence": 0.95, "resamples": 2000},
        "data": {
            "name": "films", "classes": ["normal", "<ill>"], "counts": {"train": {"normal": 7, "<ill>": 9}},
            "patients": {"train": 16}, "synthetic": True, "notes": ["3 images leak"], "licence": "CC0",
            "source": "made", "revision": "r",
        },
        "reference": whole, "chosen": chosen, "test_difference": interval(0.003), "notes": [],
        "candidates": [{**one, **difference} for one in (small, chosen, whole)],
    }  # fmt: skip
    of = ("films", "net", "imagenet", "ttl")
    ledger = [(*of, "a.1", 1, "stage", "to the end", 3 * seeds, 3 * seeds, "as good")]
    if raced:
        ledger.append((*of, "a.2", 2, "stage", "never", 0, 3 * seeds, "larger than <a.1>"))
    results.write(
        folder,
        trials=pl.DataFrame(rows, schema=TRIALS_SCHEMA, orient="row"),
        history=pl.DataFrame(history, schema=schema, orient="row"),
        entries={
            "films": selection if selected else {"unselected": "the network burnt", "data": selection["data"]}
        },
        ledger=pl.DataFrame(ledger, schema=LEDGER_SCHEMA, orient="row"),
    )


class Checker(HTMLParser):
    """Collects what a browser would load, and whether elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith("#"):
                self.loads.append(f"{tag} {value}")
            if name == "id":
                self.ids.append(value or "")
        if tag not in ("meta", "br", "path", "use", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in ("path", "use", "rect"):
            return
        assert self.open.pop() == tag


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("failed", [False, True])
def test_the_page_is_complete_in_itself(tmp_path: Path, seeds: int, failed: bool) -> None:
    write_tables(tmp_path, seeds=seeds, failed=failed)
    text = write_report(tmp_path, tmp_path / "out").read_text()
    page = Checker()
    page.feed(text)
    assert not page.open
    assert not page.loads
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert len(page.ids) == len(set(page.ids))
    assert "<script" not in text
    assert len(text) < 1_000_000
    assert text.count("<svg") == 2 + 2 + 1 + (2 if failed else 3)


def test_it_says_what_the_tables_say(tmp_path: Path) -> None:
    write_tables(tmp_path, seeds=3, failed=True)
    text = write_report(tmp_path, tmp_path / "out").read_text()
    plain = " ".join(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", text, flags=re.DOTALL).split())
    assert "SYNTHETIC images" in plain
    assert "Selected: ttl at a.1 of net, 100 parameters — 10.0 % of the whole network's 1.00 k" in plain
    assert "Test AUROC 0.822 (0.812 to 0.832)" in plain
    assert "of 3 models compared" in plain
    assert "Note: 3 images leak" in plain
    assert "&lt;the loss is nan&gt;" in plain
    mean = np.mean([0.9 + 0.01 * seed + 100 / 1e5 for seed in range(3)])
    assert f"{mean:.3f} ± 0.010" in plain
    assert "&lt;ill&gt;" in plain


def test_a_dataset_without_a_selection_says_so(tmp_path: Path) -> None:
    write_tables(tmp_path, seeds=1, selected=False)
    text = write_report(tmp_path, tmp_path / "out").read_text()
    assert "No model was selected: the network burnt" in text
    assert "SYNTHETIC images" in text
    assert "Revision r." in text


def test_a_search_that_left_models_out_shows_its_ledger(tmp_path: Path) -> None:
    write_tables(tmp_path, seeds=2)
    assert "<h3>The search</h3>" not in write_report(tmp_path, tmp_path / "out").read_text()
    write_tables(tmp_path, seeds=2, raced=True)
    text = write_report(tmp_path, tmp_path / "out").read_text()
    plain = " ".join(re.sub(r"<[^>]*>", " ", text.partition("<h3>The search</h3>")[2]).split())
    assert plain.startswith("Every model that could have been trained: 1 never, 1 to the end; 50 % of all")
    assert "ttl a.2 never 0/6 larger than &lt;a.1&gt;" in plain


def test_weights_of_two_sources_are_two_models(tmp_path: Path) -> None:
    write_tables(tmp_path, seeds=2)
    trials = pl.read_parquet(tmp_path / results.TRIALS)
    others = trials.with_columns(
        source=pl.lit("random"), trial_id="other-" + pl.col("trial_id"), val_auroc=pl.lit(0.6)
    )
    pl.concat([trials, others]).write_parquet(tmp_path / results.TRIALS)
    means = tables.means(pl.concat([trials, others]), "val_auroc")
    assert means.height == 2 * tables.means(trials, "val_auroc").height
    assert means.filter(pl.col("source") == "random")["mean"].unique().to_list() == [0.6]
    text = write_report(tmp_path, tmp_path / "out").read_text()
    assert text.count("AUROC against the cut: ") == 2
    assert text.count('<tr class="selected">') == 2  # one in each table
    assert '<td class="text">random</td>' in text


def test_no_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"trials.parquet does not exist; `ttl sweep`"):
        write_report(tmp_path, tmp_path / "out")
