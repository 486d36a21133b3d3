"""The gradient of a task's loss is that of a run without chance, and leaves every mode as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.measure.gradient import loss_with_gradient
from secateur.tasks import CLASSIFICATION, Detection


class Detector(nn.Module):
    """Returns losses in training, boxes otherwise; everything in it that draws or counts would show."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.mix = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        found = self.mix(self.body(torch.stack(images)).flatten(2).transpose(1, 2)).mean()
        if self.training:
            assert targets is not None
            return {"boxes": found.square(), "classes": (found - len(targets)).abs()}
        return [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()} for _ in images]


def test_a_loss_of_training_alone_is_taken_without_chance_or_statistics() -> None:
    torch.manual_seed(0)
    model = Detector().eval()
    model.mix.train()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    boxes = {"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([1])}
    batch = ([torch.rand(3, 8, 8), torch.rand(3, 8, 8)], [boxes, boxes])
    first, second = (loss_with_gradient(model, batch, Detection()) for _ in range(2))
    assert first.requires_grad
    assert torch.equal(first, second)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("mode", [True, False])
def test_any_other_loss_is_that_of_evaluation(mode: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout(0.5)).train(mode)
    images, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        found = loss_with_gradient(model, (images, labels), CLASSIFICATION)
    found.backward()
    expected = F.cross_entropy(model[1](images.flatten(1)), labels)
    assert torch.equal(found, expected)
    assert model[1].weight.grad is not None
    assert model.training == model[2].training == mode
