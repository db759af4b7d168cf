"""What sites have dropped: found by site and name, and what cannot be looked into keeps nothing back."""

import fsspec
import pytest

from tests.intake.conftest import write_drop
from ttl.errors import ServiceError
from ttl.intake.drop import open_drop
from ttl.intake.incoming import find_drops

FILES = {"images/a.dcm": b"aaaa", "b.dcm": b"bb"}
LABELS = [("images/a.dcm", "normal"), ("b.dcm", "finding")]


@pytest.fixture
def incoming(tmp_path):
    """A folder into which two sites have dropped."""
    for place in ("north/2026-03", "east/one"):
        write_drop(tmp_path / "incoming" / place, FILES, LABELS)
    return tmp_path / "incoming"


def places(found):
    return [one.place for one in found.drops]


def test_drops_are_found_and_unfinished_ones_wait(incoming, tmp_path):
    (incoming / "east" / "two").mkdir()
    (incoming / ".claims" / "x").mkdir(parents=True)
    (incoming / "README").write_text("hello")
    found = find_drops(str(incoming))
    assert places(found) == ["east/one", "north/2026-03"]
    assert found.waiting == (("east/two", "MANIFEST.csv has not come yet"),)
    assert find_drops(str(tmp_path / "nowhere")).drops == ()


def test_what_is_called_as_no_drop_is_waits_unnamed(incoming):
    for place in ("north/Hans Müller", "north/Mueller^Hans", f"north/{'a' * 65}", "Müller/2026-03"):
        write_drop(incoming / place, FILES, LABELS)
    write_drop(incoming / "north" / ("a" * 64), FILES, LABELS)
    found = find_drops(str(incoming))
    assert places(found) == ["east/one", "north/2026-03", f"north/{'a' * 64}"]
    assert [place for place, _ in found.waiting] == ["a site", "north", "north", "north"]
    assert all("give it another, which names no person" in reason for _, reason in found.waiting)
    told = str(found.waiting).lower()
    assert not [text for text in ("hans", "ller", "aaaa") if text in told]


def test_a_site_or_a_drop_that_cannot_be_listed_waits_and_the_others_are_found(incoming):
    for place in ("SHUT/one", "north/SHUT"):
        write_drop(incoming / place, FILES, LABELS)
    found = find_drops(f"refusing://{incoming}")
    assert places(found) == ["east/one", "north/2026-03"]
    assert [place for place, _ in found.waiting] == ["SHUT", "north/SHUT"]
    assert all("cannot be used (listing" in reason for _, reason in found.waiting)


def test_incoming_itself_must_be_listed(incoming):
    with pytest.raises(ServiceError, match="cannot be used"):
        find_drops(f"refusing://{incoming.rename(incoming.with_name('SHUT'))}")


def test_a_drop_may_lie_in_a_bucket(incoming):
    folder = incoming / "north" / "2026-03"
    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*.*"):
        if path.is_file():
            memory.pipe_file(f"/bucket/in/north/one/{path.relative_to(folder)}", path.read_bytes())
    (drop,) = find_drops("memory://bucket/in").drops
    assert (drop.site, drop.name, drop.lacking()) == ("north", "one", [])
    assert drop.digest == open_drop("memory://bucket/in/north/one").digest == open_drop(str(folder)).digest
    memory.rm("/bucket", recursive=True)
