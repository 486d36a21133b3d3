"""Who makes a channel, who scales it and who reads it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor, nn

from nets import NETS, images, make
from secateur.core.graph import Graph
from secateur.core.trace import trace
from strategies import networks


def members(graph: Graph, group: str) -> dict[tuple[str, int], str]:
    return {(m.tensor, m.dim): m.role for m in graph.group(group).members}


def norm(name: str) -> dict[tuple[str, int], str]:
    return {(f"{name}.{leaf}", 0): "scales" for leaf in ("weight", "bias", "running_mean", "running_var")}


MEMBERS: dict[str, dict[str, dict[tuple[str, int], str]]] = {
    "plain": {
        "0.0": {("0.0.weight", 0): "makes", **norm("0.1"), ("2.0.weight", 1): "reads"},
        "2.0": {("2.0.weight", 0): "makes", **norm("2.1"), ("3.fc.weight", 1): "reads"},
    },
    "squeeze and excite": {
        "stem.0": {
            ("stem.0.weight", 0): "makes",
            **norm("stem.1"),
            ("squeeze.weight", 1): "reads",
            ("excite.weight", 0): "makes",
            ("excite.bias", 0): "scales",
            ("mix.0.weight", 1): "reads",
        },
        "squeeze": {("squeeze.weight", 0): "makes", ("squeeze.bias", 0): "scales", ("excite.weight", 1): "reads"},
    },
    # a transposed convolution makes along its second dimension
    "linear, written view, transposed conv": {
        "fc": {("fc.weight", 0): "makes", ("fc.bias", 0): "scales", ("up.weight", 0): "reads"},
        "up": {("up.weight", 1): "makes", ("up.bias", 0): "scales", ("out.weight", 1): "reads"},
    },
    # a depthwise convolution passes channels on: it scales
    "depth multiplier": {
        "stem.0": {
            ("stem.0.weight", 0): "makes",
            **norm("stem.1"),
            ("depthwise.0.weight", 0): "scales",
            **norm("depthwise.1"),
            ("point.0.weight", 1): "reads",
        },
    },
    "grouped conv": {
        "stem.0": {("stem.0.weight", 0): "makes", **norm("stem.1"), ("grouped.0.weight", 1): "reads"},
        "grouped.0": {("grouped.0.weight", 0): "makes", **norm("grouped.1"), ("head.fc.weight", 1): "reads"},
    },
    # buffers and parameters that belong to no layer
    "frozen norm": {
        "stem": {
            **{(leaf, 0): "scales" for leaf in ("weight", "bias", "running_mean", "running_var")},
            ("stem.weight", 0): "makes",
            ("mix.0.weight", 1): "reads",
        },
    },
    "parameter scale": {
        "stem.0": {
            ("stem.0.weight", 0): "makes",
            **norm("stem.1"),
            ("scale", 1): "scales",
            ("mix.0.weight", 1): "reads",
        },
    },
    # one weight that makes and reads the same channels, once under each dimension
    "tied": {
        "stem.0": {
            ("stem.0.weight", 0): "makes",
            **norm("stem.1"),
            ("a.weight", 0): "makes",
            ("a.weight", 1): "reads",
            ("a.bias", 0): "scales",
            ("b.bias", 0): "scales",
            ("head.fc.weight", 1): "reads",
        },
    },
}


@pytest.mark.parametrize("name", MEMBERS)
def test_members_and_their_roles(name: str) -> None:
    graph = trace(make(name), images(1))
    for group, expected in MEMBERS[name].items():
        assert members(graph, group) == expected


def test_functional_layers_with_free_parameters() -> None:
    class Free(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.bias = nn.Parameter(torch.randn(6, 3, 3, 3)), nn.Parameter(torch.randn(6))
            self.table = nn.Parameter(torch.randn(6, 5))
            self.last = nn.Parameter(torch.randn(4, 5))

        def forward(self, x: Tensor) -> Tensor:
            x = F.conv2d(x, self.kernel, self.bias).mean((2, 3))
            return F.linear(x @ self.table, self.last)

    graph = trace(Free(), images(1))
    assert [(g.name, g.size) for g in graph.groups] == [("kernel", 6), ("table", 5)]
    assert members(graph, "kernel") == {("kernel", 0): "makes", ("bias", 0): "scales", ("table", 0): "reads"}
    assert members(graph, "table") == {("table", 1): "makes", ("last", 1): "reads"}


def test_units_of_a_member_say_where_each_channel_went() -> None:
    graph = trace(make("cat([x, x])"), images(1))
    by_tensor = {m.tensor: m.unit.tolist() for m in graph.group("stem.0").members}
    assert by_tensor["stem.0.weight"] == list(range(8))
    assert by_tensor["mix.0.weight"] == [*range(8), *range(8)]  # both copies are read


def test_units_after_a_split_keep_their_places() -> None:
    graph = trace(make("uneven split"), images(1))
    first, second = graph.group("stem.0"), graph.group("stem.0#2")
    assert {m.tensor: m.unit.tolist() for m in first.members}["stem.0.weight"] == [*range(12), *[-1] * 20]
    assert {m.tensor: m.unit.tolist() for m in second.members}["stem.0.weight"] == [*[-1] * 12, *range(20)]
    assert {m.tensor: m.unit.tolist() for m in second.members}["right.0.weight"] == list(range(20))


def test_units_behind_a_shuffle_of_pixels_are_four_channels() -> None:
    graph = trace(make("pixel shuffle"), images(1))
    units = {m.tensor: m.unit.tolist() for m in graph.group("stem.0").members}
    assert units["stem.0.weight"] == [i // 4 for i in range(24)]
    assert units["mix.0.weight"] == list(range(6))


def test_units_of_a_flattened_map_read_a_row_of_columns() -> None:
    graph = trace(make("flatten a map"), images(1))
    units = {m.tensor: m.unit.tolist() for m in graph.group("stem.0").members}
    assert units["fc1.weight"] == [i // 16 for i in range(96)]


def test_units_of_a_grouped_convolution_take_a_position_from_every_group() -> None:
    graph = trace(make("grouped conv"), images(1))
    units = {m.tensor: m.unit.tolist() for m in graph.group("stem.0").members}
    assert units["stem.0.weight"] == [0, 1, 2, 3] * 4
    assert units["grouped.0.weight"] == [0, 1, 2, 3]
    assert graph.convolutions["grouped.0"].tolist() == [0, 1, 2, 3] * 4


def test_units_of_a_padded_shortcut_move_by_the_padding() -> None:
    graph = trace(make("option A"), images(1))
    stem = {m.tensor: m.unit.tolist() for m in graph.group("stem.0").members}
    rest = {m.tensor: m.unit.tolist() for m in graph.group("conv2").members}
    assert stem["conv2.weight"] == [*[-1] * 4, *range(8), *[-1] * 4]
    assert rest["conv2.weight"] == [*range(4), *[-1] * 8, *range(4, 8)]


@pytest.mark.parametrize("name", NETS)
def test_every_group_is_made_and_read(name: str) -> None:
    graph = trace(make(name), images(1))
    for group in graph.groups:
        roles = {m.role for m in group.members}
        assert {"makes", "reads"} <= roles, (group.name, roles)


@given(net=networks())
def test_members_number_their_units_without_gaps(net: nn.Module) -> None:
    graph = trace(net, images(1))
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    for group in graph.groups:
        for member in group.members:
            assert member.unit.shape == (tensors[member.tensor].shape[member.dim],)
            assert set(member.unit.tolist()) - {-1} == set(range(group.size))
            assert graph.roles[member.tensor][member.dim] == member.role
            inside = member.unit >= 0
            whole = graph.tensors[member.tensor][1][member.dim]
            assert whole is not None
            assert torch.equal(whole[inside], member.unit[inside] + graph.offsets[group.name])
