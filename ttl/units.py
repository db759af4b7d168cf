"""Numbers in the words of people."""

import math


def magnitude(value: float | None) -> str:
    """Return a count in three digits and a unit: 1858 → `1.86 k`, 23510000 → `23.5 M`; a dash for none."""
    if value is None:
        return "–"
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        # What rounds up to the next unit is written in it.
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:#.3g}".rstrip(".") + unit
    return f"{value:.0f}"


def percentage(part: float, total: float) -> str:
    """Return a share with two significant digits: `1.6 %`."""
    share = 100 * part / total
    digits = max(0, 1 - math.floor(math.log10(share))) if 0 < share < 100 else 0
    return f"{share:.{digits}f} %"
