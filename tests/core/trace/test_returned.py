"""Outputs that may lose channels: which of them are named, in every mode, and what else keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets import Head, conv, images, lived_in
from secateur.core.graph import Graph
from secateur.core.graph.outputs import FREE_IT
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, check_batches, check_training, verify
from secateur.core.surgery.training_mode_check import breaks_in_training
from secateur.core.trace import trace
from secateur.errors import SettingError


class Layers(nn.Module):
    """A stem, a second layer, a neck beside the classifier, and what the forward gives."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.neck, self.head = conv(3, 8), conv(8, 12), nn.Conv2d(12, 6, 1), Head(12)

    def put_out(self, stem: Tensor, last: Tensor) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        stem = self.stem(x)
        return self.put_out(stem, self.last(stem))


@dataclass
class Answer:
    logits: Tensor
    features: dict[str, Any]


class Nested(Layers):
    def put_out(self, stem: Tensor, last: Tensor) -> Answer:
        return Answer(self.head(last), {"maps": [stem, last], "neck": (self.neck(last).flatten(1),)})


class TwoHeads(Layers):
    def put_out(self, stem: Tensor, last: Tensor) -> tuple[Tensor, ...]:
        return self.neck(last), self.head(last), last.mean((2, 3))


def sizes(graph: Graph) -> dict[str, int]:
    return {group.name: group.size for group in graph.groups}


def thirds(graph: Graph) -> Plan:
    return Plan(tuple(DropUnits(group.name, tuple(range(0, group.size, 3))) for group in graph.groups))


def rows(graph: Graph) -> dict[str, tuple[str, str]]:
    return {row.layer: (row.reason, row.remedy) for row in graph.explain().rows}


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        ((), {}),
        ("features.maps.0", {"stem.0": 8}),
        (("features.maps.*",), {"stem.0": 8, "last.0": 12}),
        (("features.*.0",), {"stem.0": 8, "neck": 6}),
        (("features",), {"stem.0": 8, "last.0": 12, "neck": 6}),
    ],
)
def test_what_is_named_loses_channels_and_the_rest_does_not(free: tuple[str, ...], expected: dict[str, int]) -> None:
    net = lived_in(Nested())
    graph = trace(net, images(1), free_outputs=free)
    assert sizes(graph) == expected
    if not expected:
        return
    plan = thirds(graph)
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(2)).exact
    check_batches(net, graph, plan, thin, images(1))
    check_training(net, thin, images(2))


def test_an_output_that_is_read_is_named_with_what_would_free_it() -> None:
    found = rows(trace(lived_in(Nested()), images(1)))
    assert found["stem.0"] == ("an output of the network ('features.maps.0')", FREE_IT)
    assert found["head.fc"] == ("an output of the network ('logits')", "")  # which never goes
    found = rows(trace(lived_in(Nested()), images(1), free_outputs=("features.neck",)))
    assert found["last.0"] == ("an output of the network ('features.maps.1')", FREE_IT)
    assert found["neck"] == ("", "")


def test_all_outputs_are_named_that_keep_a_channel() -> None:
    class Twice(Layers):
        def put_out(self, stem: Tensor, last: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(last), "a": stem, "b": stem.mean((2, 3)), "c": last}

    net = lived_in(Twice())
    assert rows(trace(net, images(1)))["stem.0"] == ("outputs of the network ('a', 'b')", FREE_IT)
    assert rows(trace(net, images(1), free_outputs="a"))["stem.0"] == ("an output of the network ('b')", FREE_IT)
    assert sizes(trace(net, images(1), free_outputs=("a", "b"))) == {"stem.0": 8}


def test_what_the_prediction_is_made_of_stays_whatever_else_is_named() -> None:
    class Both(Layers):
        def put_out(self, stem: Tensor, last: Tensor) -> dict[str, Tensor]:
            scores = self.head(last)
            return {"probabilities": scores.softmax(1), "logits": scores}

    graph = trace(lived_in(Both()), images(1), free_outputs=("probabilities",))
    assert rows(graph)["head.fc"] == ("an output of the network ('logits')", "")


def test_one_of_two_heads() -> None:
    net = lived_in(TwoHeads())
    assert sizes(trace(net, images(1))) == {"stem.0": 8}
    graph = trace(net, images(1), free_outputs=("0", "2"))
    assert sizes(graph) == {"stem.0": 8, "last.0": 12, "neck": 6}
    plan = thirds(graph)
    assert verify(net, graph, plan, apply(net, graph, plan), images(3)).exact


@pytest.mark.parametrize(
    ("net", "free", "why"),
    [
        (Nested, ("feature",), "no output of the network matches 'feature'"),
        (Nested, ("logits",), "'logits' .1x5. holds the class scores"),
        (TwoHeads, ("*",), "its prediction too"),
        (Head, ("0",), "a single tensor"),
    ],
)
def test_names_of_nothing_and_of_the_prediction_are_refused(net: Any, free: tuple[str, ...], why: str) -> None:
    made = nn.Sequential(conv(3, 8), Head(8)) if net is Head else net()
    with pytest.raises(SettingError, match=why):
        trace(lived_in(made), images(1), free_outputs=free)


class Ends(Layers):
    """Returns scores under any name or place, beside maps and features that the classifier reads."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        del self.neck
        if way in ("two", "projected"):
            self.other = nn.Linear(12, 7)

    def put_out(self, stem: Tensor, last: Tensor) -> Any:
        scores, pooled = self.head(last), last.mean((2, 3))
        if self.way in ("two", "projected"):
            return {"age" if self.way == "two" else "logits": scores, "other": self.other(pooled)}
        return {
            "named": {"feats": [stem, last], "out": scores},
            "chances": {"embedding": pooled, "pred": scores.softmax(1)},
            "second": (stem, scores),
        }[self.way]


@pytest.mark.parametrize(
    ("way", "free", "beside"),
    [("named", "out", "feats"), ("chances", "pred", "embedding"), ("second", "1", "0")],
)
@pytest.mark.parametrize("count", [1, 2])
def test_what_no_layer_reads_is_the_class_scores_under_any_name(way: str, free: str, beside: str, count: int) -> None:
    net = lived_in(Ends(way))
    with pytest.raises(SettingError, match=f"'{free}' .{count}x5. is all that the network returns that can be class"):
        trace(net, images(count), free_outputs=(free,))
    assert rows(trace(net, images(count)))["head.fc"] == (f"an output of the network ('{free}')", "")
    graph = trace(net, images(count), free_outputs=(beside,))
    assert "head.fc" not in sizes(graph)
    assert "last.0" in sizes(graph) or way == "second"


def test_of_several_that_may_be_scores_all_but_one_can_be_free() -> None:
    net = lived_in(Ends("two"))
    assert rows(trace(net, images(1)))["other"] == ("an output of the network ('other')", FREE_IT)
    graph = trace(net, images(1), free_outputs=("other",))
    assert sizes(graph) == {"stem.0": 8, "last.0": 12, "other": 7}
    assert rows(graph)["head.fc"] == ("an output of the network ('age')", "")
    assert "other" in sizes(trace(lived_in(Ends("projected")), images(1), free_outputs=("other",)))


def test_a_single_output_that_differs_in_training_is_said_in_words() -> None:
    class Wider(Layers):
        def put_out(self, stem: Tensor, last: Tensor) -> Any:
            return stem if self.training else self.head(last)

    assert rows(trace(lived_in(Wider()), images(2)))["stem.0"] == ("an output of the network in training", "")


def test_channels_beside_samples() -> None:
    class Folded(Layers):
        def put_out(self, stem: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(last), stem.flatten(0, 1)

    net = lived_in(Folded())
    graph = trace(net, images(2), free_outputs=("1",))
    plan = thirds(graph)
    assert "stem.0" in plan.dropped()
    thin = apply(net, graph, plan)
    for batch in (1, 2, 4):
        assert verify(net, graph, plan, thin, images(batch)).exact


# -- in training --------------------------------------------------------------------------------------------


class Changing(Layers):
    """Predicts beside its maps in evaluation, and returns the maps alone in training, as some detectors do."""

    def put_out(self, stem: Tensor, last: Tensor) -> Any:
        return [stem, last, self.neck(last)] if self.training else (self.head(last), (stem, last))


def test_what_is_free_in_evaluation_is_so_where_training_returns_it() -> None:
    net = lived_in(Changing())
    graph = trace(net, images(2), free_outputs=("1",))
    assert sizes(graph) == {"stem.0": 8, "last.0": 12}
    assert rows(graph)["neck"] == ("an output of the network ('2')", FREE_IT)  # which training alone returns
    plan = thirds(graph)
    thin = apply(net, graph, plan)
    assert breaks_in_training(net, graph, plan, thin, images(2)) is None
    with torch.no_grad():
        thin.last[0].weight[0] += 1
    assert breaks_in_training(net, graph, plan, thin, images(2)) == "last.0"


def test_the_same_path_in_training_is_not_the_same_output() -> None:
    class Other(Layers):
        def put_out(self, stem: Tensor, last: Tensor) -> Any:
            return (stem, last) if self.training else (self.head(last), stem)

    graph = trace(lived_in(Other()), images(2), free_outputs=("1",))
    assert sizes(graph) == {"stem.0": 8}
    assert rows(graph)["last.0"] == ("an output of the network ('1 in training')", "")


def test_an_output_of_training_alone_can_be_named() -> None:
    class Auxiliary(Layers):
        def put_out(self, stem: Tensor, last: Tensor) -> Any:
            found = {"logits": self.head(last)}
            return {**found, "aux": self.neck(last)} if self.training else found

    net = lived_in(Auxiliary())
    assert sizes(trace(net, images(2))) == {"stem.0": 8, "last.0": 12}
    graph = trace(net, images(2), free_outputs=("aux",))
    assert "neck.weight" in graph.aside
    plan = thirds(graph)
    check_training(net, apply(net, graph, plan), images(2))
    assert breaks_in_training(net, graph, plan, apply(net, graph, plan), images(2)) is None
    with pytest.raises(SettingError, match=r"'aux' \(2x6x8x8\)"):
        trace(net, images(2), free_outputs=("auxiliary",))


def test_the_same_structure_in_both_modes_is_the_same_by_path() -> None:
    class Padded(Layers):
        def put_out(self, stem: Tensor, last: Tensor) -> Any:
            more = 2.0 if self.training else 1.0
            return self.head(last), nn.functional.pad(stem, (0, 0, 0, 0, 1, 0)) * more, self.neck(last)

    assert sizes(trace(lived_in(Padded()), images(2), free_outputs=("1",))) == {"stem.0": 8, "last.0": 12}
