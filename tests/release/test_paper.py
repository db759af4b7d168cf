"""The headline table in print: Markdown that parses, LaTeX that is closed, and a command that runs."""

import re
import shlex

import pytest
import yaml
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from ttl.cli import app
from ttl.evaluation.statistics import Interval
from ttl.release.paper import HEADER, incomplete, printed, sweep_command, to_latex, to_markdown
from ttl.search.headline import METHODS, Row, Spread
from ttl.training.recipe import make_recipe

CONDITION = {
    "source": "imagenet", "source_sha256": "", "recipe": "fast(epochs=3,lr=0.002)", "image_size": 64,
    "processes": 1, "head": "pooled", "share": 1.0, "resplit": "none",
}  # fmt: skip
MISSING = "TF-2 is missing: no block cuts were swept"


def row(method, **changes):
    strategy, cut = method.partition("-")[0].lower(), "full" if method == "FTL" else "blocks_1.3"
    values = {
        "cut": cut, "seeds": (0, 1, 2), "trial_ids": (f"{method[:-1]}a", "b"),
        "val_auroc": Spread(mean=0.9, deviation=0.1),
        "test_auroc": Spread(mean=0.8512, deviation=0.0021), "test_auprc": Spread(mean=0.86, deviation=0.002),
        "params": 6_310_000, "macs": 2_870_000_000, "latency_ms": 2.974, "devices": ("cpu",),
    }  # fmt: skip
    if method != "FTL":
        values |= {
            "difference": Interval(value=-0.0123, low=-0.03, high=0.004),
            "p": 0.0415,
            "p_holm": 0.0004,
        }
    return Row(method=method, strategy=strategy, **{**values, **changes})


def rows(**changes):
    found = [row(method, **changes) for method in METHODS]
    found[4] = Row(method="TF-2", strategy="tf", notes=(MISSING,))
    return found


def table(**changes):
    return printed(rows(**changes), dataset="chest_films", backbone="net", condition=CONDITION)


CELLS = (
    "blocks_1.3", "0.851 ± 0.002", "0.860 ± 0.002", "6.31", "2.87", "2.97", "−0.012 (−0.030 to +0.004)",
    "0.042", "< .001",
)  # fmt: skip


def test_cells_are_in_the_papers_units():
    found = table()
    assert found.header == HEADER
    assert [one[0] for one in found.rows] == list(METHODS)
    assert found.rows[6][1:] == CELLS
    assert found.rows[0][7:] == ("–", "–", "–")
    assert found.rows[4] == ("TF-2", *["–"] * 9)
    assert (found.marks[4], found.footnotes) == ((1,), (MISSING,))
    assert "mean ± standard deviation over 3 seeds" in found.remarks[0]
    assert found.remarks[2] == (
        "AUROC less FTL's: mean over seeds, with its 95% interval and two-sided p, for other patients and "
        "other trainings: the variance between seeds by t with 2 degrees of freedom, that of patients by "
        "paired bootstrap; p (Holm) is adjusted for the 3 networks compared"
    )
    two = table(seeds=(0, 1)).remarks[2]
    assert "1 degree of freedom" in two
    assert "two seeds show only large differences" in two
    alone = table(seeds=(4,), test_auroc=Spread(mean=0.85, deviation=None), devices=("cpu", "a GPU"))
    assert alone.rows[6][2] == "0.850"
    assert "of the one seed 4: there is no deviation" in alone.remarks[0]
    assert "in torch, taken after each training, beside others, on a GPU and cpu" in alone.remarks[1]
    assert "times of different devices cannot be compared" in alone.remarks[1]
    assert "patients alone" in alone.remarks[2]
    assert "the variation between trainings is not in them" in alone.remarks[2]


def test_markdown_is_a_table_and_shows_what_it_says():
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(to_markdown(table()))
    body = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    cells = [
        [re.sub(r"<[^>]*>", "", one) for one in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", each)]
        for each in body
    ]
    assert len(cells) == 1 + len(METHODS)
    assert {len(each) for each in cells} == {len(HEADER)}
    assert cells[7] == ["TTL-2", *CELLS[:-1], "&lt; .001"]
    assert cells[5][0] == "TF-21"
    assert f"<sup>1</sup> {MISSING}." in html
    assert "net on chest_films" in html


def test_latex_is_closed_and_escaped():
    text = to_latex(table())
    opened = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    assert opened == [("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")]
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    lines = [one for one in text.splitlines() if one.endswith(r" \\")]
    assert len(lines) == 1 + len(METHODS)
    assert {len(re.findall(r"(?<!\\)&", one)) for one in lines} == {len(HEADER) - 1}
    assert r"TTL-2 & blocks\_1.3 & 0.851 $\pm$ 0.002 &" in text
    assert "$-$0.012 ($-$0.030 to +0.004)" in text
    assert "TF-2$^{1}$ & --" in text
    assert text.isascii()
    body = text.replace("\\{", "").replace("\\}", "")
    assert body.count("{") == body.count("}")
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    assert not re.search(r"(?<![\\\w])_", text)
    assert r"95\% interval" in text


def test_what_is_incomplete_has_a_command_that_ttl_understands():
    assert incomplete(rows())
    assert not incomplete([row(method) for method in METHODS])
    assert incomplete([row(method, seeds=(0,)) for method in METHODS])
    command = shlex.split(sweep_command("films", "net", {**CONDITION, "share": 0.1, "head": "flattened"}))
    assert command[:2] == ["ttl", "sweep"]
    recipe = yaml.safe_load(command[command.index("--recipe") + 1])
    assert make_recipe(recipe).name == CONDITION["recipe"]
    assert command[-4:] == ["--head", "flattened", "--share", "0.1"]
    known = CliRunner().invoke(app, ["sweep", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert all(word in known for word in command if word.startswith("--"))
    assert "--recipe paper " in sweep_command("films", "net", {**CONDITION, "recipe": "paper"})


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 1e-5},
        {"lr": 2.5e-5, "weight_decay": 1e-4, "epochs": 3},
        {"base": "fast", "lr": 1e-05, "flip": False, "optimizer": "sgd", "momentum": 0.5},
        {"schedule": "one-cycle", "warmup": 0.1, "precision": "bf16"},
    ],
)
def test_the_command_asks_for_the_very_recipe(changes):
    recipe = make_recipe({"base": "paper", **changes})
    words = shlex.split(sweep_command("films", "net", {**CONDITION, "recipe": recipe.name}))
    assert make_recipe(yaml.safe_load(words[words.index("--recipe") + 1])) == recipe


@pytest.mark.parametrize("resplit", ["val", "all"])
def test_repeated_splits_are_said_to_share_patients(resplit):
    found = printed(rows(), dataset="d", backbone="net", condition={**CONDITION, "resplit": resplit})
    assert "splits share patients" in found.remarks[-1]
    assert "are corrected for it" in found.remarks[-1]
    assert f"resplit {resplit}" in found.title
