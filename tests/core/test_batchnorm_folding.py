from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from nets import NETS, images, lived_in, make, norms_in
from secateur.core.batchnorm_folding import fuse, fusible
from secateur.core.surgery import relative_difference, run
from secateur.core.zeros.strided import StridedConv2d
from secateur.errors import ModelError


class Pair(nn.Module):
    """A convolution and a batch norm, with a way of reading them that decides whether they can be folded."""

    def __init__(self, way: str = "alone") -> None:
        super().__init__()
        self.way, self.conv, self.norm = way, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        assert y.dim() == 4
        assert y.shape[1] == 4
        z = WAYS[self.way](self, x, y)
        return z.relu() if isinstance(z, Tensor) else z


def assigned(net: Any, x: Tensor, y: Tensor) -> Tensor:
    y[:, 0] = 0.0
    return net.norm(y)


def shifted(net: Any, x: Tensor, y: Tensor) -> Tensor:
    y.add_(1.0)
    return net.norm(y)


def written_into(net: Any, x: Tensor, y: Tensor) -> Tensor:
    torch.add(torch.ones_like(x[:, :1, 1:-1, 1:-1]).expand(-1, 4, -1, -1), 1.0, out=y)
    return net.norm(y)


def training(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.norm.train()
    z = net.norm(y)
    net.norm.eval()
    return z


WAYS: dict[str, Any] = {
    "alone": lambda net, x, y: net.norm(y),
    "by name": lambda net, x, y: net.norm(input=y),
    "in place afterwards": lambda net, x, y: net.norm(y).add_(1.0).relu_(),
    "read again": lambda net, x, y: net.norm(y) + y,
    "a view is read": lambda net, x, y: net.norm(y) + y.flatten(2)[:, :, :1, None],
    "norm called twice": lambda net, x, y: net.norm(net.norm(y)),
    "convolution called twice": lambda net, x, y: net.norm(y) + net.conv(x),
    "returned as well": lambda net, x, y: {"features": y, "scores": net.norm(y)},
    "assigned into": assigned,
    "changed in place": shifted,
    "written into": written_into,
    "turned into numbers": lambda net, x, y: net.norm(y) + float(y.tolist()[0][0][0][0]),
    "a rectifier before the norm": lambda net, x, y: net.norm(y.relu()),
    "the weight is read": lambda net, x, y: net.norm(y) + net.conv.weight.sum(),
    "statistics of the batch": training,
}
FOLDED = ("alone", "by name", "in place afterwards")


@pytest.mark.parametrize("way", FOLDED)
def test_a_norm_that_alone_reads_a_convolution_is_folded_into_it(way: str) -> None:
    net = lived_in(Pair(way))
    assert fusible(net, images(2)) == [("conv", "norm")]
    assert isinstance(folded(net, images(2), images(3, seed=1)).norm, nn.Identity)
    assert isinstance(net.norm, nn.BatchNorm2d)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in FOLDED])
def test_a_convolution_that_somebody_else_reads_is_left_alone(way: str) -> None:
    assert fusible(lived_in(Pair(way)), images(2)) == []


def folded(net: nn.Module, given: Any, *others: Any, tolerance: float = 1e-6) -> Any:
    """Fold what can be folded, and hold the result against the network."""
    twin = copy.deepcopy(net)
    fuse(twin, fusible(net, given))
    for inputs in (given, *others):
        assert relative_difference(run(net, inputs), run(twin, inputs)) <= tolerance
    return twin


@pytest.mark.parametrize("name", NETS)
def test_folding_is_exact_on_every_tiny_network(name: str) -> None:
    net = make(name)
    before, pairs = norms_in(net), fusible(net, images(2))
    twin = folded(net, images(2), images(3, seed=1))
    assert norms_in(twin) == before - len(pairs)
    assert len(pairs) == before - {"called twice": 1}.get(name, 0)


LAYERS: dict[str, tuple[nn.Module, nn.Module, tuple[int, ...]]] = {
    "1-d": (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (2, 3, 9)),
    "3-d": (nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4), (2, 3, 4, 4, 4)),
    "with bias": (nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4), (2, 3, 8, 8)),
    "without affine": (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), (2, 3, 8, 8)),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), (2, 4, 8, 8)),
    "padded by reflection": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), (2, 3, 8, 8)),
    "transposed, 1-d": (nn.ConvTranspose1d(3, 4, 3), nn.BatchNorm1d(4), (2, 3, 9)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4), (2, 3, 8, 8)),
    "transposed, 3-d": (nn.ConvTranspose3d(3, 4, 2), nn.BatchNorm3d(4), (2, 3, 4, 4, 4)),
    "linear": (nn.Linear(3, 4), nn.BatchNorm1d(4), (2, 3)),
    "linear without bias": (nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), (2, 3)),
    "synchronised": (nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), (2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_is_folded(name: str) -> None:
    layer, norm, shape = LAYERS[name]
    net = lived_in(nn.Sequential(layer, norm, nn.ReLU())).double()  # in float32 a few outputs may all be near zero
    some, others = torch.randn(2, *shape, dtype=torch.double)
    assert norms_in(folded(net, some, others)) == 0


LEFT: dict[str, tuple[nn.Module, nn.Module, tuple[int, ...]]] = {
    "transposed with groups": (nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4), (2, 4, 8, 8)),
    "linear on sequences": (nn.Linear(3, 4), nn.BatchNorm1d(4), (2, 4, 3)),
    "one sequence without a batch": (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (3, 6)),
    "no running statistics": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), (2, 3, 8, 8)),
    "instance norm": (nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True), (2, 3, 8, 8)),
    "parametrized": (weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), (2, 3, 8, 8)),
    "norm before the convolution": (nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), (2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_folded_is_left_alone(name: str) -> None:
    first, second, shape = LEFT[name]
    assert fusible(lived_in(nn.Sequential(first, second, nn.ReLU())), torch.randn(shape)) == []


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / self.weight.std(), self.bias)


class Initialised(nn.Conv2d):
    """A subclass that only starts from other weights computes as any convolution does."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        nn.init.ones_(self.weight)


class Squared(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 2


def test_subclasses_are_folded_only_without_a_forward_of_their_own() -> None:
    for layer, norm in ((Standardised(3, 4, 3), nn.BatchNorm2d(4)), (nn.Conv2d(3, 4, 3), Squared(4))):
        assert fusible(lived_in(nn.Sequential(layer, norm)), images(2)) == []
    assert norms_in(folded(lived_in(nn.Sequential(Initialised(), nn.BatchNorm2d(4))), images(2))) == 0


@pytest.mark.parametrize("part", ["conv", "norm"])
@pytest.mark.parametrize("where", ["before", "after", "instead"])
def test_hooked_and_patched_modules_are_left_alone(part: str, where: str) -> None:
    net = lived_in(Pair())
    module = net.get_submodule(part)
    if where == "before":
        module.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    elif where == "after":
        module.register_forward_hook(lambda module, given, output: output * 2)
    else:
        module.forward = lambda x, own=module.forward: own(x) * 2
    assert fusible(net, images(2)) == []


def test_layers_that_share_a_module_or_a_weight_are_left_alone() -> None:
    conv, norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    for other in (nn.Sequential(conv, nn.BatchNorm2d(3)), nn.Sequential(nn.Conv2d(3, 3, 3), norm)):
        shared = lived_in(nn.ModuleDict({"used": nn.Sequential(conv, norm), "also": other}))
        shared.forward = lambda x, net=shared: net["used"](x)
        assert fusible(shared, images(2)) == []
    tied = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    tied[2].weight = tied[0].weight
    assert fusible(lived_in(tied), images(2)) == []


def test_a_norm_behind_a_choice_that_was_not_taken_stays() -> None:
    class Choice(Pair):
        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) if len(x) > 2 else self.conv(x)

    assert fusible(lived_in(Choice()), images(2)) == []
    assert fusible(lived_in(Choice()), images(3)) == [("conv", "norm")]


def test_positional_and_named_inputs_are_taken() -> None:
    class Two(Pair):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.norm(self.conv(left + right))

    net = lived_in(Two())
    for inputs in ((images(2), images(2, 1)), {"right": images(2), "left": images(2, 1)}):
        assert fusible(net, inputs) == [("conv", "norm")]
    with pytest.raises(ModelError, match="does not run on the example inputs"):
        fusible(net, images(2))


def test_modes_hooks_and_gradients_are_as_before_whatever_happens() -> None:
    net = lived_in(Pair()).train()
    net.conv.eval()
    fusible(net, images(2))
    with pytest.raises(ModelError):
        fusible(net, torch.randn(2, 5, 8, 8))
    assert net.training
    assert net.norm.training
    assert not net.conv.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())
    net.conv.weight.requires_grad_(False)
    fuse(net, [("conv", "norm")])
    assert not net.conv.weight.requires_grad
    assert net.conv.bias.requires_grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.bfloat16, 0.03)])
def test_types_and_memory_format_stay(dtype: torch.dtype, tolerance: float) -> None:
    net = make("plain").to(dtype, memory_format=torch.channels_last)
    twin = folded(net, images(2, dtype=dtype), tolerance=tolerance)
    assert norms_in(twin) == 0
    assert {parameter.dtype for parameter in twin.parameters()} == {dtype}
    kernels = [parameter for parameter in twin.parameters() if parameter.dim() == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_a_norm_in_single_precision_is_folded_into_half_a_convolution() -> None:
    net = lived_in(Pair())
    net.conv.bfloat16()
    twin = folded(net, images(2, dtype=torch.bfloat16), tolerance=0.03)
    assert twin.conv.bias.dtype == torch.bfloat16


def test_a_tiny_variance_is_folded_exactly() -> None:
    net = lived_in(Pair())
    net.norm.running_var.fill_(1e-12)
    folded(net, images(2))


def test_a_strided_convolution_keeps_its_positions() -> None:
    conv = nn.Conv2d(3, 4, 3, bias=False)
    conv.weight.data[:, :, ::2] = 0
    StridedConv2d.take(conv)
    net = lived_in(nn.Sequential(conv, nn.BatchNorm2d(4)))
    for execution in ("dense", "strided"):
        conv.execution = execution
        twin = folded(net, images(2))
        assert norms_in(twin) == 0
        assert type(twin[0]) is StridedConv2d
        assert not twin[0].weight[:, :, ::2].any()


class FrozenBatchNorm2d(nn.Module):
    """As in detectors: everything is a buffer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-5
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def test_a_frozen_norm_is_folded() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4), nn.ReLU()).eval()
    assert isinstance(folded(net, images(2))[1], nn.Identity)


class BatchNormAct2d(nn.BatchNorm2d):
    """As in timm: a dropout and an activation of its own."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def test_a_norm_with_an_activation_leaves_the_activation() -> None:
    for act, left in ((nn.ReLU(inplace=True), nn.Sequential), (nn.Identity(), nn.Identity)):
        net = lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, act), nn.Conv2d(4, 2, 1)))
        twin = folded(net, images(2))
        assert norms_in(twin) == 0
        assert type(twin[1]) is left


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.parametrize(("name", "stay"), [("mobilenet_v3_small", 0), ("densenet121", 62), ("resnet18", 0)])
def test_networks_of_torchvision_lose_all_norms_behind_convolutions(name: str, stay: int) -> None:
    import torchvision

    net = lived_in(torchvision.models.get_model(name, weights=None))
    assert norms_in(folded(net, torch.randn(1, 3, 32, 32), torch.randn(2, 3, 32, 32), tolerance=1e-5)) == stay


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_norms_of_timm_are_folded_and_their_activations_stay() -> None:
    import timm
    from timm.layers import BatchNormAct2d as Norm
    from timm.layers import FrozenBatchNormAct2d as Frozen

    net = lived_in(timm.create_model("efficientnet_b0"))
    assert norms_in(folded(net, torch.randn(1, 3, 32, 32), tolerance=1e-5)) == 0
    for norm in (Norm(4), Frozen(4)):
        small = lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), norm))
        assert isinstance(folded(small, images(2))[1], nn.Sequential)
