"""Holding images out: a split is drawn label by label, and the same seed always draws the same one."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur import rules
from secateur.errors import DataError

PAIR = 2
"""Images that a class needs for one of them to be found by another."""


def holdout(labels: Tensor, fraction: float, seed: int, *, paired: int = 0) -> tuple[Tensor, Tensor]:
    """Split positions into those kept and those held out, stratified by label.

    Every label gives its share to within one image, and always keeps at least one. Both parts come in a
    seeded random order, so that the first batch of a set stored class by class still mixes the classes.

    Where images are to be found by others of their class, a label gives at least ``PAIR`` of them or none, and keeps as
    many; of labels with too few for every part to be held out each gives to one of the parts, in turns.

    Args:
        labels: the label of each image, (N,) int64, none negative.
        fraction: share of the images to hold out, in (0, 1).
        seed: fixes the draw.
        paired: how many parts, this one included, are to be held out with several images of a class; 0 where images
            are judged one by one.

    Returns:
        The positions kept and the positions held out, int64; disjoint, together all of 0..N-1.

    Raises:
        DataError: if the fraction is out of range or there are too few images to hold any out.
        SettingError: if the seed is out of range.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the fraction of images to hold out must lie strictly between 0 and 1, not {fraction}")
    counts = torch.bincount(labels)
    quota = _pairs(counts, fraction, seed, paired) if paired else _quota(counts, fraction)
    if paired and int(quota.sum()) == 0:
        raise DataError(
            f"{len(labels)} training images of {int((counts > 0).sum())} classes are too few to hold out {PAIR} of a "
            f"class and keep {PAIR}: add images, or give a split of your own, of any classes"
        )
    if int(quota.sum()) == 0:
        raise DataError(
            f"{len(labels)} images of {int((counts > 0).sum())} classes are too few to hold out any: "
            "every class needs at least two images, or give a validation set of your own"
        )
    order = mixed(len(labels), seed)
    by_label = torch.argsort(labels[order], stable=True)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    rank = torch.empty_like(order)  # how many images of its own label come before each one
    rank[by_label] = torch.arange(len(labels)) - first
    held = rank < quota[labels[order]]
    return order[~held], order[held]


def mixed(size: int, seed: int) -> Tensor:
    """Return the positions 0..size-1 in a seeded random order, for images that need no holding out.

    Raises:
        SettingError: if the seed is out of range.
    """
    rules.refuse(("seed", seed, rules.SEED))
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def first(order: Tensor, most: int | None) -> Tensor:
    """Return the first positions of a random order, as many as are asked for; all of them if None.

    Raises:
        DataError: if fewer than one or more than there are were asked for.
    """
    if most is not None and not 1 <= most <= len(order):
        raise DataError(f"{most} training images were asked for, and there are {len(order)}; ask for 1 to {len(order)}")
    return order[:most]


def _quota(counts: Tensor, fraction: float) -> Tensor:
    """Return how many images of each label to hold out, (labels,): the largest remainders are rounded up."""
    exact = counts.double() * fraction
    quota = exact.floor().long()
    missing = max(1, round(float(exact.sum()))) - int(quota.sum())
    remainder = torch.where(quota < counts - 1, exact - quota, -1.0)
    largest = torch.argsort(remainder, descending=True, stable=True)[: max(missing, 0)]
    largest = largest[remainder[largest] > 0]
    quota[largest] += 1
    return torch.minimum(quota, (counts - 1).clamp(min=0))


def _pairs(counts: Tensor, fraction: float, seed: int, parts: int) -> Tensor:
    """Return how many images of each label to hold out, (labels,): none, or at least ``PAIR``, which as many keep."""
    usual = torch.maximum(_quota(counts, fraction), torch.tensor(PAIR))
    quota = torch.minimum(usual, counts - PAIR * parts)
    quota[quota < PAIR] = 0
    few = torch.nonzero((counts >= 2 * PAIR) & (quota == 0)).flatten()
    quota[few[mixed(len(few), seed)][::parts]] = PAIR
    return quota
