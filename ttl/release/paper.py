"""The paper's headline table in print: cells, then Markdown or LaTeX of them."""

import ast
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ttl.search.headline import Row, Spread
from ttl.search.results import ABLATIONS

STRATEGIES = ("ftl", "ttl", "lwft", "tf")
SEEDS = (0, 1, 2)

HEADER = (
    "method",
    "cut",
    "AUROC",
    "AUPRC",
    "P (M)",
    "MACs (G)",
    "T (ms)",
    "AUROC less FTL's",
    "p",
    "p (Holm)",
)

DASH, MINUS, PLUS_MINUS = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{PLUS-MINUS SIGN}"

TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", DASH: "--", MINUS: "$-$",
    PLUS_MINUS: r"$\pm$", "<": "$<$", ">": "$>$", "`": r"\textasciigrave{}",
}  # fmt: skip
MARKUP = re.compile(r"([\\`*_\[\]<>#|~])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A table of plain texts. `marks` are, for each row, the numbers of its footnotes, which count from 1."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[tuple[int, ...], ...]
    footnotes: tuple[str, ...]
    remarks: tuple[str, ...]


def printed(
    rows: Sequence[Row],
    *,
    dataset: str,
    backbone: str,
    condition: Mapping[str, Any],
    synthetic: bool = False,
    confidence: float = 0.95,
) -> Printed:
    """Return the table of `headline`'s rows: what is missing is a footnote, what holds for all a remark."""
    footnotes: list[str] = []
    for row in rows:
        footnotes += [note for note in row.notes if note not in footnotes]
    varied = "" if not synthetic else ", SYNTHETIC images"
    return Printed(
        title=f"{backbone} on {dataset}{varied} ({described(condition)})",
        header=HEADER,
        rows=tuple(_cells(row) for row in rows),
        marks=tuple(tuple(footnotes.index(note) + 1 for note in row.notes) for row in rows),
        footnotes=tuple(footnotes),
        remarks=tuple(_remarks(rows, condition, confidence)),
    )


def described(condition: Mapping[str, Any]) -> str:
    """Return a condition in words: what differs from an ordinary sweep is said."""
    words = [
        f"weights {condition['source']}",
        f"recipe {condition['recipe']}",
        f"{condition['image_size']} px",
    ]
    if condition["processes"] != 1:
        words.append(f"{condition['processes']} processes")
    if condition["head"] != ABLATIONS["head"]:
        words.append(f"{condition['head']} head")
    if condition["share"] != ABLATIONS["share"]:
        words.append(f"{condition['share']:.4g} of the training data")
    if condition["resplit"] != ABLATIONS["resplit"]:
        words.append(f"resplit {condition['resplit']}")
    return ", ".join(words)


def incomplete(rows: Sequence[Row]) -> bool:
    """Return whether the sweep lacks trials that the table needs: a method, or more than one seed."""
    return any(row.cut is None or len(row.seeds) < len(SEEDS) for row in rows)


def sweep_command(dataset: str, backbone: str, condition: Mapping[str, Any]) -> str:
    """Return the command that trains what the table needs."""
    words = ["ttl sweep", f"--dataset {dataset}", f"--backbone {backbone}", f"--source {condition['source']}"]
    words += ["--planner two-stage", *[f"--strategy {one}" for one in STRATEGIES]]
    words += [*[f"--seed {one}" for one in SEEDS], f"--recipe {_recipe(condition['recipe'])}"]
    words += [f"--image-size {condition['image_size']}"]
    if condition["processes"] != 1:
        words.append(f"--processes {condition['processes']}")
    words += [f"--{name} {condition[name]}" for name, value in ABLATIONS.items() if condition[name] != value]
    return " ".join(words)


def to_markdown(table: Printed) -> str:
    """Return the table as GitHub's Markdown, its notes below."""
    rows = [
        [_plain(row[0]) + _raised(marks, "<sup>{}</sup>"), *map(_plain, row[1:])]
        for row, marks in zip(table.rows, table.marks, strict=True)
    ]
    aligned = [":---", ":---", *["---:"] * (len(table.header) - 2)]
    lines = [f"**{_plain(table.title)}**", ""]
    lines += [_line(cells) for cells in ([_plain(one) for one in table.header], aligned, *rows)]
    notes = [f"<sup>{place}</sup> {_plain(one)}." for place, one in enumerate(table.footnotes, 1)]
    return "\n\n".join(["\n".join(lines), *notes, *[f"{_plain(one)}." for one in table.remarks]]) + "\n"


def to_latex(table: Printed) -> str:
    """Return the table as LaTeX with booktabs, its notes below: a float to be input where it is to stand."""
    columns = "ll" + "r" * (len(table.header) - 2)
    rows = [
        " & ".join([_tex(row[0]) + _raised(marks, "$^{{{}}}$"), *map(_tex, row[1:])]) + r" \\"
        for row, marks in zip(table.rows, table.marks, strict=True)
    ]
    notes = [f"$^{{{place}}}$ {_tex(one)}." for place, one in enumerate(table.footnotes, 1)]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(_tex, table.header)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\smallskip\footnotesize",
            *[rf"{one}\par" for one in [*notes, *[f"{_tex(one)}." for one in table.remarks]]],
            r"\end{table}",
            "",
        ]
    )


def _cells(row: Row) -> tuple[str, ...]:
    if row.cut is None:
        return (row.method, *[DASH] * (len(HEADER) - 1))
    assert row.params is not None
    assert row.macs is not None
    assert row.latency_ms is not None
    gap = DASH
    if row.difference is not None:
        values = (row.difference.value, row.difference.low, row.difference.high)
        value, low, high = (f"{one:+.3f}".replace("-", MINUS) for one in values)
        gap = f"{value} ({low} to {high})"
    return (
        row.method,
        row.cut,
        _spread(row.test_auroc),
        _spread(row.test_auprc),
        f"{row.params / 1e6:.3g}",
        f"{row.macs / 1e9:.3g}",
        f"{row.latency_ms:.2f}",
        gap,
        _p(row.p),
        _p(row.p_holm),
    )


def _spread(value: Spread | None) -> str:
    if value is None:
        return DASH
    return f"{value.mean:.3f}" + ("" if value.deviation is None else f" {PLUS_MINUS} {value.deviation:.3f}")


def _p(value: float | None) -> str:
    if value is None:
        return DASH
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _remarks(rows: Sequence[Row], condition: Mapping[str, Any], confidence: float) -> list[str]:
    seeds = sorted({seed for row in rows for seed in row.seeds})
    trained = [row for row in rows if row.cut is not None]
    if not trained:
        return ["The sweep has no completed trial of this table"]
    devices = sorted({one for row in trained for one in row.devices})
    single = len(seeds) == 1
    told = (
        "T is the median time of one image at batch 1 in torch, taken after each training, beside others, on "
    )
    remarks = [
        "AUROC and AUPRC are of the test split, "
        + (
            f"of the one seed {seeds[0]}: there is no deviation"
            if single
            else f"mean {PLUS_MINUS} standard deviation over {len(seeds)} seeds"
        )
        + "; cuts were chosen by mean validation AUROC alone",
        told
        + " and ".join(devices)
        + (": times of different devices cannot be compared" if len(devices) > 1 else ""),
    ]
    compared = [row for row in trained if row.p is not None]
    if compared:
        count = len({row.trial_ids for row in compared})
        remarks.append(
            f"AUROC less FTL's: mean over seeds, with its {confidence:.0%} interval and two-sided p, "
            + _method(len(seeds))
            + (f"; p (Holm) is adjusted for the {count} networks compared" if count > 1 else "")
        )
    if condition["resplit"] != ABLATIONS["resplit"] and not single:
        remarks.append(
            "Each seed has a split of its own; splits share patients, so that deviations are somewhat too "
            "small: intervals and p-values are corrected for it (Nadeau & Bengio, Machine Learning 2003)"
        )
    return remarks


def _method(seeds: int) -> str:
    if seeds == 1:
        return (
            "by bootstrap over patients alone, so that they are of these very networks: the variation "
            "between trainings is not in them"
        )
    freedom = "1 degree" if seeds == 2 else f"{seeds - 1} degrees"
    return (
        f"for other patients and other trainings: the variance between seeds by t with {freedom} of freedom, "
        "that of patients by paired bootstrap" + (" (two seeds show only large differences)" * (seeds == 2))
    )


def _recipe(name: str) -> str:
    """Return a recipe's name, `fast(epochs=3)`, as the command line takes it: YAML of its own writing."""
    base, _, changes = name.rstrip(")").partition("(")
    if not changes:
        return base
    fields = dict(one.split("=", 1) for one in changes.split(","))
    values = {"base": base, **{field: _value(text) for field, text in fields.items()}}
    text = yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=math.inf)
    return shlex.quote(text.strip())


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def _raised(marks: Sequence[int], form: str) -> str:
    return form.format(",".join(map(str, marks))) if marks else ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return MARKUP.sub(r"\\\1", text)


def _tex(text: str) -> str:
    """Return a text that LaTeX shows as it is."""
    return "".join(TEX.get(character, character) for character in text)
