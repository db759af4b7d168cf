"""The training of one trial under Accelerate: epochs, checkpoints, the best epoch, its predictions."""

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from ttl.data.dataset import DatasetInfo
from ttl.data.steps import ImageSteps, depth_at
from ttl.data.transforms import Augmentation, augment, draw, prepare
from ttl.data.volumes import VolumeAugmentation
from ttl.errors import LostLossError, TrialError
from ttl.evaluation.scoring import scoring_of
from ttl.models.backbones import preprocessing, weights_sha256
from ttl.models.network import Network, NetworkSpec, build_network
from ttl.training import checkpoint
from ttl.training.accelerator import reset_scaler
from ttl.training.batches import (
    PADDING,
    check_batches,
    evaluation_batches,
    micro_batches,
    seed_everything,
    share,
    training_batches,
)
from ttl.training.division import divide
from ttl.training.frozen import FrozenFeatures
from ttl.training.objective import make_objective
from ttl.training.pixels import Pixels
from ttl.training.recipe import Recipe
from ttl.training.trial import Trial

EVALUATION_BATCH = 256
"""Images a process scores at once; results do not depend on it."""

EVALUATION_VOLUMES = 16
"""The same of volumes, each of which is many images."""


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


def network_spec(trial: Trial, info: DatasetInfo) -> NetworkSpec:
    """Return the network that a trial trains, on the dataset of this description."""
    return NetworkSpec(
        backbone=trial.backbone,
        strategy=trial.strategy,
        cut=trial.cut,
        source=trial.source,
        num_classes=len(info.classes),
        image_size=trial.image_size,
        head=trial.head,
        depth=depth_at(info.shape, trial.image_size),
    )


def image_steps(trial: Trial) -> ImageSteps:
    """Return how the trial's network wants its images."""
    wanted = preprocessing(trial.backbone)
    return ImageSteps(
        mean=wanted.mean, std=wanted.std, interpolation=wanted.interpolation, resize=trial.recipe.resize
    )


class Trainer:
    """One trial in training, on one process of those that share it.

    `kept` is the folder of its state between epochs, where an earlier attempt may have left one.
    Of `micro_batches`, see `Step`: with batch norm, which sees one of them at a time, results depend on them.
    After `run`, `network` has the weights of the best epoch, and `history` every epoch.
    """

    def __init__(
        self, trial: Trial, pixels: Pixels, accelerator: Accelerator, kept: Path, *, micro_batches: int = 1
    ):
        dataset = pixels.dataset
        if dataset.revision != trial.revision:
            raise TrialError(
                f"{dataset.root} is at revision {dataset.revision}, the trial wants {trial.revision}: "
                "the dataset was prepared anew during the sweep; run the sweep again"
            )
        self.trial, self.dataset, self.accelerator, self.kept = trial, dataset, accelerator, kept
        self.pixels, self.micro_batches = pixels, micro_batches
        self.recipe: Recipe = trial.recipe
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.steps = image_steps(trial)
        self.labels, self.scoring = dataset.labels, scoring_of(dataset.info.task)
        self.division = divide(trial, dataset)
        self.train_indices = self.division["train"]
        parts = self.world * micro_batches
        check_batches(len(self.train_indices), batch_size=self.recipe.batch_size, parts=parts)
        _check_weights(trial)
        reset_scaler(accelerator)
        classes = len(dataset.info.classes)
        self.objective = make_objective(
            dataset.info.task,
            self.labels[self.train_indices],
            classes,
            weighted=self.recipe.class_weights,
        )
        built = build_network(network_spec(trial, dataset.info), seed=trial.seed)
        built.to(memory_format=built.memory_format)  # type: ignore[call-overload]
        self.network: Network = built.to(accelerator.device)
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        momentum = {"momentum": self.recipe.momentum} if self.recipe.optimizer == "sgd" else {}
        optimizer = _OPTIMIZERS[self.recipe.optimizer](
            parameters, lr=self.recipe.lr, weight_decay=self.recipe.weight_decay, fused=True, **momentum
        )
        # What computes: compiled or not, it has the network's own weights.
        trained = torch.compile(self.network) if self.recipe.compile else self.network
        self.model, self.optimizer = accelerator.prepare(trained, optimizer)
        self.frozen = self._keep_frozen()
        self.schedule = self._make_schedule()
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0

    def run(self, on_epoch: Callable[[Epoch], None], epochs: int | None = None) -> None:
        """Train to the end, or until there are so many `epochs`, from the last checkpoint if there is one.

        Raises `LostLossError` for a loss, or outputs, that are not finite.
        """
        self._resume()
        while not self.finished and (epochs is None or len(self.history) < epochs):
            epoch = self._train_epoch(len(self.history) + 1)
            if not self.finished:
                self._save()
            on_epoch(epoch)
        self.network.load_state_dict(self.best)

    def score(self, split: str) -> Scored:
        """Return the logits of every sample of a split, each exactly once, on every process."""
        indices = self.division[split]
        found_at, rows, start = [], [], 0
        most = EVALUATION_VOLUMES if self.dataset.info.volumes else EVALUATION_BATCH
        self.network.eval()
        with torch.inference_mode(self.frozen is None), torch.no_grad():
            for batch in evaluation_batches(
                indices,
                batch_size=max(1, most // self.micro_batches),
                rank=self.rank,
                world=self.world,
            ):
                places = torch.arange(start, start + len(batch))
                start += len(batch)
                chosen = np.where(batch == PADDING, indices[0], batch)
                images = partial(self._prepared, chosen)
                rows.append(self._logits(self.network, images, split, places))
                found_at.append(torch.from_numpy(batch).to(self.accelerator.device))
            gathered = self.accelerator.gather((torch.cat(found_at), torch.cat(rows)))
        found, logits = (tensor.cpu().numpy() for tensor in gathered)
        real = found != PADDING
        order = np.argsort(found[real], kind="stable")
        found, logits = found[real][order], logits[real][order].astype(np.float64)
        assert np.array_equal(found, np.sort(indices)), f"{split}: samples were lost or scored twice"
        return Scored(indices=found, logits=logits)

    def close(self) -> None:
        """Let go of the model, so that the next trial of the job has the device's memory."""
        self.accelerator.free_memory(self.model, self.optimizer)
        if self.recipe.compile:
            torch._dynamo.reset()

    def _train_epoch(self, number: int) -> Epoch:
        started = time.perf_counter()
        rate = self.optimizer.param_groups[0]["lr"]
        shared = seed_everything(self.trial.seed, number, self.rank)
        weights = torch.from_numpy(self.objective.weights).float().to(self.accelerator.device)
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        seen = 0.0
        self.model.train()
        for batch in training_batches(
            self.train_indices, batch_size=self.recipe.batch_size, seed=self.trial.seed, epoch=number
        ):
            # Drawn for the whole batch, and then divided: what an image undergoes does not depend on how
            # many processes there are.
            drawn = draw(
                len(batch),
                crop_scale=self.recipe.crop_scale,
                flip=self.recipe.flip,
                generator=shared,
                volumes=self.dataset.info.volumes,
            )
            batch_weight = self.objective.amount(self.labels[batch])
            parts = micro_batches(
                share(len(batch), rank=self.rank, world=self.world), parts=self.micro_batches
            )
            for part in parts:
                labels = torch.from_numpy(self.labels[batch[part]]).to(self.accelerator.device)
                images = partial(self._augmented, batch[part], drawn[part])
                # The processes' gradients are added up with the last part's.
                last = part is parts[-1]
                with nullcontext() if last else self.accelerator.no_sync(self.model):
                    logits = self._training_logits(images, batch[part], drawn[part])
                    loss = self.objective.loss(logits, labels, weights)
                    # DDP takes the mean of the processes' gradients, and the batch wants their sum.
                    self.accelerator.backward(loss * self.world / batch_weight)
                total += loss.detach().double()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if isinstance(self.schedule, OneCycleLR):
                self.schedule.step()
            seen += batch_weight
        train_loss = float(self.accelerator.reduce(total, reduction="sum")) / seen
        if not math.isfinite(train_loss):
            raise LostLossError(
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
            raise LostLossError(
                f"the network's outputs on validation images are not finite in epoch {number}"
            )
        labels = self.labels[scored.indices]
        loss = self.objective.mean(labels, scored.logits)
        return loss, self.scoring.auroc(labels, self.scoring.probabilities(scored.logits))

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
            # It would put a momentum of its own in the place of the recipe's.
            cycle_momentum=self.recipe.optimizer != "sgd",
        )

    def _prepared(self, rows: NDArray[np.int64]) -> Tensor:
        return prepare(self.pixels(rows), image_size=self.trial.image_size, steps=self.steps)

    def _augmented(self, rows: NDArray[np.int64], drawn: Augmentation | VolumeAugmentation) -> Tensor:
        return augment(self.pixels(rows), drawn, image_size=self.trial.image_size, steps=self.steps)

    def _logits(
        self, model: Callable[[Tensor], Tensor], images: Callable[[], Tensor], table: str, places: Tensor
    ) -> Tensor:
        with self.accelerator.autocast():
            if self.frozen is None:
                return model(images()).float()
            return self.frozen.run(model, table, places, images).float()

    @property
    def _faces(self) -> int:
        """How many images may come of one that is not cropped, by flips: two; of a volume, eight."""
        if not self.recipe.flip:
            return 1
        return 8 if self.dataset.info.volumes else 2

    def _keep_frozen(self) -> FrozenFeatures | None:
        """Keep what the frozen part makes of images that come again; None if there is nothing to keep."""
        if not self.network.frozen or self.recipe.compile or self.recipe.epochs < 2:
            return None
        frozen = FrozenFeatures(self.network, self.trial.cut, self.trial.image_size)
        frozen.keep("val", -(-len(self.division["val"]) // self.world))
        # Both faces are computed in the first epoch, so that two faces pay from the third epoch on.
        # Those of volumes are too many to pay.
        few = self._faces <= 2
        if self.recipe.crop_scale == 1 and few and self.recipe.epochs > self._faces:
            frozen.keep("train", self._faces * self.dataset.samples.height)
        return frozen if frozen.tables else None

    def _training_logits(
        self,
        images: Callable[[], Tensor],
        rows: NDArray[np.int64],
        drawn: Augmentation | VolumeAugmentation,
    ) -> Tensor:
        if self.frozen is None or "train" not in self.frozen.tables:
            return self._logits(self.model, images, "train", torch.empty(0))
        places = self._faces * torch.from_numpy(rows) + drawn.flipped
        if isinstance(drawn, Augmentation) and self._faces > 1:
            mirrored = self._faces * torch.from_numpy(rows) + ~drawn.flipped
            other = replace(drawn, flipped=~drawn.flipped)
            with self.accelerator.autocast():
                self.frozen.fill("train", mirrored, partial(self._augmented, rows, other))
        return self._logits(self.model, images, "train", places)

    def _agree_on_buffers(self) -> None:
        """Give every process the batch-norm statistics of the first: each has seen other images."""
        if self.world > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                "history": [dataclasses.asdict(epoch) for epoch in self.history],
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
                "best": self.best,
                "best_epoch": self.best_epoch,
            }
            checkpoint.save(self.kept, self.trial, len(self.history), state)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        state = checkpoint.load(self.kept, self.trial, self.accelerator.device)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.best, self.best_epoch = state["best"], state["best_epoch"]


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def _check_weights(trial: Trial) -> None:
    found = weights_sha256(trial.backbone, trial.source)
    if found != trial.source_sha256:
        raise TrialError(
            f"the weights {trial.source} of {trial.backbone} are not those that the trial was planned with "
            f"(SHA-256 {found[:12] or 'none'}, planned {trial.source_sha256[:12] or 'none'}): the file or "
            "the mirror has changed; run the sweep again"
        )
