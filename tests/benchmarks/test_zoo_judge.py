from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zoo_judge import judge, positions
from zoo_norms import OverKept
from zoo_pruning import Pruning, outcome

KEPT, OTHERS = torch.tensor([0, 2, 3, 6]), torch.tensor([0, 2, 3, 7])


class Net(nn.Module):
    def __init__(self, between: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.between = between
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


class LayerNormOfChannels(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class Standardised(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        flat = self.weight.reshape(1, len(self.weight), -1)
        weight = nn.functional.batch_norm(flat, None, None, training=True).reshape(self.weight.shape)
        return nn.functional.conv2d(input, weight, self.bias)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.mean(1, keepdim=True)


class Counting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.shape[1]


def norm(make: type[nn.Module], *arguments: object) -> nn.Module:
    made = make(*arguments)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5)
    return made


def cut(dense: Net, between: nn.Module, columns: Tensor = KEPT) -> Net:
    """Keep some channels; the last layer may be made to read others, which is the fault to be found."""
    thin = Net(between, len(KEPT)).eval()
    with torch.no_grad():
        thin.first.weight.copy_(dense.first.weight[KEPT])
        thin.first.bias.copy_(dense.first.bias[KEPT])
        thin.last.weight.copy_(dense.last.weight[:, columns])
        thin.last.bias.copy_(dense.last.bias)
        for few, many in zip(between.parameters(), dense.between.parameters(), strict=True):
            few.copy_(many[KEPT])
    return thin


@pytest.fixture
def inputs() -> tuple[Tensor]:
    return (torch.randn(1, 3, 5, 5),)


@pytest.mark.parametrize(
    ("between", "fewer"),
    [
        (nn.ReLU(), nn.ReLU()),
        (nn.Sigmoid(), nn.Sigmoid()),
        (norm(LayerNormOfChannels, 8), nn.LayerNorm(4)),
        (norm(nn.GroupNorm, 1, 8), nn.GroupNorm(1, 4)),
        (LayerNormOfChannels(8, 1e-5, False), nn.LayerNorm(4, 1e-5, False)),
        (Centred(), Centred()),
    ],
    ids=["relu", "sigmoid", "layer norm", "group norm", "layer norm without weights", "mean"],
)
def test_what_is_left_is_exact_and_a_wrong_column_is_found(between: nn.Module, fewer: nn.Module, inputs: tuple[Tensor]):
    if isinstance(fewer, nn.LayerNorm):
        fewer = LayerNormOfChannels(4, 1e-5, fewer.elementwise_affine)
    dense = Net(between).eval()
    right, wrong = cut(dense, fewer), cut(dense, copy.deepcopy(fewer), OTHERS)
    good = judge(dense, right, inputs)
    bad = judge(dense, wrong, inputs)
    assert good.exact
    assert good.effect > 1e-2
    assert not bad.exact
    assert bad.difference > 1e-3


def test_standardised_weights_are_standardised_over_what_is_left(inputs: tuple[Tensor]):
    dense = Net(nn.ReLU()).eval()
    thin = cut(dense, nn.ReLU())
    for net in (dense, thin):
        last = Standardised(net.last.in_channels, 2, 1)
        last.load_state_dict(net.last.state_dict())
        net.last = last
    assert judge(dense, thin, inputs).exact
    thin.last.weight.data = dense.last.weight.data[:, OTHERS]
    assert not judge(dense, thin, inputs).exact


def test_a_changed_value_is_found(inputs: tuple[Tensor]):
    dense = Net(nn.ReLU()).eval()
    thin = cut(dense, nn.ReLU())
    assert judge(dense, thin, inputs).exact
    with torch.no_grad():
        thin.last.bias += 0.01
    assert not judge(dense, thin, inputs).exact


def test_what_depends_on_how_many_channels_there_are_is_not_decided(inputs: tuple[Tensor]):
    dense = Net(Counting()).eval()
    found = judge(dense, cut(dense, Counting()), inputs)
    assert not found.exact
    assert outcome(found.exact, True, 0.5, 0.5) == "undecided"


def test_dense_and_thin_network_are_left_as_they_were(inputs: tuple[Tensor]):
    dense = Net(norm(nn.GroupNorm, 1, 8)).eval()
    thin = cut(dense, nn.GroupNorm(1, 4))
    before = [copy.deepcopy(model.state_dict()) for model in (dense, thin)]
    judge(dense, thin, inputs)
    for model, state in zip((dense, thin), before, strict=True):
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("weight_norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weight_norm_is_judged_by_what_it_computes(weight_norm: Callable[..., nn.Module], inputs: tuple[Tensor]):
    dense = Net(nn.Sequential(weight_norm(nn.Conv2d(8, 8, 3)), nn.ReLU())).eval()
    pruning = Pruning(dense, inputs)
    thin = pruning.prune()
    assert pruning.facts["keep"] <= 0.5
    found = judge(dense, thin, inputs)
    assert found.exact
    assert found.removed > 2


@pytest.mark.parametrize("shape", [(8,), (8, 6), (8, 6, 3, 3), (80, 72, 3, 3)])
def test_positions_are_found_by_their_values(shape: tuple[int, ...]):
    dense = torch.randn(shape)
    rows, columns = (torch.randperm(n)[: (n + 1) // 2].sort().values for n in (*shape, 2)[:2])
    thin = dense[rows] if len(shape) == 1 else dense[rows][:, columns]
    mask = positions(dense, thin)
    assert mask is not None
    assert torch.equal(dense[mask], thin.flatten())


def test_values_that_collide_are_outvoted():
    dense = torch.randint(20000, (32, 16, 3, 3)).float()
    rows, columns = torch.arange(1, 32, 3), torch.arange(0, 16, 2)
    mask = positions(dense, dense[rows][:, columns])
    assert mask is not None
    assert torch.equal(mask.flatten(1).any(1).nonzero().flatten(), rows)
    assert torch.equal(mask.any(3).any(2).any(0).nonzero().flatten(), columns)


def test_each_group_of_a_convolution_keeps_columns_of_its_own():
    dense = torch.randn(8, 4, 3, 3)
    thin = torch.cat([dense[[0, 1]][:, [0, 3]], dense[[5, 6]][:, [1, 2]]])
    mask = positions(dense, thin, groups=2)
    assert mask is not None
    assert mask[0].any(2).any(1).tolist() == [True, False, False, True]
    assert mask[6].any(2).any(1).tolist() == [False, True, True, False]
    assert int(mask.sum()) == thin.numel()


def test_values_from_elsewhere_have_no_position():
    assert positions(torch.randn(8, 4), torch.randn(3, 4)) is None


@pytest.mark.parametrize(
    ("exact", "verified", "asked", "keep", "said"),
    [
        (True, True, 0.5, 0.495, "exact"),
        (True, True, 0.5, 0.4, "coarse"),
        (True, True, 0.8, 0.79, "less"),
        (False, True, 0.5, 0.495, "undecided"),
        (False, False, 0.5, 0.495, "WRONG"),
        (True, False, 0.5, 0.495, "refused"),
    ],
)
def test_what_neither_calls_exact_is_wrong(exact: bool, verified: bool, asked: float, keep: float, said: str):
    assert outcome(exact, verified, asked, keep) == said


def test_rms_norm_divides_by_the_channels_that_are_left():
    weight, x = torch.rand(8), torch.randn(2, 8)
    kept = torch.zeros(8, dtype=torch.bool).index_fill(0, KEPT, True)
    with OverKept([(weight, kept)]):
        found = nn.functional.rms_norm(x * kept, (8,), weight, 1e-6)
    wanted = nn.functional.rms_norm(x[:, KEPT], (4,), weight[KEPT], 1e-6)
    torch.testing.assert_close(found[:, KEPT], wanted)


class Pinned(Net):
    def __init__(self) -> None:
        super().__init__(nn.ReLU())
        self.beside = nn.Conv2d(3, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), self.beside(x)], 1)


def test_where_half_is_out_of_reach_half_of_what_can_go_is_asked_for(inputs: tuple[Tensor]):
    dense = Pinned().eval()
    pruning = Pruning(dense, inputs)
    thin = pruning.prune()
    assert pruning.facts["asked"] == pytest.approx((1 + pruning.facts["reachable"]) / 2)
    assert pruning.facts["keep"] <= pruning.asked
    assert outcome(judge(dense, thin, inputs).exact, pruning.verified, pruning.asked, 0.5) == "less"


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (40, 50), (64, 40, 3, 3), (4, 90)])
def test_positions_are_found_alike_where_there_is_no_room_for_all_votes(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = torch.randn(shape).mul(50).round()  # with values that collide
    rows, columns = torch.arange(0, shape[0], 2), torch.arange(1, shape[1], 3)
    thin = dense[rows][:, columns]
    found = positions(dense, thin)
    monkeypatch.setattr("zoo_judge.MOST", 0)
    again = positions(dense, thin)
    assert (found is None) == (again is None)
    assert found is None or torch.equal(found, again)
    other = torch.randn(shape)
    kept = positions(other, other[rows][:, columns])
    wanted = torch.zeros(shape, dtype=torch.bool)
    wanted[rows[:, None], columns] = True
    assert kept is not None
    assert torch.equal(kept, wanted)
