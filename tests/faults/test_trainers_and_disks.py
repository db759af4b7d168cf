"""Faults of one machine: killed processes, a full disk, damage, a device's memory, two sweeps at once."""

import os
import signal
import subprocess

import pytest
from conftest import (
    SMALL,
    api,
    check_nothing_is_left,
    check_whole,
    checkpoint_of,
    leaderboard,
    trainers,
    trainers_run,
)

from tests.projects import Project
from tests.services import until

LOST_LOSS = """
import os, sys
if "ttl.training.job" in " ".join(sys.orig_argv):
    import torch
    loss = torch.nn.functional.cross_entropy

    def faulty(*arguments, **options):
        value = loss(*arguments, **options)
        try:
            # Once, in whichever trainer comes to it first.
            os.close(os.open({marker!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return value
        return value * float("nan")

    torch.nn.functional.cross_entropy = faulty
"""

OUT_OF_MEMORY = """
import sys
if "ttl.training.job" in " ".join(sys.orig_argv):
    import torch
    loss = torch.nn.functional.cross_entropy

    def limited(logits, *arguments, **options):
        if len(logits) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory (imitated)")
        return loss(logits, *arguments, **options)

    torch.nn.functional.cross_entropy = limited
"""


def finish(process):
    output, _ = process.communicate(timeout=200)
    return output


def fill(path):
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file:
        while file.write(b"0" * (1 << 16)):
            pass


def line_with(output, words):
    found = [line for line in output.splitlines() if words in line]
    assert found, output
    return found[0]


def test_a_killed_trainer(small, undisturbed, told):
    process = small.start("sweep")
    until(lambda: checkpoint_of(small, 2), 90, "a trial is in its third epoch")
    victim = next(one for one in trainers(small.folder) if "accelerate" not in " ".join(one.cmdline()))
    victim.kill()
    output = finish(process)
    told.lines.append(
        ("kill -9 of a trainer", line_with(output, "the trainer died; again from its last epoch"))
    )
    check_whole(small, undisturbed)


def test_a_killed_sweep(small, undisturbed, told):
    process = small.start("sweep")
    until(lambda: checkpoint_of(small, 2), 90, "a trial is in its third epoch")
    process.kill()
    finish(process)
    check_nothing_is_left(small)
    output = finish(small.start("sweep"))
    told.lines.append(("kill -9 of the sweep", line_with(output, "to run on")))
    check_whole(small, undisturbed)


def test_a_full_disk(small, undisturbed, told):
    if os.getuid():
        pytest.skip("needs root, to mount a small disk")
    runs = small.folder / "runs"
    runs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300M", "tmpfs", str(runs)], check=True)
    try:
        process = small.start("sweep")
        until(lambda: checkpoint_of(small, 1), 90, "a trial is in its second epoch")
        ballast = runs / "ballast"
        with pytest.raises(OSError, match="No space left"):
            fill(ballast)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "has no room" in line:
                ballast.unlink()
                break
        lines.append(finish(process))
        told.lines.append(("disk full in runs/", line_with("".join(lines), "has no room; tried again")))
        check_whole(small, undisturbed)
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)


def test_a_damaged_checkpoint(small, undisturbed, told):
    process = small.start("sweep")
    until(lambda: checkpoint_of(small, 3), 90, "a trial is in its fourth epoch")
    process.send_signal(signal.SIGTERM)
    finish(process)
    check_nothing_is_left(small)
    kept = {path.parent: path for path in sorted((small.folder / "runs").glob(".partial/*/checkpoint-*.pt"))}
    assert kept
    for newest in kept.values():
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 255
        newest.write_bytes(content)
    output = finish(small.start("sweep"))
    assert output.count("is damaged") == len(kept)
    told.lines.append(("a damaged checkpoint", line_with(output, "goes on from the one before")))
    check_whole(small, undisturbed, again=len(kept))


def test_a_lost_loss(small, undisturbed, told, tmp_path):
    trainers_run(small, LOST_LOSS.format(marker=str(tmp_path / "lost")))
    output = finish(small.start("sweep"))
    told.lines.append(("a loss that is not finite", line_with(output, "the epoch is tried once more")))
    check_whole(small, undisturbed)


def test_a_device_out_of_memory(stack, datasets, tmp_path, told):
    """With a network without batch norm: of another, a batch in parts gives another result."""
    changes = {**SMALL, "backbones": ["convnext_atto"], "cuts": ["stages.1"], "image_size": 48}
    changes["recipe"] = {**SMALL["recipe"], "epochs": 2}
    whole, limited = (
        Project.make(tmp_path / name, datasets, api(stack), **changes) for name in ("whole", "limited")
    )
    trainers_run(limited, OUT_OF_MEMORY)
    _, output = [finish(process) for process in [one.start("sweep") for one in (whole, limited)]]
    told.lines.append(
        ("a device out of memory", line_with(output, "out of memory; again with each batch in 2"))
    )
    one, other = (leaderboard(project.folder) for project in (whole, limited))
    assert one["cut"].sort().equals(other["cut"].sort())
    for name in ("val_auroc_mean", "test_auroc_mean"):
        pairs = one.sort("cut")[name] - other.sort("cut")[name]
        assert pairs.abs().max() < 0.02, (one, other)
    check_nothing_is_left(limited)


def test_two_sweeps_at_once(small, undisturbed, told):
    processes = [small.start("sweep") for _ in range(2)]
    outputs = [finish(process) for process in processes]
    told.lines.append(("two sweeps at once", line_with("".join(outputs), "waiting for it")))
    check_whole(small, undisturbed)
