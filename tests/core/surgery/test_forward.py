"""What a network is called with means the same wherever it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import prune, trace
from secateur.core.surgery import run
from secateur.errors import ModelError
from secateur.measure import count


class Detecting(nn.Module):
    """Takes a list of images of any size, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        return [self.second(self.first(image[None]).relu()).mean((2, 3)) for image in images]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.second(self.first(one + other).relu())


def pruned(model: nn.Module, inputs: Any) -> object:
    return prune(model, inputs, target=0.5, latency=False, repair=()).verification


@pytest.mark.parametrize("act", [trace, count, pruned])
def test_a_list_of_images_is_one_argument_and_any_other_list_is_several(act: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    images, batch = [torch.randn(3, 8, 8), torch.randn(3, 10, 6)], torch.randn(2, 3, 8, 8)
    for model, given, same in (
        (Detecting(), images, (images,)),
        (Pair(), [batch, batch], (batch, batch)),
    ):
        assert str(act(model.eval(), given)) == str(act(model.eval(), same))


def test_a_list_of_batches_for_a_forward_of_one_argument_is_told_how_to_be_one() -> None:
    class Views(nn.Module):
        def forward(self, views: list[Tensor]) -> Tensor:
            return views[0] + views[1]

    batch = torch.randn(2, 3, 8, 8)
    with pytest.raises(ModelError, match=r"takes the list as one, give \(\[\.\.\.\],\)"):
        run(Views(), [batch, batch])
    assert run(Views(), ([batch, batch],)).equal(2 * batch)
    with pytest.raises(ModelError) as caught:
        run(Pair(), [batch, batch[:, :2]])  # which fails for another reason
    assert "takes the list" not in str(caught.value)
