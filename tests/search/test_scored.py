"""What a sweep leaves beside its tables: predictions of two networks, and what DVC plots."""

import polars as pl
import pytest
from sklearn.metrics import confusion_matrix

from tests.release.swept import CLASSES, NAME, Left, leave, predictions
from ttl.search import results, scored


def test_the_predictions_are_of_the_two_networks_that_were_compared(tmp_path) -> None:
    layout = leave(tmp_path)
    table = pl.read_parquet(layout.results / "predictions" / f"{NAME}.parquet")
    assert table["trial_id"].unique(maintain_order=True).to_list() == ["ttl-a.1-0", "ftl-full-0"]
    ours = table.filter(trial_id="ttl-a.1-0").drop("trial_id")
    assert ours.equals(predictions("ttl-a.1-0"))


def test_a_network_that_is_both_stands_once() -> None:
    both = {"figures": {role: {"trial_id": "ttl"} for role in scored.ROLES}}
    assert scored.scored(both, predictions).height == predictions("ttl").height


def test_plots_say_what_the_tables_say(tmp_path) -> None:
    layout = leave(tmp_path, Left(seeds=2, failed=True))
    plots = layout.results / "plots"
    answers = pl.read_csv(plots / "confusion" / f"{NAME}.csv")
    test = predictions("ttl")
    said = [int(row[1] >= 0.5) for row in test["scores"]]
    expected = confusion_matrix(test["label"], said)
    for actual, row in enumerate(expected):
        for taken, count in enumerate(row):
            assert answers.filter(actual=CLASSES[actual], predicted=CLASSES[taken]).height == count
    curves = pl.read_csv(plots / "curves" / f"{NAME}.csv")
    assert curves.height == 3 * 2 * 3
    assert curves["model"].unique().sort().to_list() == ["ftl", "ttl a.0", "ttl a.1"]
    trade = pl.read_csv(plots / "trade-off" / f"{NAME}.csv")
    assert trade["model"].to_list() == ["ttl a.0", "ttl a.1", "ftl"]
    assert trade["params"].to_list() == [10, 100, 1000]
    board = results.leaderboard(results.read_trials(layout.results)).filter(cut="a.0", strategy="ttl")
    assert trade["val_auroc"][0] == board["val_auroc_mean"][0]
    bins = pl.read_csv(plots / "calibration" / f"{NAME}.csv")
    assert bins["images"].sum() == test.height


def test_a_model_is_named_by_all_in_which_models_differ(tmp_path) -> None:
    layout = leave(tmp_path, Left(seeds=2))
    whole, epochs = results.read_trials(layout.results), results.read_history(layout.results)
    new = pl.col("trial_id") + "-more"
    for factor, value, words in (
        ("share", 0.1, ("share 1 ", "share 0.1 ")),
        ("head", "flattened", ("pooled ", "flattened ")),
        ("recipe", "paper", ("fast ", "paper ")),
        ("source", "random", ("imagenet ", "random ")),
    ):
        changes = (new, pl.lit(value).alias(factor), pl.col("val_auroc") - 0.2)
        trials = pl.concat([whole, whole.with_columns(*changes)])
        table = scored.trade_off(trials)
        assert set(table["model"]) == {
            f"{one}{model}" for one in words for model in ("ftl", "tf a.0", "ttl a.0", "ttl a.1")
        }
        assert table["seeds"].to_list() == [2] * 8
        gaps = [
            table.filter(model=f"{words[0]}{one}")["val_auroc"][0]
            - table.filter(model=f"{words[1]}{one}")["val_auroc"][0]
            for one in ("ftl", "ttl a.0")
        ]
        assert gaps == pytest.approx([0.2, 0.2])
        lines = scored.curves(trials, pl.concat([epochs, epochs.with_columns(new)]))
        assert lines.group_by("model", "seed").len()["len"].to_list() == [3] * 16


def test_what_is_not_kept_goes(tmp_path) -> None:
    folder = tmp_path / "results"
    layout = leave(tmp_path)
    for name in ("kept", "gone"):
        (folder / "predictions" / f"{name}.parquet").write_bytes(b"")
        (folder / "plots" / "curves" / f"{name}.csv").write_text("")
    trials, history = results.read_trials(layout.results), results.read_history(layout.results)
    scored.write(
        folder, selections={}, predictions=predictions, trials=trials, history=history, kept=["kept"]
    )
    assert {path.relative_to(folder).as_posix() for path in results.beside(folder)} == {
        "predictions/kept.parquet",
        "plots/curves/kept.csv",
        "plots/curves/films.csv",
        "plots/trade-off/films.csv",
    }
