"""Convert the ``torch.export`` program of a result for engines on phones and boards, and compare what comes out.

    pip install executorch
    python integrations/on_device.py out/half/model.pt2 half.pte       # ExecuTorch, with XNNPACK

    pip install litert-torch
    python integrations/on_device.py out/half/model.pt2 half.tflite    # LiteRT, formerly TensorFlow Lite

The file is for batches of the size that the program was traced with. It is run here on the program's example inputs,
and not kept if its outputs differ from the program's by more than rounding.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

TOLERANCE = 1e-4  # of the largest output, as for every export


def main() -> None:
    """Convert, compare and say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="model.pt2")
    parser.add_argument("out", type=Path, help="a name that ends in .pte or .tflite")
    arguments = parser.parse_args()
    convert = CONVERTERS.get(arguments.out.suffix)
    if convert is None:
        parser.error(f"'{arguments.out}' ends in none of {', '.join(CONVERTERS)}")
    if not arguments.program.is_file():
        parser.error(f"there is no file {arguments.program}; secateur export DIR --format pt2 writes one")
    module, inputs = opened(arguments.program)
    wanted = tensors(module(*inputs))
    try:
        run = convert(module, inputs, arguments.out)
    except ImportError as error:
        sys.exit(f"error: {error.name} is missing; the head of {__file__} says what to install")
    worst = max(difference(want, found) for want, found in zip(wanted, run(inputs), strict=True))
    if not worst <= TOLERANCE:
        arguments.out.unlink()
        sys.exit(f"error: {arguments.out} computes something else (by {worst:.1e} of the output) and was not kept")
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes, differs by {worst:.1e}")


def opened(path: Path) -> tuple[Any, tuple[Tensor, ...]]:
    """Return the program as a module, and the inputs that it was traced with, or random ones of their shapes."""
    program: Any = torch.export.load(path)
    shapes = [
        node.meta["val"].shape for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    ]
    draw = torch.Generator().manual_seed(0)
    inputs = tuple(
        torch.randn([size if isinstance(size, int) else 1 for size in shape], generator=draw) for shape in shapes
    )
    return program.module(), inputs


def executorch(module: Any, inputs: tuple[Tensor, ...], path: Path) -> Callable[[tuple[Tensor, ...]], list[Tensor]]:
    """Write a file for ExecuTorch and return what runs it."""
    exir: Any = importlib.import_module("executorch.exir")
    xnnpack: Any = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    runtime: Any = importlib.import_module("executorch.runtime")
    traced = torch.export.export(module, inputs)
    lowered = exir.to_edge_transform_and_lower(traced, partitioner=[xnnpack.XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)
    method = runtime.Runtime.get().load_program(str(path)).load_method("forward")
    return lambda given: list(method.execute(list(given)))


def litert(module: Any, inputs: tuple[Tensor, ...], path: Path) -> Callable[[tuple[Tensor, ...]], list[Tensor]]:
    """Write a file for LiteRT and return what runs it."""
    made: Any = importlib.import_module("litert_torch").convert(module, inputs)
    made.export(str(path))
    return lambda given: tensors(made(*(x.numpy() for x in given)))


CONVERTERS = {".pte": executorch, ".tflite": litert}


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors of an output in order."""
    return [torch.as_tensor(leaf).detach() for leaf in tree_leaves(value)]


def difference(wanted: Tensor, found: Tensor) -> float:
    """Return the largest difference, of the largest value; infinite where shapes differ."""
    if wanted.shape != found.shape:
        return float("inf")
    size = wanted.abs().max().item() or 1.0
    return (wanted.double() - found.double()).abs().max().item() / size


if __name__ == "__main__":
    main()
