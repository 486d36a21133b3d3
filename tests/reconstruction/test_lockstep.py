from __future__ import annotations

import contextlib
import threading

import pytest
import torch
from torch import nn

from secateur.errors import ModelError
from secateur.reconstruction.lockstep import Lockstep, Runner


class Stops(nn.Module):
    """Waits twice in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.local = threading.local()
        self.seen: list[tuple[int, int]] = []

    def watch(self, runner: Runner) -> contextlib.AbstractContextManager[None]:
        self.local.runner = runner
        return contextlib.nullcontext()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        runner: Runner = self.local.runner
        for stop in (1, 2):
            runner.pause((stop, float(x)))
            self.seen.append((stop, runner.number))
        if float(x) < 0:
            raise ValueError("negative")
        return x


def test_all_batches_wait_at_each_stop() -> None:
    model = Stops()
    with Lockstep(model, [torch.tensor(1.0), torch.tensor(2.0)], model.watch)() as passes:
        assert passes.advance() == [(1, 1.0), (1, 2.0)]
        assert model.seen == []
        assert passes.advance() == [(2, 1.0), (2, 2.0)]
        assert model.seen == [(1, 0), (1, 1)]
        assert passes.advance() == [None, None]


def test_passes_that_nobody_waits_for_are_given_up() -> None:
    model, before = Stops(), threading.active_count()
    with Lockstep(model, [torch.tensor(1.0), torch.tensor(2.0)], model.watch)() as passes:
        passes.advance()
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
    assert model.seen == []


def test_a_failing_network_says_so() -> None:
    model = Stops()
    with Lockstep(model, [torch.tensor(1.0), torch.tensor(-1.0)], model.watch)() as passes:
        passes.advance()
        passes.advance()
        with pytest.raises(ModelError, match="negative"):
            passes.advance()


class Stubborn(Stops):
    """Goes on whatever happens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in (1, 2):
            with contextlib.suppress(BaseException):
                self.local.runner.pause(1)
        return x


def test_networks_that_swallow_everything_are_given_up_all_the_same() -> None:
    model, before = Stubborn(), threading.active_count()
    with Lockstep(model, [torch.tensor(1.0)], model.watch)() as passes:
        passes.advance()
    assert threading.active_count() == before
