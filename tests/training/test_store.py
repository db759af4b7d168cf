"""The store, on a folder: whole or absent, one claim at a time, patient with storage that fails."""

import dataclasses
import errno
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from ttl.bucket import Bucket
from ttl.errors import ServiceError, TrialError
from ttl.training import checkpoint
from ttl.training.recipe import make_recipe
from ttl.training.runs import HISTORY, HISTORY_SCHEMA, WEIGHTS, Runs, reach
from ttl.training.store import Store
from ttl.training.trial import Trial

TRIAL = Trial(
    dataset="toy",
    revision="r",
    backbone="b",
    strategy="ftl",
    recipe=make_recipe("fast"),
    image_size=32,
    seed=0,
)
ID = TRIAL.trial_id
COMPLETED = {"status": "completed", "epochs": 2, "val_auroc": 0.5}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"), patience=5, lease=1)


def machine(tmp_path, name, store):
    return Runs(tmp_path / name, store)


def publish(runs, result=COMPLETED, weights=b"weights", trial=TRIAL):
    work = runs.work(trial.trial_id)
    (work / WEIGHTS).write_bytes(weights)
    pl.DataFrame(schema=HISTORY_SCHEMA).write_parquet(work / HISTORY)
    runs.publish(trial, result)


def test_what_one_machine_trained_another_has_and_its_weights_when_asked_for(tmp_path, store):
    one, other = (machine(tmp_path, name, store) for name in ("one", "other"))
    publish(one)
    other.refresh(ID)
    assert other.result(ID) is None
    one.share(ID)
    assert store.trials() == {ID}
    other.refresh(ID)
    assert other.result(ID) == one.result(ID)
    assert other.trial(ID) == TRIAL
    assert not (other.folder(ID) / WEIGHTS).exists()
    assert other.weights(ID).read_bytes() == b"weights"
    alone = Runs(tmp_path / "other")
    (alone.folder(ID) / WEIGHTS).unlink()
    with pytest.raises(TrialError, match="set TTL_STORE"):
        alone.weights(ID)


def test_a_result_that_has_got_further_replaces_one_and_never_the_reverse(tmp_path, store):
    one, other = (machine(tmp_path, name, store) for name in ("one", "other"))
    publish(one, {"status": "stopped", "epochs": 1, "val_auroc": 0.4}, b"early")
    one.share(ID)
    other.refresh(ID)
    publish(one)
    one.share(ID)
    # A machine that was late with what it knew.
    other.share(ID)
    assert store.result(ID)["status"] == "completed"
    other.refresh(ID)
    assert other.result(ID)["status"] == "completed"
    assert other.weights(ID).read_bytes() == b"weights"
    publish(one, weights=b"again")
    one.share(ID)
    assert other.weights(ID).read_bytes() == b"weights", "it was trained twice"
    assert len(list((tmp_path / "store" / ID).iterdir())) == 2, "what was replaced is still there"
    statuses = [None, {"status": "failed"}, {"status": "stopped", "epochs": 3}, COMPLETED]
    assert sorted(statuses, key=reach) == statuses


def test_a_failure_is_shared_and_a_result_replaces_it(tmp_path, store):
    one, other = (machine(tmp_path, name, store) for name in ("one", "other"))
    publish(one, {"status": "stopped", "epochs": 1, "val_auroc": 0.4})
    one.share(ID)
    other.refresh(ID)
    other.publish_failure(TRIAL, "bad data")
    other.share(ID)
    assert store.result(ID)["error"] == "bad data"
    publish(one)
    one.share(ID)
    other.refresh(ID)
    assert other.result(ID)["status"] == "completed"


def test_what_was_half_written_is_not_there(tmp_path, store, monkeypatch):
    """Whichever write it is that a machine dies at."""
    one, other = (machine(tmp_path, name, store) for name in ("one", "other"))
    publish(one, {"status": "stopped", "epochs": 1, "val_auroc": 0.4}, b"early")
    one.share(ID)
    publish(one)
    write, files = Bucket.write, len(one.result(ID)["files"]) + 1
    for survived in range(files):
        left = [survived]

        def dies(self, path, data, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            write(self, path, data)

        monkeypatch.setattr(Bucket, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            one.share(ID)
        monkeypatch.setattr(Bucket, "write", write)
        other.refresh(ID)
        assert other.result(ID)["status"] == "stopped"
        assert other.weights(ID).read_bytes() == b"early"
    one.share(ID)
    other.refresh(ID)
    assert other.result(ID)["status"] == "completed"


def test_damage_on_the_way_is_said_and_not_used(tmp_path, store):
    one, other = (machine(tmp_path, name, store) for name in ("one", "other"))
    publish(one)
    one.share(ID)
    (history,) = (tmp_path / "store" / ID).glob(f"*/{HISTORY}")
    history.write_bytes(history.read_bytes()[:-1])
    with pytest.raises(TrialError, match=r"history.parquet is damaged: delete .* to train it again"):
        other.refresh(ID)
    assert other.result(ID) is None
    history.unlink()
    with pytest.raises(TrialError, match="lacks files of its result"):
        other.refresh(ID)


def test_a_checkpoint_goes_from_machine_to_machine_and_a_damaged_one_does_not(tmp_path, store, caplog):
    one, other = (machine(tmp_path, name, store) for name in ("one", "other"))
    trial = dataclasses.replace(TRIAL, recipe=make_recipe({"base": "fast", "epochs": 5}))
    paths = [checkpoint.save(one.work(trial.trial_id), trial, epoch, {"epoch": epoch}) for epoch in (1, 2)]
    for path in paths:
        store.put_checkpoint(trial.trial_id, path)
    brought = checkpoint.found(other.checkpoints(trial.trial_id))
    assert [path.read_bytes() for path in brought] == [paths[1].read_bytes()]
    there = tmp_path / "store" / ".checkpoints" / trial.trial_id / paths[1].name
    there.write_bytes(there.read_bytes()[:-10])
    third = machine(tmp_path, "third", store)
    assert checkpoint.found(third.checkpoints(trial.trial_id))[0].name == paths[0].name
    assert "is damaged" in caplog.text
    store.put_checkpoint(trial.trial_id, checkpoint.save(one.work(trial.trial_id), trial, 3, {"epoch": 3}))
    kept = [path.name for path in there.parent.iterdir()]
    assert len(kept) == 2
    publish(one, trial=trial)
    one.share(trial.trial_id)
    assert not there.parent.exists()


def test_what_was_being_published_when_the_machine_died_is_finished(tmp_path, monkeypatch):
    runs = Runs(tmp_path / "runs")

    def dies(*_):
        raise KeyboardInterrupt

    place = Runs._place
    monkeypatch.setattr(Runs, "_place", dies)
    with pytest.raises(KeyboardInterrupt):
        publish(runs)
    monkeypatch.setattr(Runs, "_place", place)
    assert runs.result(ID) is None
    runs.recover(ID)
    assert runs.result(ID)["status"] == "completed"
    assert runs.weights(ID).read_bytes() == b"weights"


def test_a_stopped_trial_goes_on_elsewhere_from_where_it_was(tmp_path, store):
    one, other = (machine(tmp_path, name, store) for name in ("one", "other"))
    saved = checkpoint.save(one.work(ID), TRIAL, 3, {"epoch": 3})
    content = saved.read_bytes()
    publish(one, {"status": "stopped", "epochs": 3, "val_auroc": 0.4})
    one.share(ID)
    (brought,) = checkpoint.found(other.checkpoints(ID))
    assert brought.read_bytes() == content


def test_a_failure_elsewhere_is_known_here_though_the_trial_had_got_further(tmp_path, store):
    driver, node = (machine(tmp_path, name, store) for name in ("driver", "node"))
    publish(driver, {"status": "stopped", "epochs": 3, "val_auroc": 0.4})
    driver.share(ID)
    node.publish_failure(TRIAL, "bad data")
    node.share(ID)
    driver.refresh(ID)
    assert driver.result(ID)["status"] == "failed"


def test_a_storage_that_fails_for_a_while_is_waited_for_and_said_once(store, caplog, monkeypatch):
    failures = [OSError("Please reduce your request rate"), TimeoutError("no answer"), ConnectionResetError()]
    read = type(store.bucket.files).cat_file

    def unreliable(self, path, **options):
        if failures:
            raise failures.pop()
        return read(self, path, **options)

    monkeypatch.setattr(type(store.bucket.files), "cat_file", unreliable)
    with caplog.at_level(logging.WARNING):
        assert store.result(ID) is None
    assert not failures
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        f"{store.address} does not answer",
        f"{store.address} answers again after {caplog.records[1].args[1]:.0f} s; nothing was lost",
    ]


def test_a_storage_that_stays_silent_ends_the_sweep_and_says_that_nothing_is_lost(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "store"), patience=1)

    def silent(*_, **__):
        raise OSError("Connect timeout")

    monkeypatch.setattr(type(store.bucket.files), "cat_file", silent)
    with pytest.raises(ServiceError, match=r"has not answered for 1 s .*the same command goes on from there"):
        store.result(ID)

    def refused(*_, **__):
        raise PermissionError("The AWS Access Key Id you provided does not exist")

    monkeypatch.setattr(type(store.bucket.files), "cat_file", refused)
    with pytest.raises(ServiceError, match=r"cannot be used .* check AWS_ACCESS_KEY_ID"):
        store.result(ID)


@pytest.mark.parametrize("text", ["0", "-1", "soon"])
def test_a_lease_that_is_no_time_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.setenv("TTL_LEASE_SECONDS", text)
    with pytest.raises(ServiceError, match=f"TTL_LEASE_SECONDS is '{text}'"):
        Store(str(tmp_path))
    monkeypatch.delenv("TTL_LEASE_SECONDS")
    with pytest.raises(ServiceError, match="TTL_STORE: 'no-such-thing://x' is no folder or bucket"):
        Store("no-such-thing://x")


def test_a_copy_without_weights_is_not_given_for_the_whole(tmp_path, store, caplog):
    one, other = (machine(tmp_path, name, store) for name in ("one", "other"))
    publish(one)
    one.share(ID)
    other.refresh(ID)
    store.bucket.remove("", folder=True)
    other.share(ID)
    assert store.result(ID) is None
    assert "its weights are not here" in caplog.text
    one.share(ID)
    assert store.result(ID)["status"] == "completed"


def test_what_is_brought_does_not_take_the_place_of_what_has_got_further_meanwhile(
    tmp_path, store, monkeypatch
):
    one, other = (machine(tmp_path, name, store) for name in ("one", "other"))
    publish(one, {"status": "stopped", "epochs": 1, "val_auroc": 0.4}, b"early")
    one.share(ID)
    get = Store.get

    def meanwhile(*arguments):
        found = get(*arguments)
        publish(other, weights=b"late")
        return found

    monkeypatch.setattr(Store, "get", meanwhile)
    other.refresh(ID)
    assert other.result(ID)["status"] == "completed"
    assert other.weights(ID).read_bytes() == b"late"


def test_a_checkpoint_that_was_brought_in_part_is_none(tmp_path, store, monkeypatch):
    one, other = (machine(tmp_path, name, store) for name in ("one", "other"))
    saved = checkpoint.save(one.work(ID), TRIAL, 3, {"epoch": 3})
    content = saved.read_bytes()
    publish(one, {"status": "stopped", "epochs": 3, "val_auroc": 0.4})
    one.share(ID)
    write = Path.write_bytes

    def full(path, data):
        write(path, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            other.checkpoints(ID)
    assert not checkpoint.found(other.work(ID))
    (brought,) = checkpoint.found(other.checkpoints(ID))
    assert brought.read_bytes() == content


def test_results_are_exchanged_both_ways_and_a_part_not_while_somebody_is_at_the_trial(tmp_path, store):
    one, other = (machine(tmp_path, name, store) for name in ("one", "other"))
    publish(one, {"status": "stopped", "epochs": 1, "val_auroc": 0.4})
    with Runs(tmp_path / "one").claim(ID):
        one.exchange(ID, there=False)
        assert store.result(ID) is None
    one.exchange(ID, there=False)
    assert store.result(ID)["status"] == "stopped"
    publish(one)
    # What is finished does not wait for whoever has left a claim, and is gone.
    assert Store(store.address).claims.take(ID)
    one.exchange(ID, there=True)
    assert store.result(ID)["status"] == "completed"
    store.bucket.write(f".checkpoints/{ID}/left", b"x")
    other.exchange(ID, there=True)
    assert other.result(ID) == one.result(ID)
    assert not store.bucket.names(f".checkpoints/{ID}")


def test_a_result_stays_where_nothing_can_take_its_place(tmp_path, store):
    runs = machine(tmp_path, "one", store)
    publish(runs)
    with pytest.raises(FileNotFoundError):
        runs._place(ID, runs.root / ".partial" / "gone")
    assert runs.result(ID)["status"] == "completed"
    assert runs.weights(ID).read_bytes() == b"weights"


def test_many_that_place_the_same_result_at_once_leave_one(tmp_path, store):
    publish(machine(tmp_path, "one", store))
    machine(tmp_path, "one", store).share(ID)
    other = machine(tmp_path, "other", store)
    (tmp_path / "other" / ".partial").mkdir(parents=True)
    with ThreadPoolExecutor(8) as several:
        list(several.map(lambda _: other._bring(ID, (HISTORY,)), range(24)))
    assert other.result(ID)["status"] == "completed"
    assert [path.name for path in (tmp_path / "other").iterdir() if not path.name.startswith(".")] == [ID]
    assert not list((tmp_path / "other" / ".partial").iterdir())
