"""Files in int8: how near they must come, which layers stay in float32, and what is refused."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import signal
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.data import from_loaders
from secateur.errors import DataError, ExportError, SettingError
from secateur.events import Event
from secateur.export import Exported, export_int8, export_onnx, int8, missing
from secateur.export.attempt import Way, export
from secateur.export.comparison import Found, call_of
from secateur.export.int8 import Int8Kind, layers_of
from secateur.export.likeness import Tally, in_parts
from secateur.export.programs import PACKAGES

pytestmark = pytest.mark.skipif(bool(missing("onnx-int8")), reason="ONNX packages not installed")
torch.set_num_threads(1)


class Uneven(nn.Module):
    """One channel between the first two layers is so large that int8 has no steps left for the others."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.third, self.last = nn.Conv2d(8, 8, 1), nn.Linear(8, 6)
        with torch.no_grad():
            self.first.bias[0] = size
            self.second.weight[:, 0] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.third(torch.relu(self.second(self.first(x))))).mean((2, 3)))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return 2 * torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(1)) + torch.randn(
        40, 3, 1, 1, generator=torch.Generator().manual_seed(2)
    )


def network(size: float) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Uneven(size).train()


def test_a_file_in_int8_answers_alike_on_any_batch_and_the_network_stays_as_it_was(
    images: Tensor, tmp_path: Path
) -> None:
    import onnx
    import onnxruntime

    net = network(1.0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = export_int8(net, images[:1], tmp_path / "new" / "net.onnx", calibrate=images, leave=("last",))
    assert made.int8 is not None
    assert (made.kind, made.dynamic_batch, made.int8.left) == ("onnx-int8", True, ("last",))
    assert 1e-4 < made.int8.error < 0.05  # of 255 steps
    assert made.int8.agreement is not None
    assert made.int8.agreement >= 0.9
    assert [file.name for file in made.path.parent.iterdir()] == ["net.onnx"]
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    session = onnxruntime.InferenceSession(str(made.path))
    given = session.run(None, {session.get_inputs()[0].name: images[:7].numpy()})[0]
    wanted = net.eval()(images[:7]).detach()
    assert (torch.as_tensor(given) - wanted).abs().max() <= made.difference * wanted.abs().max() * 1.5
    graph = onnx.load(made.path).graph
    weights = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims]
    assert sum(len(tensor.dims) == 4 for tensor in weights) == 3  # the convolutions, and not the last layer
    assert not any(list(tensor.dims) == [6, 8] for tensor in weights)


def test_layers_that_hurt_stay_in_float_or_are_named(images: Tensor, tmp_path: Path) -> None:
    net, path = network(3000.0), tmp_path / "net.onnx"
    made = export_int8(net, images[:1], path, calibrate=images, max_drop=0.1)
    assert made.int8 is not None
    assert set(made.int8.left) == {"first", "second"}
    assert made.int8.error < 0.05
    content = path.read_bytes()
    refused = (
        r"% of the images get another answer, and 10 % are allowed.*hurt the most are (first, second|second, first)"
    )
    with pytest.raises(ExportError, match=refused):
        export_int8(net, images[:1], path, calibrate=images, max_drop=0.1, mixed=False)
    assert path.read_bytes() == content  # of the file that was there
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


class Several(Uneven):
    """Scores that int8 leaves as they are, beside a map that it does not."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.first(x).relu()
        return {"scores": self.last(y[:, 1:].mean((2, 3)).repeat(1, 2)[:, :8]), "map": self.second(y)}


def test_every_output_is_judged_and_the_worst_is_named(images: Tensor, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Several(3000.0)
    write = partial(export_int8, net, images[:1], tmp_path / "net.onnx", calibrate=images, mixed=False)
    with pytest.raises(ExportError, match=r"of 2 outputs output\['map'\] is the worst: its values are off by \d"):
        write(max_drop=0.5)
    assert not list(tmp_path.iterdir())
    made = write(max_drop=0.99)
    assert made.int8 is not None
    assert "output['map'] is the worst" in made.int8.text()
    assert "output['map'] is the worst" in made.int8.to_dict()["worst"]


def test_whole_numbers_are_compared_as_answers() -> None:
    tally = Tally()
    tally.add(torch.tensor([1, 900, 3, 4]), torch.tensor([1, 2, 3, 4]))
    assert tally.lost == pytest.approx(0.25)
    assert tally.text() == "25.0 % of the images get another answer"


def test_numbers_of_whole_batches_come_piece_by_piece() -> None:
    run = in_parts(lambda call: [call.tensors()[0] * 2, call.tensors()[0].sum()], 2)
    each, sums = run(call_of(torch.tensor([[1.0], [2.0], [3.0]])))
    assert each.tolist() == [[2.0], [4.0], [6.0]]
    assert sums.tolist() == [3.0, 6.0]  # the last piece is filled up with its last image


def test_with_labels_the_metric_decides(images: Tensor, tmp_path: Path) -> None:
    net = network(3000.0)
    labels = net.eval()(images).argmax(1).detach()
    batches = [(images, labels)]
    data = from_loaders(train=batches, val=batches, test=batches, classes=6)
    with pytest.raises(ExportError, match=r"its accuracy on the validation images is .* may lose 1.00 % at most"):
        export_int8(net, images[:1], tmp_path / "net.onnx", data=data, mixed=False)


def test_the_metric_comes_with_the_largest_deviation_and_numbers_that_are_not_finite_are_refused(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(1.0)
    labels = net.eval()(images).argmax(1).detach()
    data = from_loaders(train=[(images, labels)], val=[(images[:9], labels[:9])], test=[(images, labels)], classes=6)
    made = export_int8(net, images[:1], tmp_path / "net.onnx", data=data, max_drop=0.5)
    for more, words in (
        ({"data": data}, "accuracy is a share"),
        ({"calibrate": images}, "without labels it is the share"),
    ):
        with pytest.raises(SettingError, match=rf"^max_drop= is 2, and {words}.*; set 0\.02 for 2 "):
            export_int8(net, images[:1], tmp_path / "net.onnx", max_drop=2, **more)
    assert made.int8 is not None
    assert made.int8.most == made.difference > made.int8.error
    assert re.search(
        r"in float32 100.00 %, of 9 examples; outputs off by .* % of the largest at most", made.int8.text()
    )
    own = int8._Program.load  # pyright: ignore[reportPrivateUsage]

    def load(self: Any, path: Path, size: int = 9) -> Any:
        run = own(self, path)

        def spoilt(call: Any) -> list[Tensor]:
            (scores,) = run(call)
            return [scores.index_fill(1, torch.tensor([5]), -math.inf) if len(scores) == size else scores]

        return spoilt

    monkeypatch.setattr(int8._Program, "load", load)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ExportError, match="on the validation images it puts out infinity or NaN where the "):
        export_int8(net, images[:1], tmp_path / "new.onnx", data=data, max_drop=0.99, mixed=False)
    monkeypatch.setattr(int8._Program, "load", lambda self, path: load(self, path, 40))  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ExportError, match="int8: it puts out infinity or NaN where the network does not"):
        export_int8(net, images[:1], tmp_path / "new.onnx", data=data, max_drop=0.99, mixed=False)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


class Heads(nn.Module):
    """What detectors put out before anything is chosen: scores, one of them masked, and boxes of all anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Hardswish())
        self.scores, self.boxes = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.register_buffer("mask", torch.tensor([0.0, 0.0, -math.inf]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.backbone(x)
        scores, boxes = (
            layer(y).permute(0, 2, 3, 1).reshape(len(x), -1, width)
            for layer, width in ((self.scores, 3), (self.boxes, 4))
        )
        return {"scores": scores + self.mask, "boxes": boxes}


def test_it_says_what_it_does_unless_told_not_to(
    images: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[Event] = []
    for more in ({"progress": True}, {}, {"tell": heard.append}):
        export_int8(network(1.0), images[:1], tmp_path / "net.onnx", calibrate=images, leave=("last",), **more)
    assert re.fullmatch(r"exporting in float32 \(.* s\)\n", capsys.readouterr().err)  # one stage, named at its start
    assert [event.text for event in heard] == [
        "exporting in float32",
        "calibrating, and putting layers into int8, 1 of 4 in float32",
        "comparing it with the network",
    ]


def test_heads_of_a_detector_are_judged_by_their_numbers(images: Tensor, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Heads()
    made = export_int8(net, images[:1], tmp_path / "net.onnx", calibrate=images)
    assert made.int8 is not None
    assert made.int8.agreement is None
    assert 1e-4 < made.int8.error < 0.1
    assert re.search(r"of 2 outputs output\['(scores|boxes)'\] is the worst: its values are off by", made.int8.worst)


def test_what_cannot_be_quantised_is_refused_in_a_sentence(images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(DataError, match="int8 is calibrated on images, and there are none: give 'calibrate' some"):
        export_int8(network(1.0), images[:1], path)
    with pytest.raises(SettingError, match=r"no layer 'secnd' to leave in float32.*did you mean 'second'"):
        export_int8(network(1.0), images[:1], path, calibrate=images, leave=("secnd",))
    with pytest.raises(SettingError, match=r"^leave= names every layer that could be in int8, so that there is none; "):
        export_int8(network(1.0), images[:1], path, calibrate=images, leave=("*",))
    for kind in (torch.float16, torch.float64):
        with pytest.raises(ExportError, match=rf"networks in float32, and this one is in {kind}; give model\.float"):
            export_int8(network(1.0).to(kind), images[:1].to(kind), path, calibrate=images)
    with pytest.raises(ExportError, match="no convolution and no linear layer"):
        export_int8(nn.Sequential(nn.ReLU(), nn.Flatten()), images[:1], path, calibrate=images)
    assert not list(tmp_path.iterdir())


def test_what_is_left_in_float_is_a_layer_that_int8_would_hold() -> None:
    modules = {"body": "Sequential", "body.0": "Conv2d", "body.1": "ReLU", "act": "ReLU"}
    assert layers_of(["body"], ["body.0"], modules) == ["body.0"]
    for name, which in (("body.1", "body.1"), ("a*", "act")):
        with pytest.raises(
            SettingError, match=rf"^'{which}' is of ReLU, which is no layer that .*; the first are body.0"
        ):
            layers_of([name], ["body.0"], modules)


def test_transposed_convolutions_in_groups_stay_in_float_and_are_named(images: Tensor, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, groups=2), nn.ConvTranspose2d(8, 8, 2, groups=2, bias=False)
        )
    made = export_int8(net, images[:1], tmp_path / "net.onnx", calibrate=images)
    assert made.int8 is not None
    assert made.int8.left == ("1",)
    assert 1e-4 < made.int8.error < 0.05
    with pytest.raises(SettingError, match="names every layer that could be in int8"):
        export_int8(net, images[:1], tmp_path / "net.onnx", calibrate=images, leave=("0", "2"))


def test_an_empty_example_is_refused_before_any_work(images: Tensor, tmp_path: Path) -> None:
    for write in (export_onnx, partial(export_int8, calibrate=images)):
        with pytest.raises(ExportError, match=r"^the example inputs are a batch of 0 images, "):
            write(network(1.0), images[:0], tmp_path / "new" / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["onnx-int8", "openvino-int8"])
def test_ctrl_c_leaves_an_older_file_and_nothing_else(
    kind: Int8Kind, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "out", tmp_path / "temporary"
    folder.mkdir()
    elsewhere.mkdir()
    names = ["net.onnx"] if kind == "onnx-int8" else ["net.bin", "net.xml"]
    for name in names:
        (folder / name).write_bytes(b"older")
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))

    def stopped(self: Any, leave: Any, path: Path) -> None:
        for name in names:
            path.with_suffix(Path(name).suffix).write_bytes(b"half")
        assert len(list(folder.iterdir())) == 2 * len(names)
        raise KeyboardInterrupt

    monkeypatch.setattr(int8._Program, "write", stopped)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(int8, "missing", lambda kind: "")
    with pytest.raises(KeyboardInterrupt):
        export_int8(network(1.0), images[:1], folder / names[-1], kind=kind, calibrate=images)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == dict.fromkeys(names, b"older")
    assert not [file for file in elsewhere.iterdir() if not file.name.startswith("torchinductor_")]  # a cache of torch


def test_ctrl_c_never_parts_two_files_of_one_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(network: nn.Module, call: Any, path: Path) -> None:
        for suffix in (".xml", ".bin"):
            path.with_suffix(suffix).write_bytes(b"newer")

    own = os.replace

    def struck(one: Path, other: Path) -> None:
        own(one, other)
        signal.raise_signal(signal.SIGINT)

    for name in ("net.xml", "net.bin"):
        (tmp_path / name).write_bytes(b"older")
    monkeypatch.setattr(os, "replace", struck)
    way = Way(False, write, lambda path: lambda call: [], ".bin")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells leave it out for what runs behind
    try:
        with pytest.raises(KeyboardInterrupt):
            export(nn.ReLU(), torch.ones(1), tmp_path / "net.xml", "openvino-int8", [way], check=lambda *_: Found(0.0))
    finally:
        signal.signal(signal.SIGINT, before)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"net.xml": b"newer", "net.bin": b"newer"}


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime", "openvino", "nncf"])
def test_a_missing_package_is_one_sentence(
    package: str, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else own(name))
    monkeypatch.setitem(PACKAGES, "openvino-int8", ("onnx", "onnxscript", "onnxruntime", package))
    extra = "int8" if package in ("openvino", "nncf") else "export"
    kinds: list[Int8Kind] = ["openvino-int8"] if extra == "int8" else ["onnx-int8", "openvino-int8"]
    for kind in kinds:
        wanted = rf'^{kind} needs the package {package}; run: pip install "secateur\[{extra}\]"$'
        with pytest.raises(ExportError, match=wanted):
            export_int8(network(1.0), images[:1], tmp_path / "net.xml", kind=kind, calibrate=images)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(bool(missing("openvino-int8")), reason="OpenVINO or NNCF is not installed")
def test_openvino_runs_a_file_of_its_own(images: Tensor, tmp_path: Path) -> None:
    made: Exported = export_int8(
        network(1.0), images[:1], tmp_path / "net.xml", kind="openvino-int8", calibrate=images, leave=("last",)
    )
    assert made.int8 is not None
    assert made.int8.error < 0.05
    with pytest.raises(ExportError, match=r"files are named \.xml, and '.*net\.onnx' is not; give"):
        export_int8(network(1.0), images[:1], tmp_path / "net.onnx", kind="openvino-int8", calibrate=images)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert "FakeQuantize" in made.path.read_text()


class FixedBatch(Uneven):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x).reshape(2, 8, 4, 4)
        return y, self.last(self.second(y).mean((2, 3)))


def test_a_file_of_one_batch_size_is_fed_piece_by_piece(images: Tensor, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = FixedBatch(1.0).eval()
    made = export_int8(net, images[:2], tmp_path / "net.onnx", calibrate=images[:39])
    assert made.int8 is not None
    assert not made.dynamic_batch
    assert made.int8.error < 0.05
