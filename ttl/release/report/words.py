"""Numbers as the report writes them."""

import math
import re
from collections.abc import Mapping

from markupsafe import Markup, escape

from ttl.evaluation.statistics import Interval

MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for a table, a dash for none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """Return a difference with its sign."""
    return f"{value:+.4f}".replace("-", MINUS)


def interval(values: Mapping[str, float]) -> str:
    """Return an estimate and its interval."""
    return f"{values['value']:.3f} ({values['low']:.3f} to {values['high']:.3f})"


def percent(share: float | None) -> str:
    """Return a share as a percentage, a dash for none."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.1f} %"


def spread(values: Interval) -> str:
    """Return an interval that is not a plain mapping."""
    return interval({"value": values.value, "low": values.low, "high": values.high})


def code(text: str) -> Markup:
    """Return a sentence whose commands, in backticks, are set as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
