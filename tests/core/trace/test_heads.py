"""Torch's own attention and transformers: whole heads go, and the widths around them, exactly."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nets import lived_in
from secateur.core.attention import PrunedMultiheadAttention
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, check_training, verify
from secateur.core.trace import trace
from secateur.measure import count

WIDTH, TOKENS = 8, 4


class Vision(nn.Module):
    """Patches, something in between that maps (N, L, E) to (N, L, E), and a head."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.patches, self.inner, self.head = nn.Conv2d(3, WIDTH, 2, 2), inner, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.inner(x)
        return (self.head((x + y[0]).mean(1)), y[1]) if isinstance(y, tuple) else self.head((x + y).mean(1))


class Own(nn.Module):
    """One ``nn.MultiheadAttention`` of two heads, called in some way."""

    def __init__(self, way: str = "", heads: int = 2, **options: Any) -> None:
        super().__init__()
        self.way = way
        self.first = "batch" in way
        self.inner = nn.MultiheadAttention(WIDTH, heads, batch_first=self.first, **options)
        if "cross" in way:
            self.keys = nn.Linear(WIDTH, options.get("kdim", WIDTH))
            self.values = nn.Linear(WIDTH, options.get("vdim", WIDTH))

    def forward(self, x: Tensor) -> Any:
        masks: dict[str, Any] = {}
        if "mask" in self.way:
            masks["attn_mask"] = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        if "padding" in self.way:
            masks["key_padding_mask"] = (torch.arange(x.shape[1]) > 2).expand(len(x), -1)
        if "own" in self.way:
            masks["attn_mask"] = torch.zeros(2 * len(x), x.shape[1], x.shape[1])
        if "single" in self.way:
            return torch.stack([self.inner(each, each, each)[0] for each in x])
        query, key, value = (x, self.keys(x), self.values(x)) if "cross" in self.way else (x, x, x)
        if not self.first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        y, weights = self.inner(
            query,
            key,
            value,
            need_weights="weights" in self.way,
            average_attn_weights="each head" not in self.way,
            **masks,
        )
        y = y if self.first else y.transpose(0, 1)
        if "each head" in self.way:
            return y * weights.mean((1, 2))[:, :, None]
        return (y, weights) if "weights" in self.way else y


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(count))


def read(inner: nn.Module) -> tuple[nn.Module, Graph, dict[str, int]]:
    torch.manual_seed(1)
    net = lived_in(Vision(inner))
    graph = trace(net, images(1))
    return net, graph, {group.name: group.size for group in graph.groups}


def check(net: nn.Module, graph: Graph, **dropped: int) -> nn.Module:
    """Drop first units of groups, given by the last part of their names, or of all."""
    plan = Plan(
        tuple(DropUnits(g.name, tuple(range(dropped.get(g.name, 1)))) for g in graph.groups if dropped.get(g.name, 1))
    )
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(2)).difference < 1e-5
    assert size(graph, plan).macs == count(thin, images(1)).macs
    assert size(graph).macs == count(net, images(1)).macs
    assert size(graph, plan).params == sum(p.numel() for p in thin.parameters())
    check_training(net, thin, images(2))
    return thin


@pytest.mark.parametrize(
    ("way", "options"),
    [
        ("batch", {}),
        ("batch mask padding", {"bias": False}),
        ("mask weights", {"add_bias_kv": True, "add_zero_attn": True}),
        ("batch cross weights padding", {"kdim": 6, "vdim": 10}),
        ("cross padding", {"add_bias_kv": True}),
        ("single", {}),
    ],
)
def test_whole_heads_and_the_channels_around_them_go(way: str, options: dict[str, Any]) -> None:
    net, graph, sizes = read(Own(way, **options))
    assert sizes["inner.inner"] == 2
    assert sizes["patches"] == WIDTH
    thin = check(net, graph)
    attention = thin.inner.inner
    assert type(attention) is PrunedMultiheadAttention
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (1, 4, 7)
    assert attention.out_proj.weight.shape == (7, 4)
    assert (attention.out_proj.in_features, attention.out_proj.out_features) == (4, 7)
    again = trace(thin, images(1))
    assert {g.name: g.size for g in again.groups}["patches"] == WIDTH - 1
    check(thin, again)


def test_what_is_left_of_one_width_stays_torchs_own() -> None:
    net, graph, _ = read(Own("batch"))
    plan = Plan((DropUnits("patches", (0, 2, 4, 7)), DropUnits("inner.inner", (1,))))
    thin = apply(net, graph, plan)
    assert type(thin.inner.inner) is nn.MultiheadAttention
    assert verify(net, graph, plan, thin, images(2)).exact


def test_the_thin_network_is_cut_again() -> None:
    net, graph, _ = read(Own("batch", heads=4))
    thin = check(net, graph, patches=2)
    again = trace(thin, images(1))
    assert {g.name: g.size for g in again.groups} == {"patches": 6, "inner.inner": 3}
    assert check(thin, again).inner.inner.num_heads == 2


@pytest.mark.parametrize("way", ["batch weights", "batch each head weights"])
def test_attention_weights_that_are_used_are_those_of_the_heads_that_are_left(way: str) -> None:
    net, graph, sizes = read(Own(way, heads=4))
    assert sizes["inner.inner"] == 4
    check(net, graph)


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (Own("batch own"), "mask of its own"),
        (Own("batch", heads=1), "only head"),
    ],
)
def test_heads_that_stay_say_why_and_the_channels_around_them_go(inner: nn.Module, reason: str) -> None:
    net, graph, sizes = read(inner)
    assert sizes == {"patches": WIDTH}
    assert reason in " ".join(pin.reason for pin in graph.pins)
    check(net, graph)


def test_code_of_ones_own_around_the_function_keeps_its_width_and_says_why() -> None:
    class Function(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(WIDTH, 2)

        def forward(self, x: Tensor) -> Tensor:
            x, own = x.transpose(0, 1), self.inner
            out, _ = F.multi_head_attention_forward(
                x, x, x, WIDTH, 2, own.in_proj_weight, own.in_proj_bias, None, None, False, 0.0,
                own.out_proj.weight, own.out_proj.bias, training=False,
            )  # fmt: skip
            return out.transpose(0, 1)

    _, graph, sizes = read(Function())
    assert sizes == {}
    row = next(row for row in graph.explain().rows if row.layer == "patches")
    assert "one width for everything" in row.reason
    assert "nn.MultiheadAttention" in row.remedy


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 6, dropout=0.1, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@pytest.mark.parametrize(
    "options", [{"batch_first": True}, {"norm_first": True, "batch_first": True, "bias": False}, {}]
)
def test_encoders(options: dict[str, Any]) -> None:
    net, graph, sizes = read(encoder(**options))
    heads, hidden = ([f"inner.layers.{i}.{part}" for i in (0, 1)] for part in ("self_attn", "linear1"))
    assert sizes == {"patches": WIDTH, **dict.fromkeys(heads, 2), **dict.fromkeys(hidden, 6)}
    thin = check(net, graph)
    with torch.no_grad():  # not by the fast path, which would take the width of the embedding for that of the heads
        x = images(2)
        assert torch.allclose(thin.eval()(x), thin.train(False)(x.clone().requires_grad_()), atol=1e-6)


class Padded(nn.Module):
    """An encoder that is told where padding is: torch's fast path returns zeros there, as no other way does."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 6, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x, src_key_padding_mask=(torch.arange(x.shape[1]) > 2).expand(len(x), -1))


@pytest.mark.filterwarnings("error:.*nested tensors")
def test_the_fast_path_of_torch_hides_nothing() -> None:
    net, graph, sizes = read(Padded())
    assert sizes["inner.layers.layers.0.self_attn"] == 2
    check(net, graph, patches=0)  # so that no norm over channels that are gone is watched, which keeps it off anyway
    assert torch.backends.mha.get_fastpath_enabled()


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(WIDTH, 2, 6, batch_first=True)
        self.layers = nn.TransformerDecoder(layer, 1)
        self.queries = nn.Embedding(5, WIDTH)
        self.box = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.weight.unsqueeze(0).repeat(len(x), 1, 1)
        return self.box(self.layers(queries, x))[:, :1].mean(2, keepdim=True)


def test_decoders_as_in_detr() -> None:
    net, graph, sizes = read(Decoder())
    assert sizes["inner.layers.layers.0.multihead_attn"] == sizes["inner.layers.layers.0.self_attn"] == 2
    thin = check(net, graph)
    assert thin.inner.layers.layers[0].multihead_attn.num_heads == 1


def test_what_is_left_is_saved_recorded_and_exported() -> None:
    net, graph, _ = read(Own("batch mask"))
    thin = check(net, graph).eval()
    x = images(1)
    with torch.no_grad():
        wanted = thin(x)
        stored = io.BytesIO()
        torch.save(thin, stored)
        stored.seek(0)
        for other in (torch.load(stored, weights_only=False), torch.export.export(thin, (x,)).module()):
            assert torch.allclose(other(x), wanted, atol=1e-6)
    attention = thin.inner.inner
    recorded = fx.symbolic_trace(Around(attention))
    tokens = torch.randn(2, TOKENS, attention.embed_dim)
    assert torch.allclose(recorded(tokens), Around(attention)(tokens), atol=1e-6)


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]
