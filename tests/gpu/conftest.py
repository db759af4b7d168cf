"""Tests on a real NVIDIA GPU: `make test-gpu`.

What computes on it are jobs, or processes apart from this one, which NVIDIA's library therefore never shows
on the GPU.
"""

import pytest
import torch

from ttl.training import gpus
from ttl.training.devices import Slot, find_slots


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Skip where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU: torch.cuda is not available")


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    """A folder of locks of each test's own."""
    monkeypatch.setenv("TTL_DEVICES", str(tmp_path / "devices"))
    gpus._warn.cache_clear()


@pytest.fixture
def slot() -> Slot:
    """The first GPU."""
    return find_slots(1)[0]
