"""Several processes on one machine."""

from __future__ import annotations

import os
import runpy
import socket
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import load_file

import forked

# How each script begins: its rank, its folder, and images that every process has.
BEGIN = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from secateur.data import from_arrays

torch.set_num_threads(1)
rng = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (70, 3, 8, 8), dtype=torch.uint8, generator=rng)
labels = torch.randint(0, 3, (70,), generator=rng)
data = from_arrays((images[:48], labels[:48]), (images[:8], labels[:8]), (images[48:], labels[48:]))
rank, out = sys.argv[1], Path(sys.argv[2])
"""


def alone(out: Path, script: str) -> dict[str, torch.Tensor]:
    """Run a script in this process, which knows of no other, and return what it has saved.

    The script is given the rank 0 and a folder, where it writes ``0.safetensors``.
    """
    file = _written(out, script)
    with patch.object(sys, "argv", [str(file), "0", str(out)]):
        runpy.run_path(str(file), run_name="__main__")
    return load_file(out / "0.safetensors")


def launch(out: Path, script: str) -> list[dict[str, torch.Tensor]]:
    """Run a script in two processes that know of each other, as ``torchrun`` does; return what each has saved.

    The script is given its rank and a folder, where it writes ``RANK.safetensors``.
    """
    file = _written(out, script)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in ("0", "1"):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        running.append(forked.start([str(file), rank, str(out)], env=env))
    for process in running:
        _, trouble = process.communicate(timeout=240)
        assert process.returncode == 0, trouble
    return [load_file(out / f"{rank}.safetensors") for rank in (0, 1)]


def _written(out: Path, script: str) -> Path:
    out.mkdir()
    file = out / "train.py"
    file.write_text(script)
    return file
