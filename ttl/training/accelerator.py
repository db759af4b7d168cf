"""The accelerator of a job: its processes, device and precision."""

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradScalerKwargs

FIRST_SCALE = 65536.0
"""The loss scale that training in fp16 starts with."""


def make_accelerator(precision: str, *, cpu: bool) -> Accelerator:
    """Return the accelerator of a job."""
    # No algorithm is chosen by timing, which would differ run after run, nor one that adds up in any order:
    # two trainings in float32 differed on an H200.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # Float32 is not TF32: logits were off by up to 3e-3 there, and by 2e-6 without. For speed there is bf16.
    torch.backends.cudnn.allow_tf32 = False
    # Every parameter that asks for a gradient gets one, so DDP need not look for those that do not.
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=False),
        GradScalerKwargs(init_scale=FIRST_SCALE),
    ]
    return Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=handlers)


def reset_scaler(accelerator: Accelerator) -> None:
    """Start with the first loss scale: one scaler serves all trials of a job, and keeps the last one's."""
    if accelerator.scaler is not None:
        state = accelerator.scaler.state_dict()
        accelerator.scaler.load_state_dict({**state, "scale": FIRST_SCALE, "_growth_tracker": 0})
