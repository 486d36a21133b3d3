from __future__ import annotations

import torch
from torch import nn

import zoo_networks


def test_batch_norms_look_as_if_they_had_run():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    x = torch.randn(2, 3, 6, 6)
    zoo_networks.live_in(model, (x,))
    mean = model[0](x).mean((0, 2, 3))
    norm = model[1]
    assert isinstance(norm.running_mean, torch.Tensor)
    assert isinstance(norm.running_var, torch.Tensor)
    assert 0 < float((norm.running_mean - mean).abs().max()) < 1
    assert len(norm.running_var.unique()) == 8


def test_values_alike_are_told_apart():
    model = nn.Sequential(nn.Conv2d(3, 512, 1), nn.BatchNorm2d(512))
    with torch.no_grad():
        model[0].bias.zero_()
    zoo_networks.tell_apart(model)
    for name, tensor in model.named_parameters():
        assert len(tensor.flatten().unique()) == tensor.numel(), name
    assert len(model[1].running_var.unique()) == 512


def test_every_unseen_network_says_what_makes_it():
    for library, entries in zoo_networks.unseen().items():
        assert len(entries) > 5, library
        for name, entry in entries.items():
            assert ":" in entry["make"], name
            assert entry["inputs"], name
            assert entry["install"], name


def test_arguments_stand_for_names_objects_and_nothing():
    entry = {
        "name": "relu/6",
        "make": "torch.nn:Sequential",
        "with": {},
        "inputs": [[1, 3], {"shape": [2], "below": 4}],
    }
    model, inputs = zoo_networks._described(entry)
    assert isinstance(model, nn.Sequential)
    assert [tuple(x.shape) for x in inputs] == [(1, 3), (2,)]
    assert not inputs[1].is_floating_point()
    assert zoo_networks._value(["{1}.yaml", "@none", "@torch.nn:ReLU"], ["relu", "6"]) == ["6.yaml", None, nn.ReLU]
