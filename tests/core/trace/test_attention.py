"""Attention: whole heads are units, with their queries, keys and values; so are the widths around it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets import lived_in
from pictures import images
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.measure import count


class Attention(nn.Module):
    """Queries, keys and values of one linear layer, in the ways that libraries write them."""

    def __init__(self, way: str, width: int = 12, heads: int = 3, inner: int = 4) -> None:
        super().__init__()
        self.way, self.heads, self.inner = way, heads, inner
        self.qkv = nn.Linear(width, 3 * heads * inner)
        self.proj = nn.Linear(heads * inner, width)
        if "bias" in way:
            self.bias = nn.Parameter(torch.randn(9, heads))
        self.register_buffer("places", torch.arange(16 * 16).remainder(9).reshape(16, 16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, self.inner).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0) if self.way != "picked" else (qkv[0], qkv[1], qkv[2])
        if self.way == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.way == "fused with bias":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[self.places].permute(2, 0, 1)[None])
        elif self.way == "bias by head":
            scores = q @ k.transpose(-2, -1) * self.inner**-0.5
            y = (scores + self.bias[self.places].permute(2, 0, 1)).softmax(-1) @ v
        elif self.way == "einsum":
            y = torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v)
        else:
            y = (q @ k.transpose(-2, -1) * self.inner**-0.5).softmax(-1) @ v
        if self.way == "width of the input":
            return self.proj(y.transpose(1, 2).reshape(n, tokens, width))
        return self.proj(y.transpose(1, 2).flatten(2))


class Vision(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 2, 2)
        self.position = nn.Parameter(torch.randn(1, 16, 12))
        self.before, self.after = nn.LayerNorm(12), nn.LayerNorm(12)
        self.attention = attention
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        x = x + self.attention(self.before(x))
        return self.head((x + self.mlp(self.after(x))).mean(1))


def read(attention: nn.Module) -> tuple[nn.Module, Graph]:
    torch.manual_seed(1)
    net = lived_in(Vision(attention))
    return net, trace(net, images(1))


def check(net: nn.Module, graph: Graph, plan: Plan) -> nn.Module:
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(2)).difference < 1e-5
    assert size(graph, plan).macs == count(thin, images(1)).macs
    assert size(graph, plan).params == sum(p.numel() for p in thin.parameters())
    return thin


WAYS = ("fused", "fused with bias", "by hand", "picked", "bias by head", "einsum", "width of the input")


@pytest.mark.parametrize("way", WAYS)
def test_heads_widths_and_hidden_layers_go(way: str) -> None:
    net, graph = read(Attention(way))
    sizes = {group.name: group.size for group in graph.groups}
    assert sizes == {"patches": 12, "attention.qkv": 3, "mlp.0": 20}
    thin = check(net, graph, Plan((DropUnits("attention.qkv", (1,)),)))
    assert thin.attention.qkv.weight.shape == (24, 12)
    assert torch.equal(thin.attention.qkv.weight[4:8], net.attention.qkv.weight[8:12])
    assert torch.equal(thin.attention.proj.weight, net.attention.proj.weight[:, [0, 1, 2, 3, 8, 9, 10, 11]])
    check(net, graph, Plan((DropUnits("patches", (0, 5, 6)), DropUnits("mlp.0", (3, 19)))))
    check(net, graph, Plan(tuple(DropUnits(g.name, (0, 2)) for g in graph.groups)))


class FirstToken(nn.Module):
    """The first token asks all others; the width of a head is computed from the channels, which go on their own."""

    heads = 3

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q = self.q(x[:, :1]).reshape(n, 1, self.heads, width // self.heads).transpose(1, 2)
        k, v = (f(x).reshape(n, tokens, self.heads, width // self.heads).transpose(1, 2) for f in (self.k, self.v))
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("head", range(3))
def test_the_width_of_a_head_does_not_depend_on_which_heads_go(head: int) -> None:
    net, graph = read(FirstToken())
    assert {group.name: group.size for group in graph.groups} == {"patches": 12, "attention.q": 3, "mlp.0": 20}
    thin = check(net, graph, Plan((DropUnits("attention.q", (head,)), DropUnits("patches", (2, 3, 7)))))
    assert thin.attention.k.weight.shape == (8, 9)


class SingleHead(nn.Module):
    """One head: its values are channels like others; what queries and keys are compared by is not."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(12, 6), nn.Linear(12, 6), nn.Linear(12, 8)
        self.proj = nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj((self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1) @ self.v(x))


def test_values_of_a_single_head_go_and_what_is_compared_stays() -> None:
    net, graph = read(SingleHead())
    assert {group.name: group.size for group in graph.groups} == {"patches": 12, "attention.v": 8, "mlp.0": 20}
    rows = {row.layer: row for row in graph.explain().rows}
    assert rows["attention.q"].prunable == rows["attention.k"].prunable == 0
    assert "multiplied with another activation" in rows["attention.q"].reason
    check(net, graph, Plan((DropUnits("attention.v", (0, 7)), DropUnits("patches", (11,)))))


class Derived(nn.MultiheadAttention):
    """Whose code is its own, so that nothing can be put in its place."""


class Torch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Derived(12, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


def test_what_derives_from_torchs_own_attention_stays_with_the_reason_and_the_rest_goes() -> None:
    net, graph = read(Torch())
    assert {group.name: group.size for group in graph.groups} == {"mlp.0": 20}
    rows = {row.layer: row for row in graph.explain().rows}
    assert "one width for everything" in rows["patches"].reason
    assert "linear layers of its own" in rows["patches"].remedy
    check(net, graph, Plan((DropUnits("mlp.0", (0, 7)),)))


class Apart(nn.Module):
    """Queries, keys and values of three linear layers."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.q, self.k, self.v, self.proj = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = (layer(x).view(n, tokens, 3, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.way == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, tokens, -1))


class Token(Vision):
    """Puts a token of its own beside those of each sample, and attends with all of them."""

    def __init__(self, way: str, spread: str) -> None:
        super().__init__(Apart(way))
        self.token, self.spread = nn.Parameter(torch.randn(1, 1, 12)), spread
        self.position = nn.Parameter(torch.randn(1, 17, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        n = len(x)
        token = self.token.repeat(n, 1, 1) if self.spread == "repeat" else self.token.expand(n, -1, -1)
        x = torch.cat((token, x), 1) + self.position
        x = x + self.attention(self.before(x))
        return self.head((x + self.mlp(self.after(x)))[:, 0])


@pytest.mark.parametrize("spread", ["expand", "repeat"])
@pytest.mark.parametrize("way", ["fused", "matmul"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_token_that_is_copied_for_each_sample_leaves_the_heads_apart(way: str, spread: str, count: int) -> None:
    torch.manual_seed(1)
    net = lived_in(Token(way, spread))
    graph = trace(net, images(count))
    assert {group.name: group.size for group in graph.groups} == {"patches": 12, "attention.q": 3, "mlp.0": 20}
    plan = Plan((DropUnits("attention.q", (1,)), DropUnits("patches", (0, 5))))
    assert verify(net, graph, plan, apply(net, graph, plan), images(2)).exact
