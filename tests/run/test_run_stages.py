"""Several rounds with methods of their own: what one has zeroed stays zero in all that follow."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import secateur
from nets import images, make
from secateur.core.graph import tensor_of
from secateur.core.plan import DropUnits, Plan, Regroup, ZeroWeights
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.regrouped import blocks_of
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import apply, masked, run, zeros_left
from secateur.core.trace import trace
from secateur.data import Data
from secateur.errors import SettingError, TargetError
from secateur.methods.magnitude import Magnitude
from secateur.methods.random_masks import RandomMasks
from secateur.recipe import Recipe
from secateur.run import Result, Step, prune, run_recipe, subject
from secateur.stages import Stage
from secateur.training import Settings

MAPS = RandomMasks(ratio=0.25, candidates=3)
ANY = Limits(multiple=1)
KERNELS = RandomMasks(granularity="kernels", ratio=0.5, candidates=3)


def zero_kernels(result: Result) -> Tensor:
    return (tensor_of(result.model, "2.0.weight") == 0).flatten(2).all(2)


def test_maps_go_first_and_then_kernels_of_what_is_left(data: Data, train: Settings) -> None:
    then = [Step(KERNELS)]
    result = prune(make("plain"), None, MAPS, data=data, train=train, then=then, limits=ANY, latency=False)
    first, second = result.plans
    assert {type(edit) for edit in first.edits} == {DropUnits}
    assert {type(edit) for edit in second.edits} == {ZeroWeights}
    assert tensor_of(result.model, "2.0.weight").shape == (12, 8, 3, 3)
    assert int(zero_kernels(result).sum()) == 48  # half of 12 times 8, also after the last fine-tuning
    assert len(result.histories) == len(result.searches) == 2
    assert result.after.counts.nonzero == result.after.counts.params - 48 * 9


def test_zeroed_kernels_outlive_a_later_cut_and_its_training(data: Data, train: Settings) -> None:
    """The second round knows nothing of kernels, yet those of the first stay zero wherever their maps do."""
    net = make("plain")
    result = prune(net, None, KERNELS, data=data, train=train, then=[Step(MAPS)], limits=ANY, latency=False)
    first, second = result.plans
    graph = trace(net, images(1))
    (mask,) = [edit.mask() for edit in first.edits if isinstance(edit, ZeroWeights)]
    gone = second.dropped()["2.0"]
    stays = [row for row in range(mask.shape[0]) if row not in gone]
    assert torch.equal(tensor_of(result.model, "2.0.weight") == 0, ~mask[stays])
    thin = apply(net, graph, first)
    assert size(trace(thin, images(1)), second).nonzero == result.after.counts.nonzero


def test_three_rounds_zero_more_and_more(data: Data, train: Settings) -> None:
    then = [Step(replace(KERNELS, ratio=ratio)) for ratio in (0.6, 0.8)]
    result = prune(make("plain"), None, KERNELS, data=data, train=train, then=then, latency=False)
    masks = [edit.mask() for plan in result.plans for edit in plan.edits if isinstance(edit, ZeroWeights)]
    assert len(masks) == 3
    assert all(not bool((later & ~earlier).any()) for earlier, later in itertools.pairwise(masks))
    assert int(zero_kernels(result).sum()) == round(0.8 * 128)


def test_a_trained_network_with_zeros_comes_back_from_its_folder(data: Data, train: Settings, tmp_path: Path) -> None:
    net = make("plain")
    result = prune(net, None, KERNELS, data=data, train=train, then=[Step(MAPS)], latency=False)
    loaded = secateur.load(result.save(tmp_path / "out"), dense=make("plain"))
    x = images(5, 3)
    torch.testing.assert_close(run(loaded.model, x), run(result.model, x), rtol=0, atol=0)
    assert loaded.plans == result.plans
    assert [step["name"] for step in loaded.measurement["then"]] == ["random_masks"]


def test_the_target_of_a_later_round_is_of_the_dense_network(data: Data, train: Settings) -> None:
    then = [Step(Magnitude(), Target(0.6, "params"))]
    result = prune(make("plain"), None, "magnitude", 0.8, data, train=train, then=then, latency=False)
    assert 0.4 < result.after.counts.params / result.before.counts.params <= 0.6


def test_zeros_inside_blocks_are_found_again() -> None:
    """A layer whose kernels are zeroed and that is regrouped holds its zeros in its blocks."""
    net = make("plain")
    graph, rng = trace(net, images(1)), torch.Generator().manual_seed(0)
    kernels = torch.rand(16, 8, generator=rng) > 0.4
    reads = torch.zeros(16, 8, dtype=torch.bool)
    reads[:8, :4], reads[8:, 4:] = True, True
    plan = Plan(
        (
            Regroup("2.0", blocks_of(reads)),
            ZeroWeights.of("2.0.weight", kernels[:, :, None, None].expand(16, 8, 3, 3)),
        )
    )
    thin = apply(net, graph, plan)
    left = zeros_left(thin, graph, plan)
    held = {edit.tensor: edit.mask() for edit in left.edits if isinstance(edit, ZeroWeights)}
    for name, mask in held.items():
        assert torch.equal(tensor_of(thin, name) == 0, ~mask)
    assert sum(int((~mask).sum()) for mask in held.values()) == 9 * int((reads & ~kernels).sum())
    with masked(thin, trace(thin, images(1)), left) as silenced:  # the plan is one of the thin network
        assert bool(run(silenced, images(2)).isfinite().all())


def test_settings_of_later_rounds_are_refused_before_the_first(data: Data, train: Settings) -> None:
    heard: list[str] = []
    with pytest.raises(TargetError, match="say how much goes"):
        prune(
            make("plain"), None, MAPS, data=data, train=train, then=[Step(RandomMasks())],
            tell=lambda event: heard.append(event.stage),
        )  # fmt: skip
    assert "apply" not in heard
    with pytest.raises(TargetError, match="set the target in nonzero"):
        prune(make("plain"), None, MAPS, data=data, then=[Step(RandomMasks(granularity="kernels"), Target(0.5))])


TOML = """
model = "secateur:lenet5"
data = "colours"
latency = false

[method]
name = "random_masks"
ratio = 0.25
candidates = 3

[[then]]
[then.method]
name = "random_masks"
granularity = "kernels"
ratio = 0.5
candidates = 3

[[then]]
[then.target]
keep = 0.9
of = "params"
[then.method]
name = "magnitude"
"""


def test_a_recipe_states_the_stages(data: Data, train: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.from_toml(TOML)
    kernels, last = recipe.then
    assert kernels.options == {"granularity": "kernels", "ratio": 0.5, "candidates": 3}
    assert last == Stage(method="magnitude", keep=0.9, of="params")
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert recipe.name() != replace(recipe, then=(kernels,)).name()
    monkeypatch.setattr(subject, "load_data", lambda spec, **how: data)
    monkeypatch.setattr(subject, "model_of", lambda *given: make("plain"))
    result = run_recipe(replace(recipe, train=train, then=(kernels,)))
    direct = prune(make("plain"), None, MAPS, data=data, train=train, then=[Step(KERNELS)], latency=False)
    assert result.plans == direct.plans
    assert result.then == direct.then


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ("[[then]]", r'does not say which method to use; add name = "\.\.\." there'),
        ('[[then]]\n[then.method]\nname = "x"\n[then.target]\nkeep = 2', r"'keep' in a \[\[then\]\] must be a frac"),
        ('[[then]]\n[then.method]\nname = "x"\n[then.target]\nkep = 1', r"unknown setting 'kep' in \[then\.target\]"),
        ("[[then]]\nratio = 1", r"unknown setting 'ratio' in \[\[then\]\]"),
        ("[then]\nname = 1", r"write a line \[\[then\]\]"),
    ],
)
def test_stages_that_make_no_sense_are_refused(stage: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        Recipe.from_toml(f'model = "m"\n[method]\nname = "x"\n{stage}\n')
