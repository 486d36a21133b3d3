from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import logging
from secateur.measure.quiet import ready_to_compile

heard = []
logger = logging.getLogger("torch.utils.cpp_extension")
handler = logging.Handler()
handler.emit = heard.append
logger.addHandler(handler)
level = logger.level
ready_to_compile()
import sys
assert "torch.utils.cpp_extension" in sys.modules
assert logger.level == level
logger.warning("other news")
print(len(heard))
"""


def test_compiling_does_not_speak_of_a_cuda_that_nobody_asked_for() -> None:
    env = {**os.environ, "CUDA_HOME": "/usr", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "1\n"
    assert "CUDA" not in ended.stderr


TIMING = """
import torch
from secateur.core.strided import StridedConv2d
from secateur.measure import fastest, latency

layer, image = torch.nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 4, 4)
StridedConv2d.take(layer)
"""


@pytest.mark.parametrize("call", ["latency(layer, image, seconds=1e-3)", "fastest(layer, image, seconds=1e-3)"])
def test_timing_does_not_either(call: str) -> None:
    env = {**os.environ, "CUDA_HOME": "/usr", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run([sys.executable, "-c", TIMING + call], env=env, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
