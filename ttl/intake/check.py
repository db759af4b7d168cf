"""Checking a drop: each of its files gets one verdict, in the manifest's order, one image at a time."""

import multiprocessing
import os
import secrets
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import islice

from ttl.intake.drop import LABELS, MANIFEST, Drop, Listed
from ttl.intake.identity import KEY_BYTES, Pseudonyms
from ttl.intake.inspect import Inspector, Task, look_at, start
from ttl.intake.similar import Known
from ttl.intake.spec import IntakeSpec
from ttl.intake.verdict import Checked, Reason, Verdict

CHUNK = 8
"""Files that a process is given at once."""

AHEAD = 3
"""Chunks for each process that are under way or wait for those before them."""


def check_drop(
    drop: Drop, spec: IntakeSpec, known: Known, pseudonyms: Pseudonyms | None, *, workers: int
) -> Iterator[Checked]:
    """Yield the verdict on every file of a drop: as the manifest lists them, then those it does not list.

    What is accepted is added to `known`, so that of files that show the same the first gets in. Without
    pseudonyms, accepted images come without ids. Files are read in as many other processes as there are
    `workers`: one of them may die of a file, or hang at it, which is then refused. With none all is done in
    this process, which has no such shelter.

    Raises `DataError` where the drop as a whole cannot be judged: see `Drop`.
    """
    inspector = Inspector(
        address=drop.bucket.address,
        place=drop.place,
        spec=spec,
        # A sender's verdicts on patients need a key, which nobody will ask for again.
        pseudonyms=pseudonyms or Pseudonyms(secrets.token_bytes(KEY_BYTES)),
    )
    for checked in _inspected(drop, inspector, workers):
        judged = _compared(checked, known, spec)
        if judged.image is not None and pseudonyms is None:
            yield replace(judged, image=replace(judged.image, sample_id="", patient_id=""))
        else:
            yield judged


def summary(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Return how many files were `accepted`, and how many were not, by reason."""
    return dict(sorted(Counter(str(verdict.reason or "accepted") for verdict in verdicts).items()))


def _compared(checked: Checked, known: Known, spec: IntakeSpec) -> Checked:
    if checked.image is None:
        return checked
    found = known.against(checked.image, near=spec.near)
    if found is None:
        known.add(checked.image)
        return checked
    reason, detail = found
    return Checked(verdict=replace(checked.verdict, reason=reason, detail=detail))


def _inspected(drop: Drop, inspector: Inspector, workers: int) -> Iterator[Checked]:
    sizes, labels = drop.sizes, drop.labels
    listed = [one for one in drop.manifest if one.path != LABELS]
    by_sight = {one.path: _by_sight(one, sizes.get(one.path), inspector.spec) for one in listed}
    tasks = ((one, labels.get(one.path)) for one in listed if by_sight[one.path] is None)
    looked_at = _together(inspector, tasks, workers) if workers else _alone(inspector, tasks)
    for one in listed:
        yield by_sight[one.path] or next(looked_at)
    named = {one.path for one in listed}
    for path in sorted({*sizes} - named - {LABELS, MANIFEST}):
        yield _refused(path, Reason.UNLISTED, f"{MANIFEST} does not list it")
    for path in labels:
        if path not in named and path not in sizes:
            yield _refused(
                path, Reason.MISSING, f"{LABELS} names it, {MANIFEST} does not, and it is not there"
            )


def _by_sight(listed: Listed, size: int | None, spec: IntakeSpec) -> Checked | None:
    """Return the verdict on a file that need not be read, None if it must be."""
    if size is None:
        return _refused(listed.path, Reason.MISSING, "it is not there")
    if size != listed.size:
        return _refused(listed.path, Reason.SIZE, f"the manifest says {listed.size:,} bytes, it has {size:,}")
    if size > spec.max_bytes:
        return _refused(
            listed.path, Reason.TOO_LARGE, f"{size:,} bytes are more than the {spec.max_bytes:,} accepted"
        )
    return None


def _alone(inspector: Inspector, tasks: Iterator[Task]) -> Iterator[Checked]:
    for listed, label in tasks:
        yield inspector.look(listed, label)


def _together(inspector: Inspector, tasks: Iterator[Task], workers: int) -> Iterator[Checked]:
    """Yield what processes find, in the order of the tasks, a bounded number of which is under way."""
    pool = _pool(inspector, workers)
    under_way: deque[tuple[list[Task], Future[list[Checked]]]] = deque()
    try:
        more = True
        while more or under_way:
            while more and len(under_way) < AHEAD * workers:
                chunk = list(islice(tasks, CHUNK))
                more = bool(chunk)
                if chunk:
                    under_way.append((chunk, _submit(pool, chunk)))
            if not under_way:
                break
            chunk, future = under_way.popleft()
            try:
                found = future.result()
            except BrokenProcessPool:
                # All that was under way is lost with one process; the file that ended it is among these.
                pool.shutdown(wait=True, cancel_futures=True)
                found = _one_by_one(inspector, chunk)
                pool = _pool(inspector, workers)
                under_way = deque((again, _submit(pool, again)) for again, _ in under_way)
            yield from found
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_by_one(inspector: Inspector, chunk: list[Task]) -> list[Checked]:
    """Return what is found in files of which one may end the process that reads it."""
    found: list[Checked] = []
    pool = _pool(inspector, 1)
    # Where no process can be started at all, no file is to blame: that is raised.
    pool.submit(os.getpid).result()
    for task in chunk:
        try:
            found += pool.submit(look_at, [task]).result()
        except BrokenProcessPool:
            pool.shutdown(wait=True, cancel_futures=True)
            pool = _pool(inspector, 1)
            found.append(
                _refused(
                    task[0].path,
                    Reason.UNREADABLE,
                    f"the process that read it ended at it, or was ended after {inspector.spec.seconds} s",
                )
            )
    pool.shutdown(wait=True)
    return found


def _submit(pool: ProcessPoolExecutor, chunk: list[Task]) -> Future[list[Checked]]:
    try:
        return pool.submit(look_at, chunk)
    except BrokenProcessPool as error:
        broken: Future[list[Checked]] = Future()
        broken.set_exception(error)
        return broken


def _pool(inspector: Inspector, workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        workers,
        # A fork would take the threads' locks of whoever calls.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=start,
        initargs=(inspector, os.getpid()),
    )


def _refused(path: str, reason: Reason, detail: str) -> Checked:
    return Checked(verdict=Verdict(path=path, reason=reason, detail=detail))
