"""What a shaper is told while a network trains, and that it is told the same after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kills import Killed
from secateur.core.zeros.shaper import Moment, Shaper
from secateur.events import Event
from secateur.training import Settings, fit

Net = Callable[[int], nn.Module]
Plain = Callable[..., Settings]


class Diary(Shaper):
    """Notes in which order it is called, and what it drew."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.moments: list[tuple[int, int]] = []
        self.drawn: list[float] = []

    def before_batch(self, moment: Moment) -> None:
        assert not torch.is_grad_enabled()
        self.calls.append("before")
        self.moments.append((moment.step, moment.steps))
        self.drawn.append(float(torch.rand((), generator=moment.rng)))

    def penalty(self) -> Tensor | None:
        self.calls.append("penalty")
        return None

    def after_step(self, step: int) -> None:
        assert not torch.is_grad_enabled()
        self.calls.append(f"after {step}")


def killed_in(epoch: int) -> Callable[[Event], None]:
    def tell(event: Event) -> None:
        if event.values.get("epoch") == epoch:
            raise Killed

    return tell


def test_a_shaper_acts_before_each_batch_and_after_each_step(toy: Any, net: Net, plain: Plain) -> None:
    diary = Diary()
    fit(net(0), toy, plain(epochs=2, accumulate=2), shaper=diary)  # three batches: two steps an epoch
    epoch = ["before", "penalty", "before", "penalty", "after {}", "before", "penalty", "after {}"]
    assert diary.calls == [call.format(0 + (i > 4)) for i, call in enumerate(epoch)] + [
        call.format(2 + (i > 4)) for i, call in enumerate(epoch)
    ]
    assert diary.moments == [(0, 4), (0, 4), (1, 4), (2, 4), (2, 4), (3, 4)]


def test_its_draws_are_the_runs_own(toy: Any, net: Net, plain: Plain) -> None:
    one, two, other = Diary(), Diary(), Diary()
    fit(net(0), toy, plain(), shaper=one, seed=1)
    torch.manual_seed(77)
    fit(net(1), toy, plain(), shaper=two, seed=1)
    fit(net(0), toy, plain(), shaper=other, seed=2)
    assert one.drawn == two.drawn
    assert len(set(one.drawn)) == 9
    assert not set(one.drawn) & set(other.drawn)


def test_its_draws_are_not_those_of_dropout(toy: Any, net: Net, plain: Plain) -> None:
    class Both(Diary):
        def before_batch(self, moment: Moment) -> None:
            state = moment.rng.get_state()
            if not moment.step:
                self.same = torch.equal(state, torch.random.get_rng_state())
            super().before_batch(moment)

    both = Both()
    fit(net(0), toy, plain(epochs=1), shaper=both)
    assert not both.same


def test_its_draws_go_on_after_a_kill(toys: Any, tmp_path: Path, net: Net, plain: Plain) -> None:
    whole, part, rest = Diary(), Diary(), Diary()
    fit(net(0), toys(), plain(), shaper=whole, seed=3)
    path = tmp_path / "checkpoint"
    with pytest.raises(Killed):
        fit(net(0), toys(), plain(), shaper=part, seed=3, checkpoint=path, tell=killed_in(3))
    fit(net(9), toys(), plain(), shaper=rest, seed=3, checkpoint=path)
    assert rest.drawn == whole.drawn[6:]
    assert rest.moments == whole.moments[6:]


def test_a_shaper_that_does_nothing_changes_nothing(toy: Any, net: Net, plain: Plain) -> None:
    plainly, shaped = net(0), net(0)
    fit(plainly, toy, plain())
    fit(shaped, toy, plain(), shaper=Shaper())
    for one, two in zip(plainly.state_dict().values(), shaped.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert Shaper().penalty() is None
    assert Shaper().state_dict() == {}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_shaper_can_let_the_optimizer_start_anew(toy: Any, net: Net, plain: Plain, optimizer: Any) -> None:
    class Anew(Shaper):
        def __init__(self, at: int) -> None:
            self.at = at

        def before_batch(self, moment: Moment) -> None:
            if moment.step == self.at:
                moment.restart()

    networks = [net(0) for _ in range(3)]
    for model, at in zip(networks, (-1, 0, 1), strict=True):
        fit(model, toy, plain(epochs=1, optimizer=optimizer, momentum=0.9), shaper=Anew(at))
    never, begin, later = (model.state_dict() for model in networks)
    assert all(torch.equal(tensor, begin[name]) for name, tensor in never.items())
    assert any(not torch.equal(tensor, later[name]) for name, tensor in never.items())
