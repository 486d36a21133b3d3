from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from secateur.data import from_arrays
from secateur.training import Settings, fit

torch.set_num_threads(1)
rng = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (70, 3, 8, 8), dtype=torch.uint8, generator=rng)
labels = torch.randint(0, 3, (70,), generator=rng)
data = from_arrays((images[:48], labels[:48]), (images[:8], labels[:8]), (images[48:], labels[48:]))
rank, out = sys.argv[1], Path(sys.argv[2])
torch.manual_seed(int(rank))  # other weights in each process: those of the first one count
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
settings = Settings(
    epochs=3, batch_size=16, lr=0.1, accumulate=2, augment="crop_flip", device="cpu",
    memory_format="contiguous", compile="off",
)
told = []
history = fit(model, data, settings, checkpoint=out / "checkpoint", tell=told.append)
last = history.rows[-1]
facts = torch.tensor([last.train_loss, last.train_accuracy, last.val_loss, last.val_accuracy, float(len(told) > 0)])
save_file({**model.state_dict(), "facts": facts}, out / f"{rank}.safetensors")
"""


def launch(out: Path, world: int) -> list[dict[str, torch.Tensor]]:
    out.mkdir()
    script = out / "train.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(world):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if world > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, str(script), str(rank), str(out)]
        running.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, trouble = process.communicate(timeout=240)
        assert process.returncode == 0, trouble
    return [load_file(out / f"{rank}.safetensors") for rank in range(world)]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    (alone,) = launch(tmp_path / "one", 1)
    first, second = launch(tmp_path / "two", 2)
    for name, tensor in alone.items():
        if name != "facts":
            torch.testing.assert_close(first[name], tensor, atol=1e-5, rtol=0)
            assert torch.equal(first[name], second[name]), name
    torch.testing.assert_close(first["facts"][:4], alone["facts"][:4], atol=1e-5, rtol=0)
    torch.testing.assert_close(second["facts"][:4], alone["facts"][:4], atol=1e-5, rtol=0)
    assert first["facts"][4] == 1
    assert second["facts"][4] == 0  # only the first process tells
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == [
        "0.safetensors",
        "1.safetensors",
        "checkpoint",
        "train.py",
    ]
