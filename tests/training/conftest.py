from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from secateur.tasks import Classification, Task
from secateur.training.settings import Settings


@dataclass
class Toy:
    """Labelled noise with a little signal: what `fit` needs of a data set, and a diary of what it asked for."""

    images: int = 48
    val: int = 16
    classes: int = 3
    name: str = "toy"
    task: Task = field(default_factory=Classification)
    poison: tuple[int, int] | None = None  # (pass, batch), counted from 0, whose images are nan
    broken: tuple[int, int] | None = None  # the same, whose labels are none
    dry: int | None = None  # training passes after which nothing comes
    length: int | None = None  # what the training batches say that they are, where it is not so
    asked: list[dict[str, object]] = field(default_factory=list)
    passes: int = 0
    source: object = field(default_factory=lambda: SimpleNamespace(at_hand=lambda split: ()))

    def _split(self, split: str) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed({"train": 1, "val": 2}[split])  # the test split must not be asked for
        labels = torch.randint(self.classes, (self.size(split),), generator=rng)
        images = torch.randn(self.size(split), 3, 8, 8, generator=rng)
        return images + labels.view(-1, 1, 1, 1) * 0.5, labels

    def size(self, split: str) -> int:
        return {"train": self.images, "val": self.val}[split]

    def example(self) -> Tensor:
        return self._split("train")[0][:1]

    def batches(self, split: str, batch_size: int, **how: object) -> ToyBatches:
        self.asked.append({"split": split, "batch_size": batch_size, **how})
        return ToyBatches(self, split, batch_size, how)


@dataclass
class ToyBatches:
    data: Toy
    split: str
    batch_size: int
    how: dict[str, object]

    def __len__(self) -> int:
        if self.data.length is not None and self.split == "train":
            return self.data.length
        return -(-self.data.size(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.data._split(self.split)
        rng = torch.Generator().manual_seed(int(self.how.get("seed", 0)))
        if self.how.get("shuffle"):
            order = torch.randperm(len(images), generator=rng)
            images, labels = images[order], labels[order]
        if self.how.get("augment", "none") != "none":
            images = images + 0.1 * torch.randn(images.shape, generator=rng)
        number = self.data.passes if self.split == "train" else -1
        self.data.passes += self.split == "train"
        if self.split == "train" and self.data.dry == number:
            return
        rank, world = self.how.get("rank", 0), self.how.get("world", 1)
        for batch, at in enumerate(range(0, len(images), self.batch_size)):
            part = images[at : at + self.batch_size][rank::world]
            if (number, batch) == self.data.poison:
                part = part * float("nan")
            right = labels[at : at + self.batch_size][rank::world]
            yield part, right + 99 if (number, batch) == self.data.broken else right


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def toys() -> type[Toy]:
    """Return the maker of toy data; its keywords are the fields above."""
    return Toy


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def net() -> Callable[[int], nn.Module]:
    """Return a maker of the same small network for the same seed: convolution, batch norm, dropout, linear."""

    def make(seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1, bias=False),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Conv2d(6, 4, 1),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Dropout(0.3),
                nn.Linear(16, 3),
            )

    return make


@pytest.fixture
def plain() -> Callable[..., Settings]:
    """Return a maker of settings that leave nothing to be measured."""
    base = Settings(
        epochs=3,
        batch_size=16,
        lr=0.05,
        augment="none",
        precision="float32",
        memory_format="contiguous",
        compile="off",
        device="cpu",
    )
    return lambda **changes: replace(base, **changes)
