from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nets import NETS, images, make
from secateur.core.graph import Graph, Group, Member, layer_of, staying, tensor_of, unit_rows
from secateur.core.graph.explanation import Explanation, LayerRow
from secateur.core.graph.written_sizes import Axis, count
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.errors import PlanError
from strategies import networks


def read(name: str) -> Graph:
    return trace(make(name), images(1))


# -- the weights of a unit ----------------------------------------------------------------------------------


def rows_one_by_one(tensor: Tensor, member: Member, size: int) -> list[list[float]]:
    """For each unit its elements: positions in order, row-major inside, zeros up to the longest."""
    rows = []
    for unit in range(size):
        places = [i for i, u in enumerate(member.unit.tolist()) if u == unit]
        rows.append([x for i in places for x in tensor.select(member.dim, i).reshape(-1).tolist()])
    longest = max(map(len, rows))
    return [row + [0.0] * (longest - len(row)) for row in rows]


@given(st.data())
def test_rows_hold_the_elements_of_each_unit(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    dim = data.draw(st.integers(0, len(shape) - 1))
    shape[dim] = data.draw(st.integers(2, 9))
    count = data.draw(st.integers(2, shape[dim]))
    # every unit has at least one position; more of them, in any order, and positions of no unit
    places = [*range(count), *(data.draw(st.integers(-1, count - 1)) for _ in range(shape[dim] - count))]
    member = Member("w", dim, "makes", torch.tensor(data.draw(st.permutations(places))))
    tensor = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)
    found = unit_rows(tensor, member, count)
    assert found.tolist() == rows_one_by_one(tensor, member, count)


def test_rows_of_a_group_come_member_by_member() -> None:
    net, graph = make("linear, written view, transposed conv"), read("linear, written view, transposed conv")
    group = graph.group("fc")
    (made,) = group.rows(net, "makes")
    assert torch.equal(made, net.fc.weight.reshape(8, 16 * 6))
    (reads,) = group.rows(net, "reads")
    assert torch.equal(reads, net.up.weight.reshape(8, -1))
    (bias,) = group.rows(net, "scales")
    assert torch.equal(bias, net.fc.bias.reshape(8, 16))
    assert not made.requires_grad
    (transposed,) = graph.group("up").rows(net, "makes")
    assert torch.equal(transposed, net.up.weight.transpose(0, 1).reshape(6, -1))


def test_rows_of_a_group_that_shares_its_layer() -> None:
    net, graph = make("uneven split"), read("uneven split")
    (first,), (second,) = (graph.group(name).rows(net, "makes") for name in ("stem.0", "stem.0#2"))
    assert torch.equal(torch.cat([first, second]), net.stem[0].weight.flatten(1))
    assert len(first) == 12


# -- names and numbers --------------------------------------------------------------------------------------


def test_units_are_numbered_group_after_group() -> None:
    graph = read("uneven split")
    assert dict(graph.offsets) == {"stem.0": 0, "stem.0#2": 12, "left.0": 32, "right.0": 38}
    assert graph.units == 44
    plan = Plan((DropUnits("right.0", (0, 5)), DropUnits("stem.0#2", (3,))))
    assert torch.nonzero(~graph.kept(plan)).flatten().tolist() == [15, 38, 43]


def test_what_a_plan_may_not_name() -> None:
    graph = read("plain")
    with pytest.raises(PlanError, match="names group '1', which this network does not have"):
        graph.kept(Plan((DropUnits("1", (0,)),)))
    with pytest.raises(PlanError, match=r"unit 16 of group '2\.0', which has 16 units"):
        graph.kept(Plan((DropUnits("2.0", (3, 16)),)))
    assert bool(graph.kept(Plan((DropUnits("2.0", ()),))).all())


def test_tensors_by_name() -> None:
    net = make("buffer scale")
    assert tensor_of(net, "scale") is net.scale
    assert tensor_of(net, "stem.1.running_var") is net.stem[1].running_var
    for name in ("nowhere", "stem.9.weight", "stem.0.nothing"):
        with pytest.raises(PlanError, match=f"no tensor '{name}'"):
            tensor_of(net, name)
    assert (layer_of("stem.0.weight"), layer_of("scale")) == ("stem.0", "")


def test_positions_of_no_unit_stay() -> None:
    keep = torch.tensor([True, False, True])
    assert staying(torch.tensor([0, -1, 1, 1, 2, -1]), keep).tolist() == [True, True, False, False, True, True]
    assert staying(torch.tensor([-1, -1]), torch.zeros(0, dtype=torch.bool)).tolist() == [True, True]
    assert count(Axis(3, torch.tensor([0, 0, 1, 2])), keep) == 6


# -- leaving layers alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "free"),
    [
        ((), {"stem.0", "stem.0#2", "part.0"}),
        (("part.0",), {"stem.0", "stem.0#2"}),
        (("whole.0",), {"stem.0", "stem.0#2"}),  # makes the same units as part.0
        (("whole*", "stem.0#2"), {"stem.0"}),
        (("stem.0",), {"part.0"}),  # the layer, whichever of its groups
        (("stem*",), {"part.0"}),
        (("*",), set()),
        (("stem",), {"part.0"}),  # the module that holds the layer
        (("head.fc",), {"stem.0", "stem.0#2", "part.0"}),  # reads, but makes nothing that could go
    ],
)
def test_patterns_name_layers_to_leave_alone(patterns: tuple[str, ...], free: set[str]) -> None:
    graph = read("first channels")
    apart = graph.without(*patterns)
    assert {g.name for g in apart.free} == free
    assert apart.groups == graph.groups  # numbers and plans stay valid
    assert {g.name for g in graph.free} == {g.name for g in graph.groups}


def test_leaving_alone_adds_up() -> None:
    graph = read("plain").without("0.0").without("2.0")
    assert graph.left == {"0.0", "2.0"}
    assert not graph.free


# -- the explanation ----------------------------------------------------------------------------------------


def rows_of(graph: Graph) -> dict[str, LayerRow]:
    return {row.layer: row for row in graph.explain().rows}


def test_rows_say_with_whom_a_layer_shrinks() -> None:
    rows = rows_of(read("channel statistics (CBAM)"))
    assert list(rows) == ["stem.0", "before.0", "down", "up", "mix.0", "head.fc"]
    assert rows["before.0"] == LayerRow("before.0", 8, 8, "before.0", ("up",), "", "")
    assert rows["up"] == LayerRow("up", 8, 8, "before.0", ("before.0",), "", "")
    assert rows["head.fc"] == LayerRow("head.fc", 5, 0, "", (), "an output of the network", "")


def test_a_layer_of_several_groups_names_the_largest() -> None:
    rows = rows_of(read("uneven split"))
    assert (rows["stem.0"].group, rows["stem.0"].prunable) == ("stem.0#2", 32)


def test_rows_say_what_was_left_alone() -> None:
    rows = rows_of(read("first channels").without("part.0"))
    assert (rows["part.0"].prunable, rows["part.0"].group) == (0, "")
    assert rows["part.0"].reason == "left alone as asked"
    assert rows["part.0"].remedy
    assert rows["stem.0"].reason == ""


def test_rows_say_when_only_a_part_is_left_alone() -> None:
    row = rows_of(read("uneven split").without("stem.0#2"))["stem.0"]
    assert (row.width, row.prunable, row.group, row.reason) == (32, 12, "stem.0", "left alone as asked")


class OneMore(nn.Module):
    """The first channel of the stem is the only one that meets a zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + F.pad(self.mid(x), (0, 0, 0, 0, 1, 0)))


def test_a_single_unit_must_stay() -> None:
    row = rows_of(trace(OneMore(), images(1)))["stem"]
    assert row == LayerRow("stem", 4, 3, "stem", ("mid",), "a single unit, which must stay", "")


@pytest.mark.parametrize("name", NETS)
def test_the_reachable_share_is_that_of_the_smallest_network(name: str) -> None:
    graph = read(name)
    smallest = Plan(tuple(DropUnits(g.name, tuple(range(g.size - 1))) for g in graph.groups))
    assert graph.explain().reachable == size(graph, smallest).macs / size(graph).macs


def test_what_is_left_alone_is_not_reachable() -> None:
    graph = read("plain").without("2.0")
    smallest = Plan((DropUnits("0.0", tuple(range(7))),))
    assert graph.explain().reachable == size(graph, smallest).macs / size(graph).macs
    assert graph.without("0.0").explain().reachable == 1.0


@given(net=networks())
def test_every_channel_of_every_layer_is_accounted_for(net: nn.Module) -> None:
    """Prunable positions can go one unit after the other; for all others there is a reason."""
    graph = trace(net, images(1))
    for row in graph.explain().rows:
        made = graph.roles[f"{row.layer}.weight"].index("makes")
        units = graph.tensors[f"{row.layer}.weight"][1][made]
        assert row.prunable == (0 if units is None else int((units >= 0).sum()))
        assert (row.prunable < row.width) == bool(row.reason)
        assert (row.prunable > 0) == bool(row.group)


@settings(max_examples=20)
@given(net=networks())
def test_any_single_unit_can_go_alone(net: nn.Module) -> None:
    graph = trace(net.double(), images(1, dtype=torch.float64))
    for group in graph.groups[:2]:
        plan = Plan((DropUnits(group.name, (group.size // 2,)),))
        assert verify(net, graph, plan, apply(net, graph, plan), images(1, 3, torch.float64)).difference < 1e-9


def test_groups_know_the_layers_that_make_them() -> None:
    member = Member("a.weight", 0, "makes", torch.arange(2))
    group = Group(
        "a", 2, (member, Member("a.bias", 0, "scales", torch.arange(2)), Member("b.w", 0, "makes", torch.arange(2)))
    )
    assert group.layers == ("a", "b")


# -- what is left alone


def test_a_name_means_the_module_and_all_that_is_in_it() -> None:
    net = nn.ModuleDict(
        {"c": nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)), "cc": nn.Conv2d(8, 8, 1)}
    )

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts, self.fc = net, nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.parts["cc"](self.parts["c"](x).relu()).relu().mean((2, 3)))

    graph = trace(Net(), images(1))
    assert {group.name for group in graph.free} == {"parts.c.0", "parts.c.2", "parts.cc"}
    for patterns, left in (
        (("parts.c",), {"parts.cc"}),
        (("parts",), set()),
        (("*.c",), {"parts.cc"}),
        (("parts.c.2",), {"parts.c.0", "parts.cc"}),
        (("part",), {"parts.c.0", "parts.c.2", "parts.cc"}),
    ):
        assert {group.name for group in graph.without(*patterns).free} == left, patterns
    assert graph.without("parts.c").leaves("parts.c.0")
    assert not graph.without("parts.c").leaves("parts.cc")


def test_parameters_of_the_network_itself_are_called_by_their_names() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Parameter(torch.randn(8, 3, 1, 1)), nn.Parameter(torch.randn(4, 8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(F.conv2d(x, self.wide), self.narrow)

    graph = trace(Own().eval(), torch.randn(1, 3, 4, 4))
    assert [(row.layer, row.prunable) for row in graph.explain().rows] == [("wide", 8), ("narrow", 0)]
    assert [(group.name, group.layers) for group in graph.groups] == [("wide", ("wide",))]
    assert graph.without("wide").free == ()


def test_an_explanation_is_printed_as_a_table() -> None:
    rows = (
        LayerRow("stem", 8, 8, "stem", ("a", "b", "c", "d"), "", ""),
        LayerRow("stem.long", 16, 12, "x", ("a",), "picked", "let go"),
        LayerRow("head", 5, 0, "", (), "an output of the network", ""),
    )
    assert str(Explanation(rows, 0.1234, "aten.x in 'y'")).splitlines() == [
        "layer      prunable  together with / why not",
        "stem         8 of 8  with a, b, 2 more",
        "stem.long  12 of 16  with a; picked: let go",
        "head         0 of 5  an output of the network",
        "With one unit left in every group, 12.3 % of the MACs stay.",
        "Not counted: aten.x in 'y'.",
    ]
