"""Loaders that yield more batches than they say, or fewer, are learned from to the last batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.core.zeros.shaper import Moment, Shaper
from secateur.data import from_loaders
from secateur.errors import DataError, ModelError
from secateur.events import Event
from secateur.training import Settings, fit

Net = Callable[[int], nn.Module]
Plain = Callable[..., Settings]
LENGTHS = [(0, 1), (0, 2), (1, 1), (2, 1), (2, 2), (4, 2), (5, 1), (9, 2)]  # of three batches, and windows of them


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize(("length", "accumulate"), LENGTHS)
def test_all_batches_are_learned_from(toys: Any, net: Net, plain: Plain, length: int, accumulate: int) -> None:
    told, one, two = list[Event](), net(0), net(0)
    settings = plain(schedule="constant", accumulate=accumulate)
    expected = fit(one, toys(), settings)
    found = fit(two, toys(length=length), settings, tell=told.append)
    assert same(one, two)
    assert [row.train_loss for row in found.rows] == [row.train_loss for row in expected.rows]
    assert [row.train_metric for row in found.rows] == [row.train_metric for row in expected.rows]
    assert all(event.step <= event.total for event in told if event.total is not None)


class Diary(Shaper):
    """Writes down at which steps it is asked to act."""

    def __init__(self) -> None:
        self.before: list[int] = []
        self.after: list[int] = []

    def before_batch(self, moment: Moment) -> None:
        assert 0 <= moment.step < moment.steps
        self.before.append(moment.step)

    def after_step(self, step: int) -> None:
        self.after.append(step)


def test_rates_and_shapers_follow_what_was_planned(toys: Any, net: Net, plain: Plain) -> None:
    settings = plain(schedule="cosine", warmup_epochs=1)
    rates = {}
    for length in (2, 3, 5):
        diary = Diary()
        rates[length] = [row.lr for row in fit(net(0), toys(length=length), settings, shaper=diary).rows]
        assert diary.before == diary.after
        firsts = [epoch * length for epoch in range(3)]
        assert diary.before == [first + min(number, length - 1) for first in firsts for number in range(3)]
    assert rates[2][1:] == pytest.approx(rates[3][1:])
    assert rates[5][1:] == pytest.approx(rates[3][1:])


@pytest.mark.parametrize("length", [2, 5])
def test_a_training_that_failed_gives_its_network_back_and_goes_on(
    toys: Any, tmp_path: Path, net: Net, plain: Plain, length: int
) -> None:
    settings, path = plain(accumulate=2, augment="noise"), tmp_path / "checkpoint"
    whole, part = net(0), net(0)
    fit(whole, toys(length=length), settings)
    with pytest.raises(DataError, match="there is the label"):
        fit(part, toys(length=length, broken=(2, 1)), settings, checkpoint=path)
    assert same(part, net(0))
    assert path.exists()
    assert all(p.grad is None for p in part.parameters())
    fit(part, toys(length=length), settings, checkpoint=path)
    assert same(part, whole)


def test_an_interrupted_training_leaves_what_was_learned(toy: Any, net: Net, plain: Plain) -> None:
    def interrupt(event: Event) -> None:
        if event.values and event.values["epoch"] == 2:
            raise KeyboardInterrupt

    model, first = net(0), net(0)
    fit(first, toy, plain(epochs=1, schedule="constant"))
    with pytest.raises(KeyboardInterrupt):
        fit(model, toy, plain(schedule="constant"), tell=interrupt)
    assert not same(model, net(0))
    assert not same(model, first)  # of the second epoch, a step


def test_an_epoch_without_a_batch_is_refused(toys: Any, net: Net, plain: Plain) -> None:
    model = net(0)
    with pytest.raises(DataError, match="batches of epoch 2 are none: give a loader that can be read again"):
        fit(model, toys(dry=1), plain())
    assert same(model, net(0))


def test_a_batch_too_small_for_a_batch_norm_is_named(plain: Plain) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    pairs = [(torch.randn(size, 3, 8, 8), torch.randint(3, (size,))) for size in (4, 1)]
    with pytest.raises(ModelError, match=r"cannot train on a batch of 1: .*drop_last=True\), or choose another batch"):
        fit(model, from_loaders(pairs, pairs, pairs, classes=3), plain())
