"""Networks that do not run on inputs of recorded shapes, whose values or kinds no file of an artifact holds."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from secateur import load, prune
from secateur.errors import ArtifactError

IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass
class Scene:
    image: Tensor


class View(NamedTuple):
    image: Tensor
    scale: float


class Net(nn.Module):
    def __init__(self, take: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.take = take
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, *given: Any) -> Tensor:
        return self.head(self.layers(self.take(*given)).mean((2, 3)))


def of_scene(scene: Scene) -> Tensor:
    return scene.image


def of_view(view: View) -> Tensor:
    return view.image * view.scale


class Features(UserDict[str, Tensor]):
    """As of processors of images, whose entries are attributes as well."""

    def __getattr__(self, name: str) -> Tensor:
        if name == "data":  # a copy that is being made
            raise AttributeError(name)
        return self.data[name]


def of_image(features: Features) -> Tensor:
    return features.image


def of_views(views: dict[int, Tensor]) -> Tensor:
    return views[0]


def of_brightness(image: Tensor) -> Tensor:
    if image.min() < 0:
        raise ValueError("images are not negative")
    return image


def of_rows(image: Tensor, length: Tensor) -> Tensor:
    assert length.min() > 4
    return image[:, :, : int(length.max())]


TAKEN: dict[str, tuple[Callable[..., Tensor], tuple[Any, ...]]] = {
    "a dataclass": (of_scene, (Scene(IMAGE),)),
    "a named tuple": (of_view, (View(IMAGE, 2.0),)),
    "a table of its own class": (of_image, (Features({"image": IMAGE}),)),
    "numbers as keys": (of_views, ({0: IMAGE},)),
    "a range of values": (of_brightness, (IMAGE,)),
    "whole numbers": (of_rows, (IMAGE, torch.tensor([6]))),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TAKEN)
def test_inputs_can_be_given_where_a_file_does_not_make_them_again(kind: str, tmp_path: Any) -> None:
    take, given = TAKEN[kind]
    net = Net(take).eval()
    result = prune(net, given, "magnitude", 0.6, latency=False)
    folder = result.save(tmp_path / "art")
    with pytest.raises(ArtifactError, match="example_inputs="):
        load(folder, dense=Net(take))
    loaded = load(folder, dense=Net(take), example_inputs=given)
    assert torch.equal(loaded.model(*given), result.model.eval()(*given))
    assert torch.allclose(loaded.deploy(time=False)(*given), result.model(*given), atol=1e-5)
