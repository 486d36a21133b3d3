from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur.reconstruction.least_squares import Fit, Moments, inverted, solved


def rows(count: int, columns: int, outputs: int, seed: int = 0, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(1, count, columns, generator=generator)
    weight = torch.randn(1, columns, outputs, generator=generator)
    return inputs, inputs @ weight + noise * torch.randn(1, count, outputs, generator=generator), weight


def test_what_can_be_explained_is_found() -> None:
    inputs, missing, weight = rows(400, 10, 3)
    fit = Fit()
    fit.add(inputs[:, :200], missing[:, :200], torch.arange(200))
    fit.add(inputs[:, 200:], missing[:, 200:], torch.arange(200))
    found = fit.solve()
    assert found is not None
    assert torch.allclose(found.change.float(), weight, atol=1e-4)
    assert found.after < 1e-6 * found.before


def test_noise_is_left_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    fit = Fit()
    fit.add(torch.randn(1, 60, 50, generator=generator), torch.randn(1, 60, 2, generator=generator), torch.arange(60))
    found = fit.solve()
    assert found is None or found.change.abs().max() < 0.2


def test_more_noise_makes_a_stronger_pull() -> None:
    pulls: list[float] = []
    for noise in (0.0, 5.0):
        inputs, missing, _ = rows(100, 40, 4, noise=noise)
        fit = Fit()
        fit.add(inputs, missing, torch.arange(100))
        found = fit.solve()
        assert found is not None
        pulls.append(found.pull)
    assert pulls[0] < pulls[1]


def test_images_are_held_out_whole() -> None:
    inputs, missing, _ = rows(100, 4, 2)
    fit = Fit()
    fit.add(inputs, missing, torch.arange(10).repeat_interleave(10))
    assert fit.held is not None
    assert fit.known is not None
    assert (fit.held.rows, fit.known.rows) == (20, 80)
    # images 0 and 5
    chosen = torch.cat([inputs[0, :10], inputs[0, 50:60]]).double()
    assert torch.allclose(fit.held.square[0], chosen.T @ chosen)


def test_weights_that_are_not_free_stay() -> None:
    inputs, missing, _ = rows(300, 12, 5, noise=0.1)
    moments = Moments.of(inputs, missing)
    free = torch.rand(1, 12, 5, generator=torch.Generator().manual_seed(3)) < 0.5
    found = solved(moments, 1e-3, free)
    assert found is not None
    assert not bool(found[~free].any())
    ridge = 1e-3 * moments.square[0].diagonal()
    for output in range(5):  # the exact solution on the support of each output
        own = torch.nonzero(free[0, :, output]).flatten()
        square = moments.square[0][own][:, own] + torch.diag(ridge[own])
        expected = torch.linalg.solve(square, moments.product[0, own, output])
        assert torch.allclose(found[0, own, output], expected, atol=1e-6)


def test_wide_problems_have_the_same_solution_in_the_space_of_the_rows() -> None:
    inputs, missing, _ = rows(30, 40, 3, noise=0.5)
    inputs[..., -1] *= 1e-2  # hardly active, and held back in both
    normal, dual = Fit(), Fit(most=30)
    for fit in (normal, dual):
        fit.add(inputs, missing, torch.arange(30))
    expected, found = normal.solve(), dual.solve()
    assert dual.inputs
    assert expected is not None
    assert found is not None
    assert found.pull == expected.pull
    assert torch.allclose(found.change, expected.change, atol=1e-3 * float(expected.change.abs().max()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_no_numbers_change_nothing(bad: float) -> None:
    inputs, missing, _ = rows(50, 4, 2)
    inputs[0, 7, 1] = bad
    fit = Fit()
    fit.add(inputs, missing, torch.arange(50))
    assert fit.solve() is None


def test_constant_and_repeated_inputs_are_no_obstacle() -> None:
    inputs, _, _ = rows(100, 3, 1)
    doubled = torch.cat([inputs, inputs, torch.zeros(1, 100, 1), torch.ones(1, 100, 2)], 2)
    fit = Fit()
    fit.add(doubled, doubled @ torch.ones(1, 9, 2), torch.arange(100))
    found = fit.solve()
    assert found is not None
    assert found.after < 1e-4 * found.before
    assert bool(found.change.isfinite().all())


def test_too_few_images_to_hold_any_out_change_nothing() -> None:
    inputs, missing, _ = rows(8, 3, 1)
    fit = Fit()
    fit.add(inputs, missing, torch.zeros(8, dtype=torch.long))
    assert fit.solve() is None


def test_a_matrix_that_rounding_has_left_without_an_inverse_is_raised_a_little() -> None:
    column = torch.randn(1, 6, 1, dtype=torch.float64)
    square = column @ column.transpose(1, 2)
    for singular in (square - 1e-9 * torch.eye(6), torch.zeros(1, 6, 6, dtype=torch.float64)):
        found = inverted(singular)
        assert bool(found.isfinite().all())
        assert float(torch.linalg.eigvalsh(found).min()) > 0
    sound = square + torch.eye(6)
    torch.testing.assert_close(inverted(sound) @ sound, torch.eye(6, dtype=torch.float64)[None])


def test_what_is_hardly_ever_active_gets_no_large_weights() -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 500, 3, generator=draw)
    inputs[..., 2] = 0
    inputs[:, 3:500:50, 2] = 0.01  # ten rows, none of them held out, whose noise it could take upon itself
    missing = 0.5 * inputs[..., :1] + 0.2 * torch.randn(1, 500, 1, generator=draw)
    fit = Fit()
    fit.add(inputs, missing, torch.arange(500))
    found = fit.solve()
    assert found is not None
    assert float(found.change[0, 0, 0]) == pytest.approx(0.5, abs=0.03)
    assert float(found.change[0, 2].abs()) < 2
