"""What a network's frozen part makes of images that come again: kept, instead of computed anew.

In layer-wise finetuning the modules below the cut never change, so an image that is shown unchanged gives
the same features every time: each validation image does, and each training image where the augmentation
crops nothing (a flip gives it two faces).
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from torch import Tensor

from ttl.models.network import Network
from ttl.models.order import evaluating

logger = logging.getLogger(__name__)

MEMORY_SHARE = 1 / 16
"""Share of the device's free memory that features may take; a table that needs more is not kept."""

TOLERANCE = 1e-5
"""By so much, of the largest, may logits differ that were computed from kept features."""

POSITIONED = 4
"""Dimensions of features [n, c, h, w] that have positions; those of volumes have one more."""

CGROUPS = Path("/sys/fs/cgroup")
CGROUP_LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""What a container may use of memory, and what it does: control groups of version 2, and of 1."""


class FrozenFeatures:
    """The features at the cut, in tables of one row an image.

    A table that is not kept, and a network that cannot be run from its features alone, compute all of it
    each time: what comes out is the same to rounding.
    """

    def __init__(self, network: Network, cut: str, image_size: int, *, share: float = MEMORY_SHARE) -> None:
        self.network, self.shape = network, network.blank(image_size).shape[1:]
        # Of each image; a network that works on a volume's slices has as many features of it.
        self.each = 1
        # The outermost frozen modules: whatever runs inside one of them runs not at all.
        self.names = [name for name in network.frozen if name.rpartition(".")[0] not in network.frozen]
        self.top = next((name for name in self.names if f"{cut}.".startswith(f"{name}.")), None)
        self.device = next(network.parameters()).device
        self.room = share * _free(self.device)
        self.shapes: dict[str, torch.Size] = {}
        self.tables: dict[str, Table] = {}
        self.usable = self.top is not None and self._verify()

    def keep(self, table: str, rows: int) -> bool:
        """Keep a table of so many rows, if there is room; return whether it is."""
        if not self.usable:
            return False
        assert self.top is not None
        size = rows * self.each * self.shapes[self.top].numel() * 4
        if size > self.room:
            logger.info(
                "features of %s are computed anew each time: %.1f GB, and there is room for %.1f GB",
                table, size / 1e9, self.room / 1e9,
            )  # fmt: skip
            return False
        self.room -= size
        self.tables[table] = Table(rows, self.each)
        return True

    def run(
        self, model: Callable[[Tensor], Tensor], table: str, places: Tensor, images: Callable[[], Tensor]
    ) -> Tensor:
        """Return the logits of a batch, whose images lie at `places` [n] of a table.

        `model` is the network, or what wraps it. `images` makes the input, and is asked only where needed.
        """
        kept = self.tables.get(table)
        if kept is None:
            return model(images())
        if kept.has(places):
            with self._replayed(kept.get(places)):
                return model(self._blank(len(places)))
        assert self.top is not None
        with self._recorded([self.top]) as outputs:
            logits = model(images())
        kept.put(places, outputs[self.top].detach())
        return logits

    def fill(self, table: str, places: Tensor, images: Callable[[], Tensor]) -> None:
        """Have the features of a batch computed and kept, and nothing above them, unless they are kept."""
        kept = self.tables.get(table)
        if kept is None or kept.has(places):
            return

        def stop(_module: object, _inputs: object, output: Tensor) -> None:
            kept.put(places, output)
            raise _Enough

        assert self.top is not None
        handle = self.network.net.get_submodule(self.top).register_forward_hook(stop)
        try:
            with torch.no_grad():
                self.network(images())
        except _Enough:
            pass
        finally:
            handle.remove()

    def _verify(self) -> bool:
        """Return whether the network gives the same logits from the features at its cut alone."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self._blank(2).shape, generator=generator).to(self.device)
        with evaluating(self.network):
            with self._recorded(self.names) as outputs:
                expected = self.network(images)
            lengths = {len(one) for one in outputs.values()}
            if self.top not in outputs or len(lengths) > 1 or len(outputs[self.top]) % len(images):
                return False
            self.each = len(outputs[self.top]) // len(images)
            # Others are there, and never run.
            self.names = list(outputs)
            self.shapes = {name: output.shape[1:] for name, output in outputs.items()}
            assert self.top is not None
            try:
                with self._replayed(outputs[self.top]):
                    found = self.network(self._blank(len(images)))
            except RuntimeError:
                # Something between the modules cannot work on a blank.
                return False
        return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())

    @contextmanager
    def _recorded(self, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
        outputs: dict[str, Tensor] = {}

        def record(name: str) -> Callable[..., None]:
            def hook(_module: object, _inputs: object, output: object) -> None:
                if isinstance(output, Tensor):
                    outputs[name] = output

            return hook

        modules = {name: self.network.net.get_submodule(name) for name in names}
        handles = [module.register_forward_hook(record(name)) for name, module in modules.items()]
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _replayed(self, features: Tensor) -> Iterator[None]:
        """Let the frozen modules return what they are known to: the topmost its features, others a blank."""

        def give(name: str) -> Callable[..., Tensor]:
            blank = features.new_zeros(1).expand(len(features), *self.shapes[name])
            return lambda *_args, **_options: features if name == self.top else blank

        modules = {name: self.network.net.get_submodule(name) for name in self.names}
        for name, module in modules.items():
            module.forward = give(name)
        try:
            yield
        finally:
            for module in modules.values():
                del module.forward

    def _blank(self, count: int) -> Tensor:
        return torch.zeros(1, device=self.device).expand(count, *self.shape)


class Table:
    """Rows of features, `each` of every image; those with positions in channels-last order, as computed."""

    def __init__(self, rows: int, each: int = 1) -> None:
        self.each = each
        self.filled = torch.zeros(rows, dtype=torch.bool)
        self.values: Tensor | None = None

    def has(self, places: Tensor) -> bool:
        """Return whether all these rows have been put."""
        return bool(self.filled[places].all())

    def put(self, places: Tensor, features: Tensor) -> None:
        """Keep features [n · each, ...] at these rows."""
        flat = features.movedim(1, -1) if features.ndim >= POSITIONED else features
        if self.values is None:
            self.values = flat.new_empty((len(self.filled), self.each, *flat.shape[1:]))
        self.values[places.to(flat.device)] = flat.reshape(-1, self.each, *flat.shape[1:])
        self.filled[places] = True

    def get(self, places: Tensor) -> Tensor:
        """Return the features [n · each, ...] of these rows."""
        assert self.values is not None
        flat = self.values[places.to(self.values.device)].flatten(0, 1)
        return flat.movedim(-1, 1) if flat.ndim >= POSITIONED else flat


class _Enough(Exception):  # noqa: N818 - it is no error
    """The features are there."""


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return max(0, min([int(psutil.virtual_memory().available), *_left_in_groups()]))


def _left_in_groups() -> Iterator[int]:
    """Yield what is left to this process in each control group that limits its memory."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").split()
    except OSError:
        lines = []
    own = [line.split(":")[2].lstrip("/") for line in lines]
    for folder in {CGROUPS / kind / place for kind in ("", "memory") for place in ("", *own)}:
        for limit, used in CGROUP_LIMITS:
            # There may be no such file, or it says `max`.
            with suppress(OSError, ValueError):
                most, now = (int((folder / name).read_text(encoding="ascii")) for name in (limit, used))
                yield most - now
