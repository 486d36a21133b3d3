"""Training with bridge noise, by hand and through the whole run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from kills import Killed
from secateur import check_method
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.surgery import Hold, apply
from secateur.core.trace import trace
from secateur.core.zeros.parametrization import original
from secateur.core.zeros.perturbation import draw, spread, weakest
from secateur.core.zeros.shaper import Moment
from secateur.data import Data, from_arrays
from secateur.errors import SettingError
from secateur.events import Event
from secateur.methods.batch_bridgeout import BatchBridgeout, Draws
from secateur.repair import compensate
from secateur.run import prune
from secateur.training import Settings, fit

IMAGES = torch.linspace(-1, 1, 2 * 192).reshape(2, 3, 8, 8)
VARIANTS: list[dict[str, Any]] = [
    {"noise": "dropconnect", "fraction": 1.0},
    {"noise": "dropout"},
    {"share": "example", "q": 1.0},
    {"layers": ("*",), "p": 0.5, "ramp": 0.5},
]


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 1),
            nn.ReLU(),
            nn.Conv2d(8, 4, 3, padding=1, bias=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )


def images(count: int = 48) -> Data:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    pictures = torch.randn(count, 3, 8, 8, generator=rng) + labels[:, None, None, None]
    part = slice(0, 12)
    return from_arrays((pictures, labels), (pictures[part], labels[part]), (pictures[part], labels[part]), classes=3)


def settings(**changes: Any) -> Settings:
    fixed = {"precision": "float32", "memory_format": "contiguous", "compile": "off", "device": "cpu"}
    return Settings(**{"epochs": 3, "batch_size": 16, "lr": 0.05, "augment": "none", **fixed, **changes})


def moment(step: int = 0, steps: int = 10, seed: int = 0) -> Moment:
    return Moment(step, steps, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: ",".join(options))
def test_the_variants_keep_their_promises(options: dict[str, Any]) -> None:
    check_method(BatchBridgeout(**options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"p": 1.0}, "p must be a probability of at least 0 and below 1, not 1.0"),
        ({"p": -0.1}, "p must be"),
        ({"p": float("nan")}, "'p' must be a finite number"),
        ({"q": 0.0}, "q must be above 0 and at most 2, not 0.0"),
        ({"q": 2.5}, "q must be"),
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\]"),
        ({"fraction": 1.5}, "fraction must be"),
        ({"ramp": -1.0}, "ramp must be a share"),
        ({"noise": "gauss"}, "'noise' must be one of bridgeout, dropconnect, dropout, not 'gauss'"),
        ({"share": "epoch"}, "'share' must be one of batch, example, not 'epoch'"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        BatchBridgeout(**options)


def test_the_3x3_convolutions_are_chosen_unless_others_are_named() -> None:
    model = net()
    assert list(BatchBridgeout().chosen(model)) == ["0", "5"]
    assert list(BatchBridgeout(layers="3").chosen(model)) == ["3"]
    assert list(BatchBridgeout(layers=["3", "8"]).chosen(model)) == ["3", "8"]
    assert list(BatchBridgeout(layers=("*",)).chosen(model)) == ["0", "3", "5", "8"]
    assert list(BatchBridgeout(layers="1").chosen(nn.Sequential(nn.Conv2d(3, 4, 3), model))) == [
        "1.0",
        "1.3",
        "1.5",
        "1.8",
    ]


def test_a_pattern_without_layers_and_a_network_without_any_are_refused() -> None:
    with pytest.raises(SettingError, match="no convolution or linear layer matches 'stem'"):
        BatchBridgeout(layers=("stem",)).chosen(net())
    with pytest.raises(SettingError, match="no 3x3 convolution to perturb; name the layers"):
        BatchBridgeout().chosen(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
    model = net()
    parametrizations.weight_norm(model[5])
    with pytest.raises(SettingError, match="'5' has a parametrization already"), BatchBridgeout().training(model):
        pass
    assert not parametrize.is_parametrized(model[0])


def test_one_draw_for_a_batch_on_the_weakest_kernels_of_every_filter() -> None:
    model = net()
    weight = model[5].weight.detach().clone()
    with BatchBridgeout(q=1.0, p=0.4, fraction=0.5).training(model) as shaper:
        assert shaper is not None
        assert torch.equal(model[5].weight, weight)
        shaper.before_batch(moment())
        rng = torch.Generator().manual_seed(0)
        draw(model[0].weight.shape, 0.4, rng)  # layers draw in turn
        noise = draw(weight.shape, 0.4, rng) * weakest(weight, 0.5)
        assert torch.allclose(model[5].weight, weight + spread(weight, 1.0) * noise)
        assert torch.equal(model[5].weight, model[5].weight)  # not a new draw each time it is read
        assert int((noise.flatten(2).abs().sum(2) > 0).sum(1).max()) == 4
        shaper.before_batch(moment(seed=1))
        assert not torch.allclose(model[5].weight, weight + spread(weight, 1.0) * noise)


def test_p_rises_over_the_ramp() -> None:
    rising = Draws([], 0.4, 0.5)
    assert [rising.probability(step, 8) for step in (0, 1, 2, 4, 7)] == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.4])
    assert Draws([], 0.4, 0.0).probability(0, 8) == 0.4
    model = net()
    with BatchBridgeout(ramp=1.0).training(model) as shaper:
        assert shaper is not None
        shaper.before_batch(moment(0))
        assert torch.equal(model[0].weight, original(model[0]))
        shaper.before_batch(moment(9))
        assert not torch.equal(model[0].weight, original(model[0]))


def test_dropout_spares_the_images_themselves() -> None:
    model = net()
    with BatchBridgeout(noise="dropout", fraction=1.0, p=0.5).training(model) as shaper:
        assert shaper is not None
        assert not model[0]._forward_pre_hooks
        assert model[5]._forward_pre_hooks


def test_the_cut_takes_the_filters_with_the_smallest_l2_norm_from_every_layer() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(torch.tensor([3.0, 0.1, 2.0, 0.2, 1.0, 0.3]).reshape(-1, 1, 1, 1) * 100)
    problem = Problem(model, trace(model, IMAGES), limits=Limits(multiple=1))
    method = BatchBridgeout(keeps=(("*", 0.5),))
    dropped = method.plan(problem).dropped()
    assert dropped["0"] == (1, 3, 5)
    norms = model[3].weight.detach().flatten(1).norm(dim=1)
    assert set(dropped["3"]) == set(norms.argsort()[:4].tolist())
    assert torch.allclose(method.score(problem.graph.group("3"), problem), norms)


def killed_in(epoch: int) -> Any:
    def tell(event: Event) -> None:
        if event.stage == "train" and event.values.get("epoch") == epoch:
            raise Killed

    return tell


def trained(method: BatchBridgeout, path: Path | None = None, tell: Any = None, **changes: Any) -> dict[str, Tensor]:
    model = net()
    told = {} if tell is None else {"tell": tell}
    with method.training(model) as shaper:
        fit(model, images(), settings(**changes), shaper=shaper, checkpoint=path, seed=5, **told)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "method",
    [
        BatchBridgeout(),
        BatchBridgeout(ramp=0.8, layers=("*",)),
        BatchBridgeout(share="example"),
        BatchBridgeout(noise="dropout"),
    ],
    ids=["batch", "ramp", "example", "dropout"],
)
def test_a_killed_training_resumes_to_the_same_weights(method: BatchBridgeout, tmp_path: Path) -> None:
    whole = trained(method)
    path = tmp_path / "checkpoint"
    for epoch in (2, 3):
        with pytest.raises(Killed):
            trained(method, path, killed_in(epoch))
    torch.manual_seed(99)
    again = trained(method, path)
    assert list(again) == list(net().state_dict())
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_training_depends_on_the_noise_and_on_nothing_outside() -> None:
    one = trained(BatchBridgeout(p=0.5))
    torch.manual_seed(123)
    two = trained(BatchBridgeout(p=0.5))
    without = trained(BatchBridgeout(p=0.0))
    plain = net()
    fit(plain, images(), settings(), seed=5)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.allclose(one["5.weight"], without["5.weight"])
    assert all(torch.equal(without[name], tensor) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"accumulate": 2}, {"memory_format": "channels_last"}])
def test_it_trains_in_other_ways_too(changes: dict[str, Any]) -> None:
    found = trained(BatchBridgeout(q=1.0, p=0.5), **changes)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.values())
    assert found["5.weight"].dtype is torch.float32


def test_zeros_are_held_under_the_noise() -> None:
    model = net()
    mask = torch.ones_like(model[5].weight, dtype=torch.bool)
    mask[1, 2:6] = False
    with torch.no_grad():
        model[5].weight.mul_(mask)
    with BatchBridgeout(q=1.0, p=0.5, fraction=1.0).training(model) as shaper:
        fit(model, images(), settings(epochs=1), shaper=Hold(model, {"5.weight": mask}, shaper))
    assert not model[5].weight[~mask].any()
    assert model[5].weight[mask].all()


def test_noise_shrinks_what_a_linear_model_does_not_need() -> None:
    """Two inputs say the same, a third says nothing: the penalty of the noise wants few and small weights."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(256, 3, generator=rng)
    x[:, 1] = x[:, 0]
    y = x[:, :1] * 2.0
    norms: list[float] = []
    for p in (0.0, 0.5):
        layer = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, 1.0, 0.5]]))
        holder = nn.Sequential(layer)
        rule = torch.optim.SGD(layer.parameters(), lr=0.01)
        with BatchBridgeout(q=1.0, p=p, fraction=1.0, layers=("*",)).training(holder) as shaper:
            assert shaper is not None
            for step in range(400):
                shaper.before_batch(Moment(step, 400, rng))
                rule.zero_grad()
                (holder(x) - y).square().mean().backward()
                rule.step()
        norms.append(float(layer.weight.detach().abs().sum()))
    assert norms[1] < norms[0] - 0.2


def test_a_whole_run_without_fine_tuning() -> None:
    """Shaped, cut and verified; the given network is not touched, the pruned one has no trace of the noise."""
    model = net()
    before = copy.deepcopy(model.state_dict())
    method, limits = BatchBridgeout(keeps=(("*", 0.5),)), Limits(multiple=1)
    result = prune(model, None, method, None, images(), limits=limits, shape=settings(epochs=2), latency=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert result.model[0].weight.shape[0] == 3
    assert not any(parametrize.is_parametrized(module) for module in result.model.modules())
    assert len(result.shaped) == 1
    assert len(result.shaped[0].rows) == 2
    assert result.histories == ()
    assert result.verification < 1e-5


def test_fine_tuning_is_without_noise() -> None:
    """It begins with the network that was cut, and goes on as any training does."""
    method = BatchBridgeout(p=0.5, keeps=(("*", 0.5),))
    cut = prune(net(), None, method, None, images(), shape=settings(epochs=1), latency=False)
    tuned = prune(
        net(), None, method, None, images(), shape=settings(epochs=1), train=settings(epochs=2), latency=False
    )
    assert cut.plans == tuned.plans
    assert len(tuned.histories) == 1
    fit(cut.model, images(), settings(epochs=2), seed=1)
    for one, two in zip(cut.model.state_dict().values(), tuned.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_the_constant_of_a_dead_filter_can_be_folded() -> None:
    """A filter at zero still emits what its batch norm makes of zero: removed and folded, nothing changes at all."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    with torch.no_grad():
        model[1].bias.fill_(0.7)
        model[1].running_mean.fill_(-0.2)
        model[0].weight[[1, 4]] = 0.0
    graph = trace(model, IMAGES)
    plan = BatchBridgeout(keeps=(("0", 4 / 6),)).plan(Problem(model, graph))
    assert plan.dropped() == {"0": (1, 4)}
    thin = apply(model, graph, plan)
    expected = model(IMAGES)
    assert not torch.allclose(thin(IMAGES), expected, atol=1e-3)
    assert compensate(model, thin, graph, plan, [IMAGES]) == ("3",)
    assert torch.allclose(thin(IMAGES), expected, atol=1e-5)


def test_shaping_needs_a_method_that_shapes_and_data() -> None:
    with pytest.raises(SettingError, match="magnitude does not train before it decides; leave shape out"):
        prune(net(), None, "magnitude", 0.5, images(), shape=settings(), latency=False)
    with pytest.raises(Exception, match="the training of batch_bridgeout needs data"):
        prune(net(), IMAGES, "batch_bridgeout", 0.5, shape=settings(), latency=False)
