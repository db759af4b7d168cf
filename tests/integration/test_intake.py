"""The intake: killed at every step, with drops that come late, again, grown or wrong, and what it tells."""

import contextlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pydicom
import pytest
import yaml

from flows.revisions import catch_up
from flows.taking import take_drops
from tests.flows.hospital import (
    INTAKE,
    KEY,
    LATER,
    NAME,
    Hospital,
    read_table,
    rewrite_manifest,
    write_table,
)
from tests.projects import ROOT
from ttl.data.dataset import PackedDataset
from ttl.errors import ServiceError
from ttl.intake.arrivals import look, take
from ttl.intake.identity import Pseudonyms
from ttl.intake.phantom import FAULTS, PLANTED, expected, planted, write_drop
from ttl.intake.received import taken
from ttl.intake.spec import IntakeSpec

DRIVER = """
import json, os, shutil, signal, subprocess, sys
from pathlib import Path

import dvc.cli
import dvc.commands.add, dvc.commands.config, dvc.commands.data_sync
from flows.taking import take_drops
from ttl.layout import Layout

os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
CHANGES = {"git": ("add", "commit", "push"), "dvc": ("add", "push")}
run, rename, remove = subprocess.run, Path.rename, shutil.rmtree


def take(folder, at, own, told):
    counted = 0

    def step(what):
        nonlocal counted
        counted += 1
        told.write(what + "\\n")
        told.flush()
        if counted == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def run_it(command, **options):
        words = [str(word) for word in command]
        tool = "dvc" if words[1:3] == ["-m", "dvc"] else words[0]
        for word in CHANGES.get(tool, ()):
            if word in words:
                step(f"{tool} {word}")
        if tool == "dvc":
            # The same code, without a second for its imports.
            return subprocess.CompletedProcess(words, dvc.cli.main(words[3:]), "", "")
        return run(command, **options)

    def rename_it(path, target):
        if path.parent.name == "packed":
            step(f"rename {path.name}")
        return rename(path, target)

    def remove_it(path, *arguments, **options):
        if Path(path).name.endswith(".old"):
            step(f"remove {Path(path).name}")
        return remove(path, *arguments, **options)

    subprocess.run, Path.rename, shutil.rmtree = run_it, rename_it, remove_it
    os.chdir(folder)
    made = take_drops("hospital", Layout(root=Path(folder)), own=own, push=True)
    Path("../taken").write_text(json.dumps([f"{one.site}/{one.drop}" for one in made.taken]))


for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        os.environ.update(job["environment"])
        with open(job["told"], "w") as told:
            take(job["folder"], job["at"], job["own"], told)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""For each job takes drops in, in a process of its own that is killed before the step of the number `at`.

Steps are those that change something: git's and DVC's commands, and what replaces the packed dataset.
"""

STEPS = (
    f"rename {NAME}",
    f"rename .{NAME}.partial",
    f"remove .{NAME}.old",
    "dvc add",
    "dvc push",
    "git add",
    "git commit",
    "git push",
)
FIRST, NEW = "north/first", ("north/second", "south/third")


@contextlib.contextmanager
def inside(hospital):
    """Work in a hospital's project, on one core."""
    cores, before = os.sched_getaffinity(0), dict(os.environ)
    os.sched_setaffinity(0, list(cores)[:1])
    os.environ.update(hospital.environment)
    try:
        with contextlib.chdir(hospital.work):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.sched_setaffinity(0, cores)


def take_in(hospital, *, own=True, push=True, again=False):
    with inside(hospital):
        return take_drops(NAME, hospital.layout, own=own, push=push, again=again)


@pytest.fixture(scope="session")
def killer():
    """Give a function that takes drops in until a step; it returns the steps begun, and the process's end."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def kill(hospital, at, *, own=True):
        told = hospital.folder / "steps"
        job = {"folder": str(hospital.work), "at": at, "own": own, "told": str(told)}
        process.stdin.write(json.dumps({**job, "environment": hospital.environment}) + "\n")
        process.stdin.flush()
        end = int(process.stdout.readline())
        return tuple(told.read_text().splitlines()), end

    yield kill
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    """A hospital with one drop taken in and pushed."""
    hospital = Hospital.make(tmp_path_factory.mktemp("intake") / "hospital", {"intake": {NAME: INTAKE}})
    hospital.drop("first", patients=50)
    assert [one.drop for one in take_in(hospital).taken] == ["first"]
    return hospital


@pytest.fixture(scope="session")
def waiting(opened, tmp_path_factory):
    """That hospital with two drops that are waiting, and one of two commits and pointers in a moment."""
    hospital = opened.copy(tmp_path_factory.mktemp("waiting") / "hospital")
    hospital.drop("second", patients=3)
    hospital.drop("third", "south", patients=3, faults=["checksum"])
    return hospital


def pushed(hospital):
    """Return the drops that each commit on the remote's main holds, the newest first, by way of DVC."""
    hashes = hospital.run(
        "git", "rev-list", "main", "--", f"data/packed/{NAME}.dvc", at=hospital.folder / "origin.git"
    )
    return hashes.split()


def content(hospital):
    dataset = hospital.dataset()
    dataset.check()
    return dataset.revision, {
        place: (one.digest, one.accepted, one.reasons) for place, one in hospital.records().items()
    }


@pytest.fixture(scope="session")
def undisturbed(waiting, killer, tmp_path_factory):
    """What an intake comes to that nothing happens to."""
    hospital = waiting.copy(tmp_path_factory.mktemp("undisturbed") / "hospital")
    steps, end = killer(hospital, 0)
    assert end == 0
    assert steps == STEPS, "the intake changes things in other steps than those it is killed at"
    return content(hospital)


def check_whole(hospital, undisturbed):
    """See that both drops were taken once, as if nothing had happened."""
    assert content(hospital) == undisturbed
    assert set(hospital.records()) == {FIRST, *NEW}
    commits = pushed(hospital)
    assert len(commits) == 2, "the drops came in more than one commit, or in none"
    assert hospital.run("git", "rev-parse", "HEAD").strip() == commits[0]
    assert not hospital.run("git", "status", "--porcelain")
    there = {path.name for path in hospital.layout.datasets.iterdir()}
    assert there == {NAME, f"{NAME}.dvc", f".{NAME}.lock"}


KILLS = [
    *((at, True) for at in range(1, len(STEPS) + 1)),
    # Where what is pushed counts for nothing: a person's folder is not brought back to it.
    *((STEPS.index(step) + 1, False) for step in (*STEPS[1:4], "git commit", "git push")),
]


@pytest.mark.parametrize(
    ("at", "own"),
    KILLS,
    ids=[f"{STEPS[at - 1].replace(' ', '-')}-{'own' if own else 'persons'}" for at, own in KILLS],
)
def test_an_intake_that_is_killed_before_a_step_is_finished_by_the_next(
    at, own, waiting, undisturbed, killer, tmp_path
):
    hospital = waiting.copy(tmp_path / "hospital")
    assert killer(hospital, at, own=own) == (STEPS[:at], -signal.SIGKILL)
    assert killer(hospital, 0, own=own)[1] == 0
    check_whole(hospital, undisturbed)
    # What a person's folder has committed already was told of as well as it could be: see `again` below.
    committed = not own and STEPS[at - 1] == "git push"
    assert json.loads((hospital.folder / "taken").read_text()) == ([] if committed else list(NEW))


def told(intake):
    return [f"{one.site}/{one.drop}" for one in intake.taken]


def test_whoever_died_before_he_told_of_what_he_pushed_tells_of_it_when_started_again(waiting, tmp_path):
    hospital = waiting.copy(tmp_path / "hospital")
    made = take_in(hospital)
    assert told(made) == list(NEW)
    again = take_in(hospital, again=True)
    assert (again.taken, again.revision) == (made.taken, made.revision)
    idle = take_in(hospital)
    assert (idle.taken, idle.revision) == ((), made.revision)


@pytest.mark.parametrize("fails", ["dvc", "git"])
def test_a_first_revision_that_could_not_be_pushed_at_once_is_told_of_all_the_same(fails, tmp_path):
    hospital = Hospital.make(tmp_path / "hospital", {"intake": {NAME: INTAKE}})
    hospital.drop("first", patients=50)
    gone = hospital.folder / ("origin.git/objects" if fails == "git" else "store")
    if fails == "git":
        hook = hospital.folder / "origin.git/hooks/pre-receive"
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    else:
        gone.write_text("no folder")
    with pytest.raises(ServiceError, match="push"):
        take_in(hospital)
    (hook if fails == "git" else gone).unlink()
    assert told(take_in(hospital, again=True)) == [FIRST]
    assert len(pushed(hospital)) == 1


def test_after_a_kill_the_remotes_alone_have_it_all_and_nothing_is_taken_again(
    waiting, undisturbed, killer, tmp_path
):
    hospital = waiting.copy(tmp_path / "hospital")
    killer(hospital, STEPS.index("git commit") + 1)
    assert {one.drop for one in take_in(hospital).taken} == {"second", "third"}
    shutil.rmtree(hospital.root)
    shutil.rmtree(hospital.folder / "cache")
    assert not take_in(hospital).taken
    assert not hospital.root.exists(), "data were pulled although nothing has arrived"
    with inside(hospital):
        catch_up(hospital.layout, NAME)
    check_whole(hospital, undisturbed)


# What is taken of drops that come in other ways than whole, once and on time.

SPEC = {**INTAKE, "classes": tuple(INTAKE["classes"])}
PSEUDONYMS = Pseudonyms(bytes.fromhex(KEY))


@dataclass(frozen=True)
class Site:
    """A folder of incoming drops, and the dataset that grows of them."""

    incoming: Path
    root: Path

    @property
    def spec(self):
        return IntakeSpec(**{**SPEC, "incoming": str(self.incoming)})

    def drop(self, name, *, patients=5, date=LATER, **options):
        return write_drop(self.incoming, site="north", drop=name, patients=patients, date=date, **options)

    def look(self):
        return look(self.spec, [one.digest for one in taken(self.root)])

    def take(self):
        """Take what is ready; return the records of this time by drop."""
        made = take(NAME, self.spec, self.look().ready, self.root, pseudonyms=PSEUDONYMS, workers=0)
        return {one.drop: one for one in made.taken}


@pytest.fixture(scope="session")
def first_site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    site = Site(folder / "incoming", folder / "packed" / NAME)
    site.drop("first", patients=50)
    site.take()
    return site


@pytest.fixture
def site(first_site, tmp_path):
    """A dataset made of one drop, whose next drops nobody else sees."""
    shutil.copytree(first_site.root.parent, tmp_path / "packed")
    shutil.copytree(first_site.incoming, tmp_path / "incoming")
    return Site(tmp_path / "incoming", tmp_path / "packed" / NAME)


def listing(root):
    return {path.name: path.read_bytes() for path in root.iterdir()}


def listed(folder):
    return [row["path"] for row in read_table(folder / "MANIFEST.csv") if row["path"] != "labels.csv"]


def test_a_drop_waits_for_its_manifest(site):
    before, folder = listing(site.root), site.drop("late")
    text = (folder / "MANIFEST.csv").read_bytes()
    (folder / "MANIFEST.csv").unlink()
    assert site.look().waiting == (("north/late", "MANIFEST.csv has not come yet"),)
    assert not site.take()
    assert listing(site.root) == before
    (folder / "MANIFEST.csv").write_bytes(text)
    assert site.take()["late"].accepted == len(listed(folder))
    assert not site.look().ready
    assert not site.look().waiting


def test_a_half_copied_drop_waits_until_it_is_whole(site):
    before, folder = listing(site.root), site.drop("half")
    some, other = (folder / path for path in listed(folder)[:2])
    there, whole = some.read_bytes(), other.read_bytes()
    some.unlink()
    other.write_bytes(whole[:-1])
    assert site.look().waiting == (("north/half", "2 of its files have not come, or not whole"),)
    assert not site.take()
    assert listing(site.root) == before
    some.write_bytes(there)
    other.write_bytes(whole)
    record = site.take()["half"]
    assert (record.accepted, record.reasons) == (len(listed(folder)), {})


def test_a_drop_that_comes_again_under_another_name_brings_nothing(site):
    folder = site.drop("second")
    count = len(listed(folder))
    assert site.take()["second"].accepted == count
    revision = PackedDataset.open(site.root).revision
    shutil.copytree(folder, folder.with_name("again"))
    assert not site.look().ready, "the same manifest stands for the same drop"
    table = read_table(folder / "MANIFEST.csv")
    write_table(
        folder.with_name("again") / "MANIFEST.csv",
        ("path", "sha256", "size"),
        [tuple(row.values()) for row in reversed(table)],
    )
    record = site.take()["again"]
    assert record.accepted == 0
    assert set(record.reasons) == {"duplicate"} or set(record.reasons) == {
        "duplicate",
        "patient-in-frozen-split",
    }
    assert sum(record.reasons.values()) == count
    assert PackedDataset.open(site.root).revision == revision
    assert [one.drop for one in taken(site.root)] == ["first", "second", "again"]


def test_of_a_drop_that_has_grown_what_is_new_is_taken(site):
    folder, more = site.drop("grows"), site.drop("more", patients=3, seed=9)
    old = len(listed(folder))
    shutil.move(more, site.incoming.parent / "more")
    assert site.take()["grows"].accepted == old
    before = PackedDataset.open(site.root).samples
    rows = read_table(folder / "labels.csv")
    for row in read_table(site.incoming.parent / "more" / "labels.csv"):
        name = row["image"].replace("films/", "films/new-")
        shutil.copyfile(site.incoming.parent / "more" / row["image"], folder / name)
        rows.append({**row, "image": name})
    write_table(folder / "labels.csv", tuple(rows[0]), [tuple(row.values()) for row in rows])
    rewrite_manifest(folder)
    record = site.take()["grows"]
    new = len(rows) - old
    assert new >= 3
    assert (record.accepted, record.reasons) == (new, {"duplicate": old})
    samples = PackedDataset.open(site.root).samples
    assert samples.head(before.height).equals(before)
    assert samples.height == before.height + new
    assert not site.take()


def test_a_drop_that_cannot_be_judged_waits_and_the_one_beside_it_is_taken(site):
    tables = {
        "a": ("MANIFEST.csv", "path,sha256,size\nfilms/DOE^JANE.dcm,00,1\n"),
        "b": ("MANIFEST.csv", 'path,sha256,size\n"DOE^JANE'),
        "c": ("MANIFEST.csv", "path,sha256,size\n../DOE^JANE.dcm," + "0" * 64 + ",1\n"),
        "d": ("labels.csv", "image,label,acquired_at\nfilms/0001.dcm,normal,DOE^JANE\n"),
        "e": ("labels.csv", "DOE^JANE,label\nx,normal\n"),
    }
    for name, (file, text) in tables.items():
        folder = site.drop(name, patients=2)
        (folder / file).write_text(text)
        if file == "labels.csv":
            rewrite_manifest(folder)
    good = site.drop("good")
    arrived = site.look()
    assert [one.name for one in arrived.ready] == ["good"]
    assert [place for place, _ in arrived.waiting] == [f"north/{name}" for name in tables]
    for _, reason in arrived.waiting:
        assert "line" in reason or "column" in reason
        assert "DOE" not in reason
        assert "JANE" not in reason
    assert site.take()["good"].accepted == len(listed(good))
    assert len(site.look().waiting) == len(tables)


def test_every_fault_is_caught_and_no_good_file_is_lost(site):
    dataset, faults = PackedDataset.open(site.root), [one for one in FAULTS if expected(one)]
    sides = dict(dataset.samples.select("patient_id", "split").iter_rows())
    films = [
        pydicom.dcmread(path, stop_before_pixels=True)
        for path in (site.incoming / "north/first/films").iterdir()
    ]
    frozen = sorted(
        {str(f.PatientID) for f in films if sides[PSEUDONYMS.of_patient(str(f.PatientID), "north")] == "test"}
    )
    # What has not come waits, and what waits is looked at no further: see `half-copied` above.
    faults.remove("half-copied")
    faults.remove("short")
    folder = site.drop("faulty", patients=20, faults=faults, known_patients=frozen[:3])
    wrong = planted(folder)
    assert set(wrong.values()) == set(faults)
    good = set(listed(folder)) - set(wrong)
    record = site.take()["faulty"]
    assert record.quarantined == {
        PSEUDONYMS.of("file", path): str(expected(fault)) for path, fault in wrong.items()
    }
    assert record.accepted == len(good)
    PackedDataset.open(site.root).check()


def test_drops_with_a_fault_that_makes_them_wait_are_left(site):
    for fault in ("no-manifest", "half-copied", "short"):
        site.drop(fault, faults=[fault])
    assert not site.look().ready
    assert len(site.look().waiting) == 3


# What the intake writes anywhere.

FLOW = """
import ctypes
import sys
from pathlib import Path

# What root may read whatever its mode, the processes that inspect files may not.
for capability in (1, 2):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)

from flows.server import prefect_api

with prefect_api(Path("../prefect"), Path("logs/prefect.log")):
    from flows.intake import ttl_intake

    print(ttl_intake(push=True))
"""


def run_flow(hospital, **environment):
    """Run the flow as a person does, with a server of its own."""
    return subprocess.run(
        [sys.executable, "-c", FLOW],
        cwd=hospital.work,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            **hospital.environment,
            "PYTHONPATH": str(ROOT),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def events(hospital):
    """Return the revisions that the flow's events told of."""
    (path,) = (hospital.folder / "prefect").rglob("*.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT payload FROM events WHERE event = 'ttl.revision.new'").fetchall()
    return [json.loads(payload)["revision"] for (payload,) in rows]


def test_a_run_that_is_started_again_tells_of_the_newest_drops_and_one_dataset_keeps_none_back(
    opened, tmp_path
):
    hospital = opened.copy(tmp_path / "hospital")
    made = take_in(hospital, again=True)
    assert told(made) == [FIRST]
    wrong = {**INTAKE, "classes": ["other", "labels"]}
    (hospital.work / "params.yaml").write_text(
        yaml.safe_dump({"intake": {"wrong": wrong, NAME: INTAKE}}, sort_keys=False)
    )
    done = run_flow(hospital, PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT="2")
    assert done.returncode == 1
    assert "wrong: none of the images was accepted" in done.stderr
    assert events(hospital) == [made.revision]
    status, output = hospital.project.run("intake")
    assert status == 1
    assert "none of the images was accepted" in " ".join(output.split())
    assert "nothing new has arrived" in output


def find(texts, data):
    """Return those of the texts that are in some bytes, in whatever case and encoding."""
    lower = data.lower()
    return {
        text for text in texts if any(text.lower().encode(code) in lower for code in ("utf-8", "utf-16-le"))
    }


def everything(hospital):
    """Yield all that lies in a hospital's folder but for the drops, with what is packed in it unpacked."""
    for path in sorted(hospital.folder.rglob("*")):
        if not path.is_file() or path.is_symlink() or hospital.incoming in path.parents:
            continue
        data = path.read_bytes()
        yield path, str(path.relative_to(hospital.folder)).encode() + data
        if data[:4] == b"PAR1":
            yield path, pl.read_parquet(io.BytesIO(data)).write_csv().encode()
    for repository in (hospital.work, hospital.folder / "origin.git"):
        objects = subprocess.run(
            ["git", "-C", str(repository), "cat-file", "--batch-all-objects", "--batch"],
            capture_output=True,
            check=True,
        )
        yield repository, objects.stdout


def test_nothing_that_names_a_person_or_a_file_is_written_anywhere(opened, tmp_path):
    hospital = opened.copy(tmp_path / "hospital")
    folder = hospital.drop("phi", patients=8, faults=["phi", "burned-in", "wrong-label", "checksum"])
    accepted, refused = folder / listed(folder)[0], next(path for path in planted(folder))
    for path, name in ((accepted, "DOE^JANE.dcm"), (folder / refused, "ROE^RICHARD.dcm")):
        old = path.relative_to(folder).as_posix()
        path.rename(path.with_name(name))
        table = folder / "labels.csv"
        table.write_text(table.read_text().replace(old, f"films/{name}"))
    rewrite_manifest(folder)
    broken = hospital.drop("broken", patients=2)
    (broken / "labels.csv").write_text("image,label,acquired_at\nfilms/0001.dcm,normal,POE^EDGAR\n")
    rewrite_manifest(broken)
    shut = hospital.drop("shut", patients=2)
    path = shut / listed(shut)[0]
    path.rename(path.with_name("COE^CHARLES.dcm"))
    rewrite_manifest(shut)
    path.with_name("COE^CHARLES.dcm").chmod(0)
    films = [
        pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in folder.glob("films/*.dcm")
    ]
    secret = {
        KEY,
        *PLANTED,
        "DOE^JANE",
        "ROE^RICHARD",
        "POE^EDGAR",
        "COE^CHARLES",
        "PLANTED PRIVATE",
        "films/0",
        ".checksum.",
    }
    secret |= {str(film.PatientID) for film in films} | {str(film.SOPInstanceUID) for film in films}
    dropped = b"".join(path.read_bytes() for path in hospital.incoming.rglob("*") if path.is_file())
    assert find(secret - {KEY}, dropped) == secret - {KEY}, "the search does not find what it looks for"

    done = run_flow(hospital)
    assert done.returncode == 0, done.stderr
    record = hospital.records()["north/phi"]
    assert record.reasons.keys() >= {"not-deidentified", "burned-in", "unknown-label"}
    assert record.accepted
    assert "north/broken" in done.stdout
    assert "reading what lies there: PermissionError" in done.stdout
    assert "north/shut" not in hospital.records()
    assert not find(secret, (done.stdout + done.stderr).encode())
    seen = {}
    for path, data in everything(hospital):
        found = find(secret, data)
        assert not found, f"{path} has {found}"
        for mark in find({"not-deidentified", "north/broken"}, data):
            seen.setdefault(mark, set()).add(path.relative_to(hospital.folder).parts[0])
    assert {"work", "prefect"} <= seen["north/broken"], "the server and the log were not searched"
    assert {"work", "store"} <= seen["not-deidentified"], "the dataset and the remote were not searched"
