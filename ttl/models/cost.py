"""What a network costs: parameters, multiply-accumulates, bytes and time."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ttl.models.network import Network
from ttl.models.order import evaluating

WARM_UP = 5
REPEATS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of one image or volume: `macs` of a forward pass, `latency_ms` at batch 1 (median, warmed up).

    A network that sees a volume slice by slice is charged for all of them. `params` counts weights and
    biases, trained or frozen; `model_bytes` counts buffers too.
    """

    params: int
    macs: int
    model_bytes: int
    latency_ms: float


def cost(network: Network, image_size: int) -> Cost:
    """Return the cost of `network` at `image_size` on the device that it is on."""
    with evaluating(network):
        return Cost(
            params=sum(p.numel() for p in network.parameters()),
            macs=forward_macs(network, image_size),
            model_bytes=sum(t.numel() * t.element_size() for t in network.state_dict().values()),
            latency_ms=latency(network, image_size),
        )


def forward_macs(network: Network, image_size: int) -> int:
    """Return the multiply-accumulates of one image or volume: convolutions and matrix products alone."""
    with evaluating(network), counting() as counter:
        network(network.blank(image_size))
    return int(counter.get_total_flops()) // 2


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count operations, attention as plain matrix products: fused ones are not counted on every device."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def training_macs(network: Network, image_size: int) -> int:
    """Return the multiply-accumulates of one image, forward and backward; a frozen part has no backward."""
    with counting() as counter:
        modes = {module: module.training for module in network.modules()}
        network.eval()
        network(network.blank(image_size)).sum().backward()
        for module, mode in modes.items():
            module.training = mode
    network.zero_grad(set_to_none=True)
    return int(counter.get_total_flops()) // 2


def latency(network: Network, image_size: int) -> float:
    """Return the median time of one image in milliseconds, over 30 runs after 5 to warm up.

    On one thread of a CPU: an image has little work for more, and on a busy machine they wait for each other.
    """
    image = network.blank(image_size)
    times = []
    with evaluating(network), _one_thread():
        for _ in range(WARM_UP + REPEATS):
            _wait(image.device)
            start = time.perf_counter()
            network(image)
            _wait(image.device)
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[WARM_UP:])


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
