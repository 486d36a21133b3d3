"""A program made ready to run by OpenVINO."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def compiled_by_openvino(program: str | bytes, threads: int) -> Any:
    """Compile a file that OpenVINO reads, or the content of an ONNX file, for the CPU."""
    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # some processors would take bfloat16 unasked
    }
    # OpenVINO puts another signal stack under the thread that compiles. When two networks have lived side by side it
    # gives back one that it has freed, and the next signal to that thread kills the process. A thread that ends here
    # takes no harm.
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(lambda: core.compile_model(core.read_model(program), "CPU", settings)).result()
