from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.reconstruction import elimination
from secateur.reconstruction.elimination import Reader, best_choices, eliminate


def problem(units: int, each: int, outputs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return ``X'X`` with a ridge, and weights."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(units * each, units * each, generator=generator, dtype=torch.float64)
    inputs = torch.randn(200, units * each, generator=generator, dtype=torch.float64) @ mixed
    square = inputs.T @ inputs
    square += 1e-3 * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    return square, torch.randn(units * each, outputs, generator=generator, dtype=torch.float64)


def reader(square: Tensor, weight: Tensor, scale: float = 1.0) -> Reader:
    return Reader(torch.linalg.inv(square), weight.clone(), scale)


def risen(square: Tensor, weight: Tensor, gone: tuple[int, ...], each: int) -> float:
    """Return by how much the quadratic error rises when the rest is solved anew without some units."""
    columns = torch.tensor([unit * each + tap for unit in gone for tap in range(each)], dtype=torch.long)
    left = torch.tensor([place for place in range(len(square)) if place not in set(columns.tolist())], dtype=torch.long)
    best = torch.zeros_like(weight)
    best[left] = torch.linalg.solve(square[left][:, left], (square @ weight)[left])
    change = best - weight
    return float((change * (square @ change)).sum())


@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_predicted_loss_is_that_of_solving_anew(units: int, each: int, outputs: int, seed: int) -> None:
    square, weight = problem(units, each, outputs, seed)
    gone, errors = eliminate([reader(square, weight)], units)
    assert errors == sorted(errors)
    for some in range(units):
        expected = risen(square, weight, tuple(gone[:some]), each)
        assert errors[some] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(st.integers(2, 8), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_the_choice_is_that_of_brute_force(units: int, each: int, seed: int) -> None:
    square, weight = problem(units, each, 2, seed)
    choices, errors = best_choices([reader(square, weight)], units)
    for some in range(1, units):
        tried = {gone: risen(square, weight, gone, each) for gone in combinations(range(units), some)}
        assert tried[choices[some]] == pytest.approx(min(tried.values()), rel=1e-6)
        assert errors[some] == pytest.approx(min(tried.values()), rel=1e-6)


def test_every_step_takes_the_unit_that_solving_anew_misses_least() -> None:
    square, weight = problem(12, 3, 4, 5)
    gone, _ = eliminate([reader(square, weight)], 12)
    for some in range(11):
        before = tuple(gone[:some])
        tried = {u: risen(square, weight, (*before, u), 3) for u in range(12) if u not in before}
        assert gone[some] == min(tried, key=lambda unit: tried[unit])


def test_losses_of_readers_are_added_up_by_their_scales() -> None:
    one, two = problem(5, 2, 3, 1), problem(5, 1, 4, 2)
    gone, errors = eliminate([reader(*one, 2.0), reader(*two, 0.5)], 5)
    first = tuple(gone[:3])
    assert errors[3] == pytest.approx(risen(*one, first, 2) / 2 + risen(*two, first, 1) / 0.5)


def whole(some: Reader, units: int) -> Reader:
    """Return a reader of a few units as one of all, of which the others touch nothing."""
    assert some.units is not None
    each = len(some.inverse) // len(some.units)
    places = (some.units[:, None] * each + torch.arange(each)).flatten()
    inverse = torch.eye(units * each, dtype=torch.float64)
    inverse[places[:, None], places] = some.inverse
    weight = torch.zeros(units * each, some.weight.shape[1], dtype=torch.float64)
    weight[places] = some.weight
    return Reader(inverse, weight, some.scale)


@pytest.mark.parametrize("order", [None, (3, 6, 0, 5)])
def test_readers_of_a_few_units_cost_what_readers_of_all_of_them_do(order: tuple[int, ...] | None) -> None:
    parts = [torch.tensor(it) for it in ([0, 3], [1, 2, 6], [5], [0, 1, 2, 3, 4, 5, 6])]

    def made() -> list[Reader]:
        found = [reader(*problem(len(part), 2, 3, seed), 1.0 + seed) for seed, part in enumerate(parts)]
        return [Reader(it.inverse, it.weight, it.scale, part) for it, part in zip(found, parts, strict=True)]

    gone, errors = eliminate(made(), 7, order=order)
    expected, wanted = eliminate([whole(it, 7) for it in made()], 7, order=order)
    assert gone == expected
    assert errors == pytest.approx(wanted)
    assert best_choices(made(), 7)[0] == best_choices([whole(it, 7) for it in made()], 7)[0]


def test_an_order_is_followed_and_its_errors_are_those_of_solving_anew() -> None:
    square, weight = problem(6, 2, 3, 3)
    gone, errors = eliminate([reader(square, weight)], 6, order=[4, 1, 5])
    assert gone == [4, 1, 5]
    assert errors[3] == pytest.approx(risen(square, weight, (1, 4, 5), 2))


def test_large_groups_lose_several_units_at_once_at_their_true_price(monkeypatch: pytest.MonkeyPatch) -> None:
    square, weight = problem(160, 1, 2, 7)
    monkeypatch.setattr(elimination, "_STEPS", 80)
    gone, errors = eliminate([reader(square, weight)], 160)
    assert len(set(gone)) == 159
    assert errors[2] == pytest.approx(risen(square, weight, tuple(gone[:2]), 1))
    assert errors[-1] == pytest.approx(risen(square, weight, tuple(gone), 1))
