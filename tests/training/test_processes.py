from __future__ import annotations

from pathlib import Path

import pytest
import torch

from processes import BEGIN, alone, launch

SCRIPT = (
    BEGIN
    + """
from secateur.training import Settings, fit

torch.manual_seed(int(rank))  # other weights in each process: those of the first one count
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
settings = Settings(
    epochs=3, batch_size=16, lr=0.1, accumulate=2, augment="crop_flip", device="cpu",
    memory_format="contiguous", compile="off",
)
told = []
history = fit(model, data, settings, checkpoint=out / "checkpoint", tell=told.append)
last = history.rows[-1]
facts = torch.tensor([last.train_loss, last.train_metric, last.val_loss, last.val_metric, float(len(told) > 0)])
save_file({**model.state_dict(), "facts": facts}, out / f"{rank}.safetensors")
"""
)


NOISY = """
from secateur.methods.batch_bridgeout import BatchBridgeout

with BatchBridgeout(q=1.0, p=0.5, fraction=1.0).training(model) as shaper:
    history = fit(model, data, settings, shaper=shaper, tell=told.append)
"""


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    single = alone(tmp_path / "one", SCRIPT)
    first, second = launch(tmp_path / "two", SCRIPT)
    for name, tensor in single.items():
        if name != "facts":
            torch.testing.assert_close(first[name], tensor, atol=1e-5, rtol=0)
            assert torch.equal(first[name], second[name]), name
    torch.testing.assert_close(first["facts"][:4], single["facts"][:4], atol=1e-5, rtol=0)
    torch.testing.assert_close(second["facts"][:4], single["facts"][:4], atol=1e-5, rtol=0)
    assert first["facts"][4] == 1
    assert second["facts"][4] == 0  # only the first process tells
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == [
        "0.safetensors",
        "1.safetensors",
        "checkpoint",
        "train.py",
    ]


@pytest.mark.slow
def test_two_processes_draw_the_same_noise(tmp_path: Path) -> None:
    plain = 'history = fit(model, data, settings, checkpoint=out / "checkpoint", tell=told.append)\n'
    assert plain in SCRIPT
    single = alone(tmp_path / "one", SCRIPT.replace(plain, NOISY))
    first, second = launch(tmp_path / "two", SCRIPT.replace(plain, NOISY))
    quiet = alone(tmp_path / "quiet", SCRIPT)
    for name in ("0.weight", "4.weight"):
        torch.testing.assert_close(first[name], single[name], atol=1e-5, rtol=0)
        assert torch.equal(first[name], second[name]), name
        assert not torch.allclose(single[name], quiet[name], atol=1e-3)


ENDING = """
import atexit
import torch.distributed as dist

from secateur.training import fit

def workers():
    threads = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in thread for thread in threads)

def ending():
    still, before = dist.is_initialized(), workers()
    if still:
        dist.destroy_process_group()
    counts = {"open": torch.tensor(still), "before": torch.tensor(before), "after": torch.tensor(workers())}
    save_file(counts, out / f"{rank}.safetensors")

atexit.register(ending)  # the first to be registered is the last to be called
"""


@pytest.mark.parametrize("theirs", [False, True])
def test_a_process_closes_the_group_that_it_has_opened_and_no_other(tmp_path: Path, theirs: bool) -> None:
    opened = 'dist.init_process_group("gloo")\n' if theirs else ""
    script = SCRIPT.replace(BEGIN, BEGIN + ENDING + opened)
    for process in launch(tmp_path / "two", script):
        assert bool(process["open"]) == theirs
        # What aborts a process is a thread that outlives its group: who closes a group must be rid of them.
        assert process["after"] == 0
        if Path("/proc/self/task").exists():
            assert bool(process["before"]) == theirs


LOST = """
import os
from secateur.errors import TrainingError

def leave(*_):
    if rank == "1":
        save_file({"gone": torch.tensor(1)}, out / "1.safetensors")
        os._exit(0)

from secateur.training import Settings, fit

model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
model.register_full_backward_hook(leave)
settings = Settings(
    epochs=3, batch_size=16, device="cpu", memory_format="contiguous", compile="off", precision="float32"
)
try:
    fit(model, data, settings)
except TrainingError as error:
    save_file({"said": torch.tensor(list(str(error).encode()))}, out / f"{rank}.safetensors")
os._exit(0)  # gloo's threads may end a process that leaves them behind
"""


def test_a_process_that_was_killed_is_said_in_words(tmp_path: Path) -> None:
    first, _ = launch(tmp_path / "two", BEGIN + LOST)
    said = bytes(first["said"].tolist()).decode()
    assert said.startswith("another process of this training has ended or cannot be reached")
    assert "gloo" not in said
    assert ".cc" not in said
