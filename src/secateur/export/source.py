"""The network as a plain PyTorch module: one Python file, and its weights beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from safetensors.torch import save
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen
from torch.utils import _pytree

from secateur.arguments import checked
from secateur.export.attempt import Way, export, write_through
from secateur.export.comparison import Call, Exported, Inputs, Runner, outputs
from secateur.export.listing import Unlistable, can_be_written, listing
from secateur.export.programs import program_of

WEIGHTS = ".safetensors"


@checked
def export_source(model: nn.Module, example_inputs: Inputs, path: str | Path) -> Exported:
    """Write the network as Python code that needs PyTorch and safetensors alone.

    The forward is recorded once, in evaluation mode: layer by layer where the network's own code allows
    (``torch.fx``), else operator by operator (``torch.export``). Parameters keep their names.

    Args:
        model: the network; its weights, device and train/eval mode stay as they are.
        example_inputs: one batch, first dimension = batch; the values are not stored.
        path: the file to write, usually ``model.py``; the weights go beside it, as ``model.safetensors``.

    Returns:
        What was written, after it was loaded and gave the same outputs on two batches.

    Raises:
        ExportError: if the network cannot be written so; no file is left then.
    """
    said = (f"{type(model).__name__}, as a network of its own.", Path(path).stem)
    ways = [
        Way(True, lambda n, call, p: _write(p, *listing(_layers(n), n, *said)), _load, WEIGHTS),
        *(Way(dynamic, _operators_to(said, dynamic), _load, WEIGHTS) for dynamic in (True, False)),
    ]
    return export(model, example_inputs, Path(path), "source", ways)


class _Layers(fx.Tracer):
    """Records calls of PyTorch's own layers as calls; everything else is looked into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return can_be_written(m)


def _layers(network: nn.Module) -> fx.Graph:
    graph = _Layers().trace(network)
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:  # looked at, not used
            graph.erase_node(node)
        elif node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        node.type = None  # annotations may name classes of the network's own files
    return graph


def _operators_to(said: tuple[str, str], dynamic: bool) -> Any:
    def write(network: nn.Module, call: Call, path: Path) -> None:
        program = program_of(network, call, dynamic)
        module = program.module()
        graph = module.graph
        for node in list(graph.nodes):
            if node.op == "call_module":  # guards on the sizes of inputs
                graph.erase_node(node)
        graph.set_codegen(CodeGen())  # a plain forward instead of one that packs and unpacks
        (last,) = (node for node in graph.nodes if node.op == "output")
        last.args = (_structure(last.args[0], program.call_spec.out_spec),)
        _write(path, *listing(graph, module, *said))

    return write


def _structure(values: Any, spec: Any) -> Any:
    structured = cast(Any, _pytree).tree_unflatten(list(values), spec)
    if not _is_plain(structured):
        raise Unlistable(f"it returns a {type(structured).__name__}")
    return structured


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return type(value) is dict and all(_is_plain(v) for v in value.values())
    if isinstance(value, (tuple, list)):
        return type(value) in (tuple, list) and all(_is_plain(v) for v in value)
    return isinstance(value, (fx.Node, int, float, str, type(None)))


def _write(path: Path, code: str, tensors: dict[str, Tensor]) -> None:
    write_through(path.with_suffix(WEIGHTS), save(tensors))
    write_through(path, code.encode())


def _load(path: Path) -> Runner:
    names: dict[str, Any] = {"__file__": str(path), "__name__": path.stem}
    exec(compile(path.read_text(), str(path), "exec"), names)  # an import would leave a __pycache__ behind
    network = names["load"]()
    return lambda call: outputs(network(*call.args, **call.kwargs))
