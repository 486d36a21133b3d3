"""One small network for each rule: what goes, what stays and why, and that both networks compute the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets import lived_in
from pictures import images
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, verify
from secateur.core.trace import rules, trace

Step = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A step between two convolutions."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.one, self.two, self.step = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1), step

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.step(self.one(x)))


def silenced_map(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, 0] = 0.5
    return y


def overwritten(x: Tensor) -> Tensor:
    y = x.clone()
    y[y < 0] = 0.25
    return y


def sent_apart(x: Tensor) -> Tensor:
    """As experts do that each take some of the images, and put what they make of them in their places."""
    y, chosen = torch.zeros_like(x), x.mean((1, 2, 3)) > 0
    y[chosen] = x[chosen] * 2
    y[~chosen] = x[~chosen].relu() - 1
    return y


def written_at(x: Tensor) -> Tensor:
    y, rows = x.clone(), torch.tensor([[4, 1], [0, 6]])
    y[:, :, rows] = x[:, :, rows].flip(2) * 2
    y[:, :, :, torch.tensor([True, False] * 4)] = x[:, :, :, :1]
    return y.index_put((torch.tensor([0]),), x[:1], accumulate=True)


def swapped(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, torch.tensor([0, 3])] = x[:, torch.tensor([3, 0])]
    return y


def at_points(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, torch.tensor([0, 3]), torch.tensor([1, 2])] = x[:, :, :2, 0]
    return y


BLUR = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None] / 16
GRID = torch.rand(1, 4, 4, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
PRUNED: dict[str, tuple[int, Step]] = {
    "rms norm": (8, lambda x: F.rms_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2)),
    "length one": (8, lambda x: F.normalize(x, dim=1)),
    "product over channels": (8, lambda x: x * x.prod(1, keepdim=True).tanh()),
    "log of a sum of exponentials": (8, lambda x: x - x.logsumexp(1, keepdim=True)),
    "expanded to": (8, lambda x: x * x.mean(1, keepdim=True).expand_as(x)),
    "expanded to a written size": (8, lambda x: x * x.mean(1, keepdim=True).expand(-1, 8, -1, -1)),
    "broadcast to": (8, lambda x: x + torch.broadcast_to(x.amax(1, keepdim=True), (x.shape[0], 8, 8, 8))),
    "patches and back": (8, lambda x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1)),
    "sliding windows": (8, lambda x: x.unfold(2, 2, 2).mean(-1)),
    "channel shuffle": (4, lambda x: F.channel_shuffle(x, 2)),
    "running sum over rows": (8, lambda x: x.cumsum(2)),
    "sorted along rows": (8, lambda x: x.sort(dim=3).values),
    "largest of a row": (8, lambda x: x.topk(2, dim=3).values),
    "sampled on a grid": (8, lambda x: F.grid_sample(x, GRID.expand(x.shape[0], -1, -1, -1), align_corners=False)),
    "a row overwritten": (8, silenced_map),
    "images sent apart": (8, sent_apart),
    "rows written": (8, written_at),
    "places picked": (8, lambda x: x[:, :, torch.tensor([3, 1, 1])]),
    "a place picked by a mask": (8, lambda x: x[:, :, torch.tensor([True, False] * 4)]),
    "one row picked": (8, lambda x: x[:, :, 2:3] + x.select(3, 1).unsqueeze(3)),
    "fake quantisation": (8, lambda x: torch.fake_quantize_per_tensor_affine(x, 0.01, 0, -128, 127)),
    "channels reversed": (8, lambda x: x.flip(1)),
    "spectrum": (8, lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=x.shape[2:])),
    "complex spectrum": (8, lambda x: torch.fft.fft2(x).abs()),
    "complex numbers and back": (8, lambda x: torch.view_as_real(torch.complex(x, x * 2)).sum(-1)),
    "spread of maps": (8, lambda x: x * x.std((2, 3), keepdim=True)),
    "moments of maps": (8, lambda x: sum(m * x for m in torch.var_mean(x, (2, 3), keepdim=True))),
    "median of rows": (8, lambda x: x - x.median(3, keepdim=True).values),
    "third of rows": (8, lambda x: x - x.kthvalue(3).values.unsqueeze(3)),
    "extremes of rows": (8, lambda x: x - torch.aminmax(x, dim=3, keepdim=True).max),
    "largest so far": (8, lambda x: x.cummax(3).values),
    "gathered in rows": (8, lambda x: x.gather(2, x.argsort(2))),
    "scattered in rows": (8, lambda x: torch.zeros_like(x).scatter_add_(2, x.argsort(2), x)),
    "images filled": (8, lambda x: x.index_fill(3, torch.tensor([1]), 0.5)),
    "negative ones overwritten": (8, overwritten),
    "quarter turn": (8, lambda x: torch.rot90(x, 1, (2, 3))),
    "diagonal": (8, lambda x: x + x.diagonal(dim1=2, dim2=3).unsqueeze(-1)),
    "dropped in place": (8, lambda x: x.mean(2, keepdim=True).squeeze_(2).unsqueeze_(3)),
    "thin parts": (8, lambda x: torch.cat([part * 2 for part in torch.unsafe_split(x, 8, 1)], 1)),
    "parts of a written width": (4, lambda x: torch.cat(torch.unsafe_split(x, 4, 1)[::-1], 1)),
    "parts of written widths": (8, lambda x: torch.cat(torch.unsafe_split_with_sizes(x, [6, 2], 1)[::-1], 1)),
    "padded by reflection in depth": (8, lambda x: F.pad(x[:, :, None], (1, 1, 1, 1, 0, 0), "reflect")[:, :, 0]),
    "resampled without aliases": (8, lambda x: F.interpolate(x, (4, 4), mode="bilinear", antialias=True)),
    "pooled and put back": (8, lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    "covariance": (8, lambda x: x * torch.cov(x[0].flatten(1)).mean()),
    "blurred": (8, lambda x: F.conv2d(x, BLUR.repeat(x.shape[1], 1, 1, 1), padding=1, groups=x.shape[1])),
    "blurred by an expanded kernel": (8, lambda x: F.conv2d(x, BLUR.expand(x.shape[1], 1, 3, 3), groups=x.shape[1])),
    "blurred one by one": (8, lambda x: F.conv2d(x.reshape(-1, 1, 8, 8), BLUR).reshape(len(x), -1, 6, 6)),
    "divided by neighbouring channels": (8, lambda x: F.local_response_norm(x, 3, alpha=1.0)),
    "divided by them twice": (
        8,
        lambda x: F.local_response_norm(x + F.local_response_norm(x, size=2), 5, 2.0),
    ),
    "halves swapped": (4, lambda x: torch.cat(torch.tensor_split(x, 2, 1)[::-1], 1)),
}
PINNED: dict[str, tuple[str, Step]] = {
    "running sum over channels": ("the order of channels", lambda x: x.cumsum(1)),
    "sorted channels": ("the order of channels", lambda x: x.sort(dim=1).values),
    "largest channels": ("the order of channels", lambda x: F.pad(x.topk(3, dim=1).values, (0, 0, 0, 0, 0, 5))),
    "rolled channels": ("change their order", lambda x: x.roll(2, 1)),
    "channels picked": ("picked by their number", lambda x: x[:, torch.tensor([0, 2, 1, 3, 4, 5, 7, 6])]),
    "channels written": ("picked by their number", swapped),
    "points written": ("picked by their number", at_points),
    "place of the largest": ("averaged or compared", lambda x: x + x.argmax(1, keepdim=True)),
    "spectrum over channels": ("the order of channels", lambda x: torch.fft.fft(x, dim=1).real),
    "scattered over channels": ("picked by their number", lambda x: x.scatter(1, torch.zeros(1, 1, 8, 8).long(), 0.0)),
    "gathered over channels": ("picked by their number", lambda x: x.gather(1, x.argsort(2) % 8)),
    "fewer channels gathered": (
        "picked by their number",
        lambda x: F.pad(x.gather(2, torch.zeros(1, 3, 8, 8).long()), (0, 0, 0, 0, 0, 5)),
    ),
    "an inverse": ("no rule", lambda x: torch.linalg.inv(x + 40 * torch.eye(8))),
}


@pytest.mark.parametrize("name", PRUNED)
def test_channels_go_through(name: str) -> None:
    width, step = PRUNED[name]
    net = lived_in(Between(step))
    graph = trace(net, images(1))
    assert {group.name: group.size for group in graph.groups} == {"one": width}
    for units in ((0,), (width - 1,), tuple(range(0, width - 1, 2))):
        plan = Plan((DropUnits("one", units),))
        thin = apply(net, graph, plan)
        assert thin.one.out_channels == 8 - len(units) * 8 // width
        assert verify(net, graph, plan, thin, images(2)).difference < 1e-5


@pytest.mark.parametrize("name", PINNED)
def test_channels_stay_and_the_reason_is_said(name: str) -> None:
    reason, step = PINNED[name]
    graph = trace(lived_in(Between(step)), images(1))
    assert not graph.groups
    row = next(row for row in graph.explain().rows if row.layer == "one")
    assert reason in row.reason


def test_maps_that_are_put_back_where_others_came_from_go_with_those() -> None:
    class Unpooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.inner, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 5, 1)
            self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            x, places = self.pool(self.one(x))
            return self.two(self.unpool(self.inner(x), places))

    net = lived_in(Unpooled())
    graph = trace(net, images(1))
    assert [(group.name, group.layers) for group in graph.groups] == [("one", ("one", "inner"))]
    plan = Plan((DropUnits("one", (0, 5)),))
    assert verify(net, graph, plan, apply(net, graph, plan), images(2)).exact


@pytest.mark.parametrize(
    ("table", "name", "said"),
    [("MOVES", "transpose", "aten.transpose"), ("MIXES", "convolution", "aten.convolution")],
)
def test_a_rule_that_fails_pins_what_it_was_for(
    table: str, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.h = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.h(self.b(self.a(x).transpose(2, 3)).mean((2, 3)))

    def fail(*args: object) -> None:
        raise RuntimeError("the expanded size of the tensor (4) must match")

    before = trace(Turned().eval(), torch.ones(1, 3, 4, 4))
    monkeypatch.setitem(getattr(rules, table), name, fail)
    graph = trace(Turned().eval(), torch.ones(1, 3, 4, 4))
    assert [group.name for group in before.groups] == ["a", "b"]
    assert "a" not in [group.name for group in graph.groups]
    reason = f"used by the operator {said}, in a way that its rule does not cover"
    assert any(pin.reason.startswith(reason) for pin in graph.pins if pin.tensor.startswith("a."))
    assert size(graph, Plan()).macs == size(before, Plan()).macs
