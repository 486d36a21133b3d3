"""The noise has the moments, the gradient and the meaning that the papers give it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from secateur.core.zeros.parametrization import original, refuse_parametrized
from secateur.core.zeros.perturbation import (
    EPS,
    OfInputs,
    OfWeights,
    OfWeightsPerExample,
    Perturbation,
    draw,
    spread,
    weakest,
)
from secateur.errors import SettingError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_noise_takes_two_values_with_mean_zero_and_the_variance_of_the_paper(p: float) -> None:
    noise = draw((400_000,), p, generator())
    low, high = noise.unique().tolist()
    assert low == -1.0
    assert high == pytest.approx(p / (1 - p), rel=1e-5)
    variance = p / (1 - p)
    assert float(noise.mean()) == pytest.approx(0.0, abs=5 * (variance / len(noise)) ** 0.5)
    assert float(noise.var()) == pytest.approx(variance, rel=0.02)


@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.0])
def test_moments_of_a_perturbed_weight(q: float) -> None:
    """Mean W, variance p / (1 - p) |W|^q, weight by weight."""
    row, p, draws = torch.tensor([-1.5, -0.4, -0.01, 0.0, 0.02, 0.3, 1.0, 2.0]), 0.3, 40_000
    layer, part = linear(row.repeat(draws, 1)), OfWeights(q, 1.0)
    with part.attached(layer), torch.no_grad():
        part.draw(layer, p, generator(1))
        samples = layer.weight.double()
    variance = p / (1 - p) * (row.double().abs() + EPS) ** q
    assert bool(((samples.mean(0) - row).abs() <= 5 * (variance / draws).sqrt()).all())
    assert torch.allclose(samples.var(0), variance, rtol=0.05)


def test_golden_numbers() -> None:
    """Worked out by hand from w + |w|^(q/2) (r / (1 - p) - 1) with r = (0, 1, 1, 0) and p = 1/2."""
    layer, part = linear(torch.tensor([[-4.0, -1.0, 0.25, 9.0]])), OfWeights(1.0, 1.0)
    with part.attached(layer):
        layer.parametrizations["weight"][0].noise = torch.tensor([[-1.0, 1.0, 1.0, -1.0]])
        assert torch.allclose(layer.weight, torch.tensor([[-6.0, 0.0, 0.75, 6.0]]))
    layer, part = linear(torch.tensor([[-4.0, 2.0]])), OfWeights(2.0, 1.0)
    with part.attached(layer):  # q = 2 is not DropConnect: a negative weight doubles where it would be dropped
        layer.parametrizations["weight"][0].noise = torch.tensor([[-1.0, -1.0]])
        assert torch.allclose(layer.weight, torch.tensor([[-8.0, 0.0]]))
    layer, part = linear(torch.tensor([[-4.0, 2.0]])), OfWeights(None, 1.0)
    with part.attached(layer):
        layer.parametrizations["weight"][0].noise = torch.tensor([[-1.0, 3.0]])
        assert torch.equal(layer.weight, torch.tensor([[0.0, 8.0]]))


def test_the_draw_is_that_of_the_generator() -> None:
    """The numbers may change with torch; what may not is that the generator alone decides."""
    one, two = draw((5, 3), 0.4, generator(3)), draw((5, 3), 0.4, generator(3))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(one, two)
    assert not torch.equal(one, draw((5, 3), 0.4, generator(4)))
    torch.set_rng_state(state)
    rng = generator(3)
    assert not torch.equal(draw((50,), 0.4, rng), draw((50,), 0.4, rng))


@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.0, None])
def test_gradient_against_finite_differences(q: float | None) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 4, 3, 3, dtype=torch.float64).requires_grad_()
    noise = draw(weight.shape, 0.3, generator()).double()
    assert torch.autograd.gradcheck(lambda w: w + spread(w, q) * noise, (weight,))


@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.0])
def test_gradient_against_the_formula(q: float) -> None:
    """1 + q/2 (|w| + eps)^(q/2 - 1) sign(w) noise; 1 at zero, where the naive power has no gradient."""
    weight = torch.tensor([[-2.0, -1e-3, 0.0, 1e-3, 0.5]])
    layer, part = linear(weight), OfWeights(q, 1.0)
    noise = torch.tensor([[0.4, -1.0, -1.0, 0.4, -1.0]])
    with part.attached(layer):
        layer.parametrizations["weight"][0].noise = noise
        layer.weight.sum().backward()
        grad = original(layer).grad
    assert grad is not None
    expected = 1 + q / 2 * (weight.abs() + EPS) ** (q / 2 - 1) * weight.sign() * noise
    assert torch.allclose(grad, expected, rtol=1e-5)
    assert float(grad[0, 2]) == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("q", [0.5, 1.0])
def test_zeros_in_half_precision_have_a_gradient_too(dtype: torch.dtype, q: float) -> None:
    weight = torch.tensor([0.0, 1e-7, -0.5], dtype=dtype).requires_grad_()
    (spread(weight, q) * torch.tensor([-1.0, 0.5, 0.5])).sum().backward()
    assert weight.grad is not None
    assert bool(torch.isfinite(weight.grad).all())
    assert float(weight.grad[0]) == 0.0


@pytest.mark.parametrize("q", [1.0, 1.5, 2.0])
def test_the_expected_loss_of_a_linear_model_is_the_loss_plus_the_penalty(q: float) -> None:
    """Mean over all 2^n draws, with their probabilities: exact, no sampling."""
    torch.manual_seed(0)
    p, weight = 0.3, torch.randn(1, 6, dtype=torch.float64)
    x, y = torch.randn(9, 6, dtype=torch.float64), torch.randn(9, 1, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for kept in torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6):
        chance = ((1 - p) * kept + p * (1 - kept)).prod()
        noisy = weight + spread(weight, q) * (kept / (1 - p) - 1)
        expected += chance * (x @ noisy.T - y).square().sum()
    loss = (x @ weight.T - y).square().sum()
    penalty = p / (1 - p) * (x.square().sum(0) * weight[0].abs() ** q).sum()
    assert float(expected) == pytest.approx(float(loss + penalty), rel=1e-9)


def test_the_weakest_are_those_strictly_below_the_place() -> None:
    values = torch.tensor([[4.0, 1.0, 3.0, 2.0], [1.0, 1.0, 1.0, 5.0]])
    assert weakest(values, 0.75).tolist() == [[False, True, True, True], [True, True, True, False]]
    assert weakest(values, 0.5).tolist() == [[False, True, False, True], [False, False, False, False]]  # ties stay
    assert not weakest(values, 0.1).any()
    assert weakest(values, 1.0).all()


def test_kernels_are_weak_within_their_own_filter() -> None:
    weight = torch.ones(2, 3, 2, 2)
    weight[0, 1], weight[0, 2], weight[1] = 5.0, 9.0, 100.0
    weight[1, 2] = 0.5
    mask = weakest(weight, 0.34)
    assert mask.shape == (2, 3, 1, 1)
    assert mask.flatten(1).tolist() == [[True, False, False], [False, False, True]]


@settings(max_examples=40, deadline=None)
@given(parts=st.integers(1, 12), fraction=st.floats(0.01, 1.0), seed=st.integers(0, 9))
def test_so_many_are_weak(parts: int, fraction: float, seed: int) -> None:
    values = torch.rand(4, parts, 3, 3, generator=generator(seed))
    assert weakest(values, fraction).flatten(1).sum(1).tolist() == [int(parts * fraction)] * 4


@pytest.mark.parametrize("kind", [OfWeights, OfWeightsPerExample, OfInputs])
def test_evaluation_is_without_noise_and_nothing_is_left(kind: type[Perturbation]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=1)
    before, x = copy.deepcopy(layer), torch.randn(2, 3, 5, 5)
    parameters = dict(layer.named_parameters())
    part = kind(1.5, 1.0)
    with part.attached(layer):
        assert torch.equal(layer(x), before(x))  # nothing was drawn yet
        part.draw(layer, 0.5, generator())
        assert not torch.allclose(layer(x), before(x))
        layer.eval()
        assert torch.equal(layer(x), before(x))
        layer.train()
    assert type(layer) is nn.Conv2d
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert all(parameter is parameters[name] for name, parameter in layer.named_parameters())
    assert list(vars(layer)) == list(vars(before))
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
    assert torch.equal(layer(x), before(x))


@pytest.mark.parametrize("kind", [OfWeights, OfWeightsPerExample, OfInputs])
def test_an_error_inside_leaves_nothing_either(kind: type[Perturbation]) -> None:
    layer = nn.Linear(3, 2)
    with pytest.raises(ZeroDivisionError), kind(1.0, 1.0).attached(layer):
        raise ZeroDivisionError
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert not parametrize.is_parametrized(layer)
    assert not layer._forward_hooks


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        nn.Linear(7, 5),
    ],
    ids=["conv", "groups", "depthwise", "circular", "linear"],
)
def test_every_example_meets_its_own_noise(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 7, 7)
    part = OfWeightsPerExample(1.0, 1.0)
    with part.attached(layer):
        part.draw(layer, 0.5, generator(5))
        found = layer(x)
    noise = draw((3, *layer.weight.shape), 0.5, generator(5))
    for example in range(3):
        alone = copy.deepcopy(layer)
        with torch.no_grad():
            alone.weight += spread(alone.weight, 1.0) * noise[example]
        assert torch.allclose(found[example], alone(x[example : example + 1])[0], atol=1e-5)
    assert not torch.allclose(noise[0], noise[1])


def test_dropout_of_the_weakest_maps() -> None:
    layer = nn.Conv2d(2, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    x = torch.stack([torch.full((8, 8), 1.0), torch.full((8, 8), 10.0)]).repeat(2, 1, 1, 1)
    x[1] = x[1].flip(0)  # in the second example the first map is the strong one
    part = OfInputs(None, 0.5)
    with part.attached(layer):
        part.draw(layer, 0.5, generator())
        values = layer(x).flatten(1)
    for example in values:
        assert set(example.tolist()) == {10.0, 12.0}  # the weak map is dropped or doubled, the strong one stays


def test_plain_dropout_has_the_mean_of_its_input() -> None:
    layer = nn.Linear(2000, 1, bias=False)
    nn.init.constant_(layer.weight, 1 / 2000)
    part = OfInputs(None, 1.0)
    with part.attached(layer), torch.no_grad():
        part.draw(layer, 0.3, generator())
        values = layer(torch.ones(200, 2000))
    assert float(values.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(values.std()) == pytest.approx((0.3 / 0.7 / 2000) ** 0.5, rel=0.2)


@pytest.mark.parametrize("kind", [OfWeights, OfWeightsPerExample, OfInputs])
def test_under_autocast(kind: type[Perturbation]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    part = kind(1.0, 0.75)
    with part.attached(net[2]):
        part.draw(net[2], 0.3, generator())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = net(torch.randn(2, 3, 8, 8))
        assert out.dtype is torch.bfloat16
        out.float().square().mean().backward()
        grad = original(net[2]).grad
    assert grad is not None
    assert grad.dtype is torch.float32
    assert bool(torch.isfinite(grad).all())


@pytest.mark.parametrize("kind", [OfWeights, OfWeightsPerExample, OfInputs])
def test_compiled_and_eager_networks_see_the_same_noise(kind: type[Perturbation]) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    part, x = kind(1.5, 0.75), torch.randn(2, 3, 8, 8)
    with part.attached(net[3]):
        compiled = torch.compile(net, backend="eager")
        outputs: list[Tensor] = []
        for seed in range(3):
            part.draw(net[3], 0.5, generator(seed))
            outputs.append(compiled(x))
            part.draw(net[3], 0.5, generator(seed))
            assert torch.allclose(outputs[-1], net(x), atol=1e-6)
        assert not torch.allclose(outputs[0], outputs[1])
        net.eval()
        assert torch.allclose(compiled(x), net(x), atol=1e-6)


def test_memory_format_does_not_change_the_noise() -> None:
    layer = nn.Conv2d(8, 8, 3)
    last = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    x = torch.randn(1, 8, 6, 6)
    one, two = OfWeights(1.0, 0.75), OfWeights(1.0, 0.75)
    with one.attached(layer), two.attached(last):
        one.draw(layer, 0.5, generator())
        two.draw(last, 0.5, generator())
        assert torch.allclose(layer(x), last(x), atol=1e-5)
        assert F.conv2d(x, layer.weight).shape == (1, 8, 4, 4)


def test_a_weight_that_is_computed_already_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    refuse_parametrized({"0": net[0]})
    parametrizations.weight_norm(net[0])
    with pytest.raises(SettingError, match="'0' has a parametrization already"):
        refuse_parametrized({"0": net[0]})


@pytest.mark.parametrize("kind", [OfWeights, OfWeightsPerExample, OfInputs])
def test_a_network_can_be_copied_inside(kind: type[Perturbation]) -> None:
    """Trying out how fast a training runs takes a copy."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    x, part = torch.randn(2, 3, 8, 8), kind(1.5, 0.75)
    expected = net(x)
    with part.attached(net[2]):
        twin = copy.deepcopy(net)
        assert torch.equal(twin(x), expected)
        part.draw(net[2], 0.5, generator())
        assert not torch.equal(net(x), expected)
        assert torch.equal(twin(x), expected)
