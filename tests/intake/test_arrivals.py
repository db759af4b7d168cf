"""What has arrived: a drop that cannot be read waits, and keeps no other from being taken."""

from dataclasses import replace

import pytest

from tests.intake.conftest import PSEUDONYMS, SPEC, as_bytes, dataset, film, write_drop
from ttl.errors import ServiceError
from ttl.intake.arrivals import look, take
from ttl.intake.received import taken


def drop(incoming, place, seeds, *, prefix=""):
    """Write a drop of two films each of as many patients, of whom every other has the finding."""
    films = {
        f"{prefix}{seed}-{number}.dcm": (
            as_bytes(dataset(film(100 * seed + number), patient=f"P{seed}")),
            ("normal", "finding")[seed % 2],
        )
        for seed in seeds
        for number in range(2)
    }
    files = {name: data for name, (data, _) in films.items()}
    return write_drop(incoming / place, files, [(name, label) for name, (_, label) in films.items()])


@pytest.fixture
def spec(tmp_path):
    return replace(SPEC, incoming=f"refusing://{tmp_path / 'incoming'}")


def test_a_drop_that_cannot_be_read_waits_and_the_one_beside_it_is_ready(spec, tmp_path):
    incoming = tmp_path / "incoming"
    drop(incoming, "north/good", [1])
    drop(incoming, "north/SHUT", [2])
    (drop(incoming, "south/table", [3]) / "labels.csv").rename(incoming / "SHUT.csv")
    (incoming / "south/table/labels.csv").symlink_to(incoming / "SHUT.csv")
    arrived = look(spec, ())
    assert [one.place for one in arrived.ready] == ["north/good"]
    assert [place for place, _ in arrived.waiting] == ["north/SHUT", "south/table"]


def test_a_drop_of_which_a_file_cannot_be_read_is_left_whole_and_the_others_are_taken(spec, tmp_path):
    incoming, root = tmp_path / "incoming", tmp_path / "packed" / "toy"
    drop(incoming, "north/a", range(1, 13))
    drop(incoming, "north/b", range(13, 15), prefix="z-SHUT")
    drop(incoming, "south/c", range(15, 17))
    arrived = look(spec, ())
    assert not arrived.waiting
    brought = take("toy", spec, arrived.ready, root, pseudonyms=PSEUDONYMS, workers=0)
    assert [one.drop for one in brought.taken] == [one.drop for one in taken(root)] == ["a", "c"]
    ((place, reason),) = brought.waiting
    assert place == "north/b"
    assert reason.endswith("AWS_CA_BUNDLE")
    assert "SHUT" not in reason


def test_storage_that_is_gone_is_no_single_drops_fault(spec, tmp_path):
    incoming = tmp_path / "incoming"
    drop(incoming, "north/a", [1], prefix="SHUT")
    arrived = look(spec, ())
    gone = replace(spec, incoming=f"refusing://{incoming.with_name('SHUT')}")
    with pytest.raises(ServiceError, match="cannot be used"):
        take("toy", gone, arrived.ready, tmp_path / "toy", pseudonyms=PSEUDONYMS, workers=0)
