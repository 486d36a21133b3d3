"""Modules are alike only where their code cannot tell them apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, rewriting
from secateur.core.surgery.module_fingerprint import fingerprint
from secateur.core.trace import trace


class Block(nn.Module):
    """Attention of its own, whose head width is a number in it."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.heads, self.width = 4, 4
        self.read, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        for name, value in more.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.read(x).reshape(len(x), -1, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        x = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(len(x), -1, 16))


def test_values_of_weights_do_not_matter() -> None:
    assert fingerprint(Block()) == fingerprint(Block()) is not None


def _named(block: Block) -> None:
    block.out = nn.Linear(16, 16, bias=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda block: setattr(block, "heads", 2),
        lambda block: setattr(block, "flag", True),
        lambda block: setattr(block.read, "in_features", 15),
        lambda block: setattr(block, "act", torch.relu),
        lambda block: setattr(block, "limits", [1, (2, None)]),
        lambda block: setattr(block, "mode", {"a": 1}),
        lambda block: block.train(False),
        _named,
    ],
)
def test_what_code_can_see_makes_a_difference(change: Callable[[Block], object]) -> None:
    block = Block()
    change(block)
    assert fingerprint(block) not in (None, fingerprint(Block()))


@pytest.mark.parametrize("held", [object(), partial(torch.relu), torch.ones(2), {1, 2}])
def test_what_cannot_be_compared_is_like_nothing(held: Any) -> None:
    assert fingerprint(Block(held=held)) is None


def buffered(value: Tensor) -> Block:
    block = Block()
    block.register_buffer("scale", value)
    return block


def test_values_of_own_buffers_are_compared_where_they_are_few() -> None:
    one = fingerprint(buffered(torch.ones(2, 2)))
    assert one == fingerprint(buffered(torch.ones(2, 2).t())) is not None
    assert one != fingerprint(buffered(torch.zeros(2, 2)))
    assert fingerprint(buffered(torch.tensor(True))) not in (None, fingerprint(buffered(torch.tensor(False))))
    assert fingerprint(buffered(torch.ones(70_000))) is None


def test_blocks_that_are_alike_get_the_sizes_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 16), *(Block() for _ in range(4))).eval(), torch.randn(2, 5, 3)
    graph = trace(net, x)
    plan = Plan(tuple(DropUnits(group.name, (0,)) for group in graph.free if "read" in group.name))
    assert len(plan.edits) == 4
    counted: list[nn.Module] = []
    found = rewriting.recorded

    def counting(module: nn.Module) -> Any:
        counted.append(module)
        return found(module)

    monkeypatch.setattr(rewriting, "recorded", counting)
    thin = apply(net, graph, plan)
    assert len(counted) == 1
    assert thin(x).shape == (2, 5, 16)
    blocks = [part for part in thin.children() if isinstance(part, Block)]
    assert [block.out.in_features for block in blocks] == [12] * 4
