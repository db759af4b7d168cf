"""docs/datasets.md: every entry of params.yaml on it is one that is read."""

import re
from pathlib import Path

import pytest
import yaml

from ttl.data.sources import SOURCES
from ttl.data.spec import DatasetSpec

PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
ENTRIES = {
    name: values
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    for name, values in yaml.safe_load(block)["prepare"].items()
}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_on_the_page_can_be_read(name):
    spec = DatasetSpec.from_dict(ENTRIES[name], name=name)
    assert spec.input.startswith("incoming/")


def test_every_published_dataset_is_on_the_page():
    described = {entry["source"] for entry in ENTRIES.values()}
    assert described == set(SOURCES) - {"phantom", "medmnist"}
    assert all(f"| `{source}` |" in PAGE for source in described)
