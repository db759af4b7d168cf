"""A stack's folder, database and secrets belong together."""

import shutil

import pytest

from infra.stack.settings import Settings


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "stack"
    Settings.of(tmp_path / "stack").purge()


def leave(settings):
    places = [settings.outside / "postgres" / "PG_VERSION", settings.temporary / "ray" / "session"]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    return places


def test_a_stack_keeps_what_it_has(folder):
    first = Settings.of(folder)
    places = leave(first)
    assert Settings.of(folder).secrets == first.secrets
    assert all(place.is_file() for place in places)


def test_a_stack_removed_by_hand_leaves_no_database_to_the_next_one_there(folder):
    first = Settings.of(folder)
    places = leave(first)
    shutil.rmtree(folder)
    second = Settings.of(folder)
    assert second.secrets != first.secrets
    assert not any(place.exists() for place in places)
    assert (folder / "settings.json").is_file()
