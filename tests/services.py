"""The stack of services that integration tests need, as `make stack` has started it."""

import os
from pathlib import Path

import pytest

from infra.stack.settings import PROJECT
from infra.stack.stack import ORDER, Stack

FOLDER = Path(os.environ.get("TTL_STACK") or PROJECT / ".stack")


def running_stack() -> Stack:
    """Return the stack; skip the test where it is not up."""
    if not (FOLDER / "settings.json").is_file():
        pytest.skip("needs the local stack: make stack")
    stack = Stack(FOLDER)
    if ended := [name for name in ORDER if stack.processes.alive(name) is None]:
        pytest.skip(f"needs the local stack, of which {', '.join(ended)} does not run: make stack")
    return stack
