"""Projects for sweeps."""

import pytest

from tests.projects import Project


@pytest.fixture
def make_project(datasets, tmp_path):
    def make(name="project", **changes):
        return Project.make(tmp_path / name, datasets, **changes)

    return make
