"""How every figure of the report looks, and how matplotlib's SVG becomes part of a page.

A figure is drawn with the colours of the light page. Each colour then becomes a CSS variable (or
`currentColor`) with the drawn colour as its fallback, so the figure follows the page's colours, light, dark
or in print, and a single file still shows. Text stays text, in the page's own font.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

PANEL = (400.0, 320.0)
"""Width and height of one panel of several, side by side or, on a telephone, one under the other."""

INK, MUTED, GRID, PAPER, CHOSEN = "#1b1f24", "#59616b", "#d5d9df", "#fdfdfe", "#a3126b"

STEPS = 16
"""Shades of the sequential scale that tells cuts apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A strategy's colour, on a light page and on a dark one, and its marker, for whoever sees no colours."""

    light: str
    dark: str
    marker: str
    size: float
    dash: str


MARKS = {
    "ftl": Mark(light="#3f454d", dark="#d4d8de", marker="s", size=6.0, dash="--"),
    "ttl": Mark(light="#0068a8", dark="#62b8f0", marker="o", size=6.2, dash="-"),
    "lwft": Mark(light="#b84a00", dark="#f29d4b", marker="^", size=6.8, dash="-."),
    "tf": Mark(light="#007a5a", dark="#35c9a0", marker="D", size=5.2, dash=":"),
}
OTHER = Mark(light="#7a5195", dark="#c4a0e0", marker="P", size=6.6, dash="-")
"""For a strategy that is not in the list yet."""


def mark(strategy: str) -> Mark:
    """Return how a strategy is drawn."""
    return MARKS.get(strategy, OTHER)


def shade(position: float) -> tuple[str, str]:
    """Return the colours, on a light page and on a dark one, of a place between 0 (bottom) and 1 (top)."""
    scale = matplotlib.colormaps["viridis"]
    step = round(min(max(position, 0.0), 1.0) * (STEPS - 1)) / (STEPS - 1)
    return to_hex(scale(0.78 * (1 - step))), to_hex(scale(1.0 - 0.68 * step))


def literal(text: str) -> str:
    """Return a text from outside as it is drawn: for matplotlib, a dollar sign would begin a formula."""
    return text.replace("$", "\\$")


def variables() -> dict[str, tuple[str, str]]:
    """Return every CSS variable of the figures: its colour on a light page, and on a dark one."""
    found = {
        "--fig-muted": (MUTED, "#a3abb6"),
        "--fig-grid": (GRID, "#363c45"),
        "--fig-paper": (PAPER, "#15181c"),
        "--fig-chosen": (CHOSEN, "#ff7cc4"),
    }
    found |= {f"--fig-{name}": (each.light, each.dark) for name, each in {**MARKS, "other": OTHER}.items()}
    return found | {f"--fig-step-{step}": shade(step / (STEPS - 1)) for step in range(STEPS)}


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, Any]]:
    """Give a figure of `width` by `height` CSS pixels and its axes, in the report's style."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "ttl",
        "font.size": 11,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.labelsize": 11,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "lines.linewidth": 1.6,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        FigureCanvasAgg(figure)
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0.0)
        yield figure, axes


def finish(figure: Figure, *, name: str, label: str, tips: dict[str, str] | None = None) -> str:
    """Return the figure as an `<svg>` element to put into a page.

    `name` keeps its ids apart from those of the page's other figures, `label` is read out in its place, and
    `tips` gives elements, by the id that was drawn with them, a text that shows under the pointer.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>\s*", "", text, flags=re.DOTALL)
    for identity, tip in (tips or {}).items():
        text = text.replace(f'<g id="{identity}">', f'<g id="{identity}"><title>{escape(tip)}</title>', 1)
    text = _own_ids(text, name)
    text = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", _page_font(text))
    # Of coordinates alone: what is written in the figure stays as it is.
    text = re.sub(r"<[^>]*>", lambda tag: _rounded(tag[0]), text)
    for variable, (light, _) in variables().items():
        text = text.replace(light, f"var({variable}, {light})")
    text = text.replace(INK, "currentColor")
    box = re.search(r'viewBox="[^"]*"', text)
    root = f'<svg role="img" aria-label="{escape(label, quote=True)}" {box.group() if box else ""}>'
    return re.sub(r"<svg[^>]*>", lambda _: root, text, count=1).strip()


def _rounded(tag: str) -> str:
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", tag)


def standalone(element: str) -> str:
    """Return a figure of `finish` as a file that shows by itself, light: for a README, for print."""
    text = re.sub(r"var\(--[\w-]+, (#[0-9a-f]{6})\)", r"\1", element).replace("currentColor", INK)
    found = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', text)
    assert found, "a figure has its box"
    # matplotlib measures text in its own sans-serif: a wider one would run over.
    size = f'width="{found[1]}" height="{found[2]}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif"'
    paper = f'<rect width="100%" height="100%" fill="{PAPER}"/>'
    text = text.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" {size} ', 1)
    return text.replace(">", f">{paper}", 1) + "\n"


def put_labels(
    figure: Any,
    axes: Any,
    labels: Mapping[tuple[float, float], tuple[str, str]],
    *,
    avoid: Sequence[tuple[float, float]],
) -> None:
    """Write labels beside their points, in the given order, where they touch neither point nor label.

    A label with no free place is left out, unless it is the first two's (chosen, reference): the table has
    them all.
    """
    figure.canvas.draw()
    figure.set_layout_engine("none")
    to_pixels = axes.transData.transform
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in (to_pixels(p) for p in avoid)]
    frame = axes.get_window_extent()
    for place, (point, (text, colour)) in enumerate(labels.items()):
        best: tuple[float, Any] | None = None
        for far in (11.0, 20.0, 32.0, 46.0):
            for angle in (90, 270, 45, 135, 315, 225, 0, 180):
                dx, dy = far * math.cos(math.radians(angle)), far * math.sin(math.radians(angle))
                note = axes.annotate(
                    text,
                    point,
                    xytext=(dx, dy),
                    textcoords="offset points",
                    ha="center" if abs(dx) < 1 else "left" if dx > 0 else "right",
                    va="center" if abs(dy) < 1 else "bottom" if dy > 0 else "top",
                    fontsize=10,
                    color=colour,
                    weight="bold" if colour == CHOSEN else "normal",
                    arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.7} if far > 12 else None,
                    zorder=6,
                )
                box = _written(note)
                cost = sum(_overlap(box, other) for other in taken)
                if not (
                    frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
                ):
                    cost += 1000.0
                if best is not None and best[0] <= cost:
                    note.remove()
                    continue
                if best is not None:
                    best[1].remove()
                best = (cost, note)
            if best is not None and best[0] == 0.0:
                break
        if best is not None and best[0] > 0.0 and place > 1:
            best[1].remove()
        elif best is not None:
            taken.append(_written(best[1]))


def _written(note: Annotation) -> Bbox:
    """Return where a label's words are, without its arrow."""
    root: Any = note.get_figure(root=True)
    note.update_positions(root.canvas.get_renderer())
    return Text.get_window_extent(note).padded(1.0)


def _overlap(one: Any, other: Any) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(width * height) if width > 0 and height > 0 else 0.0


def _own_ids(text: str, name: str) -> str:
    """Return the SVG with no id that nothing refers to, and the figure's name before the others."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(
        r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text
    )
    text = re.sub(r'(url\(#|xlink:href="#|href="#)', rf"\g<1>{name}-", text)
    return text.replace("xlink:href", "href")


def _page_font(text: str) -> str:
    """Return the SVG with matplotlib's font names taken out: the page's font is inherited."""
    text = re.sub(r"font: (?:\w+ )*?([\d.]+px) [^;\"]*", r"font-size: \1", text)
    return re.sub(r"font-family: [^;\"]*;? ?", "", text)
