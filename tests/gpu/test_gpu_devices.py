"""Leases on a real GPU: what it is called, who computes on it, and who has it."""

import os
import subprocess
import sys

import pynvml
import pytest

from tests.gpu.trials import make_trial, train
from ttl.training.devices import find_slots
from ttl.training.gpus import stranger
from ttl.training.runs import Runs
from ttl.training.trial import Step
from ttl.training.worker import Worker

COMPUTE = """
import sys, torch
held = torch.ones(1 << 28, device="cuda")
print("computes", flush=True)
sys.stdin.read()
"""

LOOK = """
import sys
from ttl.training.devices import find_slots
slots = find_slots(1)
print(slots[0].keys[0], flush=True)
sys.stdin.read()
"""

TAKE = """
import sys
from ttl.training.devices import find_slots, take
taken = take(find_slots(1)[0])
print(getattr(taken, "by", "leased"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start():
    """Start a process that says one line, and stays until its input ends."""
    running = []

    def begin(code, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        running.append(process)
        return process, process.stdout.readline().strip()

    yield begin
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def nvml():
    pynvml.nvmlInit()
    yield pynvml
    pynvml.nvmlShutdown()


def computing(nvml, key):
    """Return the numbers of the processes on a GPU."""
    handle = nvml.nvmlDeviceGetHandleByUUID(key)
    return {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}


def test_a_gpu_is_called_by_its_uuid_whatever_cuda_calls_it(slot, nvml, start):
    (key,) = slot.keys
    count = nvml.nvmlDeviceGetCount()
    assert key in {nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(count)}
    # As a number, whole, and its beginning.
    for name in (slot.cuda[0], key, key[:12]):
        assert start(LOOK, CUDA_VISIBLE_DEVICES=name)[1] == key


def test_a_gpu_that_anothers_process_computes_on_is_taken_until_that_has_ended(start, nvml, slot):
    other, said = start(COMPUTE)
    assert said == "computes"
    assert other.pid in computing(nvml, slot.keys[0])
    _, by = start(TAKE)
    assert by.startswith(f"process {other.pid} (python")
    # A tensor of 1.07 GB, and what CUDA itself takes.
    assert 1.0 < float(by.rpartition(", ")[2].removesuffix(" GB)")) < 2.5
    other.communicate()
    assert start(TAKE)[1] == "leased"


def test_a_lease_keeps_others_out_whatever_they_call_the_gpu(start, slot):
    holder, said = start(TAKE)
    assert said == "leased"
    for name in (slot.cuda[0], slot.keys[0], slot.keys[0][:12]):
        _, by = start(TAKE, CUDA_VISIBLE_DEVICES=name)
        assert by.startswith(f"process {holder.pid} (python")
        assert ", since " in by, "it is taken for one that computes, and not for the lease's holder"
    holder.communicate()
    assert start(TAKE, CUDA_VISIBLE_DEVICES=slot.keys[0])[1] == "leased"


def test_who_only_waits_for_a_gpu_does_not_keep_others_from_it(start, nvml, slot):
    waiting, key = start(LOOK)
    assert key == slot.keys[0]
    assert waiting.pid not in computing(nvml, key)
    assert start(TAKE)[1] == "leased"


def test_our_own_trainer_is_no_stranger_to_us_and_is_one_to_others(
    toy, datasets, tmp_path, slot, nvml, start
):
    runs = Runs(tmp_path / "runs")
    with Worker(slot, runs, datasets) as worker:
        worker.run([Step(trial=make_trial(toy, recipe={"epochs": 1}))], lambda _: None)
        # The job waits for another trial.
        (trainer,) = computing(nvml, slot.keys[0])
        assert stranger(slot.keys) == ""
        # Its lease is not asked for here: there was none.
        assert start(TAKE)[1].startswith(f"process {trainer} (python")
    assert not computing(nvml, slot.keys[0])


def test_a_sweep_takes_only_gpus_that_cuda_sees(toy, datasets, tmp_path, slot):
    """By the name that CUDA_VISIBLE_DEVICES has for it, its UUID too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", slot.keys[0])
        (named,) = find_slots(1)
        assert (named.cuda, named.keys) == (slot.keys, slot.keys)
        (result,) = train(named, Runs(tmp_path / "runs"), datasets, make_trial(toy, recipe={"epochs": 1}))
    assert result["status"] == "completed", result
    assert result["device"] != "cpu"
