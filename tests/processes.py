"""Several processes on one machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

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


def launch(out: Path, world: int, script: str) -> list[dict[str, torch.Tensor]]:
    """Run a script in processes that know of each other, as ``torchrun`` does, and return what each has saved.

    The script is given its rank and a folder, where it writes ``RANK.safetensors``.
    """
    out.mkdir()
    file = out / "train.py"
    file.write_text(script)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(world):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if world > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, str(file), str(rank), str(out)]
        running.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, trouble = process.communicate(timeout=240)
        assert process.returncode == 0, trouble
    return [load_file(out / f"{rank}.safetensors") for rank in range(world)]
