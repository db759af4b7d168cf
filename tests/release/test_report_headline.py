"""The paper's table on the page: what one table lacks is said there, and hides no other."""

from pathlib import Path

import polars as pl

from tests.release.swept import leave
from tests.search.test_headline import book, swept
from ttl.release.report import write_report
from ttl.release.report.headline import headlines

ENTRY = {"data": {"synthetic": False}}


def test_a_backbone_without_predictions_hides_no_other() -> None:
    trials, predictions = swept()
    others = trials.with_columns(backbone=pl.lit("lost"), trial_id="lost-" + pl.col("trial_id"))
    ledger = pl.concat([book(), book().with_columns(backbone=pl.lit("lost"))])

    def read(trial_id: str) -> pl.DataFrame:
        if trial_id.startswith("lost"):
            raise FileNotFoundError(trial_id)
        return predictions(trial_id)

    lost, kept = headlines(pl.concat([others, trials]), ledger, read, dataset="d", entry=ENTRY)
    assert (lost.title.split()[0], kept.title.split()[0]) == ("lost", "net")
    cells = {row[0]: row for row in lost.rows}
    assert cells["TTL-1"][7:] == ("–", "–", "–")
    assert cells["TTL-1"][2] == {row[0]: row for row in kept.rows}["TTL-1"][2] != "–"
    why = "the predictions of trial lost-full-0 are not here (`ttl sweep` brings them)"
    assert [note for note in lost.footnotes if why in note] == [f"There is no test against FTL: {why}"]
    assert not any("no test against" in note for note in kept.footnotes)
    assert {row[0]: row for row in kept.rows}["TTL-2"][8] != "–"


def test_the_page_has_the_table_where_the_predictions_are_elsewhere(tmp_path: Path) -> None:
    layout = leave(tmp_path)
    assert not layout.runs.root.exists()
    text = write_report(layout, tmp_path / "out").read_text()
    section = text.partition("The paper's table</h3>")[2].partition("</section>")[0]
    assert '<th scope="row">FTL' in section
    assert "There is no test against FTL: the predictions of trial ftl-full-0 are not here" in section
