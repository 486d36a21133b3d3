"""The network in an ONNX file as an ordinary module, which ONNX Runtime agrees with."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from traceback import walk_tb
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from secateur.arguments import checked
from secateur.errors import ModelError, SecateurError, first_line, reason_of
from secateur.events import Tell, ignore, warn
from secateur.models.onnx_files.agreement import agree
from secateur.models.onnx_files.interface import Interface
from secateur.models.onnx_files.lowering import Lowered
from secateur.models.onnx_files.named import batch_axes, channels_last, in_words, inputs_of, sizes_of
from secateur.models.onnx_files.naming import argument, layer
from secateur.models.onnx_files.reading_files import check, fill, onnx, opset_of, parsed, read, skeleton_of, weights_in
from secateur.models.onnx_files.shapes import Values
from secateur.models.onnx_files.shared_weights import tie
from secateur.rules import Count

_META = "secateur_onnx"
_USUAL = 224


class OnnxNetwork(fx.GraphModule):
    """A network from an ONNX file; a module as any other."""

    def recompile(self) -> Any:
        """Write the forward anew, without what torch.fx prints where it fails: trial runs are meant to fail."""
        code = fx.GraphModule.recompile(self)
        type(self).__call__ = nn.Module.__call__
        return code

    @property
    def interface(self) -> Interface:
        """How the file is called."""
        return self.meta[_META]

    @property
    def example_inputs(self) -> Tensor | tuple[Tensor, ...]:
        """Random inputs of the shapes that the network takes."""
        draw = torch.Generator().manual_seed(0)
        made = tuple(torch.randn(shape, generator=draw) for shape in self.interface.shapes)
        return made[0] if len(made) == 1 else made


@checked
def from_onnx(path: str | Path, *, image: Count | None = None, tell: Tell = ignore) -> OnnxNetwork:
    """Return the network in an ONNX file as a module, in evaluation mode, after ONNX Runtime has agreed with it.

    Inputs are those of the file, but for pictures with channels last that the file transposes at once: the module
    takes them with channels first, as all of PyTorch does. ``export_onnx`` writes a network that was made from it with
    the names, the opset and the inputs of the file.

    Args:
        path: of the file; weights that it keeps in other files have to be beside or below it.
        image: height and width of pictures, where the file leaves them free; 224 if None.
        tell: hears as a warning which operators of the file no longer share a weight.

    Raises:
        ModelError: if the file is missing or damaged, asks for what is not read, or for an operator that there is no
            way to say in PyTorch, which is named; or if the module computes something else than the file.
        SettingError: if the size is not positive.

    Example:
        >>> model = from_onnx("net.onnx")  # doctest: +SKIP
    """
    path = Path(path).expanduser()
    with _in_words(f"{path}"):
        model = read(path)
        network, apart = _converted(model, f"{path}", image)
        agree(network, model, network.interface, f"{path}")
    for sentence in apart:
        warn(f"{path}: {sentence}", tell)
    return network


def from_skeleton(content: bytes, name: str, *, most: int, most_made: int) -> OnnxNetwork:
    """Return the network of a file without its weights, which have to be read into it.

    Args:
        content: of ``Interface.skeleton``.
        name: of the file, for messages.
        most: weights that it may have.
        most_made: numbers that all its operators may put out.

    Raises:
        ModelError: as ``from_onnx``.
    """
    with _in_words(name):
        model = parsed(content, name)
        check(model, name, weightless=True)
        if (weights := weights_in(model)) > most:
            raise ModelError(
                f"{name}: the network has {weights:,} weights, which those that are stored do not bear out"
            )
        fill(model)
        return _converted(model, name, None, most_made)[0]


@contextmanager
def _in_words(name: str) -> Generator[None]:
    """Say in one sentence what nobody foresaw of a file that anybody may have made."""
    try:
        yield
    except (SecateurError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the libraries around it raise
        raise ModelError(
            f"{name} cannot be read ({reason_of(error)}); export the network again, and tell "
            "us of the file if that does not help"
        ) from error


def _converted(model: Any, name: str, image: int | None, most_made: int | None = None) -> tuple[OnnxNetwork, list[str]]:
    shapes, dynamic = _input_shapes(model, name, image)
    turned = {value.name: channels_last(model, value) for value in inputs_of(model)}
    firsts = {name: (shape[0], shape[3], shape[1], shape[2]) for name, shape in shapes.items() if turned[name]}
    found = [Values(model, shapes, name)]
    if most_made is not None and found[0].made > most_made:
        raise ModelError(f"{name}: the inputs are larger than those that the network was measured on")
    found[0].refuse_sums(value.name for value in model.graph.output)
    if dynamic:
        more = {name: (shape[0] + 1, *shape[1:]) for name, shape in shapes.items()}
        found.append(Values(model, more, name))
    lowered = Lowered(model, found, name, firsts)
    network, apart = _recorded(lowered, name, list(shapes))
    interface = Interface(
        inputs=tuple(shapes),
        outputs=tuple(value.name for value in model.graph.output),
        shapes=tuple(tuple(firsts.get(name, shape)) for name, shape in shapes.items()),
        turned=tuple(turned.values()),
        opset=opset_of(model),
        dynamic=dynamic,
        axes=batch_axes(model) if dynamic else {},
        skeleton=_skeleton(model, shapes, dynamic),
    )
    network.meta[_META] = interface
    return network.eval(), apart


def _input_shapes(model: Any, name: str, image: int | None) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Return a shape for each input, with two images where the batch is free, and whether it is."""
    kinds = onnx().TensorProto
    shapes: dict[str, tuple[int, ...]] = {}
    free: list[bool] = []
    for value in inputs_of(model):
        kind = value.type.tensor_type
        if kind.elem_type != kinds.FLOAT:
            known = kind.elem_type in kinds.DataType.values()
            label = kinds.DataType.Name(kind.elem_type).lower() if known else f"of the unknown type {kind.elem_type}"
            label = label if value.type.HasField("tensor_type") else "no tensor"
            raise ModelError(
                f"{name}: its input '{value.name}' is {label}, where float32 networks are pruned; export the network "
                "in float32"
            )
        sizes = sizes_of(value)
        if not sizes:
            raise ModelError(f"{name}: its input '{value.name}' has no shape; export the network with one")
        if any(size is not None and size < 1 for size in sizes):
            raise ModelError(
                f"{name}: its input '{value.name}' has the empty shape {sizes}; export the network with the sizes of "
                "its images"
            )
        spatial: list[int] = ([1, 2] if channels_last(model, value) else [2, 3]) if len(sizes) == 4 else []
        known = [image or _USUAL if size is None and at in spatial else size for at, size in enumerate(sizes)]
        if image is not None and any(sizes[at] not in (None, image) for at in spatial[:1]):
            raise ModelError(
                f"{name}: its input '{value.name}' takes pictures of the height {sizes[spatial[0]]}, not {image}; give "
                "such, or export the network with free sizes"
            )
        if any(size is None for size in known[1:]):
            raise ModelError(
                f"{name}: its input '{value.name}' has the shape {in_words(sizes)}, where only a batch and the height "
                "and width of pictures may be free; export the network with the others fixed"
            )
        free.append(known[0] is None)
        shapes[value.name] = tuple(2 if size is None else size for size in known)
    if not shapes:
        raise ModelError(f"{name}: it has no input")
    if any(free) != all(free):
        raise ModelError(f"{name}: the batch is free in some of its inputs only; export it with the same for all")
    return shapes, all(free)


def _recorded(lowered: Lowered, name: str, inputs: Sequence[str]) -> tuple[OnnxNetwork, list[str]]:
    """Convert, and record what the converted network calls: layers of torch and functions with plain numbers."""
    recorder = _Recorder()
    convert: Any = importlib.import_module("onnx2torch").convert
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = convert(lowered.model)
            apart = tie(lowered, made)
            graph = recorder.trace(made)
    except Exception as error:  # converters raise anything
        own = next(
            (f.f_locals["onnx_node"].name for f, _ in walk_tb(error.__traceback__) if "onnx_node" in f.f_locals), ""
        )
        where = lowered.told(own or recorder.inside)
        raise ModelError(f"{name} cannot be read: {where}: onnx2torch says '{first_line(error)}'") from error
    root = nn.Module()
    taken: dict[str, str] = {}
    placed: dict[Any, str] = {}
    places = [node for node in graph.nodes if node.op == "placeholder"]
    for node, given in zip(places, inputs, strict=True):
        node.target = argument(given, {place.target for place in places if place is not node})
    for node in reversed(list(graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users:
            graph.erase_node(node)
    for node in graph.nodes:
        if node.op == "call_module":
            own = str(node.target)
            if own not in taken:
                module = made.get_submodule(own)
                key = lowered.shared(own, module)
                if key in placed:  # one layer that is called twice
                    taken[own] = placed[key]
                    node.target = taken[own]
                    continue
                taken[own] = _place(root, layer(lowered.names.get(own.partition(".")[0], own)), module)
                placed |= {key: taken[own]} if key else {}
            node.target = taken[own]
        elif node.op == "get_attr":
            own = str(node.target)
            if own not in taken:
                taken[own] = f"constants.value_{len(taken)}"
                if not hasattr(root, "constants"):
                    root.add_module("constants", nn.Module())
                holder = cast("nn.Module", root.constants)
                holder.register_buffer(taken[own].rpartition(".")[2], attrgetter(own)(made).detach().clone())
            node.target = taken[own]
    graph.lint()
    return OnnxNetwork(root, graph, "OnnxNetwork"), apart


class _Recorder(fx.Tracer):
    """Records calls of torch's own layers as calls; everything else is looked into.

    Attributes:
        inside: name of the last operator that was looked into.
    """

    inside = ""

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.inside = self.path_of_module(m).partition(".")[0]
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential)


def _place(root: nn.Module, name: str, module: nn.Module) -> str:
    """Put a module at a dotted name, or a like one where that is taken, and return where it is."""
    *path, last = name.split(".")
    owner = root
    for number, part in enumerate(path):
        inner = dict(owner.named_children()).get(part)
        if inner is None and not hasattr(owner, part):
            inner = nn.Module()
            owner.add_module(part, inner)
        if type(inner) is not nn.Module:  # a layer has the name of what others are in
            return _place(root, "_".join([*path[: number + 1], *path[number + 1 :], last]), module)
        owner = inner
    while hasattr(owner, last):
        last += "_"
    owner.add_module(last, module)
    return ".".join([*path, last])


def _skeleton(model: Any, shapes: Mapping[str, Sequence[int]], dynamic: bool) -> bytes:
    """Return the file without its weights, the sizes of images in it."""
    bare = type(model)()
    bare.CopyFrom(model)
    for value in inputs_of(bare):
        for place, (size, dim) in enumerate(zip(shapes[value.name], value.type.tensor_type.shape.dim, strict=True)):
            if place or not dynamic:
                dim.dim_value = size
    return skeleton_of(bare)
