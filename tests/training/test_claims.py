"""Claims: one holder at a time, for as long as it lives, and whoever comes after it."""

import errno
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from ttl.training.claims import Claim, Claims
from ttl.training.store import Store

ID = "0123456789abcdef"


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


class Waits:
    """An event that is waited for in vain so many times, and then has come."""

    def __init__(self, times):
        self.times = times

    def wait(self, seconds):
        self.times -= 1
        return self.times < 0


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """Give stores at one address, whose claims wait in no time."""
    now = [0.0]
    monkeypatch.setattr(
        "ttl.training.claims.time",
        SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds)),
    )
    return [Store(str(tmp_path / "store"), lease=30) for _ in range(4)]


def test_of_many_that_want_a_trial_exactly_one_has_it(tmp_path):
    stores = [Store(str(tmp_path / "store"), lease=30) for _ in range(16)]
    start = threading.Barrier(len(stores))

    def try_it(store):
        start.wait(timeout=60)
        return store.claims.take(ID)

    with ThreadPoolExecutor(len(stores)) as several:
        claims = list(several.map(try_it, stores))
    assert len([claim for claim in claims if claim]) == 1


def test_a_claim_that_goes_while_it_is_looked_at_is_not_a_void_one(tmp_path, monkeypatch):
    """Another may have made the next one in between."""
    one, two, three = (Store(str(tmp_path / "store"), lease=30) for _ in range(3))
    with ExitStack() as held:
        first = ExitStack()
        assert first.enter_context(one.claim(ID, wait=False))
        look = Claims._void

        def meanwhile(self, path):
            first.close()
            assert held.enter_context(three.claim(ID, wait=False))
            return look(self, path)

        monkeypatch.setattr(two.claims, "_void", meanwhile.__get__(two.claims))
        assert two.claims.take(ID) is None


def test_of_two_that_follow_a_void_claim_not_both_have_it(tmp_path):
    one, two = (Store(str(tmp_path / "store"), lease=30) for _ in range(2))
    # `one` has seen the void claim 0, whose holder then let go; `two` has begun anew.
    assert two.claims.take(ID)
    mine = Claim(f".claims/{ID}", 1, "me", {f".claims/{ID}/0": b"dead"})
    one.bucket.create(mine.path, mine.content(0))
    assert not one.claims._alone(mine)


def test_however_many_died_at_a_trial_the_next_one_has_it(stores, tmp_path, monkeypatch):
    one, *others = stores
    assert one.claims.take(ID)
    with monkeypatch.context() as dead:
        dead.setattr(Claims, "_release", lambda *_: None)
        for store in others[:2]:
            with store.claim(ID, wait=True) as claimed:
                assert claimed
    left = tmp_path / "store" / ".claims" / ID
    assert sorted(path.name for path in left.iterdir()) == ["0", "1", "2"]
    with others[2].claim(ID, wait=True) as claimed:
        assert claimed
    assert not list(left.iterdir())


def test_one_that_was_taken_for_dead_leaves_the_next_ones_claim_alone(stores, caplog):
    one, two, three, _ = stores
    suspended = one.claims.take(ID)
    with two.claim(ID, wait=True) as claimed:
        assert claimed
    assert three.claims.take(ID).path == suspended.path
    content = three.bucket.read(suspended.path)
    one.claims._beat(suspended, Waits(2))
    assert "took this one for dead" in caplog.text
    one.claims._release(suspended)
    assert three.bucket.read(suspended.path) == content


def test_one_that_cannot_write_is_told_that_another_has_followed(stores, caplog, monkeypatch):
    one, two, *_ = stores
    mine = one.claims.take(ID)
    monkeypatch.setattr(type(one.bucket), "rewrite", full)
    one.claims._beat(mine, Waits(2))
    assert not caplog.text
    with two.claim(ID, wait=True):
        one.claims._beat(mine, Waits(1))
    assert "took this one for dead" in caplog.text


def test_a_storage_that_fails_now_and_then_costs_no_claim(stores, tmp_path, monkeypatch):
    """One look that fails is no reason not to write; but after a lease without a word, look first."""
    one, *_ = stores
    claim = one.claims.take(ID)
    file, read = tmp_path / "store" / claim.path, type(one.bucket).read
    monkeypatch.setattr(type(one.bucket), "read", full)
    one.claims._beat(claim, Waits(2))
    assert json.loads(file.read_text())["beat"].lstrip("0") == "2"
    # An hour passes with each look at the clock.
    monkeypatch.setattr("ttl.training.claims.time.monotonic", iter(range(0, 10**6, 3600)).__next__)
    one.claims._beat(claim, Waits(5))
    assert json.loads(file.read_text())["beat"].lstrip("0") == "2"
    monkeypatch.setattr(type(one.bucket), "read", read)
    one.claims._beat(claim, Waits(5))
    assert json.loads(file.read_text())["beat"].lstrip("0") == "5"


def test_a_machine_of_any_name_knows_its_own_claim(stores, monkeypatch, caplog):
    monkeypatch.setattr("socket.gethostname", lambda: 'röntgen "1"')
    one, *_ = stores
    with one.claim(ID, wait=False) as claimed:
        assert claimed
    claim = one.claims.take(ID)
    one.claims._beat(claim, Waits(2))
    assert not caplog.text
    one.claims._release(claim)
    assert not one.bucket.names(f".claims/{ID}")


def test_a_sign_of_life_takes_no_room(stores, tmp_path):
    one, *_ = stores
    claim = one.claims.take(ID)
    file = tmp_path / "store" / claim.path
    before = file.stat(), file.read_bytes()
    one.claims._beat(claim, Waits(3))
    assert (file.stat().st_ino, file.stat().st_size) == (before[0].st_ino, before[0].st_size)
    assert file.read_bytes() != before[1]
    assert json.loads(file.read_text())["beat"].lstrip("0") == "3"
    assert [path.name for path in file.parent.iterdir()] == ["0"]


def test_a_claim_holds_while_its_holder_lives_and_no_longer(tmp_path):
    address = str(tmp_path / "store")
    code = (
        "import sys, time; from ttl.training.store import Store\n"
        f"with Store({address!r}, lease=4).claim({ID!r}, wait=False) as claimed:\n"
        "    print(claimed, flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "True\n"
    store = Store(address, lease=4)
    changed, deadline = [], time.monotonic() + 60
    while len(changed) < 6:
        assert time.monotonic() < deadline, "its holder shows no sign of life"
        with store.claim(ID, wait=False) as claimed:
            assert not claimed
        (claim,) = (tmp_path / "store" / ".claims" / ID).glob("[0-9]")
        content = claim.read_text()
        if content and (not changed or content != changed[-1]):
            changed.append(content)
    assert len({json.loads(content)["holder"] for content in changed}) == 1
    holder.kill()
    holder.wait()
    with store.claim(ID, wait=True) as claimed:
        assert claimed
    assert not list((tmp_path / "store" / ".claims").glob("*/*"))
