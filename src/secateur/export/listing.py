"""Python code of a recorded network: the modules and tensors that it is made of, and its forward."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, TypeAlias

from torch import Tensor, fx, nn

Code: TypeAlias = str

_FREED = re.compile(r"^(?P<indent> *)(?P<line>.*?); +(?P<names>(?:\w+ = )+)None(?P<note>.*)$")
_BUILT_IN = frozenset({"builtins", "_operator", "operator", "math", "torch"})


class Unlistable(Exception):
    """The recorded network needs something that plain PyTorch code cannot say."""


def can_be_written(module: nn.Module) -> bool:
    """Tell whether a module is one of PyTorch's own that its ``repr`` makes again."""
    owner = type(module)
    if getattr(nn, owner.__name__, None) is not owner or isinstance(module, (nn.Sequential, nn.ModuleList)):
        return False
    try:
        again = eval(repr(module), {"__builtins__": {}}, {owner.__name__: owner, "None": None})
    except Exception:
        return False
    return _settings(again) == _settings(module) and _shapes(again) == _shapes(module)


def listing(graph: fx.Graph, root: nn.Module, title: str, name: str) -> tuple[Code, dict[str, Tensor]]:
    """Return the code of a file with a class ``Network``, and the tensors that it loads, by name.

    Args:
        graph: a recorded forward whose calls of modules are of those that ``can_be_written``.
        root: where the graph's attributes are found.
        title: first line of the file.
        name: of the file, without its suffix.

    Raises:
        Unlistable: if the code would need more than torch and the standard library.
    """
    modules = {str(n.target): root.get_submodule(str(n.target)) for n in graph.nodes if n.op == "call_module"}
    attributes = {str(n.target): _attribute(root, str(n.target)) for n in graph.nodes if n.op == "get_attr"}
    attributes = {name: value for name, value in attributes.items() if name.rpartition(".")[0] not in modules}
    made = [f'add(self, "{name}", nn.{module!r})' for name, module in modules.items()]
    made += [f'add(self, "{name}", {_empty(value)})' for name, value in attributes.items()]
    tensors = {**attributes}
    for name, module in modules.items():
        tensors |= {f"{name}.{key}": value for key, value in module.state_dict(keep_vars=True).items()}
    made += _ties(tensors)
    python = graph.python_code("self")
    body = "\n".join(f"    {line}" if line else "" for line in _forward(python.src))
    init = "\n".join(f"        {line}" for line in made)
    imports = "\n".join(_imports(python.globals, python.src))
    code = _FILE.format(title=title, name=name, imports=imports, init=init, forward=body)
    return code, {name: value.detach().contiguous().clone() for name, value in tensors.items()}


_FILE = '''"""{title}

Needs torch and safetensors:

    from {name} import load
    network = load()  # in evaluation mode, with the weights of the .safetensors file beside this one
"""

from math import inf, nan
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import device, nn
{imports}

def add(root, name, value):
    """Put a module, parameter or buffer at a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        root.register_buffer(last, value)
    else:
        setattr(root, last, value)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
{init}

{forward}


def load(weights=Path(__file__).with_suffix(".safetensors")):
    """Return the network with its trained weights, in evaluation mode."""
    network = Network()
    network.load_state_dict(load_file(str(weights)))
    return network.eval()
'''


def _forward(source: Code) -> list[str]:
    """Lay the recorded lines out; values are freed where they are last used, as they were."""
    lines: list[str] = []
    for line in source.strip("\n").rstrip().splitlines():
        freed = _FREED.match(line)
        if freed is None:
            lines.append(line.rstrip())
            continue
        names = ", ".join(name.strip() for name in freed["names"].split("=") if name.strip())
        lines += [f"{freed['indent']}{freed['line']}".rstrip(), f"{freed['indent']}del {names}"]
    return lines


def _imports(named: Mapping[str, Any], source: Code) -> list[str]:
    """Return the lines that make the names of the recorded code known, beyond those of every file."""
    lines: list[str] = []
    for name, value in named.items():
        if name in ("torch", "device", "inf", "nan", "NoneType") or not re.search(rf"\b{name}\b", source):
            continue
        home = value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))
        if home == "builtins":
            continue
        if home.partition(".")[0] not in _BUILT_IN:
            raise Unlistable(f"its forward calls {home}.{name}, which is not part of PyTorch")
        lines.append(
            f"import {home} as {name}"
            if isinstance(value, ModuleType)
            else f"from {home} import {value.__name__} as {name}"
        )
    return lines


def _attribute(root: nn.Module, name: str) -> Tensor:
    owner, _, last = name.rpartition(".")
    value = getattr(root.get_submodule(owner), last)
    if not isinstance(value, Tensor):
        raise Unlistable(f"'{name}' is no tensor")
    return value


def _empty(value: Tensor) -> Code:
    empty = f"torch.empty({tuple(value.shape)}, dtype={value.dtype})"
    return f"nn.Parameter({empty})" if isinstance(value, nn.Parameter) and value.is_floating_point() else empty


def _ties(tensors: Mapping[str, Tensor]) -> list[Code]:
    """Return the lines that make one tensor of those that were one."""
    first: dict[int, str] = {}
    lines: list[Code] = []
    for name, value in tensors.items():
        known = first.setdefault(id(value), name)
        if known != name and isinstance(value, nn.Parameter):
            owner, _, last = name.rpartition(".")
            lines.append(f'self.get_submodule("{owner}").{last} = self.get_parameter("{known}")')
    return lines


def _settings(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training"}


def _shapes(module: nn.Module) -> Sequence[Any]:
    return [(name, tuple(value.shape), value.dtype) for name, value in module.state_dict().items()]
