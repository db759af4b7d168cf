"""Labels of images that may have several at once: present, absent, not known, and what is called uncertain.

A **source** gives such an image a tuple, one value a class, and may say `UNCERTAIN` where a reader or a
report was (CheXpert writes −1). What becomes of those is settled once, when the dataset is packed: training
labels by the policy, and validation and test labels as not known, so that no figure rests on a truth that was
made up. In a packed dataset a label is `PRESENT`, `ABSENT` or `NOT_KNOWN`.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from ttl.errors import DataError

Label = int | tuple[int, ...]
"""The number of an image's class, or, where it may have several, a value a class."""

PRESENT, ABSENT, NOT_KNOWN, UNCERTAIN = 1, 0, -1, -2

Policy = Literal["ignore", "zeros", "ones"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
"""U-Ignore, U-Zeros and U-Ones of Irvin et al., AAAI 2019."""

_CELLS = {"1": PRESENT, "0": ABSENT, "-1": UNCERTAIN, "": NOT_KNOWN}
_BECOMES: dict[Policy, int] = {"ignore": NOT_KNOWN, "zeros": ABSENT, "ones": PRESENT}


def resolve_uncertain(values: ArrayLike, policy: Policy) -> NDArray[np.int8]:
    """Return labels of any shape with `UNCERTAIN` replaced as the policy says; others stay.

    Raises `DataError` for a value that is no label.
    """
    found = np.asarray(values)
    wrong = ~np.isin(found, (PRESENT, ABSENT, NOT_KNOWN, UNCERTAIN))
    if wrong.any():
        raise DataError(
            f"{found[wrong].flat[0]} is no label of a class; labels are {PRESENT} (present), {ABSENT} "
            f"(absent), {NOT_KNOWN} (not known) and {UNCERTAIN} (uncertain)"
        )
    return np.where(found == UNCERTAIN, _BECOMES[policy], found).astype(np.int8)


def read_label(cell: str) -> int:
    """Return the label that a table's cell says: 1, 0, −1 for uncertain, with or without `.0`, or nothing.

    Nothing is not known. Raises `DataError` for anything else.
    """
    try:
        return _CELLS[cell.strip().removesuffix(".0")]
    except KeyError:
        raise DataError(f"{cell!r} is no label; write 1, 0, -1 (uncertain), or nothing (not known)") from None


def uncertain_notes(values: ArrayLike, classes: Sequence[str], policy: Policy) -> list[str]:
    """Return sentences on the uncertain labels of [n, classes]: how many, and what became of them."""
    counts = (np.asarray(values) == UNCERTAIN).sum(axis=0)
    if not counts.any():
        return []
    many = ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True) if count)
    became = {
        "ignore": "count as not known (U-Ignore)",
        "zeros": "count as absent in training (U-Zeros), and as not known in validation and test",
        "ones": "count as present in training (U-Ones), and as not known in validation and test",
    }[policy]
    return [f"{int(counts.sum())} labels are uncertain and {became}: {many}."]


def to_array(labels: pl.Series) -> NDArray[np.int64]:
    """Return a column of labels as numbers of classes [n], or as [n, classes] where images have several."""
    return np.asarray(labels.to_numpy(), dtype=np.int64)
