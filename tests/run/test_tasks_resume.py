"""A training for any task goes on after a kill, as that of a classifier does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import task_worlds as worlds
from secateur import Settings, build, load_data, prune
from secateur.events import Event, ignore
from secateur.run import Result
from secateur.tasks import Segmentation

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_after_a_kill_the_same_call_gives_the_same_network(name: str, tmp_path: Path) -> None:
    world = worlds.world(name, tmp_path / "world")
    task = Segmentation(ignore=11) if name == "segmentation" else None
    data = load_data(world.data, image_size=worlds.SIDE, workers=0, task=task)
    torch.manual_seed(0)
    net = build(world.model)
    train = Settings(epochs=2, batch_size=8, precision="float32", compile="off", memory_format="contiguous")

    def go(folder: Path, tell: Any = ignore) -> Result:
        return prune(net, None, "magnitude", 0.5, data, train=train, latency=False, repair=(), work=folder, tell=tell)

    def kill(event: Event) -> None:
        if event.stage == "train" and event.text:
            raise Killed

    whole = go(tmp_path / "whole")
    with pytest.raises(Killed):
        go(tmp_path / "killed", kill)
    again = go(tmp_path / "killed")
    assert again.after == whole.after
    there = whole.model.state_dict()
    assert all(torch.equal(tensor, there[key]) for key, tensor in again.model.state_dict().items())
