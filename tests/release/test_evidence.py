import dataclasses
import datetime
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.release.trained import NAME, Trained
from ttl.data.dataset import SAMPLES, PackedDataset
from ttl.evaluation.drift import DriftReport, ViewDrift
from ttl.evaluation.statistics import Interval
from ttl.files import sha256
from ttl.intake.received import IMAGES_SCHEMA, Taken
from ttl.release import evidence as module
from ttl.release.champion import Model
from ttl.release.description import fingerprint, read_description
from ttl.release.evidence import Evidence, reliability, write_evidence
from ttl.release.evidence_files import evidence_sha256
from ttl.release.gate import Verdict, judge
from ttl.release.gate_rule import Both, GateRule, RuleVersion
from ttl.release.head_to_head import Comparison, HeadToHead
from ttl.release.testsets import score_tests
from ttl.release.watch import Watched
from ttl.search.results import LEDGER, LEDGER_SCHEMA, TRIALS, TRIALS_SCHEMA

SECTIONS = [
    "The models",
    "Champion and challenger, on the same images",
    "Calibration of the challenger",
    "Drift",
    "Data sheet of revision",
    "The search",
    "Hashes",
    "The challenger's card",
]
HOSTILE = (
    "a|b\n# Forged\n- **propose** <script>alert(1)</script> `x` ![i](http://e.example/i.png) [l](http://e) \\"
)
RULE = GateRule(resamples=200, patients=Both(frozen=2, rolling=2))
VERSION = RuleVersion(
    commit="0c" * 20, committed_at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), sha256="1d" * 32
)
DIGEST = "d" * 64
DAY = datetime.datetime(2026, 3, 1, 9, 30, tzinfo=datetime.UTC)


class Page(HTMLParser):
    """A page's tags, titles and tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.titles: list[str] = []
        self.rows: list[list[str]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag in ("h1", "h2"):
            self.titles.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        inside = next((tag for tag in reversed(self.tags)), "")
        if inside in ("td", "th", "code") and self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data.strip("\n")
        if inside in ("h1", "h2") and data.strip():
            self.titles[-1] += data


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are not measured anew for each of these tests."""
    monkeypatch.setattr(module, "_cost", lambda folder: {"macs": 1234567, "latency_ms": 1.25})


def make(trained: Trained, exported: Path, champion: bool = True, **changes: object) -> Evidence:
    scores = score_tests(trained.dataset, exported, exported if champion else None)
    values: dict = {
        "dataset": trained.dataset,
        "verdict": judge(RULE, scores),
        "rule": RULE,
        "rule_version": VERSION,
        "challenger": Model(folder=exported),
        "champion": Model(folder=exported, version="v1.2.3") if champion else None,
        "scores": scores,
        "drift": [],
        "results": trained.root / "results",
    }
    return Evidence(**{**values, **changes})


def report(*, fired: bool) -> DriftReport:
    view = ViewDrift(statistic=2.5, threshold=1.5, rank=0.001, fired=fired)
    return DriftReport(
        alpha=0.05,
        rank=0.001,
        views={"pixels": view, "outputs": dataclasses.replace(view, fired=False)},
        images=5,
        patients=4,
        reference_images=30,
        reference_patients=20,
        resamples=1000,
    )


def dropped(dataset: PackedDataset, root: Path, site: str, reason: str = "not-dicom") -> PackedDataset:
    """The dataset with a site of this name, and a drop of it."""
    shutil.copytree(dataset.root, root)
    samples = pl.read_parquet(root / SAMPLES)
    samples.with_columns(pl.lit(site).alias("site")).write_parquet(root / SAMPLES)
    when = datetime.datetime(2026, 3, 1, 9, 30, tzinfo=datetime.UTC)
    record = Taken(
        site=site,
        drop="1",
        digest=DIGEST,
        received_at=when,
        accepted=2,
        quarantined={"x": reason, "y": reason},
    )
    (root / f"drop-{DIGEST[:16]}.json").write_text(record.to_json())
    pl.DataFrame(schema=IMAGES_SCHEMA).write_parquet(root / f"drop-{DIGEST[:16]}.parquet")
    return PackedDataset.open(root)


def tables(text: str) -> None:
    """Each row of Markdown has as many cells as the row above it."""
    for above, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line))
            assert above == "" or len(re.findall(r"(?<!\\)\|", above)) == cells, (above, line)


def test_the_real_costs_of_both_models_stand_in_it(trained: Trained, exported: Path, tmp_path: Path) -> None:
    text = write_evidence(make(trained, exported), tmp_path)
    values = json.loads((tmp_path / "evidence.json").read_text())
    ours = values["costs"]["challenger"]
    assert ours["macs"] == values["costs"]["champion"]["macs"] > 0
    assert ours["latency_ms"] > 0
    assert f"| multiply-accumulates | {ours['macs']:,} | {ours['macs']:,} |" in text
    assert f"| {ours['latency_ms']:.2f} |" in text


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("champion", [True, False])
def test_every_section_is_there(trained: Trained, exported: Path, tmp_path: Path, champion: bool) -> None:
    known = make(trained, exported, champion=champion)
    text = write_evidence(known, tmp_path / "made" / "here")
    folder = tmp_path / "made" / "here"
    assert (folder / "evidence.md").read_text() == text
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    mine = [one for one in titles if any(one.startswith(section) for section in SECTIONS)]
    assert [one.split(" " + trained.dataset.revision)[0] for one in mine] == SECTIONS
    page = Page((folder / "evidence.html").read_text())
    assert [one for one in page.titles if one in mine] == mine
    assert "**SYNTHETIC DATA: these images show no patient, and prove nothing clinical.**" in text
    assert "SYNTHETIC DATA" in page.text
    assert "script" not in page.tags
    tables(text)
    assert all(len({len(row) for row in table}) == 1 for table in page.tables)
    values = json.loads((folder / "evidence.json").read_text())
    assert values["verdict"]["outcome"] == known.verdict.outcome
    assert values["rule"]["margin"] == {"frozen": 0.02, "rolling": 0.04}
    assert values["data"]["revision"] == trained.dataset.revision
    assert "card" not in values
    version = "v1.2.3" if champion else "none yet"
    assert f"| version | {version} | (this proposal) |" in text
    assert (values["champion"] is None) is not champion
    assert "There is no ledger of the search." in text
    assert (exported / "card.md").read_text().strip() in text
    assert evidence_sha256(folder) == sha256(folder / "evidence.md")
    assert re.search(r"^\| frozen \| auroc \| 24 \| 12 \|", text, re.MULTILINE)


@pytest.mark.usefixtures("cheap")
def test_the_hashes_are_those_of_what_was_judged(trained: Trained, exported: Path, tmp_path: Path) -> None:
    dataset = dropped(trained.dataset, tmp_path / NAME, "north")
    text = write_evidence(make(trained, exported, dataset=dataset), tmp_path / "out")
    for title, value in {
        "dataset revision": dataset.revision,
        "challenger (weights and description)": fingerprint(exported),
        "challenger's weights, SHA-256": read_description(exported).weights_sha256,
        "challenger's trial": trained.trial.trial_id,
        "rule, SHA-256": VERSION.sha256,
        "rule, commit": VERSION.commit,
        "champion (weights and description)": fingerprint(exported),
        "manifest of north/1, SHA-256": DIGEST,
    }.items():
        assert f"| {title} | `{value}` |" in text
    assert "| north/1 | 2026-03-01 09:30 UTC | 2 | 2 not-dicom |" in text
    assert "| north | 112 | 56 | 12 |" in text
    assert "| test | 12 | 12 | 12 |" in text


@pytest.mark.usefixtures("cheap")
def test_real_data_are_not_called_synthetic(trained: Trained, exported: Path, tmp_path: Path) -> None:
    info = dataclasses.replace(trained.dataset.info, synthetic=False)
    known = make(trained, exported, dataset=dataclasses.replace(trained.dataset, info=info))
    (tmp_path / "model").mkdir()
    shutil.copytree(exported, tmp_path / "model", dirs_exist_ok=True)
    (tmp_path / "model" / "card.md").unlink()
    text = write_evidence(
        dataclasses.replace(known, challenger=Model(folder=tmp_path / "model")), tmp_path / "out"
    )
    assert "SYNTHETIC" not in text
    assert "card.md is missing." in text


def watched(title: str, found: DriftReport | str) -> Watched:
    site, _, drop = title.partition("/")
    return Watched(
        drop=Taken(site=site, drop=drop, digest=DIGEST, received_at=DAY, accepted=1), title=title, found=found
    )


@pytest.mark.usefixtures("cheap")
def test_drift_and_what_could_not_be_told(trained: Trained, exported: Path, tmp_path: Path) -> None:
    drift = [
        watched("north/2", report(fired=True)),
        watched("south/1", report(fired=False)),
        watched("west/1", "west has sent nothing"),
    ]
    text = write_evidence(make(trained, exported, drift=drift), tmp_path)
    assert "| north/2 | yes | pixels (alarm) | 2.5000 | 1.5000 | 0.0010 |" in text
    assert "| north/2 | yes | outputs | 2.5000 |" in text
    assert "| south/1 | no | pixels | 2.5000 |" in text
    assert "- west/1: west has sent nothing" in text
    assert "No drop has come" not in text
    none = write_evidence(make(trained, exported, drift=[watched("west/1", "why")]), tmp_path)
    assert "- west/1: why" in none
    assert "No drop has come" not in none
    assert "No drop has come" in write_evidence(make(trained, exported), tmp_path)


@pytest.mark.usefixtures("cheap")
def test_the_ledger_of_this_dataset_is_shown(trained: Trained, exported: Path, tmp_path: Path) -> None:
    row = {
        "dataset": NAME,
        "backbone": "efficientnet_lite0",
        "source": "imagenet",
        "strategy": "ttl",
        "cut": "blocks.1",
        "cut_index": 1,
        "granularity": "stage",
        "trained": "to the end",
        "epochs": 3,
        "full_epochs": 3,
        "reason": "the best | so far",
        "recipe": "fast",
        "head": "pooled",
        "share": 1.0,
        "resplit": "none",
    }
    other = {**row, "dataset": "other", "reason": "of another dataset"}
    never = {**row, "cut": "blocks.2", "trained": "never", "epochs": 0, "reason": "larger"}
    pl.DataFrame([row, never, other], LEDGER_SCHEMA).write_csv(tmp_path / LEDGER)
    trials = [
        {**row, "status": "completed", "seed": 0, "val_auroc": 0.5},
        {**row, "status": "completed", "seed": 1, "val_auroc": 0.75},
        {**row, "status": "stopped", "seed": 2, "val_auroc": 0.25},
        {**other, "status": "completed", "seed": 0, "val_auroc": 0.125},
    ]
    columns = {name: [one.get(name) for one in trials] for name in TRIALS_SCHEMA}
    pl.DataFrame(columns, TRIALS_SCHEMA).write_parquet(tmp_path / TRIALS)
    text = write_evidence(make(trained, exported, results=tmp_path), tmp_path / "out")
    lines = [one.rstrip() for one in text.splitlines()]
    assert "| strategy | cut | trained | epochs | full_epochs | val_auroc | reason |" in lines
    assert "| ttl | blocks.1 | to the end | 3 | 3 | 0.6250 | the best &#124; so far |" in lines
    assert "| ttl | blocks.2 | never | 0 | 3 | – | larger |" in lines
    assert "All have backbone efficientnet_lite0, source imagenet, recipe fast, head pooled" in text
    assert "of another dataset" not in text
    tables(text)
    page = Page((tmp_path / "out" / "evidence.html").read_text())
    assert "the best | so far" in page.text
    (table,) = [one for one in page.tables if one[0][0] == "strategy"]
    assert len(table) == 3


@pytest.mark.usefixtures("cheap")
def test_what_comes_from_outside_is_text(trained: Trained, exported: Path, tmp_path: Path) -> None:
    dataset = dropped(trained.dataset, tmp_path / NAME, HOSTILE, HOSTILE)
    info = dataclasses.replace(dataset.info, licence=HOSTILE)
    half = Interval(value=0.5, low=0.4, high=0.6)
    comparison = Comparison(
        where=f"site {HOSTILE}",
        metric="auroc",
        images=1,
        patients=1,
        champion=half,
        challenger=half,
        difference=half,
    )
    verdict = Verdict(outcome="hold", reasons=(HOSTILE, f"AUROC in {HOSTILE}"), comparisons=(comparison,))
    known = make(
        trained,
        exported,
        dataset=dataclasses.replace(dataset, info=info),
        verdict=verdict,
        drift=[watched(HOSTILE, report(fired=True)), watched(f"{HOSTILE}/2", HOSTILE)],
    )
    text = write_evidence(known, tmp_path / "out")
    plain = write_evidence(make(trained, exported), tmp_path / "plain")
    assert [one for one in text.splitlines() if one.startswith("#")] == [
        one.replace(trained.dataset.revision, dataset.revision)
        for one in plain.splitlines()
        if one.startswith("#")
    ]
    assert "<script" not in text
    assert "](http://e" not in text
    tables(text)
    page = Page((tmp_path / "out" / "evidence.html").read_text())
    assert not {"script", "img"} & set(page.tags)
    usual = Page((tmp_path / "plain" / "evidence.html").read_text())
    for tag in ("strong", "em", "a"):
        assert page.tags.count(tag) == usual.tags.count(tag), tag
    # It is all still there to read.
    shown = " ".join(HOSTILE.split())
    assert page.text.count(shown) >= 8
    assert all(len({len(row) for row in table}) == 1 for table in page.tables)
    values = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert values["verdict"]["reasons"][0] == HOSTILE
    assert values["data"]["drops"][0]["drop"] == f"{HOSTILE}/1"


@pytest.mark.usefixtures("cheap")
def test_the_json_is_json(trained: Trained, exported: Path, tmp_path: Path) -> None:
    """Lines without an interval, a model without a threshold: null, and neither NaN nor a text."""
    empty = Comparison(
        where="site x", metric="auroc", images=1, patients=1, champion=None, challenger=None, difference=None
    )
    verdict = Verdict(outcome="hold", reasons=(), comparisons=(empty,))
    text = write_evidence(make(trained, exported, verdict=verdict), tmp_path)
    assert "| site x | auroc | 1 | 1 | – | – | – |" in text

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = (tmp_path / "evidence.json").read_text()
    values = json.loads(read, parse_constant=refuse)
    assert values["verdict"]["comparisons"][0]["difference"] is None
    assert isinstance(values["reliability"][0]["images"], int)
    assert isinstance(values["data"]["sites"][0]["patients"], int)


def test_reliability_is_what_was_found_where_so_much_was_predicted() -> None:
    second = np.array([0.05, 0.15, 0.35, 0.5, 0.55, 1.0])
    scores = HeadToHead(
        labels=np.array([0, 1, 0, 1, 1, 1]),
        patients=np.array(list("abcdef")),
        groups={},
        challenger=np.stack([1 - second, second], axis=1),
        threshold=0.5,
    )
    rows = reliability({"frozen": scores})
    assert [(one["bin"], one["images"], one["found"]) for one in rows] == [
        ("0.0 to 0.2", 2, 0.5),
        ("0.2 to 0.4", 1, 0.0),
        ("0.4 to 0.6", 2, 1.0),
        ("0.6 to 0.8", 0, None),
        ("0.8 to 1.0", 1, 1.0),
    ]
    assert [one["predicted"] for one in rows] == [
        pytest.approx(0.1),
        pytest.approx(0.35),
        pytest.approx(0.525),
        None,
        1.0,
    ]
    three = dataclasses.replace(scores, challenger=np.full((6, 3), 1 / 3))
    assert reliability({"frozen": three}) == []


@pytest.mark.usefixtures("cheap")
def test_the_page_has_its_figures_and_loads_nothing(trained: Trained, exported: Path, tmp_path: Path) -> None:
    text = write_evidence(make(trained, exported), tmp_path)
    assert text.startswith(f"# {NAME}: no proposal (SYNTHETIC DATA)\n")
    page = (tmp_path / "evidence.html").read_text()
    assert Page(page).tags.count("svg") == 2
    for heading in ("Champion and challenger, on the same images", "Calibration of the challenger"):
        assert f"<h2>{heading}</h2><figure><svg" in page
    assert f"<title>Evidence: {NAME} (SYNTHETIC DATA)</title>" in page
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in page
    assert not re.findall(r"(?:src|href)=\"(?!#)", page)
    assert "@media print" in page


@pytest.mark.usefixtures("cheap")
def test_a_dollar_in_a_name_is_no_formula(trained: Trained, exported: Path, tmp_path: Path) -> None:
    known = make(trained, exported)
    line = dataclasses.replace(known.verdict.comparisons[0], where="site $\\frac{$")
    verdict = dataclasses.replace(known.verdict, comparisons=(line,))
    write_evidence(dataclasses.replace(known, verdict=verdict), tmp_path)
    assert "site $\\frac{$" in Page((tmp_path / "evidence.html").read_text()).text


@pytest.mark.usefixtures("cheap")
def test_what_is_not_there_is_said(trained: Trained, exported: Path, tmp_path: Path) -> None:
    known = make(trained, exported, champion=False, results=tmp_path)
    text = write_evidence(known, tmp_path / "out")
    assert "There is no ledger of the search." in text
    assert "The dataset was made of no drops." in text
    pl.DataFrame(schema=LEDGER_SCHEMA).write_csv(tmp_path / LEDGER)
    text = write_evidence(dataclasses.replace(known, scores={}), tmp_path / "out")
    assert "The ledger of the search has no row of this dataset." in text
    assert "Not shown: the task is not binary." in text
    (note,) = trained.dataset.info.notes
    assert f"- {note.replace('|', '&#124;')}\n" in text
