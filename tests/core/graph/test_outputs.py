"""Paths into what a network returns, patterns of them, and what is left of an output."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from secateur.core.graph.outputs import Output, are_scores, check_named, is_named, left_of, named, named_tensors
from secateur.errors import SettingError

SHAPES = {"logits": (1, 5), "feats.0": (1, 8, 4, 4), "feats.1": (1, 16, 2, 2)}


@dataclass
class Pyramid:
    scores: Tensor
    maps: dict[str, Any]


class Pair(NamedTuple):
    one: Tensor
    other: list[Tensor]


def test_paths_are_made_of_keys_fields_and_positions() -> None:
    a, b, c, d = (torch.zeros(n) for n in (1, 2, 3, 4))
    found = named_tensors((Pyramid(a, {"p3": b, "more": [c]}), Pair(d, [a]), OrderedDict(x=b), SimpleNamespace(y=c)))
    assert [(path, len(tensor)) for path, tensor in found] == [
        ("0.scores", 1),
        ("0.maps.p3", 2),
        ("0.maps.more.0", 3),
        ("1.one", 4),
        ("1.other.0", 1),
        ("2.x", 2),
        ("3.y", 3),
    ]
    assert [path for path, _ in named_tensors(a)] == [""]
    assert named_tensors(["text", 3, None, nn.Linear(2, 2), Tensor]) == []


@pytest.mark.parametrize(
    ("pattern", "those"),
    [
        ("feats", ["feats.0", "feats.1"]),
        ("feats.*", ["feats.0", "feats.1"]),
        ("feats.1", ["feats.1"]),
        ("feats.[!1]", ["feats.0"]),
        ("*.0", ["feats.0"]),
        ("feat", []),
        ("0", []),
    ],
)
def test_a_pattern_names_outputs_by_their_path_or_by_what_is_around_them(pattern: str, those: list[str]) -> None:
    assert [path for path in SHAPES if is_named(path, [pattern])] == those


def test_a_pattern_that_names_nothing_is_refused_with_all_outputs() -> None:
    with pytest.raises(SettingError) as refused:
        check_named(["feats", "feat.0"], SHAPES, {"aux": (2, 5)})
    for text in ("'feat.0'", "did you mean 'feats.0'?", "'logits' (1x5)", "'feats.1' (1x16x2x2)", "'aux' (2x5)"):
        assert text in str(refused.value)
    check_named(["feats", "aux"], SHAPES, {"aux": (2, 5)})
    check_named([], SHAPES, {})


def test_a_long_list_is_cut_short() -> None:
    many = {f"hidden_states.{layer}": (1, 4, 8) for layer in range(40)}
    with pytest.raises(SettingError, match="and 28 more"):
        check_named(["states"], many, {})


@pytest.mark.parametrize("patterns", [["*"], ["logits", "feats"]])
def test_something_must_be_left_to_predict_with(patterns: list[str]) -> None:
    with pytest.raises(SettingError, match="its prediction too"):
        check_named(patterns, SHAPES, {})


@pytest.mark.parametrize("pattern", ["0", "*", ""])
def test_a_single_tensor_is_the_prediction(pattern: str) -> None:
    with pytest.raises(SettingError, match=r"single tensor \(1x5\), which is its prediction"):
        check_named([pattern], {"": (1, 5)}, {})


def test_scores_stand_first_or_are_named_so() -> None:
    flat, maps = torch.zeros(2, 5), torch.zeros(2, 5, 4, 4)
    assert are_scores("", maps, maps)
    assert are_scores("0", flat, (flat, maps))
    assert not are_scores("1", flat, (maps, flat))
    assert not are_scores("0", maps, (maps, flat))  # features, which no accuracy is measured by
    assert are_scores("logits", maps, {"x": flat, "logits": maps})
    assert are_scores("logits", flat, SimpleNamespace(x=maps, logits=flat))
    assert not are_scores("x", flat, {"x": flat, "logits": maps})


def test_units_that_go_are_taken_out_of_their_dimension() -> None:
    keep = torch.tensor([True, False, True, True])
    known = (Output("0", ()), Output("1", ((1, torch.tensor([0, 1, -1, 2])), (2, torch.tensor([1, 3])))))
    a, b = torch.zeros(2, 4), torch.arange(16.0).reshape(2, 4, 2)
    whole, some = left_of(known, (a, b), keep)
    assert whole is a
    assert torch.equal(some, b[:, [0, 2, 3]][:, :, [1]])
    assert left_of(known, (a, b), torch.ones(4, dtype=torch.bool))[1] is b


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_channels_beside_samples_go_from_each_of_them(batch: int) -> None:
    known = (Output("0", ((0, torch.tensor([0, 1, 2, 0, 1, 2])),)),)  # of two samples
    [found] = left_of(known, [torch.arange(3 * batch)], torch.tensor([True, False, True]))
    assert found.tolist() == [place for place in range(3 * batch) if place % 3 != 1]


def test_what_was_not_read_stays_as_it_is() -> None:
    known = (Output("0", ((0, torch.tensor([0, 1])),)),)
    tensors = [torch.zeros(2), torch.zeros(2)]
    assert left_of(known, tensors, torch.tensor([True, False])) == tensors


def test_outputs_in_words() -> None:
    assert named([""]) == "an output of the network"
    assert named(["1", "1"]) == "an output of the network ('1')"
    assert named(["a", "b"]) == "outputs of the network ('a', 'b')"
    assert named(list("abcde")) == "outputs of the network ('a', 'b', 'c' and 2 more)"
