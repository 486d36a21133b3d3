"""Weights that a layer computes anew in each run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm

from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, wide: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(3, 8, 3), nn.Conv2d(wide, 6, 3), nn.Linear(6, 4)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.h(torch.sigmoid(self.b(self.between(torch.sigmoid(self.a(x))))).mean((2, 3)))


def cut(net: nn.Module, x: Tensor = X) -> dict[str, int]:
    """Remove the first third of each group, and check it."""
    graph = trace(net.eval(), x)
    plan = Plan(tuple(DropUnits(g.name, tuple(range(max(1, g.size // 3)))) for g in graph.groups))
    assert verify(net, graph, plan, apply(net, graph, plan), x).exact
    return {group.name: group.size for group in graph.groups}


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (
            spectral_norm,
            "torch.nn.utils.remove_spectral_norm(model.get_submodule('b'), 'weight'), then "
            "model.get_submodule('b')._load_state_dict_pre_hooks.clear(), for torch leaves a hook there that refuses "
            "the weights of the layer",
        ),
        (
            parametrizations.spectral_norm,
            "torch.nn.utils.parametrize.remove_parametrizations(model.get_submodule('b'), 'weight')",
        ),
        (
            parametrizations.orthogonal,
            "torch.nn.utils.parametrize.remove_parametrizations(model.get_submodule('b'), 'weight')",
        ),
    ],
)
def test_what_stays_says_with_which_call_it_would_not(kind: Callable[[nn.Module], nn.Module], call: str) -> None:
    torch.manual_seed(0)
    net = Net()
    net.b = kind(net.b)
    rows = {row.layer: row for row in trace(net, X).explain().rows}
    assert rows["b"].prunable == rows["a"].prunable == 0
    assert rows["b"].remedy == rows["a"].remedy == f"remove it first: {call}"
    assert "in 'b'" in rows["a"].reason
    assert rows["h"].reason == "an output of the network"


def test_the_remedy_for_the_old_spectral_norm_leaves_an_ordinary_layer() -> None:
    model = Net()
    model.b = spectral_norm(model.b)
    remedy = next(row.remedy for row in trace(model, X).explain().rows if row.layer == "b")
    first, then = remedy.removeprefix("remove it first: ").split(", for torch")[0].split(", then ")
    eval(first)
    eval(then)
    model.load_state_dict(model.state_dict())
    assert cut(model) == {"a": 8, "b": 6}


def test_what_is_left_of_a_spectral_norm_that_was_taken_off_is_not_in_the_thin_network() -> None:
    net = Net().eval()
    net.a = spectral_norm(net.a)
    net.b = nn.utils.remove_spectral_norm(spectral_norm(net.b))
    with pytest.raises(RuntimeError, match=r"b\.weight_orig"):
        net.load_state_dict(net.state_dict())
    thin = apply(net, trace(net, X), Plan())
    thin.load_state_dict(thin.state_dict())  # with that of the other, which is there
    assert thin.a._load_state_dict_pre_hooks
    assert net.b._load_state_dict_pre_hooks


@pytest.mark.filterwarnings("ignore")
def test_layers_prepared_for_quantisation_are_listed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).train()
    net.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    prepared = torch.ao.quantization.prepare_qat(net)
    prepared(X)
    rows = trace(prepared, X).explain().rows
    assert [(row.layer, row.width, row.prunable) for row in rows] == [("0", 8, 0), ("2", 4, 0)]
    assert all("prune the network before it is prepared" in row.remedy for row in rows)


class Shifted(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return F.softplus(weight)  # a zero does not stay one


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 72))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view(weight.shape)


@pytest.mark.parametrize("kind", [Shifted, LowRank])
def test_parametrizations_of_other_kinds_are_followed(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = Net()
    parametrize.register_parametrization(net.b, "weight", kind())
    assert cut(net) == {"a": 8, "b": 6}


def standardised(weight: Tensor) -> Tensor:
    var, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True)
    return (weight - mean) * torch.rsqrt(var + 1e-5)


def apart(weight: Tensor) -> Tensor:
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    return centred / (weight.std((1, 2, 3), keepdim=True) + 1e-5)


def std_mean(weight: Tensor) -> Tensor:
    std, mean = torch.std_mean(weight, (1, 2, 3), keepdim=True)
    return (weight - mean) / (std + 1e-5)


def by_the_whole(weight: Tensor) -> Tensor:
    return torch.tanh(weight) / torch.tanh(weight).abs().max()


def quantised(weight: Tensor) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(weight, float(weight.abs().amax()) / 127, 0, -128, 127)


@pytest.mark.parametrize("kind", [standardised, apart, std_mean, by_the_whole, quantised])
def test_weights_that_code_computes_go_with_their_channels(kind: Callable[[Tensor], Tensor]) -> None:
    class Computed(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.conv2d(input, kind(self.weight), self.bias)

    torch.manual_seed(0)
    net = Net()
    net.a, net.b = Computed(3, 8, 3), Computed(8, 6, 3)
    assert cut(net) == {"a": 8, "b": 6}


def test_scales_of_channels_go_with_them() -> None:
    class Quantised(nn.Conv2d):
        def __init__(self, reads: int, makes: int) -> None:
            super().__init__(reads, makes, 3)
            self.register_buffer("scale", self.weight.detach().abs().amax((1, 2, 3)) / 127)
            self.register_buffer("zero", torch.zeros(makes, dtype=torch.int32))

        def forward(self, input: Tensor) -> Tensor:
            weight = torch.fake_quantize_per_channel_affine(self.weight, self.scale, self.zero, 0, -128, 127)
            return F.conv2d(input, weight, self.bias)

    torch.manual_seed(0)
    net = Net()
    net.a, net.b = Quantised(3, 8), Quantised(8, 6)
    assert cut(net) == {"a": 8, "b": 6}


def test_a_spread_over_the_batch_that_is_averaged_over_channels() -> None:
    class Minibatch(Net):
        def between(self, x: Tensor) -> Tensor:
            spread = x.std(0, keepdim=True).mean()
            return torch.cat((x, spread.expand(len(x), 1, *x.shape[2:])), 1)

    torch.manual_seed(0)
    assert cut(Minibatch(9)) == {"a": 8, "b": 6}


@pytest.mark.parametrize("way", ["linear", "matmul"])
def test_a_gain_makes_no_weight_of_what_it_scales(way: str) -> None:
    class Scaled(Net):
        """A norm by the root of the mean square, whose gain is multiplied with what a weight reads next."""

        def __init__(self) -> None:
            super().__init__()
            self.gain, self.mix = nn.Parameter(torch.rand(8) + 0.5), nn.Linear(8, 8, bias=False)

        def between(self, x: Tensor) -> Tensor:
            x = x.permute(0, 2, 3, 1)
            x = self.gain * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))
            return (self.mix(x) if way == "linear" else x @ self.mix.weight.t()).permute(0, 3, 1, 2)

    torch.manual_seed(0)
    net = Scaled()
    assert cut(net) == {"a": 8, "mix": 8, "b": 6}
    roles = {(member.tensor, member.role) for member in trace(net, X).group("a").members}
    assert {("mix.weight", "reads"), ("gain", "scales")} <= roles


def test_a_gain_times_a_computed_weight_is_no_weight() -> None:
    class Decomposed(nn.Linear):
        """Length and direction of a weight that a product of low rank is added to."""

        def __init__(self) -> None:
            super().__init__(6, 5)
            self.up, self.down = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 6))
            self.gain = nn.Parameter(torch.rand(5, 1))

        def forward(self, input: Tensor) -> Tensor:
            weight = self.weight + self.up @ self.down
            return F.linear(input, self.gain * weight / weight.norm(dim=1, keepdim=True), self.bias)

    torch.manual_seed(0)
    net = Net()
    net.h = nn.Sequential(Decomposed(), nn.ReLU(), nn.Linear(5, 4))
    assert cut(net) == {"a": 8, "b": 6, "h.0": 5}


class Deeper(Net):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid(), nn.Conv2d(8, 8, 1))

    def between(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_weight_that_moves_whenever_it_is_looked_at_is_read_alike_in_every_mode() -> None:
    for seed in range(8):
        torch.manual_seed(seed)
        net = Deeper()
        net.b = parametrizations.spectral_norm(net.b)
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        names = [[group.name for group in trace(net.train(mode), X).groups] for mode in (True, False)]
        assert names == [["a", "inner.0"]] * 2
        net.train()
        net.h.eval()
        graph = trace(net, X)
        plan = Plan((DropUnits("a", (0, 3)),))
        thin = apply(net, graph, plan)
        assert thin.b.training
        assert not thin.h.training
        assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
        assert torch.equal(thin.b.parametrizations.weight[0]._u, net.b.parametrizations.weight[0]._u)
        assert verify(net, graph, plan, thin, X).exact
