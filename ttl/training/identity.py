"""What of a setting counts for a trial's identity: settings that came later do not change old identities.

The one rule: a setting that did not exist from the start is declared with `later`, and is left out of the
identity while it has its default. Its default must mean what was done before it existed.
"""

import dataclasses
from typing import Any, TypeVar

T = TypeVar("T")

LATER = "later"


def later(default: T) -> T:
    """Return a dataclass field with a default, for a setting that did not exist from the start."""
    field: Any = dataclasses.field(default=default, metadata={LATER: True})
    return field  # type: ignore[no-any-return]


def identity(settings: Any) -> dict[str, Any]:
    """Return a dataclass as plain values, settings inside it too, without those that are as before."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if LATER in field.metadata and value == field.default:
            continue
        nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
        found[field.name] = identity(value) if nested else value
    return found
