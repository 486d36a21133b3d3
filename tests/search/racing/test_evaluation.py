"""Errors of plans, counted side by side, are those of the silenced network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.checks.networks import networks
from secateur.core.plan import EMPTY, DropUnits, Plan
from secateur.core.surgery import masked
from secateur.core.trace import trace
from secateur.errors import DataError, ModelError
from secateur.search.racing.evaluation import Judge, _wrong, sample
from secateur.search.racing.held_out_images import HeldOut


def subject() -> tuple[nn.Module, HeldOut]:
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model, images = networks()["chain"], torch.randn(150, 3, 8, 8, generator=rng)
    modes = [module.training for module in model.modules()]
    with torch.no_grad():  # no class shall always win
        model[-1].bias -= model.eval()(images).mean(0)  # type: ignore[index]
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return model, HeldOut(images, torch.randint(0, 4, (150,), generator=rng))


@pytest.mark.parametrize("workers", [1, 3])
def test_errors_are_those_of_the_silenced_network(workers: int) -> None:
    model, held = subject()
    graph = trace(model, held.images[:1])
    group = graph.free[0]
    plans = [EMPTY, *(Plan((DropUnits(group.name, tuple(range(n))),)) for n in (1, 4, 7)), EMPTY]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, threads = [module.training for module in model.modules()], torch.get_num_threads()
    counted = list(Judge(model, graph, held, workers).errors(plans))
    assert [module.training for module in model.modules()] == modes
    assert torch.get_num_threads() == threads
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model.eval()
    for plan, errors in zip(plans, counted, strict=True):
        with masked(model, graph, plan), torch.no_grad():
            assert errors == int((model(held.images).argmax(1) != held.labels).sum())
    assert len(set(counted)) > 1


def test_scores_of_nan_recognise_nothing() -> None:
    scores = torch.tensor([[0.0, 1.0], [0.0, float("nan")], [float("nan"), 1.0], [1.0, 0.0]])
    assert int(_wrong(scores, torch.tensor([1, 1, 1, 1]))) == 3


def test_a_network_without_sound_scores_is_refused() -> None:
    model, held = subject()
    graph = trace(model, held.images[:1])
    with torch.no_grad():
        next(model.parameters()).fill_(float("inf"))
    with pytest.raises(ModelError, match="NaN or infinite before anything is pruned"):
        Judge(model, graph, held)


def test_only_the_images_asked_for_are_taken() -> None:
    model, held = subject()
    batches = [(held.images[i : i + 50], held.labels[i : i + 50]) for i in range(0, 150, 50)]
    assert len(sample(batches, model, 70)) == 70
    assert torch.equal(sample(batches, model, 70).images, held.images[:70])
    assert len(sample(batches, model, 1000)) == 150
    with pytest.raises(DataError, match="there are none"):
        sample(None, model, 10)
    with pytest.raises(DataError, match="there are none"):
        sample([], model, 10)
