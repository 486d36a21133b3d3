"""Whatever an optimizer keeps, and wherever it keeps it, goes on with the thin network, or is refused as it was."""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nets import Head, conv, lived_in
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, migrate_optimizer, optimizers_in
from secateur.core.trace import trace
from secateur.errors import ModelError

PLAN = Plan((DropUnits("0.0", (1, 4, 5)), DropUnits("1.0", (0, 3))))
ROWS, COLUMNS = [1, 2, 4, 5], [0, 2, 3, 6, 7]


def network() -> nn.Module:
    return lived_in(nn.Sequential(conv(3, 8), conv(8, 6), Head(6))).train()


def images(seed: int) -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def loss_of(net: nn.Module, seed: int) -> torch.Tensor:
    return net(images(seed)).square().mean()


def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    loss_of(net, seed).backward()
    optimizer.step()


def cut(net: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
    graph = trace(net, images(9))
    thin = apply(net, graph, PLAN)
    migrate_optimizer(optimizer, net, thin, graph, PLAN)
    return thin


class Sharpness(torch.optim.Optimizer):
    """Wraps another by an attribute of its own, with the groups of that one, and keeps something itself."""

    def __init__(self, params: Any, base: Callable[[Any], torch.optim.Optimizer]) -> None:
        super().__init__(params, {})
        self.base_optimizer = base(self.param_groups)
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["old"] = parameter.detach().clone()
        self.base_optimizer.step()


class Several(torch.optim.Optimizer):
    """Keeps one optimizer for each kind of parameter in a list, and itself nothing."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__(params, {})
        kinds = [p for p in params if p.dim() > 1], [p for p in params if p.dim() <= 1]
        self.parts = [torch.optim.SGD(kind, 0.05, momentum=0.9) for kind in kinds]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()


WRAPPED: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "one": lambda params: Sharpness(params, lambda groups: torch.optim.SGD(groups, 0.05, momentum=0.9)),
    "several": Several,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_optimizers_go_on_as_they_would_alone(name: str) -> None:
    net = network()
    other = copy.deepcopy(net)
    wrapping = WRAPPED[name](list(net.parameters()))
    plain = torch.optim.SGD(other.parameters(), 0.05, momentum=0.9)
    for seed in range(2):
        step(net, wrapping, seed)
        step(other, plain, seed)
    thin, alone = cut(net, wrapping), cut(other, plain)
    for seed in range(2, 4):
        step(thin, wrapping, seed)
        step(alone, plain, seed)
    assert all(torch.equal(a, b) for a, b in zip(thin.parameters(), alone.parameters(), strict=True))


def test_optimizers_are_found_without_running_properties() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.table = {"a": torch.optim.SGD(network().parameters(), 0.1)}
            self.scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.Adam(network().parameters()), 1)
            self.itself = self

        @property
        def costly(self) -> object:
            raise AssertionError("nobody asked for it")

    trainer = Trainer()
    assert {id(each) for each in optimizers_in(trainer)} == {
        id(trainer.table["a"]),
        id(trainer.scheduler.optimizer),
    }
    assert optimizers_in("adam") == []


def with_closure(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(net, 1)
        loss.backward()
        return loss.item()

    optimizer.step(closure)


def test_an_optimizer_with_its_own_list_of_parameters_trains_the_thin_network() -> None:
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=2)
    thin = cut(net, optimizer)
    fresh = copy.deepcopy(thin)
    before = copy.deepcopy(thin)
    with_closure(thin, optimizer)
    with_closure(fresh, torch.optim.LBFGS(fresh.parameters(), lr=0.1, max_iter=2))
    assert not torch.equal(before[0][0].weight, thin[0][0].weight)
    assert all(torch.equal(a, b) for a, b in zip(thin.parameters(), fresh.parameters(), strict=True))
    with_closure(net, once := torch.optim.LBFGS(net.parameters(), max_iter=2))
    with pytest.raises(ModelError, match="cannot be made thinner with it; make a new optimizer"):
        cut(net, once)  # what it keeps by now is one long line of numbers


class Keeping(torch.optim.Optimizer):
    """Keeps what a test puts into its state, and parameters in attributes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net.parameters(), {})
        self.second = net[1][0].weight  # (6, 8, 3, 3)
        self.by_parameter = {self.second: self.second.detach() * 2}


@pytest.mark.parametrize(
    "around",
    [
        lambda moment: [moment, moment, 3],
        lambda moment: (moment, None),
        lambda moment: deque([moment], maxlen=2),
        lambda moment: defaultdict(list, {"a": {"b": moment}}),
    ],
)
def test_moments_in_lists_and_tables_lose_what_the_weights_lose(around: Callable[[torch.Tensor], Any]) -> None:
    net = network()
    optimizer = Keeping(net)
    dense = optimizer.second
    optimizer.state[dense]["history"] = around(dense.detach().clone())
    thin = cut(net, optimizer)
    left = dict(thin.named_parameters())["1.0.weight"]
    kept = optimizer.state[left]["history"]
    expected = around(dense.detach()[ROWS][:, COLUMNS])
    assert type(kept) is type(expected)
    assert str(kept) == str(expected)
    assert optimizer.second is left
    assert torch.equal(optimizer.by_parameter[left], dense[ROWS][:, COLUMNS] * 2)


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (lambda o, p: o.state[p].update(Q=[torch.eye(6), torch.eye(8)]), r"'Q' of shape \(6, 6\) for '1.0.weight'"),
        (lambda o, p: o.state[p].update(a={"b": [torch.ones(6, 1, 1, 1)]}), r"'a' of shape \(6, 1, 1, 1\) for"),
        (lambda o, p: o.state[p].update(a=torch.ones(6).numpy()), r"'a' of shape \(6,\) for '1.0.weight'"),
        (lambda o, p: o.state[p].update(row=torch.ones(6, 1, 3, 3)), "'row' .* depend on how wide a weight is"),
        (lambda o, p: o.state.update(all={"d": torch.ones(9)}), r"'all' of shape \(9,\) for several weights together"),
        (lambda o, p: o.param_groups[0].update(buffer=torch.ones(2, 9)), "'buffer' .* for several weights together"),
    ],
)
def test_what_does_not_follow_the_shape_of_a_weight_is_refused(put: Callable[..., None], said: str) -> None:
    net = network()
    optimizer = Keeping(net)
    put(optimizer, optimizer.second)
    held, state = list(optimizer.param_groups[0]["params"]), dict(optimizer.state)
    with pytest.raises(ModelError, match=f"{said}.*make a new optimizer"):
        cut(net, optimizer)
    assert all(a is b for a, b in zip(held, optimizer.param_groups[0]["params"], strict=True))
    assert optimizer.state == state
    assert list(optimizer.by_parameter) == [optimizer.second]


def test_what_is_kept_for_the_whole_training_stays() -> None:
    net = network()
    optimizer = Keeping(net)
    optimizer.state["steps"] = {"count": 3, "rate": torch.tensor(0.5)}
    optimizer.param_groups[0]["rates"] = [torch.ones(1), 0.1]
    cut(net, optimizer)
    assert optimizer.state["steps"] == {"count": 3, "rate": torch.tensor(0.5)}
    assert optimizer.param_groups[0]["rates"] == [torch.ones(1), 0.1]
