"""The report: complete in itself, for everyone, and it says what the tables say."""

import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.release.markup import Page, faults
from tests.release.swept import NAME, Left, leave
from ttl.data.dataset import PackedDataset
from ttl.errors import ReleaseError, SearchError
from ttl.layout import Layout
from ttl.release import svg
from ttl.release.report import tables, write_report
from ttl.release.report.images import open_dataset
from ttl.release.report.scores import Scored, read_scored
from ttl.search import results

CLASSES = ("normal", "<ill>", "other")


def report(layout: Layout, **settings: object) -> str:
    return write_report(layout, layout.root / "out", **settings).read_text()  # type: ignore[arg-type]


def plain(text: str) -> str:
    return " ".join(re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL).split())


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, str]:
    """A sweep that was raced, on synthetic films that are there, and its page. Read them only."""
    layout = leave(tmp_path_factory.mktemp("films"), Left(packed=True, raced=True))
    return layout, report(layout)


def check(text: str) -> None:
    page = Page(text)
    assert not faults(page)
    assert not page.loads
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    assert not page.all("script")
    assert len(text.encode()) < 1_000_000


def test_the_page_is_complete_in_itself_and_for_everyone(films: tuple[Layout, str]) -> None:
    check(films[1])


def test_so_is_one_of_several_classes_seeds_and_failures(tmp_path: Path) -> None:
    text = report(leave(tmp_path, Left(seeds=3, failed=True, packed=True, classes=CLASSES)))
    check(text)
    said = plain(text)
    assert "By class, against the others" in said
    assert re.search(r"&lt;ill&gt; 60 20 0\.\d{3} 0\.\d{3} ", said)
    assert said.count("images taken for") == 0


def test_so_is_one_without_a_selection_and_it_says_why(tmp_path: Path) -> None:
    text = report(leave(tmp_path, Left(selected=False)))
    check(text)
    assert "No model was selected: the network burnt" in text
    assert "SYNTHETIC images" in text
    assert "Revision r." in text


def test_it_says_what_the_tables_say(tmp_path: Path) -> None:
    said = plain(report(leave(tmp_path, Left(seeds=3, failed=True))))
    assert "SYNTHETIC images" in said
    assert "Selected: ttl at a.1 of net, 100 parameters — 10.0 % of the whole network's 1.00 k" in said
    assert "Test AUROC 0.822 (0.812 to 0.832)" in said
    assert "of 3 models compared" in said
    assert "Note: 3 images leak" in said
    assert "&lt;the loss is nan&gt;" in said
    mean = np.mean([0.9 + 0.01 * seed + 100 / 1e5 for seed in range(3)])
    assert f"{mean:.3f} ± 0.010" in said
    assert "&lt;ill&gt;" in said
    assert "Expected calibration error, selected: 0.051 (0.041 to 0.061)" in said
    assert "Every model was trained to the end: 1 models, 9 epochs" in said
    # Of the made-up models, the larger is always the better; tf failed.
    front = said.partition("The Pareto front: the models")[2].partition("AUROC against the cut")[0]
    assert re.findall(r" (ttl a.\d|tf a.0|ftl) \d", front) == ["ttl a.0", "ttl a.1", "ftl"]
    assert "The packed dataset cannot be read here" in said


def test_a_search_that_left_models_out_shows_its_ledger(films: tuple[Layout, str]) -> None:
    said = plain(films[1].partition(">The search</h3>")[2])
    assert said.startswith("Every model that could have been trained: 1 never, 1 to the end; 50 % of all")
    assert "ttl a.2 never 0/3 larger than &lt;a.1&gt;" in said
    assert "<details open>" in films[1]


def test_weights_of_two_sources_are_two_models(tmp_path: Path) -> None:
    layout = leave(tmp_path, Left(seeds=2))
    trials = pl.read_parquet(layout.results / results.TRIALS)
    others = trials.with_columns(
        source=pl.lit("random"), trial_id="other-" + pl.col("trial_id"), val_auroc=pl.lit(0.6)
    )
    pl.concat([trials, others]).write_parquet(layout.results / results.TRIALS)
    means = tables.means(pl.concat([trials, others]), "val_auroc")
    assert means.height == 2 * tables.means(trials, "val_auroc").height
    assert means.filter(pl.col("source") == "random")["mean"].unique().to_list() == [0.6]
    text = report(layout)
    assert text.count("AUROC against the cut: ") == 2
    assert text.count('<tr class="selected">') == 3  # one in each table of models
    assert '<td class="text">random</td>' in text


def test_the_test_split_is_told_as_the_predictions_have_it(films: tuple[Layout, str]) -> None:
    said = plain(films[1])
    assert "60 images of 30 patients" in said
    rows = re.search(r"normal (\d+) [\d.]+ % (\d+) [\d.]+ % 30 &lt;ill&gt; (\d+) [\d.]+ % (\d+) ", said)
    assert rows
    counts = [int(one) for one in rows.groups()]
    assert counts[0] + counts[1] == counts[2] + counts[3] == 30
    assert re.search(r"site big &lt;site&gt; 40 20 10 0\.\d+ \(", said)
    assert "site small 20 10 5 no figure: a class has 5 patients, and 10 are needed" in said


def test_a_class_that_cannot_be_scored_is_named(films: tuple[Layout, str], tmp_path: Path) -> None:
    assert "Without a curve" not in films[1]
    layout = leave(tmp_path, Left(classes=CLASSES))
    path = layout.results / "predictions" / f"{NAME}.parquet"
    label = pl.when(pl.col("label") == 1).then(0).otherwise("label").cast(pl.Int64)
    pl.read_parquet(path).with_columns(label.alias("label")).write_parquet(path)
    text = report(layout)
    check(text)
    assert "Without a curve, for all test images or none have it: &lt;ill&gt;." in text


def test_what_is_missing_is_said(films: tuple[Layout, str], tmp_path: Path) -> None:
    layout = Layout(root=tmp_path / "copy")
    shutil.copytree(films[0].root, layout.root)
    entry = results.read_entries(layout.results)[NAME]
    assert isinstance(read_scored(layout.results, NAME, entry), Scored)
    assert isinstance(open_dataset(layout.datasets / NAME, entry["data"]), PackedDataset)
    older = {**entry["data"], "revision": "0123456789abcdef"}
    assert "the sweep was made on revision 0123456789abcdef" in open_dataset(layout.datasets / NAME, older)
    other = {"chosen": {"trial_id": "ttl-a.0-0"}, "reference": entry["figures"]["reference"]}
    assert "is of another sweep" in read_scored(layout.results, NAME, {**entry, "figures": other})
    next((layout.results / "predictions").iterdir()).unlink()
    assert "films.parquet does not exist; `ttl sweep`" in read_scored(layout.results, NAME, entry)


def test_single_images_are_shown_where_they_are_nobodys_or_where_one_says_so(
    films: tuple[Layout, str], tmp_path: Path
) -> None:
    layout = leave(tmp_path, Left(packed=True, synthetic=False))
    mailed, kept = report(layout), report(layout, pictures=True)
    for text, shown in ((films[1], True), (mailed, False), (kept, True)):
        assert ("data:image/png" in text) == ("test-000" in text) == shown
        assert ("<code>ttl report --pictures</code> shows them" in text) != shown


def test_a_page_that_would_be_too_large_is_written_without_pictures_or_refused(
    films: tuple[Layout, str],
) -> None:
    layout, text = films
    smaller = report(layout, limit=len(text.encode()) - 1)
    assert "Pictures are left out: with them the page would be larger than 10 MB" in smaller
    assert "data:image/png" not in smaller
    with pytest.raises(ReleaseError, match=r"the report of 1 datasets would be a page of 0\.\d MB"):
        report(layout, limit=10_000)


def test_no_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"trials.parquet does not exist; `ttl sweep`"):
        write_report(Layout(root=tmp_path), tmp_path / "out")


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_words_and_marks_stand_out_on_both_pages(films: tuple[Layout, str]) -> None:
    """WCAG 2.2 AA: 4.5 for words, 3 for what is drawn."""
    for place, block in enumerate(re.findall(r":root \{(.*?)\}", films[1], re.DOTALL)[:2]):
        colours = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", block))
        for word in ("--ink", "--muted", "--fig-muted", "--fig-chosen"):
            for ground in ("--paper", "--panel"):
                assert contrast(colours[word], colours[ground]) >= 4.5, (word, ground, place)
        assert contrast(colours["--warn"], colours["--warn-paper"]) >= 4.5
        assert contrast(colours["--focus"], colours["--paper"]) >= 3
        for name, both in svg.variables().items():
            if name not in ("--fig-grid", "--fig-paper") and not name.startswith("--fig-step"):
                assert contrast(both[place], colours["--paper"]) >= 3, (name, place)
