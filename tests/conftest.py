"""What several tests share: small real datasets."""

import os
from pathlib import Path

import pytest

from ttl.data.dataset import PackedDataset
from ttl.data.prepare import prepare
from ttl.data.spec import DatasetSpec

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packed datasets with one phantom, `toy`: about 130 images of 32 pixels."""
    folder = tmp_path_factory.mktemp("packed")
    options = {"patients": 44, "strength": 2.0}
    prepare("toy", DatasetSpec(source="phantom", size=32, seed=3, options=options), folder / "toy")
    return folder


@pytest.fixture(scope="session")
def toy(datasets: Path) -> PackedDataset:
    """The small phantom."""
    return PackedDataset.open(datasets / "toy")


@pytest.fixture
def real_data() -> Path:
    """The folder of real datasets, or a skip that says what is missing."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TTL_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real datasets in {folder}; name their folder in TTL_TEST_DATA")
    return folder
