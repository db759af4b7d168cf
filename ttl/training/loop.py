"""The training of one trial under Accelerate: epochs, checkpoints, the best epoch, its predictions."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradScalerKwargs
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from ttl.data.dataset import PackedDataset
from ttl.data.steps import ImageSteps
from ttl.data.transforms import augment, draw, prepare
from ttl.errors import TrialError
from ttl.evaluation.metrics import auroc, softmax, weighted_log_loss
from ttl.models.backbones import preprocessing, weights_sha256
from ttl.models.network import Network, NetworkSpec, build_network
from ttl.training.batches import (
    PADDING,
    check_batches,
    class_weights,
    evaluation_batches,
    seed_everything,
    share,
    training_batches,
)
from ttl.training.recipe import Recipe
from ttl.training.trial import Trial

logger = logging.getLogger(__name__)

EVALUATION_BATCH = 256
"""Images a process scores at once; results do not depend on it."""

FIRST_SCALE = 65536.0
"""The loss scale that training in fp16 starts with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What one epoch came to. `train_loss` is over the augmented images, in training mode."""

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_auroc: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Predictions of a split: row numbers [n] of the dataset, and logits [n, classes] in float64."""

    indices: NDArray[np.int64]
    logits: NDArray[np.float64]


def network_spec(trial: Trial, classes: int) -> NetworkSpec:
    """Return the network that a trial trains."""
    return NetworkSpec(
        backbone=trial.backbone,
        strategy=trial.strategy,
        cut=trial.cut,
        source=trial.source,
        num_classes=classes,
        image_size=trial.image_size,
    )


def image_steps(trial: Trial) -> ImageSteps:
    """Return how the trial's network wants its images."""
    wanted = preprocessing(trial.backbone)
    return ImageSteps(
        mean=wanted.mean, std=wanted.std, interpolation=wanted.interpolation, resize=trial.recipe.resize
    )


def make_accelerator(precision: str, *, cpu: bool) -> Accelerator:
    """Return the accelerator of a job: its processes, device and precision."""
    # Every parameter that asks for a gradient gets one, so DDP need not look for those that do not.
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=False),
        GradScalerKwargs(init_scale=FIRST_SCALE),
    ]
    return Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=handlers)


class Trainer:
    """One trial in training, on one process of those that share it.

    `checkpoint` is where its state is kept after each epoch, and where an earlier attempt may have left it.
    After `run`, `network` has the weights of the best epoch, and `history` every epoch.
    """

    def __init__(self, trial: Trial, dataset: PackedDataset, accelerator: Accelerator, checkpoint: Path):
        if dataset.revision != trial.revision:
            raise TrialError(
                f"{dataset.root} is at revision {dataset.revision}, the trial wants {trial.revision}: "
                "the dataset was prepared anew during the sweep; run the sweep again"
            )
        self.trial, self.dataset, self.accelerator, self.checkpoint = trial, dataset, accelerator, checkpoint
        self.recipe: Recipe = trial.recipe
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.steps = image_steps(trial)
        self.labels = dataset.samples["label"].to_numpy()
        self.train_indices = dataset.indices("train")
        check_batches(len(self.train_indices), batch_size=self.recipe.batch_size, world=self.world)
        _check_weights(trial)
        reset_scaler(accelerator)
        classes = len(dataset.info.classes)
        self.weights = class_weights(
            self.labels[self.train_indices], classes, weighted=self.recipe.class_weights
        )
        built = build_network(network_spec(trial, classes), seed=trial.seed)
        built.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: Network = built.to(accelerator.device)
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = _OPTIMIZERS[self.recipe.optimizer](
            parameters, lr=self.recipe.lr, weight_decay=self.recipe.weight_decay
        )
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)
        self.schedule = self._make_schedule()
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0

    def run(self, on_epoch: Callable[[Epoch], None], epochs: int | None = None) -> None:
        """Train to the end, or until there are so many `epochs`, from the last checkpoint if there is one.

        Raises `TrialError` for a lost loss.
        """
        self._resume()
        while not self.finished and (epochs is None or len(self.history) < epochs):
            epoch = self._train_epoch(len(self.history) + 1)
            self._save()
            on_epoch(epoch)
        self.network.load_state_dict(self.best)

    def score(self, split: str) -> Scored:
        """Return the logits of every sample of a split, each exactly once, on every process."""
        indices = self.dataset.indices(split)
        places, rows = [], []
        self.network.eval()
        with torch.inference_mode():
            for batch in evaluation_batches(
                indices, batch_size=EVALUATION_BATCH, rank=self.rank, world=self.world
            ):
                pixels = self._pixels(np.where(batch == PADDING, indices[0], batch))
                images = prepare(pixels, image_size=self.trial.image_size, steps=self.steps)
                with self.accelerator.autocast():
                    rows.append(self.network(_channels_last(images)).float())
                places.append(torch.from_numpy(batch).to(self.accelerator.device))
            gathered = self.accelerator.gather((torch.cat(places), torch.cat(rows)))
        found, logits = (tensor.cpu().numpy() for tensor in gathered)
        real = found != PADDING
        order = np.argsort(found[real], kind="stable")
        found, logits = found[real][order], logits[real][order].astype(np.float64)
        assert np.array_equal(found, np.sort(indices)), f"{split}: samples were lost or scored twice"
        return Scored(indices=found, logits=logits)

    def close(self) -> None:
        """Let go of the model, so that the next trial of the job has the device's memory."""
        self.accelerator.free_memory(self.model, self.optimizer)

    def _train_epoch(self, number: int) -> Epoch:
        started = time.perf_counter()
        rate = self.optimizer.param_groups[0]["lr"]
        shared = seed_everything(self.trial.seed, number, self.rank)
        weights = torch.from_numpy(self.weights).float().to(self.accelerator.device)
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        seen = 0.0
        self.model.train()
        for batch in training_batches(
            self.train_indices, batch_size=self.recipe.batch_size, seed=self.trial.seed, epoch=number
        ):
            # Drawn for the whole batch, and then divided: what an image undergoes does not depend on how
            # many processes there are.
            drawn = draw(
                len(batch), crop_scale=self.recipe.crop_scale, flip=self.recipe.flip, generator=shared
            )
            mine = share(len(batch), rank=self.rank, world=self.world)
            images = augment(
                self._pixels(batch[mine]), drawn[mine], image_size=self.trial.image_size, steps=self.steps
            )
            labels = torch.from_numpy(self.labels[batch[mine]]).to(self.accelerator.device)
            batch_weight = float(self.weights[self.labels[batch]].sum())
            with self.accelerator.autocast():
                logits = self.model(_channels_last(images))
            loss = F.cross_entropy(logits.float(), labels, weight=weights, reduction="sum")
            # DDP takes the mean of the processes' gradients, and the batch wants their sum.
            self.accelerator.backward(loss * self.world / batch_weight)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if isinstance(self.schedule, OneCycleLR):
                self.schedule.step()
            total += loss.detach().double()
            seen += batch_weight
        train_loss = float(self.accelerator.reduce(total, reduction="sum")) / seen
        if not math.isfinite(train_loss):
            raise TrialError(
                f"the training loss is {train_loss} in epoch {number}, at learning rate {rate:.2g}"
            )
        self._agree_on_buffers()
        val_loss, val_auroc = self._validate(number)
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(val_loss)
        epoch = Epoch(
            epoch=number,
            lr=rate,
            train_loss=train_loss,
            val_loss=val_loss,
            val_auroc=val_auroc,
            seconds=time.perf_counter() - started,
        )
        self.history.append(epoch)
        if number == self._find_best():
            self.best_epoch = number
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        return epoch

    def _validate(self, number: int) -> tuple[float, float]:
        scored = self.score("val")
        if not np.isfinite(scored.logits).all():
            raise TrialError(f"the network's outputs on validation images are not finite in epoch {number}")
        labels = self.labels[scored.indices]
        loss = weighted_log_loss(labels, scored.logits, self.weights)
        return loss, auroc(labels, softmax(scored.logits))

    def _find_best(self) -> int:
        """Return the best epoch so far; of equals, the first."""

        def key(epoch: Epoch) -> tuple[float, float]:
            if self.recipe.criterion == "val_loss":
                return (-epoch.val_loss, 0.0)
            return (epoch.val_auroc, -epoch.val_loss)

        return max(self.history, key=key).epoch

    @property
    def finished(self) -> bool:
        """Whether the recipe is at its end."""
        if len(self.history) >= self.recipe.epochs:
            return True
        if isinstance(self.schedule, ReduceLROnPlateau):
            return bool(self.optimizer.param_groups[0]["lr"] < self.recipe.min_lr)
        return False

    def _make_schedule(self) -> OneCycleLR | ReduceLROnPlateau:
        inner = self.optimizer.optimizer
        if self.recipe.schedule == "plateau":
            return ReduceLROnPlateau(
                inner, factor=self.recipe.plateau_factor, patience=self.recipe.plateau_patience
            )
        steps = len(training_batches(self.train_indices, batch_size=self.recipe.batch_size, seed=0, epoch=0))
        return OneCycleLR(
            inner,
            max_lr=self.recipe.lr,
            total_steps=steps * self.recipe.epochs,
            pct_start=self.recipe.warmup,
        )

    def _pixels(self, indices: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.dataset.read(indices)).to(self.accelerator.device)

    def _agree_on_buffers(self) -> None:
        """Give every process the batch-norm statistics of the first: each has seen other images."""
        if self.world > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                "trial_id": self.trial.trial_id,
                "history": [dataclasses.asdict(epoch) for epoch in self.history],
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
                "best": self.best,
                "best_epoch": self.best_epoch,
            }
            aside = self.checkpoint.with_suffix(".new")
            torch.save(state, aside)
            aside.replace(self.checkpoint)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        try:
            state: dict[str, Any] = torch.load(
                self.checkpoint, map_location=self.accelerator.device, weights_only=True
            )
            if state["trial_id"] != self.trial.trial_id:
                raise ValueError(f"it is of trial {state['trial_id']}")
            history = [Epoch(**epoch) for epoch in state["history"]]
            self.network.load_state_dict(state["network"])
        except Exception as error:  # noqa: BLE001 - a damaged file fails in many ways, all mended alike
            logger.warning(
                "%s: the checkpoint is damaged (%s); training starts again", self.trial.label, error
            )
            self.network.load_state_dict(build_network(self.network_spec, seed=self.trial.seed).state_dict())
            return
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.history, self.best, self.best_epoch = history, state["best"], state["best_epoch"]

    @property
    def network_spec(self) -> NetworkSpec:
        """What the trial trains."""
        return network_spec(self.trial, len(self.dataset.info.classes))


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def _check_weights(trial: Trial) -> None:
    found = weights_sha256(trial.backbone, trial.source)
    if found != trial.source_sha256:
        raise TrialError(
            f"the weights {trial.source} of {trial.backbone} are not those that the trial was planned with "
            f"(SHA-256 {found[:12] or 'none'}, planned {trial.source_sha256[:12] or 'none'}): the file or "
            "the mirror has changed; run the sweep again"
        )


def reset_scaler(accelerator: Accelerator) -> None:
    """Start with the first loss scale: one scaler serves all trials of a job, and keeps the last one's."""
    if accelerator.scaler is not None:
        state = accelerator.scaler.state_dict()
        accelerator.scaler.load_state_dict({**state, "scale": FIRST_SCALE, "_growth_tracker": 0})


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
