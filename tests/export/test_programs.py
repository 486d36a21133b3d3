from __future__ import annotations

import copy
import importlib.util
import logging
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import ExportError
from secateur.export import export_onnx, export_pt2, export_source
from secateur.measure import deploy
from secateur.measure.deployment import laid_out

torch.set_num_threads(1)
ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
EXPORTERS = [
    pytest.param(export_pt2, id="pt2"),
    pytest.param(export_onnx, id="onnx", marks=pytest.mark.skipif(not ONNX, reason="ONNX packages not installed")),
]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


class FixedBatch(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).reshape(2, 4, -1).mean(-1))


class TwoOutputs(Net):
    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        y = self.conv(image).mean((2, 3)) * scale
        return {"logits": self.fc(y), "features": y}


class Branches(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3))) if float(x.sum()) > 0 else x.flatten(1)[:, :5]


def trained(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        net(torch.randn(8, 3, 8, 8) * 2 + 1)
    return net


@pytest.mark.parametrize("export", EXPORTERS)
def test_export_gives_the_same_outputs_on_any_batch_and_leaves_the_model_alone(export, tmp_path, capfd, caplog):
    torch.manual_seed(0)
    model = trained(Net().train())
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / "new" / "model.bin"
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        exported = export(model, torch.randn(1, 3, 8, 8), path)
    assert exported.path == path
    assert exported.dynamic_batch
    assert exported.difference <= 1e-5
    assert model.training
    assert model.drop.training
    assert not model.norm.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == ["model.bin"]
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    images = torch.randn(7, 3, 8, 8)
    model.eval()
    assert torch.allclose(run(exported.kind, path, images), model(images), atol=1e-5)


def run(kind: str, path: Path, images: Tensor) -> Tensor:
    if kind == "pt2":
        return torch.export.load(path).module()(images)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    return torch.as_tensor(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


@pytest.mark.parametrize("export", EXPORTERS)
def test_a_network_with_a_fixed_batch_size_is_exported_as_such(export, tmp_path):
    exported = export(FixedBatch(), torch.randn(2, 3, 8, 8), tmp_path / "m.pt2")
    assert not exported.dynamic_batch
    assert exported.difference <= 1e-5


@pytest.mark.parametrize("export", EXPORTERS)
def test_named_inputs_and_several_outputs(export, tmp_path):
    inputs = {"image": torch.randn(3, 3, 8, 8), "scale": torch.rand(3, 1)}
    assert export(TwoOutputs(), inputs, tmp_path / "m").dynamic_batch
    assert export(TwoOutputs(), tuple(inputs.values()), tmp_path / "m").dynamic_batch


@pytest.mark.parametrize("export", EXPORTERS)
def test_what_cannot_be_exported_is_one_clear_error_and_no_file(export, tmp_path):
    with pytest.raises(ExportError, match="cannot export the network as"):
        export(Branches(), torch.randn(1, 3, 8, 8), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", EXPORTERS)
def test_a_file_that_computes_something_else_is_not_kept_and_the_old_one_stays(export, tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"old")
    original = torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda net, *rest, **names: original(shifted(net), *rest, **names))
    with pytest.raises(ExportError, match="differ"):
        export(trained(Net()), torch.randn(1, 3, 8, 8), path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def shifted(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    other.fc.bias.data += 1.0
    return other


@pytest.mark.parametrize("export", EXPORTERS)
def test_outputs_that_are_not_numbers_are_refused(export, tmp_path):
    model = Net()
    model.fc.bias.data[0] = float("nan")
    with pytest.raises(ExportError, match="the network itself puts out NaN here"):
        export(model, torch.randn(1, 3, 8, 8), tmp_path / "m.pt2")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r'pip install "secateur\[export\]"'):
        export_onnx(Net(), torch.randn(1, 3, 8, 8), tmp_path / "m.onnx")


def test_the_file_holds_no_paths_of_this_machine_and_no_example_images(tmp_path):
    if not ONNX:
        pytest.skip("ONNX packages not installed")
    images = torch.full((1, 3, 8, 8), 0.777)
    for export in (export_pt2, export_onnx):
        data = export(Net(), images, tmp_path / "m").path.read_bytes()
        assert str(Path(__file__).parent).encode() not in data
        assert images.numpy().tobytes() not in data


@pytest.mark.parametrize("export", EXPORTERS)
def test_a_file_is_held_against_the_network_that_was_made_ready(export, tmp_path):
    model = trained(Net())
    images = torch.randn(2, 3, 8, 8)
    ready = deploy(model, images, time=False).model
    assert export(ready, images, tmp_path / "m", reference=model).difference <= 1e-5
    with pytest.raises(ExportError, match="differ"):
        export(ready, images, tmp_path / "n", reference=shifted(model))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_program_keeps_kernels_channels_last(tmp_path):
    model = trained(Net())
    images = torch.randn(2, 3, 8, 8)
    ready = laid_out(deploy(model, images, time=False).model, "channels_last")
    path = export_pt2(ready, images, tmp_path / "m.pt2", reference=model).path
    loaded = torch.export.load(path).module()
    assert loaded.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not loaded.conv.weight.is_contiguous()
    assert torch.allclose(loaded(images), model.eval()(images), atol=1e-5)


class Scaled(Net):
    def forward(
        self, x: Tensor, scale: float = 1.0, twice: bool = False, name: str = "", more: Tensor | None = None
    ) -> Tensor:
        y = super().forward(x) * scale
        return 2 * y if twice else y


@pytest.mark.parametrize("export", [*EXPORTERS, pytest.param(export_source, id="source")])
@pytest.mark.parametrize(
    "inputs",
    [
        {"x": torch.randn(2, 3, 8, 8), "scale": 0.25},
        {"scale": 3, "twice": True, "name": "b", "more": None, "x": torch.randn(2, 3, 8, 8)},
        (torch.randn(2, 3, 8, 8), 0.25, True),
    ],
)
def test_inputs_that_are_no_tensors_become_part_of_the_program(export: Any, inputs: Any, tmp_path: Path) -> None:
    made = export(trained(Scaled()), inputs, tmp_path / "model.py")
    assert made.difference < 1e-5
    assert made.dynamic_batch


def test_inputs_of_other_kinds_are_refused(tmp_path: Path) -> None:
    for inputs in ({"x": [1, 2]}, ({"x": torch.ones(1)},), {"x": 1.0}, ()):
        with pytest.raises(ExportError, match="tensors and of plain numbers, texts or None"):
            export_pt2(Net(), inputs, tmp_path / "model.pt2")


def test_an_error_of_an_exporter_is_quoted_without_its_colours(tmp_path: Path) -> None:
    class Colourful(Net):
        def forward(self, x: Tensor) -> Tensor:
            if torch.compiler.is_exporting():
                raise RuntimeError("\x1b[31mno\x1b[0m luck")
            return super().forward(x)

    with pytest.raises(ExportError) as error:
        export_pt2(Colourful(), torch.randn(2, 3, 8, 8), tmp_path / "model.pt2")
    assert "no luck" in str(error.value)
    assert "\x1b" not in str(error.value)


def test_a_file_needs_a_name() -> None:
    with pytest.raises(ExportError, match=r"is no name for a file; give one such as model\.pt2"):
        export_pt2(Net(), torch.randn(2, 3, 8, 8), "")


class Draws(nn.Module):
    """Adds noise of every kind that torch and ONNX both know."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + 0.5 * torch.randn_like(x) * torch.exp(x) + torch.rand(x.shape[0], 1, *x.shape[2:])
        x = nn.functional.dropout(x, 0.2, training=True) + torch.normal(0.0, 1.0, x.shape)
        return self.b(x * torch.bernoulli(torch.full_like(x, 0.7)))


@pytest.mark.parametrize("export", [export_onnx, export_pt2, export_source])
def test_a_network_that_draws_is_compared_under_the_same_numbers(export: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Draws().eval(), torch.randn(2, 3, 8, 8)
    found = export(net, x, tmp_path / f"model.{export.__name__}")
    assert found.difference < 1e-5
    assert found.dynamic_batch


@pytest.mark.parametrize("export", [export_onnx, export_source])
def test_a_distribution_is_exported_without_its_checks(
    export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the first use of the compiler in a process leaves the checks off
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)

    class Latent(Draws):
        def forward(self, x: Tensor) -> Tensor:
            mean, width = self.a(x).chunk(2, 1)
            return torch.distributions.Normal(mean, nn.functional.softplus(width) + 1e-3).rsample()

    assert export(Latent().eval(), torch.randn(2, 3, 8, 8), tmp_path / "model.file").difference < 1e-5
    assert torch.distributions.Distribution._validate_args


@pytest.mark.parametrize("export", [export_onnx, export_pt2, export_source])
def test_numbers_that_are_drawn_outside_of_torch_would_become_constants(export: Any, tmp_path: Path) -> None:
    class Python(Draws):
        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + random.random()

    with pytest.raises(ExportError, match="its outputs differ by"):
        export(Python().eval(), torch.randn(2, 3, 8, 8), tmp_path / "model.file")
    assert not list(tmp_path.iterdir())


def test_the_noise_of_a_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = Draws().eval()
    monkeypatch.setattr("secateur.measure.steady_onnx.share_of", lambda number: 0.1 * number)
    with pytest.raises(ExportError, match="its outputs differ by"):
        export_onnx(net, torch.randn(2, 3, 8, 8), tmp_path / "model.onnx")


@pytest.mark.parametrize("export", [export_onnx, export_pt2, export_source])
def test_old_weight_norm_that_has_run_with_gradients_is_exported(export: Any, tmp_path: Path) -> None:
    net = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()).eval()
    x = torch.randn(2, 3, 8, 8)
    net(x).sum().backward()
    assert export(net, x, tmp_path / "model.file").difference < 1e-5
