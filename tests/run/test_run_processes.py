from __future__ import annotations

from pathlib import Path

import torch

from processes import BEGIN, alone, launch

SCRIPT = (
    BEGIN
    + """
from secateur import Settings, prune
from secateur.methods.random_masks import RandomMasks

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
)
brief = Settings(epochs=1, batch_size=16, lr=0.1, device="cpu", memory_format="contiguous", compile="off")
method = RandomMasks(candidates=6, stem=True)
result = prune(model, None, method, 0.6, data, train=brief, rounds=2, latency=False)
plans = "".join(plan.to_json() for plan in result.plans)
save_file({**result.model.state_dict(), "plans": torch.tensor(list(plans.encode()))}, out / f"{rank}.safetensors")
"""
)


def test_two_processes_decide_and_train_as_one(tmp_path: Path) -> None:
    single = alone(tmp_path / "one", SCRIPT)
    first, second = launch(tmp_path / "two", SCRIPT)
    assert torch.equal(first["plans"], second["plans"])
    assert torch.equal(first["plans"], single["plans"])
    assert len(first["plans"]) > 100
    for name, tensor in single.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, atol=1e-5, rtol=0)
