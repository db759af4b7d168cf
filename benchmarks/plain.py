"""A plain training loop, for comparison: written the way most published code works, the paper's among it.

Each image is opened with PIL, transformed by itself, and batched by a DataLoader; float32, the layout of
torch's default; each epoch ends with an evaluation of the validation set and of the whole training set.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ttl.data.dataset import PackedDataset


def write_images(dataset: PackedDataset, folder: Path) -> None:
    """Write the training and validation images as PNG files, `<split>/<row>_<label>.png`."""
    labels = dataset.samples["label"].to_numpy()
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        for row in dataset.indices(split):
            pixels = dataset.read(np.array([row]))[0]
            image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
            image.save(folder / split / f"{row}_{labels[row]}.png")


class Files(Dataset[tuple[torch.Tensor, int]]):
    """Image files, opened and transformed one at a time."""

    def __init__(self, folder: Path, transform: transforms.Compose) -> None:
        self.paths = sorted(folder.glob("*.png"))
        self.transform = transform

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return an image and its label."""
        path = self.paths[index]
        return self.transform(Image.open(path).convert("RGB")), int(path.stem.rpartition("_")[2])


class PlainLoop:
    """Training of a network on the files in `folder`, an epoch at a time."""

    def __init__(
        self,
        net: nn.Module,
        folder: Path,
        *,
        image_size: int,
        batch: int,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        random = [transforms.RandomResizedCrop(image_size, (0.6, 1.0)), transforms.RandomHorizontalFlip()]
        plain = [transforms.Resize(image_size), transforms.CenterCrop(image_size)]
        ends = [transforms.ToTensor(), normalise]
        options = {"batch_size": batch, "num_workers": workers, "persistent_workers": workers > 0}
        train, val = folder / "train", folder / "val"
        self.train = DataLoader(Files(train, transforms.Compose(random + ends)), shuffle=True, **options)
        self.checks = [
            DataLoader(Files(each, transforms.Compose(plain + ends)), **options) for each in (train, val)
        ]
        self.net, self.device = net.to(device), device
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01, foreach=False)

    def epoch(self) -> None:
        """Train once through, and evaluate both sets."""
        self.net.train()
        for images, labels in self.train:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.net(images.to(self.device)), labels.to(self.device))
            loss.backward()
            self.optimizer.step()
            loss.item()
        self.net.eval()
        with torch.no_grad():
            for loader in self.checks:
                for images, _ in loader:
                    torch.softmax(self.net(images.to(self.device)), dim=1).cpu()
