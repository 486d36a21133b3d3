from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo_checks import kept, loaded, save, symbolic, training


class Branching(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if float(input.sum()) < 1e9 else input


def net(middle: int, outputs: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(4, middle), nn.ReLU(), nn.Linear(middle, outputs))


INPUTS = (torch.randn(3, 4),)


def test_what_the_dense_network_does_the_thin_one_must():
    assert training(net(6), net(3), INPUTS) == "ok"
    assert symbolic(net(6), net(3), INPUTS) == "ok"


def test_a_thin_network_that_does_not_train_fails():
    thin = net(3)
    thin.forward = lambda x: nn.Sequential.forward(thin, x).detach()
    assert "no gradient" in training(net(6), thin, INPUTS)


def test_a_thin_network_that_cannot_be_traced_fails_where_the_dense_one_can():
    assert "Error" in symbolic(nn.Linear(4, 4), Branching(4, 4), INPUTS)
    assert symbolic(Branching(4, 4), Branching(4, 4), INPUTS) == "none"


def test_a_network_is_loaded_with_what_it_computed(tmp_path: Path):
    file = tmp_path / "thin.pt"
    assert save(net(6), net(3), INPUTS, file) == ""
    assert loaded(file) == "ok"
    thin, inputs, outputs = torch.load(file, weights_only=False)
    torch.save((thin, inputs, [outputs[0] + 1]), file)
    assert "differs" in loaded(file)


def test_a_network_that_cannot_be_saved_fails_unless_the_dense_one_cannot_either(tmp_path: Path):
    thin = net(3)
    thin.extra = lambda: None
    assert "lambda" in save(net(6), thin, INPUTS, tmp_path / "thin.pt")
    assert save(thin, thin, INPUTS, tmp_path / "thin.pt") == "none"


def test_a_dense_network_that_was_written_into_is_noticed():
    before = net(6)
    after = copy.deepcopy(before)
    assert kept(before, after) == "ok"
    with torch.no_grad():
        after[2].bias[0] += 1
    assert "'2.bias'" in kept(before, after)
