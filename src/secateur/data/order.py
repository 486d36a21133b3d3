"""Which images come when: the order of one pass, its batches, and each process's share of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from secateur.arguments import checked
from secateur.errors import DataError, nearest
from secateur.rules import AnySeed, Count
from secateur.typed import check_types

Split = Literal["train", "val", "test"]

AUGMENTS: tuple[str, ...] = ("none", "flip", "crop", "crop_flip")
"""What may be done to images at random: mirror left to right, move by a random crop, both, or nothing."""


@checked
@dataclass(frozen=True)
class Order:
    """One pass over a split.

    Attributes:
        split: which images.
        batch_size: images in a global batch, over all processes together.
        augment: one of ``AUGMENTS``.
        shuffle: whether the seed permutes the images.
        seed: fixes the permutation and every random augmentation, whatever the number of processes.
        device: where the batches are wanted.
        rank: this process, from 0.
        world: how many processes share each global batch.

    Raises:
        DataError: if a setting is unknown or out of range.
        SettingError: if one is not of its type, there is no such split, or a number is out of range.
    """

    split: Split
    batch_size: Count
    augment: str
    shuffle: bool
    seed: AnySeed
    device: torch.device
    rank: int
    world: int

    def __post_init__(self) -> None:
        check_types(self)
        known_split(self.split)
        if self.augment not in AUGMENTS:
            known = ", ".join(AUGMENTS)
            raise DataError(f"unknown augmentation '{self.augment}'{nearest(self.augment, AUGMENTS)}; known: {known}")
        if not 0 <= self.rank < self.world:
            raise DataError(f"rank {self.rank} does not exist among {self.world} processes, which count from 0")
        if self.split == "train" and self.batch_size % self.world:
            raise DataError(
                f"a training batch of {self.batch_size} cannot be shared equally by {self.world} processes: "
                f"use a multiple of {self.world}"
            )

    @property
    def learns(self) -> bool:
        """Whether this is a pass to learn from, whose batches may be put together as a task needs them."""
        return self.split == "train" and self.shuffle

    def rng(self) -> torch.Generator:
        """Return the generator of this pass, on the CPU so that every device sees the same pass."""
        return torch.Generator().manual_seed(self.seed)

    def positions(self, size: int, rng: torch.Generator) -> Tensor:
        """Return the positions 0..size-1 in the order of this pass, (size,) int64."""
        return torch.randperm(size, generator=rng) if self.shuffle else torch.arange(size)

    def shares(self, size: int) -> list[slice]:
        """Return, for each batch, which places of the pass belong to this process: every ``world``-th one.

        The last, incomplete training batch is kept unless it holds a single image or fewer than ``world``
        (batch statistics of one image do not exist, and no process may be left waiting). In the other splits
        every image is used exactly once, and the last batch may leave some processes without a share.

        Raises:
            DataError: if a training pass would have no batch at all.
        """
        whole = [slice(at, min(at + self.batch_size, size)) for at in range(0, size, self.batch_size)]
        if self.split == "train":
            rest = size % self.batch_size
            if rest and rest < max(self.world, 2):
                whole.pop()
            if not whole:
                raise DataError(
                    f"{size} training image(s) do not fill one batch for {self.world} process(es): "
                    "at least two images, and one for each process, are needed"
                )
        shares = [slice(batch.start + self.rank, batch.stop, self.world) for batch in whole]
        return [share for share in shares if share.start < share.stop]


def known_split(split: str) -> Split:
    """Return the name of a split, checked.

    Raises:
        DataError: if there is no such split.
    """
    splits: tuple[Split, ...] = get_args(Split)
    for known in splits:
        if split == known:
            return known
    raise DataError(f"unknown split '{split}'{nearest(split, splits)}; known: {', '.join(splits)}")
