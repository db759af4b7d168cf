import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder of real datasets, or a skip that says what is missing."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("TTL_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real datasets in {folder}; name their folder in TTL_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch, tmp_path):
    monkeypatch.delenv("TTL_DATA_MIRROR", raising=False)
    monkeypatch.setenv("TTL_CACHE", str(tmp_path / "own-cache"))
