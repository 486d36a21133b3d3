from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import nets
from secateur.core.plan import EMPTY, DropUnits, Plan
from secateur.core.sizes.size import size
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.measure import missing
from secateur.measure.forecast import Forecast, layer_calls
from secateur.measure.layer_program import layer_program
from secateur.measure.layer_table import LayerShape, LayerTable
from secateur.measure.runtimes import difference, from_program

LAYERS = [
    (nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False), (2, 6, 9, 9)),
    (nn.Conv2d(6, 12, (1, 3), padding=(0, 2), dilation=(1, 2), groups=3), (1, 6, 8, 8)),
    (nn.Conv1d(4, 8, 3), (1, 4, 16)),
    (nn.Linear(7, 5), (3, 7)),
]


@pytest.mark.parametrize(("layer", "inputs"), LAYERS)
def test_a_shape_makes_the_layer_again_and_counts_its_macs(layer: nn.Module, inputs: tuple[int, ...]) -> None:
    shape = LayerShape.of(layer, layer.weight.shape, inputs, getattr(layer, "groups", 1))  # type: ignore[arg-type]
    assert repr(shape.module()) == repr(layer)
    x = torch.randn(inputs)
    assert shape.output == tuple(layer(x).shape)
    assert shape.macs == size(trace(nn.Sequential(layer), x)).macs


@pytest.mark.parametrize(("layer", "inputs"), LAYERS)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_programs_written_by_hand_compute_the_layer(layer: nn.Module, inputs: tuple[int, ...], runtime: str) -> None:
    if missing(runtime):  # type: ignore[arg-type]
        pytest.skip(f"{runtime} is not installed")
    x = torch.randn(inputs)
    program = layer_program(layer, x)
    assert program is not None
    assert difference(layer, x, from_program(program, x, runtime, 1)) < 1e-5  # type: ignore[arg-type]


def test_a_table_measures_once_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    shape = LayerShape("Linear", (64, 64), (8, 64), True)
    table = LayerTable.here("eager", 1, torch.device("cpu"))
    time = table.milliseconds(shape)
    assert time == table.milliseconds(shape) > 0
    assert table.measured == 1
    table.save()
    again = LayerTable.here("eager", 1, torch.device("cpu"))
    assert (again.milliseconds(shape), again.measured) == (time, 0)
    assert LayerTable.here("channels_last", 1, torch.device("cpu")).file != again.file != None  # noqa: E711
    assert LayerTable.here("eager", 2, torch.device("cpu")).file is None  # the clock on the wall knows no other program
    assert json.loads(again.file.read_text())["about"]["threads"] == 1  # type: ignore[union-attr]
    again.file.write_text('{"milliseconds": {"a": "b"')  # type: ignore[union-attr]
    assert LayerTable.here("eager", 1, torch.device("cpu")).milliseconds(shape) > 0  # damaged: measured anew
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_a_longer_layer_takes_longer() -> None:
    table = LayerTable("eager", 1)
    small = table.milliseconds(LayerShape("Linear", (8, 8), (1, 8), True))
    large = table.milliseconds(LayerShape("Linear", (1024, 1024), (64, 1024), True))
    assert large > 5 * small


@pytest.mark.parametrize(
    "network", ["Plain", "CatSelf", "SqueezeExcite", "GroupConv", "DepthMultiplier", "CalledTwice", "FlattenMap"]
)
def test_shapes_on_paper_are_those_of_the_thin_network(network: str) -> None:
    model, x = getattr(nets, network)().eval(), torch.randn(2, 3, 8, 8)
    graph = trace(model, x)
    plan = Plan(tuple(DropUnits(group.name, (0, 1)) for group in graph.free if group.size > 3))
    thin = apply(model, graph, plan)
    forecast = Forecast.of(model, graph, x, LayerTable("eager", 1), 1.0)
    for found, real in zip(forecast.calls, layer_calls(thin, x), strict=True):
        shape = forecast.shape(found, graph.kept(plan))
        assert (found.name, shape.weight, shape.input) == (real.name, tuple(real.module.weight.shape), real.input)
        assert repr(shape.module()) == repr(real.module)


def test_a_forecast_adds_layers_and_the_rest_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nets.Plain().eval(), torch.randn(1, 3, 8, 8)
    graph = trace(model, x)
    table = LayerTable("eager", 1)
    monkeypatch.setattr(LayerTable, "_measure", lambda self, shape: shape.macs / 1000)
    dense = size(graph).macs
    everything = graph.kept(EMPTY)
    whole = 2 * dense / 1000  # half of the time is in other things
    forecast = Forecast.of(model, graph, x, table, whole)
    assert forecast.milliseconds(everything) == pytest.approx(whole)
    assert forecast.rest == pytest.approx(0.5)
    half = Plan(tuple(DropUnits(group.name, tuple(range(group.size // 2))) for group in graph.free))
    macs = size(graph, half).macs
    kept = forecast.milliseconds(graph.kept(half))
    # the rest halves with the activations of the convolutions; the scores of the classes stay
    assert macs / 1000 + 0.45 * dense / 1000 < kept < macs / 1000 + 0.6 * dense / 1000
    fast = Forecast.of(model, graph, x, table, dense / 2000)  # layers alone take longer than together
    assert fast.milliseconds(graph.kept(half)) == pytest.approx(macs / 2000)


@pytest.mark.parametrize("network", ["Plain", "CatSelf", "GroupConv", "DepthMultiplier", "CalledTwice", "FlattenMap"])
def test_the_terms_of_a_forecast_add_up_to_it_and_know_what_they_depend_on(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = getattr(nets, network)().eval(), torch.randn(1, 3, 8, 8)
    graph = trace(model, x)
    monkeypatch.setattr(LayerTable, "_measure", lambda self, shape: shape.macs / 1000)
    forecast = Forecast.of(model, graph, x, LayerTable("eager", 1), 2 * size(graph).macs / 1000)
    terms, everything = forecast.times.terms, graph.kept(EMPTY)
    for group in graph.free:
        keep = graph.kept(Plan((DropUnits(group.name, (0,)),)))
        assert forecast.times.milliseconds(keep) == pytest.approx(forecast.milliseconds(keep))
        changed = {n for n, term in enumerate(terms) if term.milliseconds(keep) != term.milliseconds(everything)}
        assert changed
        assert changed <= {n for n, term in enumerate(terms) if group.name in term.groups}


@pytest.mark.parametrize("about", ["device", "capability", "version", "torch"])
def test_a_table_of_another_machine_or_version_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: str
) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    shape = LayerShape("Linear", (64, 64), (8, 64), True)
    table = LayerTable.here("eager", 1, torch.device("cpu"))
    assert table.file is not None
    table.milliseconds(shape)
    table.save()
    stored = json.loads(table.file.read_text())
    stored["about"][about] = "another"
    stored["milliseconds"] = dict.fromkeys(stored["milliseconds"], 1000000000.0)
    table.file.write_text(json.dumps(stored))
    again = LayerTable.here("eager", 1, torch.device("cpu"))
    assert again.milliseconds(shape) < 1e9
    assert again.measured == 1


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), (3, 9, 9)),
        (nn.Sequential(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 3)), (3, 9)),
        (nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.Conv2d(8, 4, 3)), (3, 9, 9)),
        (nn.Sequential(nn.Linear(9, 8), nn.Linear(8, 4)), (9,)),
    ],
)
def test_an_image_without_a_batch_is_timed_as_a_batch_of_one(model: nn.Module, shape: tuple[int, ...]) -> None:
    model, x = model.eval(), torch.randn(shape)
    graph = trace(model, x[None])
    keep = graph.kept(Plan((DropUnits(graph.free[0].name, (0, 1)),)))
    one, alone = (Forecast.of(model, graph, inputs, LayerTable("eager", 1), 1.0) for inputs in (x[None], x))
    assert [one.shape(call, keep) for call in one.calls] == [alone.shape(call, keep) for call in alone.calls]


@pytest.mark.parametrize(("layer", "inputs"), LAYERS)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_programs_in_int8_compute_the_layer_but_for_their_steps(
    layer: nn.Module, inputs: tuple[int, ...], runtime: str
) -> None:
    if missing(runtime):  # type: ignore[arg-type]
        pytest.skip(f"{runtime} is not installed")
    codes = torch.randint(40, 216, inputs, dtype=torch.uint8)
    program = layer_program(layer, torch.zeros(inputs), int8=True)
    assert program is not None
    (given,) = from_program(program, codes, runtime, 1).outputs()  # type: ignore[arg-type]
    assert given.dtype == torch.uint8
    wanted = layer((codes.float() - 128) / 40).clamp(-3.2, 3.175).detach()
    assert ((given.float() - 128) / 40 - wanted).abs().max() < 0.05


def test_a_table_of_int8_is_another_one_than_that_of_float32() -> None:
    if missing("onnxruntime_int8"):
        pytest.skip("onnxruntime is not installed")
    large = LayerShape("Conv2d", (256, 256, 3, 3), (1, 256, 14, 14), True, (("padding", 1), ("groups", 1)))
    in_int8, in_float = LayerTable("onnxruntime_int8", 1), LayerTable("onnxruntime", 1)
    assert in_int8.about() != in_float.about()
    assert in_int8.milliseconds(large) != in_float.milliseconds(large)
