"""Part after part grows and is pruned: what each turn begins with, in one network and in copies of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.core.zeros.growing_parts import GrowingParts, Turns, owners
from secateur.core.zeros.masks import Masks
from secateur.core.zeros.schedules import Cycle
from secateur.core.zeros.shaper import Moment

COUNTS = {"0.weight": 2, "2.weight": 3}


def two() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.ReLU())
    with torch.no_grad():
        made[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        made[2].weight.copy_(torch.tensor([[8.0, 7.0], [6.0, 5.0]]))
        made[0].bias.zero_()
        made[2].bias.zero_()
    return made


def courses(turns: Turns, rounds: int = 1, *, resume: int = -1) -> tuple[list[Mapping[str, Tensor]], list[int]]:
    """Add the number of the step to all that is in play, and return what each turn began with, and the restarts.

    Args:
        turns: cyclic or parallel.
        rounds: how many there are, of two steps and two more.
        resume: before which step another shaper and network take over.
    """
    model, restarts, seen = two(), [], []
    growing = GrowingParts(
        model, masks := Masks(model, COUNTS), COUNTS, {"0.weight": 0, "2.weight": 1}, Cycle(2, rounds), turns
    )
    steps = 2 * rounds + 2
    for step in range(steps):
        if step == resume:
            model_before, before = model, growing
            model = two()
            model.load_state_dict(model_before.state_dict())
            growing = GrowingParts(
                model, masks := Masks(model, COUNTS), COUNTS, {"0.weight": 0, "2.weight": 1}, Cycle(2, rounds), turns
            )
            growing.load_state_dict({name: tensor.clone() for name, tensor in before.state_dict().items()})
        growing.before_batch(Moment(step, steps, torch.Generator(), lambda: restarts.append(step)))  # noqa: B023
        seen.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.add_(10.0 * (step + 1))
            growing.after_step(step)
            for name, part in (("0.weight", 0), ("2.weight", 1)):
                assert int((~masks.keep(name)).sum()) == (0 if step < 2 * rounds and step % 2 == part else COUNTS[name])
            assert all(bool((masks.tensor(name)[~masks.keep(name)] == 0).all()) for name in COUNTS)
    growing.finish()
    seen.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
    return seen, restarts


def weights(state: Mapping[str, Tensor], layer: int) -> list[float]:
    return state[f"{layer}.weight"].flatten().tolist()


def test_in_one_network_each_turn_begins_with_what_the_one_before_has_left() -> None:
    seen, restarts = courses("cyclic")
    assert weights(seen[0], 0) == [1.0, 2.0, 3.0, 4.0]
    assert weights(seen[0], 2) == [8.0, 0.0, 0.0, 0.0]
    assert weights(seen[1], 0) == [0.0, 0.0, 13.0, 14.0]
    assert weights(seen[1], 2) == [18.0, 0.0, 0.0, 0.0]  # dense again, from zero
    assert weights(seen[2], 0) == [0.0, 0.0, 33.0, 34.0]
    assert weights(seen[2], 2) == [38.0, 0.0, 0.0, 0.0]  # the others had grown to 20
    assert weights(seen[3], 2) == [68.0, 0.0, 0.0, 0.0]
    assert weights(seen[4], 2) == [108.0, 0.0, 0.0, 0.0]
    assert restarts == [0, 1, 2]


def test_copies_begin_with_the_same_network_and_each_gives_its_part() -> None:
    seen, restarts = courses("parallel")
    assert weights(seen[0], 0) == [1.0, 2.0, 3.0, 4.0]
    assert weights(seen[0], 2) == [8.0, 0.0, 0.0, 0.0]
    assert weights(seen[1], 0) == [0.0, 0.0, 3.0, 4.0]
    assert weights(seen[1], 2) == [8.0, 7.0, 6.0, 5.0]
    assert seen[1]["0.bias"].tolist() == seen[1]["1.bias"].tolist() == [0.0, 0.0]
    assert weights(seen[2], 0) == [0.0, 0.0, 13.0, 14.0]  # of the first copy, which took one step
    assert weights(seen[2], 2) == [28.0, 0.0, 0.0, 0.0]  # of the second, which took the other
    assert seen[2]["0.bias"].tolist() == seen[2]["1.bias"].tolist() == [10.0, 10.0]
    assert seen[2]["2.bias"].tolist() == [20.0, 20.0]
    assert restarts == [0, 1, 2]


def test_a_kill_inside_any_turn_changes_nothing() -> None:
    turns: tuple[Turns, ...] = ("cyclic", "parallel")
    for kind in turns:
        whole, _ = courses(kind, 2)
        for step in range(1, 6):
            again, _ = courses(kind, 2, resume=step)
            for one, other in zip(whole, again, strict=True):
                assert all(torch.equal(tensor, other[name]) for name, tensor in one.items()), (kind, step)


def test_tensors_belong_to_the_part_of_the_weight_before_them() -> None:
    made = two()
    tensors = dict(made.state_dict(keep_vars=True))
    assert owners(tensors, {id(made[2].weight): 1}) == dict.fromkeys(tensors, 1)
    found = owners(tensors, {id(made[0].weight): 0, id(made[2].weight): 1})
    assert {name for name, part in found.items() if part} == {"2.weight", "2.bias"}
