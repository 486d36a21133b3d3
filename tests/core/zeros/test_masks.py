"""Who is the smallest, and what is out of play while a network trains."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.core.zeros.masks import Masks, smallest


def test_of_equal_values_the_first_go() -> None:
    values = torch.tensor([[2.0, 1.0, 1.0], [0.5, 1.0, 3.0]])
    assert smallest(values, 3).int().tolist() == [[1, 0, 0], [0, 1, 1]]
    assert bool(smallest(values, 0).all())
    assert not bool(smallest(values, 6).any())


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=20), share=st.floats(0, 1))
def test_exactly_so_many_go_and_none_that_is_larger(values: list[int], share: float) -> None:
    count = int(share * len(values))
    for kind in (torch.float32, torch.bfloat16, torch.float64):
        given = torch.tensor(values).to(kind)
        keep = smallest(given, count)
        assert int((~keep).sum()) == count
        if 0 < count < len(values):
            assert given[~keep].max() <= given[keep].min()


def layer() -> nn.Linear:
    made = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, -4.0]]))
    return made


KEEP = torch.tensor([[False, True, False, True]])


@pytest.mark.parametrize("remember", [False, True])
def test_what_is_out_of_play_is_zero_and_gets_no_gradient(remember: bool) -> None:
    made = layer()
    masks = Masks(made, ["weight"], remember=remember)
    rule = torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9)
    with masks.attached():
        made(torch.ones(1, 4)).sum().backward()
        assert made.weight.grad is not None
        assert made.weight.grad.tolist() == [[1.0, 1.0, 1.0, 1.0]]
        rule.step()
        rule.zero_grad()
        masks.put({"weight": KEEP})
        assert made.weight.flatten().tolist() == pytest.approx([0.0, -2.1, 0.0, -4.1])
        made(torch.ones(1, 4)).sum().backward()
        assert made.weight.grad.tolist() == [[0.0, 1.0, 0.0, 1.0]]
        rule.step()  # what the optimizer remembers moves weights out of play too
        assert bool(made.weight[0, 0] != 0)
        masks.hold()
        assert made.weight.flatten().tolist() == pytest.approx([0.0, -2.29, 0.0, -4.29])
    made.zero_grad()
    made(torch.ones(1, 4)).sum().backward()
    assert made.weight.grad is not None
    assert made.weight.grad.tolist() == [[1.0, 1.0, 1.0, 1.0]]
    assert not made.weight._backward_hooks


def test_weights_come_back_at_zero_or_as_they_were() -> None:
    for remember, expected in ((False, [0.0, -2.0, 0.0, -4.0]), (True, [1.0, -2.0, 3.0, -4.0])):
        made = layer()
        masks = Masks(made, ["weight"], remember=remember)
        masks.put({"weight": KEEP})
        masks.hold()
        assert masks.sizes("weight").flatten().tolist() == [abs(value) for value in expected]
        masks.put({"weight": torch.ones_like(KEEP)})
        assert made.weight.flatten().tolist() == expected


def test_weights_that_do_not_train_can_go_too() -> None:
    made = layer().requires_grad_(False)
    masks = Masks(made, ["weight"])
    with masks.attached():
        masks.put({"weight": KEEP})
    assert made.weight.flatten().tolist() == [0.0, -2.0, 0.0, -4.0]


def test_masks_and_what_is_aside_survive() -> None:
    one, other = layer(), layer()
    masks, again = Masks(one, ["weight"], remember=True), Masks(other, ["weight"], remember=True)
    masks.put({"weight": KEEP})
    other.load_state_dict(one.state_dict())
    again.load_state_dict(masks.state_dict())
    assert torch.equal(again.keep("weight"), KEEP)
    again.put({"weight": torch.ones_like(KEEP)})
    assert torch.equal(other.weight, layer().weight)
