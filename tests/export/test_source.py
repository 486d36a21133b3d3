from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur.core.problem import Problem
from secateur.core.sizes.size import Target
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.errors import ExportError
from secateur.export import export_source
from secateur.methods.magnitude import Magnitude
from secateur.models import build

ALONE = """
import sys
sys.modules["secateur"] = None  # an import of it fails
sys.path.insert(0, sys.argv[1])
import torch
from model import load
torch.save(load()(*torch.load(sys.argv[2])), sys.argv[3])
"""


def alone(folder: Path, *inputs: Tensor) -> object:
    """Run what was written in a process that cannot import Secateur."""
    given, found = folder / "given.pt", folder / "found.pt"
    torch.save(inputs, given)
    command = [sys.executable, "-c", ALONE, str(folder), str(given), str(found)]
    subprocess.run(command, check=True, timeout=120)
    return torch.load(found)


def test_a_file_says_how_to_load_it_by_its_own_name(tmp_path: Path) -> None:
    made = export_source(nn.Conv2d(3, 4, 1), torch.randn(1, 3, 4, 4), tmp_path / "thin.py")
    assert "from thin import load" in made.path.read_text()


class Own(nn.Module):
    """A parameter, a buffer that is not saved, tied weights, several outputs, a branch on the training flag."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("shift", torch.rand(4, 1, 1), persistent=False)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        y = self.stem(x) * self.scale + self.shift
        pooled = nn.functional.dropout(y, 0.5, self.training).mean((2, 3))
        return {"scores": self.second(torch.relu(self.first(pooled))), "maps": [y]}


class Loops(Own):
    """Code that cannot be recorded layer by layer: it asks for the sizes of maps."""

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        while x.shape[-1] > 4:
            x = nn.functional.max_pool2d(x, 2)
        return super().forward(x)


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(2, 4, 64).mean(-1)


def test_a_pruned_network_runs_without_secateur_on_any_batch(tmp_path: Path) -> None:
    model = build("secateur:resnet20", classes=10).eval()
    x = torch.randn(1, 3, 32, 32)
    graph = trace(model, x)
    thin = apply(model, graph, Magnitude().plan(Problem(model, graph, Target(0.3)))).eval()
    exported = export_source(thin, x, tmp_path / "model.py")
    assert exported.dynamic_batch
    assert exported.difference == 0.0
    assert [file.name for file in exported.files] == ["model.py", "model.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.py", "model.safetensors"]
    assert load_file(tmp_path / "model.safetensors").keys() == thin.state_dict().keys()
    images = torch.randn(5, 3, 32, 32)
    assert torch.equal(alone(tmp_path, images), thin(images))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Own, Loops])
def test_parameters_buffers_ties_and_outputs_are_carried_over(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kind().train()
    exported = export_source(model, torch.randn(2, 3, 8, 8), tmp_path / "model.py")
    assert exported.difference <= 1e-6
    assert model.training
    images = torch.randn(2 if kind is Loops else 3, 3, 8, 8)
    found, expected = alone(tmp_path, images), model.eval()(images)
    assert found.keys() == expected.keys()  # type: ignore[attr-defined]
    torch.testing.assert_close(found, expected)
    code = (tmp_path / "model.py").read_text()
    assert ("torch.ops.aten" in code) == (kind is Loops)
    if kind is Own:
        names: dict[str, object] = {"__file__": str(tmp_path / "model.py"), "__name__": "written"}
        exec(code, names)
        network = names["load"]()  # type: ignore[operator]
        assert network.first.weight is network.second.weight
        assert isinstance(network.scale, nn.Parameter)


def test_a_network_for_one_batch_size_is_written_as_such(tmp_path: Path) -> None:
    exported = export_source(FixedBatch(), torch.randn(2, 3, 8, 8), tmp_path / "model.py")
    assert not exported.dynamic_batch
    assert exported.difference <= 1e-6


def test_what_cannot_be_written_is_one_sentence_and_what_was_there_stays(tmp_path: Path) -> None:
    class Chooses(FixedBatch):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if float(x.sum()) > 0 else x

    (tmp_path / "model.py").write_text("old")
    with pytest.raises(ExportError, match=r"cannot export the network as source: .*; no file was kept"):
        export_source(Chooses(), torch.randn(1, 3, 8, 8), tmp_path / "model.py")
    assert [file.name for file in tmp_path.iterdir()] == ["model.py"]
    assert (tmp_path / "model.py").read_text() == "old"
