"""Networks from ONNX files: what they compute, how they are cut and written back, and what is refused."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onnx_made import node, number, pictures, weight, written
from secateur import Recipe, export_onnx, from_onnx, load, prune, run_recipe
from secateur.errors import ArtifactError, ModelError
from secateur.events import Event
from secateur.models import OnnxNetwork
from secateur.models.onnx_files.agreement import agree
from secateur.models.sources import images_for, own_code
from secateur.run.sources import sources
from secateur.run.subject import subject_of

FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("onnx") / "net.onnx")


@pytest.fixture(scope="module")
def recipe(net: Path) -> Recipe:
    images = net.with_name("images.npy")
    np.save(images, np.random.default_rng(1).normal(size=(64, 3, 8, 8)).astype(np.float32))
    return Recipe(
        model=str(net), method="reconstruction", keep=0.5, calibrate=str(images), latency=False, export=("onnx",)
    )


@pytest.fixture(scope="module")
def result(recipe: Recipe) -> Any:
    return run_recipe(recipe)


def run(path: Path, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_pictures_are_taken_with_channels_first_and_any_number_of_them(net: Path) -> None:
    model = from_onnx(net)
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        found = model(x)
    expected = run(net, x.permute(0, 2, 3, 1).contiguous().numpy())
    assert torch.allclose(found, torch.from_numpy(expected), atol=1e-5)
    assert images_for(str(net)) == (3, 8)
    assert not own_code(str(net))


def test_runs_that_fail_print_nothing(net: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for model in (from_onnx(net), copy.deepcopy(from_onnx(net))):
        with pytest.raises(RuntimeError):
            model(torch.randn(2, 3, 9, 30))
    assert capfd.readouterr().err == ""


def test_half_is_cut_and_written_as_the_file_was_called(result: Any, tmp_path: Path) -> None:
    assert result.after.counts.macs <= 0.5 * result.before.counts.macs
    assert result.verification < 1e-5
    assert sum(repair.layers for repair in result.repairs) > 0
    path = export_onnx(result.deploy(time=False), result.example_inputs, tmp_path / "thin.onnx", reference=result.model)
    file = onnx.load(str(path.path))
    assert ([it.name for it in file.graph.input], [it.name for it in file.graph.output]) == (["x"], ["y"])
    assert file.opset_import[0].version == 11
    assert path.dynamic_batch
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        thin = result.model(x)
    found = torch.from_numpy(run(path.path, x.permute(0, 2, 3, 1).contiguous().numpy()))
    assert torch.allclose(thin, found, atol=1e-5)


def test_a_result_loads_without_the_file_and_holds_no_dense_weights(result: Any, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "result")
    x = torch.randn(2, 3, 8, 8)
    loaded = load(folder)
    with torch.no_grad():
        assert torch.equal(loaded.model(x), result.model(x))
    assert isinstance(loaded.model, OnnxNetwork)
    held = {each.name: each for each in onnx.load(str(folder / "network.onnx")).graph.initializer}
    assert not held["w2"].raw_data
    assert held["high"].raw_data


def test_a_result_of_a_network_in_memory_loads_too(net: Path, tmp_path: Path) -> None:
    model = from_onnx(net)
    found = prune(model, model.example_inputs, "magnitude", 0.6, latency=False, repair=())
    loaded = load(found.save(tmp_path / "result"))
    with torch.no_grad():
        assert torch.equal(loaded.model(model.example_inputs), found.model(model.example_inputs))


def test_a_result_whose_network_is_gone_or_too_large_is_refused(result: Any, tmp_path: Path) -> None:
    import forgery

    folder = result.save(tmp_path / "result")
    file = onnx.load(str(folder / "network.onnx"))
    next(each for each in file.graph.initializer if each.name == "w2").dims[0] = 2**40
    forgery.write(folder, "network.onnx", file.SerializeToString())
    with pytest.raises(ArtifactError, match="which those that are stored do not bear out"):
        load(folder)


def test_a_file_that_has_changed_is_noticed(recipe: Recipe, net: Path, tmp_path: Path) -> None:
    before = {each.setting: each.sha256 for each in sources(recipe)}
    content = net.read_bytes()
    try:
        pictures(net, 12)
        assert {each.setting: each.sha256 for each in sources(recipe)}["model"] != before["model"]
    finally:
        net.write_bytes(content)


X = ["N", 4, 6, 6]
OPERATORS = {
    "resize by scales": (
        13, [node("Resize", "x none s", mode="nearest")], [number("none", []), number("s", [1, 1, 2, 2])],
    ),
    "resize to sizes": (
        18,
        [helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear")],
        [number("sizes", [2, 4, 9, 9], np.int64)],
    ),
    "upsample": (9, [node("Upsample", "x s", mode="nearest")], [number("s", [1, 1, 2, 2])]),
    "old slice": (9, [node("Slice", "x", axes=[1, 2], starts=[1, 0], ends=[3, 2**31])], []),
    "slice by steps": (
        13,
        [node("Slice", "x b e a s")],
        [number(n, v, np.int64) for n, v in zip("beas", ([0, -1], [6, -7], [2, 3], [2, -1]), strict=True)],
    ),
    "old pad": (9, [node("Pad", "x", pads=[0, 1, 0, 2, 0, 0, 1, 0], value=0.5)], []),
    "reflect": (18, [node("Pad", "x p", mode="reflect")], [number("p", [0, 0, 1, 1, 0, 0, 2, 0], np.int64)]),
    "split": (18, [node("Split", "x", "a b", axis=1, num_outputs=2), node("Mul", "a b")], []),
    "old split": (11, [node("Split", "x", "a b", axis=1, split=[1, 3]), node("Mul", "a b")], []),
    "expand": (
        13,
        [node("ReduceMean", "x", "m", axes=[2, 3]), node("Expand", "m s")],
        [number("s", [1, 1, 3, 2], np.int64)],
    ),
    "tile": (13, [node("Tile", "x r")], [number("r", [1, 2, 1, 1], np.int64)]),
    "choose channels": (13, [node("Gather", "x i", axis=1)], [number("i", [2, 0, -1], np.int64)]),
    "choose in a table": (13, [node("Gather", "x i", axis=1)], [number("i", [[2, 0], [-1, 1], [0, 0]], np.int64)]),
    "choose all in order": (13, [node("Gather", "x i", axis=1)], [number("i", [[[0], [1], [2], [3]]], np.int64)]),
    "strides of their own": (
        13,
        [
            node("Reshape", "x flat", "row"),
            *[node("Shape", "x", "s"), node("ReduceProd", "s", "n", keepdims=0), node("Range", "zero n one", "all")],
            *[node("Reshape", "all like", "places")],
            node("Gather", "row places"),
        ],
        [number(n, v, np.int64) for n, v in (("flat", [-1]), ("zero", 0), ("one", 1), ("like", [-1, 4, 1, 36]))],
    ),
    "large constant": (13, [node("Mul", "x k")], [number("k", [np.linspace(-1, 1, 144).reshape(4, 6, 6)])]),
    "choose one": (13, [node("Gather", "x i", axis=1)], [number("i", 1, np.int64)]),
    "new mean": (18, [node("ReduceMean", "x a", keepdims=0)], [number("a", [2, -1], np.int64)]),
    "norm of length": (18, [node("ReduceL2", "x a")], [number("a", [1], np.int64)]),
    "largest": (13, [node("ReduceMax", "x", axes=[1])], []),
    "old softmax": (11, [node("Flatten", "x", "f"), node("Softmax", "f")], []),
    "old clip": (10, [node("Clip", "x", min=-0.5)], []),
    "hard swish": (14, [node("HardSwish", "x")], []),
    "gelu": (20, [node("Gelu", "x", approximate="tanh")], []),
    "mish": (18, [node("Mish", "x")], []),
    "dropout": (12, [node("Dropout", "x", "y mask")], []),
    "group norm": (
        21,
        [node("GroupNormalization", "x s b", num_groups=2)],
        [number("s", [1, 2, 3, 4]), number("b", [0, 1, 0, 1])],
    ),
    "layer norm": (17, [node("LayerNormalization", "x s b")], [number("s", np.ones(6)), number("b", np.arange(6))]),
    "uneven pool": (11, [node("MaxPool", "x", kernel_shape=[2, 2], auto_pad="SAME_UPPER")], []),
    "uneven mean": (11, [node("AveragePool", "x", kernel_shape=[3, 3], pads=[0, 0, 1, 1], count_include_pad=1)], []),
    "transposed": (11, [node("ConvTranspose", "x w", strides=[2, 2], kernel_shape=[2, 2])], [weight("w", 4, 3, 2, 2)]),
    "divided by": (13, [node("Exp", "x", "e"), node("Div", "one e")], [number("one", 2.0)]),
    "squeezed": (13, [node("GlobalAveragePool", "x", "g"), node("Squeeze", "g"), ], []),
    "blocks of pixels": (11, [node("DepthToSpace", "x", blocksize=2)], []),
    "one slope": (13, [node("PRelu", "x s")], [number("s", [0.2])]),
    "slopes": (13, [node("PRelu", "x s")], [number("s", [[[0.1]], [[0.2]], [[0.3]], [[-0.4]]])]),
    "of several": (
        13,
        [
            node("Max", "x k", "a"), node("Min", "x k h", "b"), node("Sum", "a b x", "c"), node("Mean", "c x a", "d"),
            node("Max", "d"),
        ],
        [number("k", 0.5), number("h", [[[0.3]], [[-0.2]], [[0.1]], [[0.4]]])],
    ),
    "pixels": (11, [node("DepthToSpace", "x", blocksize=2, mode="CRD")], []),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_all_opsets_compute_what_onnx_runtime_does(name: str, tmp_path: Path) -> None:
    opset, nodes, held = OPERATORS[name]
    shape = [2, *X[1:]] if name == "resize to sizes" else X
    path = written(tmp_path / "one.onnx", nodes, held, shape=shape, opset=opset)
    model = from_onnx(path)  # which compares, and refuses what differs
    assert model.interface.opset == opset


def test_a_fixed_batch_stays_fixed_and_is_free_in_torch(tmp_path: Path) -> None:
    shape = number("s", [1, 144], np.int64)
    path = written(
        tmp_path / "fixed.onnx", [node("Relu", "x", "r"), node("Reshape", "r s")], [shape], shape=[1, 4, 6, 6]
    )
    model = from_onnx(path)
    assert model(torch.randn(3, 4, 6, 6)).shape == (3, 144)
    made = export_onnx(model, torch.randn(3, 4, 6, 6), tmp_path / "again.onnx")
    assert not made.dynamic_batch
    assert onnx.load(str(made.path)).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def former(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take torch's former exporter away, as one day it will be gone."""
    own: Any = torch.onnx.export

    def export(*args: Any, dynamo: bool, **kwargs: Any) -> Any:
        if not dynamo:
            raise RuntimeError("there is no such exporter")
        return own(*args, dynamo=dynamo, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", export)


@pytest.mark.parametrize("name", ["former", "converted", "kept"])
def test_batches_keep_their_names_and_opsets_their_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opset = 16
    nodes = [node("Conv", "x w", "a", pads=[1] * 4), node("Relu", "a", "y")]
    path = written(tmp_path / "named.onnx", nodes, [weight("w", 4, 4, 3, 3)], shape=["images", 4, 6, 6], opset=opset)
    model = from_onnx(path)
    if name != "former":
        former(monkeypatch)
    if name == "kept":
        monkeypatch.setattr(onnx.version_converter, "convert_version", None)
    made = export_onnx(model, torch.randn(2, 4, 6, 6), tmp_path / "again.onnx")
    assert made.dynamic_batch
    file = onnx.load(str(made.path))
    sizes = [value.type.tensor_type.shape.dim for value in (*file.graph.input, *file.graph.output)]
    assert [[size[0].dim_param, *(it.dim_value for it in size[1:])] for size in sizes] == [["images", 4, 6, 6]] * 2
    assert file.opset_import[0].version == (18 if name == "kept" else opset)
    assert ("in opset 18, as PyTorch cannot write" in made.remark) == (name == "kept")


def test_free_heights_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "free.onnx", [node("Relu", "x")], shape=["N", 3, "H", "W"])
    assert from_onnx(path, image=10).interface.shapes == ((2, 3, 10, 10),)
    assert images_for(str(path)) == (3, 224)


def test_another_function_than_that_of_the_file_is_refused(net: Path) -> None:
    model = from_onnx(net)
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    with pytest.raises(ModelError, match="differs from what ONNX Runtime makes of the file"):
        agree(model, onnx.load(str(net)), model.interface, "net.onnx")


def test_wrong_scores_beside_large_boxes_are_refused(tmp_path: Path) -> None:
    nodes = [
        node("Mul", "x large", "boxes"),
        node("Sigmoid", "x", "s"),
        node("Mul", "s small", "scores"),
        node("Concat", "boxes scores", axis=1),
    ]
    path = written(tmp_path / "boxes.onnx", nodes, [number("large", 640.0), number("small", 0.1)])
    model = from_onnx(path)
    changed = onnx.load(str(path))
    next(each for each in changed.graph.initializer if each.name == "small").CopyFrom(number("small", 0.08))
    with pytest.raises(ModelError, match="a channel of its output 'y'"):
        agree(model, changed, model.interface, "boxes.onnx")


NEAREST = {
    ("asymmetric", "floor", 1.5): True,
    ("asymmetric", "floor", 0.5): True,
    ("asymmetric", "round_prefer_floor", 3.0): False,
    ("asymmetric", "ceil", 2.0): False,
    ("half_pixel", "round_prefer_floor", 3.0): True,
    ("half_pixel", "round_prefer_ceil", 0.5): True,
    ("half_pixel", "floor", 2.0): False,
    ("align_corners", "floor", 2.0): False,
}


@pytest.mark.parametrize("how", NEAREST)
def test_nearest_pixels_are_those_of_onnx_runtime_or_refused(how: tuple[str, str, float], tmp_path: Path) -> None:
    places, rounding, scale = how
    resize = node("Resize", "x none s", coordinate_transformation_mode=places, nearest_mode=rounding)
    path = written(tmp_path / "resize.onnx", [resize], [number("none", []), number("s", [1, 1, scale, scale])])
    if NEAREST[how]:
        from_onnx(path)
    else:
        with pytest.raises(ModelError, match=f"Resize: it takes the nearest pixels by {places} and {rounding}"):
            from_onnx(path)


def test_linear_resizes_at_other_places_are_refused(tmp_path: Path) -> None:
    resize = node("Resize", "x none s", mode="linear", coordinate_transformation_mode="asymmetric")
    path = written(tmp_path / "resize.onnx", [resize], [number("none", []), number("s", [1, 1, 2, 2])])
    with pytest.raises(ModelError, match="at the places of asymmetric"):
        from_onnx(path)


def branch() -> Any:
    then = helper.make_graph([node("Relu", "x")], "then", [], [helper.make_tensor_value_info("y", FLOAT, None)])
    return node("If", "c", "y", then_branch=then, else_branch=then)


HALF = numpy_helper.from_array(np.ones(3, np.float16), "h")
REFUSED: dict[str, tuple[Sequence[Any], Sequence[Any], dict[str, Any], str]] = {
    "branch": ([branch()], [number("c", True, np.bool_)], {}, "operator If with a program in it"),
    "quantised": (
        [node("QuantizeLinear", "x s", "q"), node("DequantizeLinear", "q s")],
        [number("s", 0.1)],
        {},
        r"is quantised \(QuantizeLinear\)",
    ),
    "domain": (
        [node("FusedConv", "x", domain="com.microsoft")],
        [],
        {"domains": ["com.microsoft"]},
        "FusedConv of the d",
    ),
    "half": ([node("Relu", "x")], [HALF], {}, "'h' is float16, where float32"),
    "half input": ([node("Relu", "x")], [], {"kind": TensorProto.BFLOAT16}, "'x' is bfloat16, where float32"),
    "old": ([node("Relu", "x")], [], {"opset": 6}, "is of opset 6, and 7 to"),
    "new": ([node("Relu", "x")], [], {"opset": 999}, "is of opset 999.*pip install --upgrade onnx"),
    "converter": (
        [node("InstanceNormalization", "x s s", "i"), node("CumSum", "i a", exclusive=1)],
        [number("s", np.ones(4)), number("a", 1, np.int64)],
        {},
        "cannot be read: CumSum 'CumSum': onnx2torch says",
    ),
    "huge": (
        [node("Expand", "x s")],
        [number("s", [2, 4, 6, 6 * 10**9], np.int64)],
        {"shape": [2, 4, 6, 1]},
        "puts out",
    ),
    "huge constant": (
        [node("ConstantOfShape", "s", "c"), node("Add", "x c")],
        [number("s", [2**20, 2**20], np.int64)],
        {},
        "ConstantOfShape puts out",
    ),
    "many constants": (
        [
            node("ConstantOfShape", "s", "c0"),
            *(node("Add", f"c{i} c{i}", f"c{i + 1}") for i in range(2)),
            node("ReduceSum", "c2", "c", keepdims=0),
            node("Add", "x c"),
        ],
        [number("s", [2**22], np.int64)],
        {},
        "computes constants that the file does not store, of more than 8,388,608 numbers",
    ),
    "bounds": ([node("Clip", "x a")], [number("a", [1, 2])], {}, "Clip: its bounds are not one number each"),
    "no indices": ([node("Gather", "x i", axis=1)], [number("i", [], np.int64)], {}, "it takes nothing"),
    "nothing": (
        [node("Slice", "x b b a")],
        [number("b", [2], np.int64), number("a", [1], np.int64)],
        {},
        "its output 'y' is empty",
    ),
    "unnamed": (
        [helper.make_node("Split", ["x"], ["", "y"], axis=1)],
        [],
        {},
        "Split: one of its outputs has no name",
    ),
    "unknown kind": ([node("Relu", "x")], [], {"kind": 99}, "'x' is of the unknown type 99"),
    "empty": ([node("Relu", "x")], [], {"shape": ["N", 0, 4, 4]}, "has the empty shape"),
    "free": ([node("Relu", "x")], [], {"shape": ["N", "T", 4]}, r"has the shape \[free, free, 4\], where only"),
    "no shape": ([node("Relu", "x")], [], {"shape": None}, "shape"),
    "depends": ([node("NonZero", "x", "n"), node("Cast", "n", to=FLOAT)], [], {}, "NonZero puts out depends on"),
    "unknown": ([node("LpPool", "x", kernel_shape=[2, 2])], [], {}, "no way to say LpPool in PyTorch"),
    "training": (
        [node("BatchNormalization", "x o o o o", "y a b", training_mode=1)],
        [number("o", np.ones(4))],
        {"opset": 15},
        "statistics of the batch",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    nodes, held, more, sentence = REFUSED[name]
    path = written(tmp_path / "bad.onnx", nodes, held, **more)
    with pytest.raises(ModelError, match=sentence):
        from_onnx(path)


@pytest.mark.parametrize("name", ["class", "None", "self", "torch", "a:0", "1", "len", ""])
def test_inputs_of_any_name_are_read(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "named.onnx", [node("Relu", "x", "r"), node("Sigmoid", "r")])
    model = onnx.load(str(path))
    model.graph.input[0].name = model.graph.node[0].input[0] = name or "a_0"
    if name == "a:0":
        model.graph.input.append(helper.make_tensor_value_info("a_0", FLOAT, X))
        model.graph.node[1].CopyFrom(node("Add", "r a_0"))
    path.write_bytes(model.SerializeToString())
    assert from_onnx(path).interface.inputs[0] == (name or "a_0")


DEEP = ".".join("a" * 3000)


@pytest.mark.parametrize(
    "name", ["graph", "meta", "interface", "example_inputs", "training", "forward", "code", "a.class.b", "import", DEEP]
)
def test_layers_of_any_name_are_read(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "named.onnx", [node("Conv", f"x {name}.weight")], [weight(f"{name}.weight", 3, 4, 1, 1)])
    model = from_onnx(path)
    (layer,) = (each for each, module in model.named_modules() if isinstance(module, torch.nn.Conv2d))
    assert model.state_dict()[f"{layer}.weight"].shape == (3, 4, 1, 1)
    if name != DEEP:
        assert layer.replace("_.", ".").rstrip("_") == name


def test_outputs_named_twice_and_names_that_are_no_text_are_refused(net: Path, tmp_path: Path) -> None:
    model = onnx.load(str(net))
    model.graph.output.append(model.graph.output[0])
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="names one of its outputs twice"):
        from_onnx(path)
    path.write_bytes(net.read_bytes().replace(b"Relu", b"Re\xfeu"))
    with pytest.raises(ModelError, match=r"names are no text|no ONNX file"):
        from_onnx(path)


def test_whatever_fails_is_one_sentence(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise AttributeError("nobody\nforesaw this")

    monkeypatch.setattr("secateur.models.onnx_files.network.agree", fails)
    with pytest.raises(ModelError, match=r"net\.onnx cannot be read \(AttributeError: nobody"):
        from_onnx(net)


def test_a_layer_that_is_called_twice_is_one_layer_and_cut_once(tmp_path: Path) -> None:
    nodes = [node("Conv", "x first", "a", pads=[1] * 4), node("Relu", "a", "l0")]
    nodes.append(node("MaxPool", "l0", "l1", kernel_shape=[2, 2], strides=[2, 2]))
    for level in "01":
        nodes += [
            node("Conv", f"l{level} head bias", f"h{level}", pads=[1] * 4),
            node("Relu", f"h{level}", f"r{level}"),
            node("Conv", f"r{level} last", f"c{level}"),
            node("GlobalAveragePool", f"c{level}", f"g{level}"),
        ]
    nodes.append(node("Add", "g0 g1"))
    held = [weight("first", 8, 4, 3, 3), weight("head", 16, 8, 3, 3), weight("bias", 16), weight("last", 4, 16, 1, 1)]
    model = from_onnx(written(tmp_path / "twice.onnx", nodes, held))
    assert sum(each.numel() for each in model.parameters()) == 8 * 36 + 16 * 72 + 16 + 64
    thin = prune(model, model.example_inputs, "magnitude", 0.5, latency=False, repair=())
    assert thin.after.counts.macs <= 0.5 * thin.before.counts.macs
    assert thin.verification < 1e-5


def test_layers_of_other_strides_share_their_weight(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w1", "a"), node("Conv", "a w2 b1", "b", strides=[2, 2]), node("Conv", "a w2 b2", "c")]
    nodes += [node("Conv", "b w3", "d"), node("Conv", "c w4", "e")]
    nodes += [node("GlobalAveragePool", "d", "f"), node("GlobalAveragePool", "e", "g"), node("Add", "f g")]
    held = [weight("w1", 8, 4, 3, 3), weight("w2", 16, 8, 1, 1), weight("b1", 16), weight("b2", 16)]
    held += [weight("w3", 4, 16, 1, 1), weight("w4", 4, 16, 1, 1)]
    model = from_onnx(written(tmp_path / "strides.onnx", nodes, held))
    thin = prune(model, model.example_inputs, "magnitude", 0.5, latency=False, repair=())
    assert thin.after.counts.macs <= 0.5 * thin.before.counts.macs
    assert thin.verification < 1e-5
    for made in (thin.model, load(thin.save(tmp_path / "result")).model):
        one, other = made.get_submodule("Conv_"), made.get_submodule("Conv__")
        assert one.weight is other.weight
        assert one.bias is not other.bias


def test_a_weight_that_is_no_longer_shared_is_told_with_both_operators(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "/first/Conv"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "w"], ["y"], "/last/Back"),
    ]
    path = written(tmp_path / "both.onnx", nodes, [weight("w", 8, 4, 3, 3)])
    with pytest.warns(UserWarning, match="'w' is one for Conv 'first_Conv' and ConvTranspose 'last_Back' in the file"):
        from_onnx(path)
    heard: list[Event] = []
    subject_of(Recipe(model=str(path), method="magnitude", keep=0.5, image="4x6x6"), tell=heard.append)
    assert [each.stage for each in heard if "the weight 'w' is one" in each.text] == ["warning"]


CUT = {
    "slopes": [node("PRelu", "a s", "m")],
    "largest": [node("Max", "a h", "m")],
    "mean": [node("Mean", "a h h", "m")],
    "blocks": [node("Concat", "a h h a", "w", axis=1), node("DepthToSpace", "w", "m", blocksize=2)],
}


@pytest.mark.parametrize("name", CUT)
def test_what_is_read_is_cut(name: str, tmp_path: Path) -> None:
    nodes = [node("Conv", "x w1", "a"), node("Conv", "x w2", "h"), *CUT[name], node("Conv", "m w3")]
    held = [weight(f"w{i}", *shape, 1, 1) for i, shape in enumerate(((8, 4), (8, 4), (3, 8)), 1)]
    model = from_onnx(
        written(tmp_path / "cut.onnx", nodes, [*held, number("s", np.linspace(0, 1, 8).reshape(8, 1, 1))])
    )
    thin = prune(model, model.example_inputs, "magnitude", 0.6, latency=False, repair=())
    assert thin.after.counts.macs < thin.before.counts.macs
    assert thin.verification < 1e-5


def test_constants_of_functions_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "top.onnx", [node("TopK", "x k", "y i")], [number("k", [2], np.int64)])
    from_onnx(path)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnx2torch"])
def test_a_missing_package_is_named(package: str, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    wanted = rf'^a network in an ONNX file needs the package {package}: pip install "secateur\[onnx\]"$'
    for read in (from_onnx, lambda path: images_for(str(path))):
        with pytest.raises(ModelError, match=wanted):
            read(net)


def test_damaged_and_missing_files_are_refused(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(net.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"no ONNX file|holds no network"):
        from_onnx(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="holds no network"):
        from_onnx(path)
    with pytest.raises(ModelError, match=r"cannot read the ONNX file.*check the path"):
        from_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (["N", "C", 6, 6], r"has the shape \[free, free, 6, 6\], where only a batch and the height .* others fixed"),
        ([0, 4, 6, 6], r"has the empty shape \[0, 4, 6, 6\]; export the network with the sizes"),
        (None, "has no shape; export the network with one"),
        ([1, 4, 2, 2], r"would put out the shape \[1, 3, 0, 0\], for what it reads is too small for it; give larger"),
    ],
)
def test_shapes_that_do_not_fit_are_said_as_they_are(shape: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=sentence):
        from_onnx(written(tmp_path / "net.onnx", [node("Conv", "x w")], [weight("w", 3, 4, 3, 3)], shape=shape))


def test_a_batch_of_minus_one_is_a_free_one(tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", [node("Conv", "x w")], [weight("w", 3, 4, 1, 1)], shape=[-1, 4, 6, 6])
    assert from_onnx(path).interface.dynamic


def test_what_nothing_can_be_computed_of_is_named(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "h"), node("ReduceMean", "h", keepdims=0)]
    with pytest.raises(ModelError, match=r"output 'y' is one number for all images .*; export the network without"):
        from_onnx(written(tmp_path / "net.onnx", nodes, [weight("w", 3, 4, 1, 1)], shape=[1, 4, 6, 6]))
    for kind, sentence in (
        (np.float64, "its input 'x' is double, where float32 .*; export the network in float32"),
        (np.float16, "the constant 'w' is float16, where float32 .*; export the network in float32"),
    ):
        number_of = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        held = number("w", np.ones((3, 4, 1, 1)), kind)
        with pytest.raises(ModelError, match=sentence):
            from_onnx(written(tmp_path / "net.onnx", [node("Conv", "x w")], [held], kind=number_of))
    held = number("w", np.full((3, 4, 1, 1), np.nan))
    with pytest.raises(ModelError, match="the constant 'w' holds NaN, of which nothing can be computed; export"):
        from_onnx(written(tmp_path / "net.onnx", [node("Conv", "x w")], [held]))


def outside(path: Path, location: str, length: int = 64, offset: int = 0) -> Path:
    """Write a network whose weight of 64 bytes stands in another file."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4, 4, 1, 1], data_location=1)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    given = [helper.make_tensor_value_info("x", FLOAT, X)]
    graph = helper.make_graph([node("Conv", "x w")], "net", given, [helper.make_tensor_value_info("y", FLOAT, None)])
    graph.initializer.append(tensor)
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString())
    return path


def test_weights_beside_the_file_are_read_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    values = np.arange(16, dtype=np.float32)
    (folder / "w.bin").write_bytes(values.tobytes())
    (tmp_path / "secret").write_bytes(values.tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    path = outside(folder / "net.onnx", "w.bin")
    assert from_onnx(path).state_dict()["Conv.weight"].flatten().tolist() == values.tolist()
    files = [each for each in sources(Recipe(model=str(path), method="magnitude", keep=0.5)) if each.setting == "model"]
    assert files[0].files == 2
    for location, called in (("", "one without a name"), ("a\0b", "one named 'ab'")):
        with pytest.raises(ModelError, match=f"its weights in another file, {called}, which can be none; export it"):
            from_onnx(outside(folder / "net.onnx", location))
    for location in (str(tmp_path / "secret"), "../secret", "link"):
        with pytest.raises(ModelError, match="weights outside of its folder"):
            from_onnx(outside(folder / "net.onnx", location))
    for more in ({"length": 60}, {"length": 64, "offset": 4}, {"offset": -4}):
        with pytest.raises(ModelError, match="do not fit together"):
            from_onnx(outside(folder / "net.onnx", "w.bin", **more))
    with pytest.raises(ModelError, match=r"keeps its weights in gone\.bin, which cannot be read"):
        from_onnx(outside(folder / "net.onnx", "gone.bin"))


def test_batch_norms_that_were_not_folded_are_written_in_evaluation(net: Path, tmp_path: Path) -> None:
    """By an exporter that puts what it exports back into the mode in which it found the outermost module."""
    model = from_onnx(net).eval()
    made = export_onnx(model, torch.randn(2, 3, 8, 8), tmp_path / "again.onnx")
    assert made.difference < 1e-5
    assert not any(module.training for module in model.modules())
