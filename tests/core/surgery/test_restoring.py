"""Networks that set themselves up in their first run: as new afterwards, and what is left of them does the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, run, verify
from secateur.core.surgery.untouched import untouched
from secateur.core.trace import trace
from secateur.errors import ModelError

HOOKS = {
    "forward": lambda module, hear: module.register_forward_hook(hear),
    "forward with keywords": lambda module, hear: module.register_forward_hook(hear, with_kwargs=True),
    "always": lambda module, hear: module.register_forward_hook(hear, always_call=True),
    "before": lambda module, hear: module.register_forward_pre_hook(hear),
    "before with keywords": lambda module, hear: module.register_forward_pre_hook(hear, with_kwargs=True),
    "backward": lambda module, hear: module.register_full_backward_hook(hear),
    "before backward": lambda module, hear: module.register_full_backward_pre_hook(hear),
    "state": lambda module, hear: module.register_state_dict_pre_hook(hear),
    "after state": lambda module, hear: module._register_state_dict_hook(hear),
    "loading": lambda module, hear: module.register_load_state_dict_pre_hook(hear),
    "loaded": lambda module, hear: module.register_load_state_dict_post_hook(hear),
}


class Helper:
    """No module, but part of one."""

    def scale(self, x: Tensor) -> Tensor:
        return x + 1


SEEN: list[Tensor] = []  # what hooks have heard in the run that goes on


def collect(module: nn.Module, inputs: Any, output: Tensor) -> None:
    SEEN.append(output)


class SetUp(nn.Module):
    """Collects what its layers give with hooks that it puts on when it first runs, as some libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head, self.ready = nn.Linear(3, 8), nn.Linear(8, 2), False
        self.helper = {"one": [Helper()]}
        self.tables: OrderedDict[str, list[int]] = OrderedDict(calls=[])

    def set_up(self) -> None:
        self.wide.register_forward_hook(collect)
        before = self.helper["one"][0].scale
        setattr(self.helper["one"][0], "scale", lambda x: 2 * before(x))  # noqa: B010 - of one object alone
        self.tables["calls"].append(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.ready:
            self.set_up()
            self.ready = True
        SEEN.clear()
        y = self.head(self.helper["one"][0].scale(self.wide(x)).relu())
        self.kept = [{"last": y}]  # of which torch copies nothing
        return y, torch.full((1,), float(len(SEEN)))


def hooks(net: nn.Module) -> dict[str, list[int]]:
    return {
        f"{name}.{kind}": list(table)
        for name, module in net.named_modules()
        for kind, table in vars(module).items()
        if kind.endswith("hooks") and table
    }


@pytest.mark.parametrize("ran", [False, True])
def test_a_network_that_puts_hooks_on_when_it_first_runs(ran: bool) -> None:
    net, x = SetUp().eval(), torch.ones(2, 3)
    expected = [part.clone() for part in run(net, x)]
    if ran:
        net(x)
    before = hooks(net)
    graph = trace(net, x)
    assert hooks(net) == before
    assert net.ready is ran
    assert len(net.tables["calls"]) == int(ran)
    thin = apply(net, graph, Plan())
    assert hooks(thin).keys() == before.keys()
    for each in (net, thin):
        assert all(torch.equal(a, b) for a, b in zip(each(x), expected, strict=True))
        assert [len(ids) for ids in hooks(each).values()] == [1]


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_of_all_kinds_are_taken_off_and_put_on_again(kind: str) -> None:
    put_on: Callable[[nn.Module, Any], Any] = HOOKS[kind]
    net = nn.Sequential(nn.Linear(3, 3))
    first, second = (put_on(net[0], lambda *args, **named: None) for _ in range(2))
    before = hooks(net)
    with untouched(net):
        first.remove()
        put_on(net[0], lambda *args, **named: None)
        put_on(net, lambda *args, **named: None)
    assert hooks(net) == before
    second.remove()
    first.remove()
    assert not hooks(net)


def test_what_is_cut_of_it_works_as_if_it_had_run_first() -> None:
    net, x = SetUp().eval(), torch.ones(2, 3)
    graph = trace(net, x)
    plan = Plan((DropUnits("wide", (0, 1)),))
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, x).exact
    assert float(thin(x)[1]) == float(net(x)[1]) == 1


def test_layers_that_are_built_in_the_first_run_are_asked_for() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Linear(3, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.wide(x).relu()
            if not hasattr(self, "head"):
                self.head = nn.Linear(x.shape[1], 2)
            return self.head(x)

    net, x = Late().eval(), torch.ones(2, 3)
    with pytest.raises(ModelError, match=r"Late builds 'head.weight' in its first run: run the network on an input"):
        trace(net, x)
    assert not hasattr(net, "head")
    net(x)
    assert [group.name for group in trace(net, x).groups] == ["wide"]


def test_what_is_cached_or_registered_in_the_first_run_has_the_width_of_the_thin_network() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
            self.config: dict[str, dict[str, Tensor]] = {"cache": {}}

        def forward(self, x: Tensor) -> Tensor:
            x = self.wide(x)
            if not hasattr(self, "ones"):
                self.register_buffer("ones", torch.ones_like(x[0]))
                self.config["cache"]["ones"] = torch.ones_like(x[0])
            return self.head(x * self.ones + self.config["cache"]["ones"])

    net, x = Caching().eval(), torch.ones(2, 3)
    graph = trace(net, x)
    plan = Plan((DropUnits("wide", (0, 1)),))
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, x).exact
    assert not net.config["cache"]
    assert thin(x).shape == (2, 2)
    assert thin.config["cache"]["ones"].shape == (6,)
