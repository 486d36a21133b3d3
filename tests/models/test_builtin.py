from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from secateur.errors import SettingError
from secateur.measure import count
from secateur.models import MODELS, build
from secateur.models.builtin import BUILDERS
from secateur.models.densenet import DenseNet
from secateur.models.lenet import LeNet5
from secateur.models.resnet import PaddedShortcut, ResNet
from secateur.models.vgg import VGG

PARAMS = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet20_projection": 272_474,
    "resnet32_projection": 466_906,
    "resnet44_projection": 661_338,
    "resnet56_projection": 855_770,
    "resnet110_projection": 1_730_714,
    "vgg16_bn": 14_724_042,
    "vgg16_bn_fc": 14_987_210,
    "densenet40": 1_019_722,
    "lenet5": 431_080,
    "anwar_mnist1": 73_754,
    "anwar_mnist2": 61_932,
    "anwar_cifar10_small": 5_529_994,
    "anwar_cifar10_large": 38_015_882,
    "anwar_cifar100": 10_363_876,
    "anwar_svhn": 5_019_594,
}


def params(model: nn.Module) -> int:
    return sum(param.numel() for param in model.parameters())


def test_every_network_is_listed_once_with_a_description() -> None:
    assert set(MODELS) == set(BUILDERS) == set(PARAMS)
    assert all(MODELS.values())


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_are_those_of_the_literature(name: str) -> None:
    with torch.device("meta"):
        model = build(name, channels=1 if name == "lenet5" or "mnist" in name else 3)
    assert params(model) == PARAMS[name]


@pytest.mark.parametrize("name", ["resnet20", "resnet20_projection", "vgg16_bn", "vgg16_bn_fc", "densenet40"])
def test_any_image_size_channels_and_classes(name: str) -> None:
    model = build(name, classes=7, channels=1).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 1, 28, 28)).shape == (2, 7)
        assert model(torch.randn(1, 1, 17, 23)).shape == (1, 7)


def test_the_network_of_li_et_al_has_the_papers_weights() -> None:
    with torch.device("meta"):
        model = build("vgg16_bn_fc")
    weights = [param for name, param in model.named_parameters() if param.ndim > 1]
    assert len(weights) == 15
    assert sum(weight.numel() for weight in weights) == 14_977_728


def test_vgg_hidden_layers_may_be_many() -> None:
    model = VGG(classes=3, hidden=(16, 8)).eval()
    assert [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)] == [
        (16, 512),
        (8, 16),
        (3, 8),
    ]
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_names_of_layers_with_shortcut_a() -> None:
    state = build("resnet20").state_dict()
    assert {name.split(".")[0] for name in state} == {"conv1", "bn1", "layer1", "layer2", "layer3", "linear"}
    assert {name.removeprefix("layer2.0.").split(".")[0] for name in state if name.startswith("layer2.0.")} == {
        "conv1",
        "bn1",
        "conv2",
        "bn2",
    }


def test_names_of_layers_with_projections() -> None:
    state = build("resnet20_projection").state_dict()
    assert state["fc.weight"].shape == (10, 64)
    assert state["layer2.0.downsample.0.weight"].shape == (32, 16, 1, 1)
    assert state["layer3.0.downsample.1.running_mean"].shape == (64,)
    assert not any("downsample" in name for name in state if name.startswith("layer1"))


def test_padded_shortcut_takes_every_second_pixel_and_adds_zero_channels() -> None:
    x = torch.arange(2 * 3 * 3, dtype=torch.float32).reshape(1, 2, 3, 3)
    out = PaddedShortcut(1)(x)
    assert out.tolist() == [[[[0.0] * 2] * 2, [[0, 2], [6, 8]], [[9, 11], [15, 17]], [[0.0] * 2] * 2]]


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_resnet_computes_the_paper_formula(shortcut: str) -> None:
    torch.manual_seed(0)
    model = ResNet(8, classes=4, shortcut=shortcut).eval()  # type: ignore[arg-type]
    w = model.state_dict()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"])

    x = torch.randn(2, 3, 8, 8)
    want = F.relu(norm(F.conv2d(x, w["conv1.weight"], padding=1), "bn1"))
    for layer, stride in (("layer1.0", 1), ("layer2.0", 2), ("layer3.0", 2)):
        inner = F.relu(norm(F.conv2d(want, w[f"{layer}.conv1.weight"], stride=stride, padding=1), f"{layer}.bn1"))
        inner = norm(F.conv2d(inner, w[f"{layer}.conv2.weight"], padding=1), f"{layer}.bn2")
        if stride == 2 and shortcut == "A":
            zeros = torch.zeros(2, want.shape[1] // 2, *inner.shape[2:])
            want = torch.cat((zeros, want[:, :, ::2, ::2], zeros), dim=1)
        elif stride == 2:
            want = norm(F.conv2d(want, w[f"{layer}.downsample.0.weight"], stride=2), f"{layer}.downsample.1")
        want = F.relu(inner + want)
    head = "linear" if shortcut == "A" else "fc"
    want = want.mean((2, 3)) @ w[f"{head}.weight"].T + w[f"{head}.bias"]
    torch.testing.assert_close(model(x), want)


def test_dense_layers_keep_their_inputs() -> None:
    layer = DenseNet(depth=7, growth=4).block1[0].eval()
    x = torch.randn(1, 16, 5, 5)
    out = layer(x)
    assert out.shape == (1, 20, 5, 5)
    assert torch.equal(out[:, :16], x)


def test_convolutions_start_with_the_variance_of_he() -> None:
    torch.manual_seed(0)
    weight = build("vgg16_bn").features[-3].weight.detach()  # type: ignore[index]
    assert float(weight.std()) == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert float(weight.mean()) == pytest.approx(0, abs=1e-4)


def test_initial_weights_follow_the_global_seed() -> None:
    torch.manual_seed(3)
    first = build("resnet20").state_dict()
    torch.manual_seed(3)
    second = build("resnet20").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("image", "side"), [(28, 4), (32, 5), (16, 1)])
def test_lenet_fits_its_image_size(image: int, side: int) -> None:
    model = build("lenet5", channels=1, image=image)
    assert model.fc1.weight.shape == (500, 50 * side * side)  # type: ignore[union-attr]
    assert model(torch.randn(2, 1, image, image)).shape == (2, 10)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(SettingError, match="21 is not"):
        ResNet(21)
    with pytest.raises(SettingError, match="41 is not"):
        DenseNet(41)
    with pytest.raises(SettingError, match="16x16 pixels or more, not 12x12"):
        LeNet5(image=12)


ANWAR = {  # shapes of the convolutions' weights, and features that the first linear layer reads
    "anwar_mnist1": ([(16, 1, 5), (32, 16, 5), (64, 32, 5)], 64),
    "anwar_mnist2": ([(6, 1, 5), (16, 6, 5), (120, 16, 5)], 120),
    "anwar_cifar10_small": (
        [(128, 3, 3), (128, 128, 3), (128, 128, 3), (128, 128, 3), (256, 128, 3), (256, 256, 3)],
        256 * 64,
    ),
    "anwar_cifar10_large": (
        [(128, 3, 3), (128, 128, 3), (256, 128, 3), (256, 256, 3), (256, 256, 3), (256, 256, 3), (512, 256, 3)],
        512 * 64,
    ),
}


@pytest.mark.parametrize("name", ANWAR)
def test_the_networks_of_anwar_and_sung_have_the_papers_layers(name: str) -> None:
    convolutions, features = ANWAR[name]
    channels, image = (1, 28) if "mnist" in name else (3, 32)
    with torch.device("meta"):
        model = build(name, channels=channels, image=image)
    shapes = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert shapes == [(*sizes, sizes[2]) for sizes in convolutions]
    first = next(m for m in model.modules() if isinstance(m, nn.Linear))
    assert first.in_features == features


def test_the_small_network_of_anwar_and_sung_has_the_papers_weights_and_operations() -> None:
    """3456 weights in the first convolution, 1 327 104 in the five prunable ones."""
    model = build("anwar_cifar10_small").eval()
    weights = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert weights[0] == 3456
    assert sum(weights[1:]) == 1_327_104
    areas = (1024, 1024, 256, 256, 64, 64)
    macs = sum(n * area for n, area in zip(weights, areas, strict=True)) + 256 * 64 * 256 + 256 * 10
    assert count(model, torch.randn(1, 3, 32, 32)).macs == macs == 290_851_328
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_networks_of_anwar_and_sung_refuse_images_that_are_too_small() -> None:
    with pytest.raises(SettingError, match="larger images than 8x8"):
        build("anwar_mnist1", channels=1, image=8)
