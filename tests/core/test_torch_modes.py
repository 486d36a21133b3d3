"""Modes that hear what torch does, and what they must not bring with them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

from secateur.core.module_calls import Operators

PRUNING = """
import sys
import torch
from torch import nn
import secateur

net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
quiet = {"progress": False, "tell": lambda _: None}
secateur.prune(net.eval(), torch.randn(1, 3, 8, 8), "magnitude", 0.5, latency=False, **quiet)
print([name for name in ("torch._dynamo", "scipy.stats", "scipy.optimize") if name in sys.modules])
"""


def test_pruning_loads_no_compiler_and_no_statistics() -> None:
    done = subprocess.run([sys.executable, "-c", PRUNING], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_hears_operators_is_not_compiled_with_them() -> None:
    heard: list[str] = []
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def hear(func: Any, *_: Any) -> None:
        heard.append(func.overloadpacket.__name__)
        torch.ones(2).mul(3)  # nothing of this is to be compiled

    def added(x: Tensor) -> Tensor:
        return x + x

    compiled: Any = torch.compile(added, backend=backend)
    x = torch.ones(3)
    with Operators(hear):
        assert torch.equal(compiled(x), 2 * torch.ones(3))
    assert "add" in heard
    assert not any("mul" in str(node.target) for graph in graphs for node in graph.graph.nodes)
