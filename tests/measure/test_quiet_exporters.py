from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from secateur.errors import ExportError
from secateur.measure.conversion import onnx_program
from secateur.measure.quiet_exporters import quiet

SCRIPT = """
import logging
from secateur.measure.quiet_exporters import ready_to_compile

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
import os, sys
import torch
from secateur.core.zeros.strided import StridedConv2d
from secateur.measure import fastest, latency

layer, image = torch.nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 4, 4)
StridedConv2d.take(layer)
if os.fork():  # each in a process that has timed nothing yet
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]) or latency(layer, image, seconds=1e-3).runs < 1)
fastest(layer, image, seconds=1e-3)
"""


def test_timing_does_not_either() -> None:
    env = {**os.environ, "CUDA_HOME": "/usr", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run([sys.executable, "-c", TIMING], env=env, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_is_written_to_the_descriptor_itself_is_no_news_either(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    with quiet():
        os.write(1, b"a graph, in C++\n")
    os.write(1, b"after\n")
    assert capfd.readouterr().out.split() == ["before", "after"]


def test_a_conversion_that_fails_prints_no_graph(capfd: pytest.CaptureFixture[str]) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(ExportError, match="cannot be converted to ONNX"):
        onnx_program(Odd(), torch.zeros(1, 3))
    assert capfd.readouterr() == ("", "")
