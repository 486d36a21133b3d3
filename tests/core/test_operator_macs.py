"""Work that is counted, by hand; and what is not, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from secateur.core.operator_macs import Uncounted, macs, remark
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.size import Size, size
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.measure import count

Forward = Callable[[Any, Tensor], Tensor]
CONVOLUTIONS = 2 * 64 * 9 * (1 * 16 + 16 * 8)  # of two images of 8x8


class Before(nn.Module):
    """Two convolutions, then whatever is to be counted."""

    def __init__(self, forward: Forward, own: nn.Module | None = None, **shapes: Sequence[int]) -> None:
        super().__init__()
        self.c, self.d = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.own = own
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(*shape) / 4))
        self.then = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, self.d(self.c(x).relu()))


def rows(y: Tensor) -> Tensor:
    return y.flatten(2).transpose(1, 2)  # (2, 64, 8)


def vector(y: Tensor) -> Tensor:
    return y.mean((0, 2, 3))


def attended(m: Any, y: Tensor) -> Tensor:
    return m.own(rows(y), rows(y), rows(y))[0]


def fused(m: Any, y: Tensor) -> Tensor:
    x = rows(y).unflatten(-1, (2, 4)).transpose(1, 2)
    return functional.scaled_dot_product_attention(x, x, x)


def deformed(m: Any, y: Tensor) -> Tensor:
    from torchvision.ops import deform_conv2d

    return deform_conv2d(y, y.new_zeros(2, 18, 8, 8), m.w, padding=1)


def mixed(m: Any, y: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.einsum("bixy,ioxy->boxy", torch.fft.rfft2(y), torch.view_as_complex(m.w)))


NETWORKS: dict[str, tuple[Before, int]] = {
    "attention": (Before(attended, nn.MultiheadAttention(8, 2, batch_first=True)), 2 * (4 * 64 * 64 + 2 * 64 * 64 * 8)),
    "fused attention": (Before(fused), 2 * 2 * 64 * 64 * 8),
    "matmul": (Before(lambda m, y: y.flatten(2) @ rows(y)), 2 * 8 * 64 * 8),
    "matmul, weight": (Before(lambda m, y: rows(y) @ m.w, w=(8, 12)), 2 * 64 * 8 * 12),
    "bmm": (Before(lambda m, y: torch.bmm(y.flatten(2), rows(y))), 2 * 8 * 64 * 8),
    "baddbmm": (Before(lambda m, y: torch.baddbmm(m.b, rows(y), m.w), b=(12,), w=(2, 8, 12)), 2 * 64 * 8 * 12),
    "addmm": (Before(lambda m, y: torch.addmm(m.b, y.mean((2, 3)), m.w), b=(12,), w=(8, 12)), 2 * 8 * 12),
    "addbmm": (Before(lambda m, y: torch.addbmm(m.b, y.flatten(2), rows(y)), b=(8, 8)), 2 * 8 * 64 * 8),
    "mv": (Before(lambda m, y: m.w @ vector(y), w=(12, 8)), 12 * 8),
    "addmv": (Before(lambda m, y: torch.addmv(m.b, m.w, vector(y)), b=(12,), w=(12, 8)), 12 * 8),
    "dot": (Before(lambda m, y: torch.dot(vector(y), vector(y))), 8),
    "einsum": (Before(lambda m, y: torch.einsum("bchw,cd->bdhw", y, m.w), w=(8, 12)), 2 * 64 * 8 * 12),
    "einsum of maps": (Before(lambda m, y: torch.einsum("bchw,bdhw->bcd", y, y)), 2 * 8 * 64 * 8),
    "convolution, function": (
        Before(lambda m, y: functional.conv2d(y, m.w, padding=1), w=(12, 8, 3, 3)),
        2 * 64 * 8 * 12 * 9,
    ),
    "depthwise, function": (
        Before(lambda m, y: functional.conv2d(y, m.w, padding=1, groups=8), w=(8, 1, 3, 3)),
        2 * 64 * 8 * 9,
    ),
    "transposed, function": (
        Before(lambda m, y: functional.conv_transpose2d(y, m.w), w=(8, 12, 1, 1)),
        2 * 64 * 8 * 12,
    ),
    "time convolution": (
        Before(lambda m, y: torch.conv_tbc(rows(y).contiguous(), m.w, m.b), w=(1, 8, 12), b=(12,)),
        2 * 64 * 8 * 12,
    ),
    "deformable": (Before(deformed, w=(12, 8, 3, 3)), 2 * 64 * 8 * 12 * 9),
    "Fourier": (Before(lambda m, y: torch.fft.fft2(torch.complex(y, y)).abs()), 2 * 8 * 64 * 6 * 5 // 2),
    "Fourier of real numbers": (
        Before(lambda m, y: torch.fft.irfft2(torch.fft.rfft2(y))),
        2 * 2 * 8 * 64 * 6 * 5 // 4,
    ),
    "filter of frequencies": (
        Before(lambda m, y: torch.fft.irfft2(torch.fft.rfft2(y) * torch.view_as_complex(m.w)), w=(8, 8, 5, 2)),
        2 * 2 * 8 * 64 * 6 * 5 // 4,
    ),
    "mixture of frequencies": (
        Before(mixed, w=(8, 12, 8, 5, 2)),
        2 * (8 + 12) * 64 * 6 * 5 // 4 + 2 * 8 * 12 * 8 * 5,
    ),
    "bilinear": (Before(lambda m, y: m.own(y.mean(2), y.mean(3)), nn.Bilinear(8, 8, 6)), 16 * 6 * 8 * (8 + 1)),
    "distances": (Before(lambda m, y: torch.cdist(y.flatten(2), y.flatten(2))), 2 * 8 * 8 * 64),
    "many distances": (Before(lambda m, y: torch.cdist(rows(y), rows(y))), 2 * 64 * 64 * 8),
}
NOT_KNOWN = {"attention", "addbmm", "mv", "addmv", "dot", "time convolution", "deformable", "bilinear"}
NOT_KNOWN |= {
    "distances",
    "many distances",
    "Fourier",
    "Fourier of real numbers",
    "filter of frequencies",
    "mixture of frequencies",
}
"""What ``torch.utils.flop_counter`` misses; attention where one kernel does all of it."""


def inputs() -> Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def some(graph: Any) -> Plan:
    return Plan(tuple(DropUnits(group.name, tuple(range(0, group.size - 1, 2))) for group in graph.groups))


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_are_those_by_hand_before_and_after_the_cut(name: str) -> None:
    model, own = NETWORKS[name]
    model.eval()
    graph = trace(model, inputs())
    assert size(graph).macs == count(model, inputs()).macs == CONVOLUTIONS + own
    assert (size(graph).uncounted, count(model, inputs()).uncounted) == ((), "")
    plan = some(graph)
    assert plan.edits
    thin = apply(model, graph, plan)
    assert verify(model, graph, plan, thin, inputs()).exact
    assert size(graph, plan).macs == count(thin, inputs()).macs < CONVOLUTIONS + own
    if name not in NOT_KNOWN:
        with FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            thin(inputs())
        assert flops.get_total_flops() // 2 == size(graph, plan).macs


@pytest.mark.parametrize(
    ("forward", "operator", "least"),
    [
        (lambda m, y: torch.linalg.inv(y + 40 * torch.eye(8)), "aten.linalg_inv_ex", 2 * 8 * 64),
        (lambda m, y: torch.ops.somebody.twice(y), "somebody.twice", 2 * 8 * 64),
    ],
)
def test_what_no_formula_covers_is_named_everywhere(forward: Forward, operator: str, least: int) -> None:
    model = nn.Sequential(Before(forward)).eval()
    graph = trace(model, inputs())
    assert size(graph).uncounted == (Uncounted(operator, "0", least),)
    assert size(graph, some(graph)).uncounted == size(graph).uncounted
    assert graph.explain().uncounted == f"{operator} in '0'"
    counts = count(model, inputs())
    assert (counts.macs, counts.uncounted, counts.uncounted_macs) == (CONVOLUTIONS, f"{operator} in '0'", least)
    assert counts.missing.startswith(f"at least {least:,} MACs in {operator} in '0' are not counted")


@torch.library.custom_op("somebody::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    """An operator of somebody else's library: nobody knows whether it multiplies."""
    return x * 2


def test_what_moves_or_scales_is_no_work() -> None:
    x = inputs()
    ops = torch.ops.aten
    for func in (ops.mul.Tensor, ops.add.Tensor):
        assert macs(func, (x, x), {}, x) == 0
    assert macs(ops.upsample_linear1d.default, (x[0], [16], False), {}, x) == 0
    assert macs(ops._linalg_check_errors.default, (x,), {}, None) == 0
    assert macs(ops.native_batch_norm.default, (x,), {}, (x,)) == 0
    assert macs(ops._thnn_fused_lstm_cell.default, (x,), {}, (x,)) == 0
    assert macs(ops.linalg_qr.default, (x,), {}, (x, x)) is None


def test_operators_of_accelerators_are_counted_by_their_weights() -> None:
    x, weights = torch.randn(7, 2, 5), [torch.randn(12, 5), torch.randn(12, 3), torch.randn(12), torch.randn(12)]
    assert macs(torch.ops.aten._cudnn_rnn.default, (x, weights, 4), {}, ()) == 14 * 12 * 8
    assert macs(torch.ops.aten._lstm_mps.default, (x, [x], weights), {}, ()) == 14 * 12 * 8
    q, k, v = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 7, 4), torch.randn(1, 2, 7, 6)
    args = (q, k, v)
    assert macs(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default, args, {}, ()) == 2 * 5 * 7 * 10


@pytest.mark.parametrize(
    ("least", "after", "keep", "words"),
    [
        (10, 400, 0.5, "is met only if they take no more than 200, and else missed"),
        (300, 400, 0.5, "with them the target of 0.5 of the MACs is missed"),
        (10, 600, 0.5, "with them the target of 0.5 of the MACs is missed"),
        (10, 400, None, "shares of MACs are those of the rest"),
    ],
)
def test_a_target_is_never_met_on_a_partial_count(least: int, after: int, keep: float | None, words: str) -> None:
    text = remark("fft in 'mix'", least, 1000, after, keep)
    assert text.startswith(f"at least {least} MACs in fft in 'mix' are not counted: ")
    assert words in text
    if "no more than 200" in text:
        assert (400 + 200) / (1000 + 200) == 0.5  # what is not counted stays as it is
    assert remark("", 0, 1000, after, keep) == ""


def test_a_size_says_what_it_lacks() -> None:
    found = Size(1, 1000, 1, 1, (Uncounted("fft", "mix", 10), Uncounted("inv", "", 5)))
    assert (
        found.missing == "at least 15 MACs in fft in 'mix', inv are not counted: shares of MACs are those of the rest"
    )
    assert Size(1, 1000, 1, 1).missing == ""
