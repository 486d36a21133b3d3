"""Networks that do what few do: they are fitted where that is right, and elsewhere one sentence says why not."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune as masking

from secateur import prune
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, tensors_in
from secateur.core.trace import trace
from secateur.errors import ModelError
from secateur.reconstruction import error_curves, refit
from secateur.reconstruction.passes import laid_out
from secateur.reconstruction.sites import sites
from secateur.repair.readers import readers


class Net(nn.Module):
    """A stem, a residual branch, a head; the forward is given."""

    def __init__(self, forward: Callable[[Net, Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.how = forward
        self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.outer, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.kept: Tensor | None = None

    def branch(self, x: Tensor) -> Tensor:
        return self.outer(F.relu(self.inner(x)))

    def end(self, x: Tensor) -> Tensor:
        return self.head(F.relu(x).mean((2, 3)))

    def forward(self, x: Tensor) -> object:
        return self.how(self, F.relu(self.stem(x)))


def plain(net: Net, x: Tensor) -> Tensor:
    return net.end(x + net.branch(x))


def images(count: int = 60) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def cut(model: nn.Module, example: Tensor) -> tuple[Graph, Plan, nn.Module]:
    graph = trace(model, example)
    plan = Plan(tuple(DropUnits(group.name, tuple(range(group.size // 2))) for group in graph.free))
    return graph, plan, apply(model, graph, plan)


def error(thin: nn.Module, dense: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        pairs = zip(tensors_in(thin(inputs)), tensors_in(dense(inputs)), strict=True)
        return sum(float((a - b).double().square().sum()) for a, b in pairs)


def fitted(model: nn.Module, batches: Sequence[Tensor], size: float = 1.0) -> tuple[float, float, tuple[str, ...]]:
    model.eval()
    fresh = (size * images(40)).to(batches[0].dtype)
    graph, plan, thin = cut(model, batches[0][:2])
    assert all(all(error < float("inf") for error in curve.error) for curve in error_curves(model, graph, batches))
    before = error(thin, model, fresh)
    changed = refit(model, thin, graph, plan, batches)
    return before, error(thin, model, fresh), changed


def test_what_a_network_keeps_in_itself_is_not_mixed_up() -> None:
    def keeping(net: Net, x: Tensor) -> Tensor:
        net.kept = x
        y = net.branch(x)
        assert net.kept is not None
        return net.end(net.kept + y)

    _, apart, _ = fitted(Net(plain), [images()])
    _, after, _ = fitted(Net(keeping), list(images().split(7)))  # the last of 4
    assert after == pytest.approx(apart, rel=1e-3)


def test_a_number_of_images_that_a_network_keeps_is_not_that_of_another_batch() -> None:
    def keeping(net: Net, x: Tensor) -> Tensor:
        net.kept = len(x)
        y = net.branch(x)
        return net.end(x + y.view(net.kept, *x.shape[1:]))

    _, apart, _ = fitted(Net(plain), [images()])
    _, after, _ = fitted(Net(keeping), list(images().split(7)))
    assert after == pytest.approx(apart, rel=1e-3)


def test_ways_that_part_end_in_one_sentence() -> None:
    def parting(net: Net, x: Tensor) -> Tensor:
        return net.end(x + net.branch(x)) if len(x) < 10 else net.end(net.inner(x))

    model, before = Net(parting).eval(), threading.active_count()
    batches = [images(20), images(5)]
    graph, plan, thin = cut(model, batches[1])
    with pytest.raises(ModelError, match="takes other ways for other images"):
        refit(model, thin, graph, plan, batches)
    with pytest.raises(ModelError, match="takes other ways for other images"):
        error_curves(model, graph, batches)
    assert threading.active_count() == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (*model.modules(), *thin.modules()))


def test_layers_that_some_images_pass_by_are_left_alone() -> None:
    def skipping(net: Net, x: Tensor) -> Tensor:
        return net.end(x + net.branch(x)) if len(x) <= 2 else net.end(x)  # sites are found on two images

    model = Net(skipping).eval()
    graph = trace(model, images()[:2])
    assert len(error_curves(model, graph, [images()])) == len(graph.free)


def test_dimensions_of_images_may_be_squeezed_out() -> None:
    class Squeezed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](F.relu(self[2](F.relu(self[0](x)).mean((2, 3)).squeeze())))

    torch.manual_seed(0)
    model = Squeezed(nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(8, 8))
    before, after, changed = fitted(model, [images(33)[:32], images(33)[32:]])
    assert after < before
    assert changed


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_fitted_and_images_brought_to_them(dtype: torch.dtype) -> None:
    model = Net(plain).to(dtype).eval()
    result = prune(model, target=0.6, calibrate=images(), latency=False)
    assert result.repairs[0].layers > 0
    assert {tensor.dtype for tensor in result.model.parameters()} == {dtype}


def test_sums_do_not_overflow_in_half_precision() -> None:
    model = Net(plain)
    with torch.no_grad():
        model.stem.weight *= 40
    before, after, changed = fitted(model.half(), [images().half() * 10], 10)
    assert {"outer", "head"} <= set(changed)
    assert after < 0.1 * before


@pytest.mark.parametrize("size", [1e25, 1e38])
def test_layers_that_overflow_have_no_say(size: float) -> None:
    def huge(net: Net, x: Tensor) -> Tensor:
        return net.head(F.relu(net.outer(F.relu(net.inner(x)) * size)).mean((2, 3)).clamp(max=10))

    model = Net(huge).eval()
    for curve in error_curves(model, trace(model, images()[:2]), [images()]):
        assert all(error < float("inf") for error in curve.error)
        assert curve.error[-1] > 0


def test_layers_whose_weights_or_outputs_others_make_are_left_alone() -> None:
    model = Net(plain).eval()
    masking.l1_unstructured(model.inner, "weight", 0.5)
    model.outer.register_forward_hook(lambda module, given, output: output * 2)
    heard: list[int] = []
    model.head.register_forward_hook(lambda module, given, output: heard.append(1))
    hooks = [len(module._forward_hooks) for module in model.modules()]
    assert [site.layer for site in sites(model, images()[:2])] == ["stem", "head"]
    assert heard
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def test_what_is_returned_is_read() -> None:
    def both(net: Net, x: Tensor) -> dict[str, Tensor]:
        y = net.branch(x)
        return {"branch": y, "end": net.end(x + y)}

    found = {site.layer: site for site in sites(Net(both).eval(), images()[:2])}
    assert found["outer"].add is None
    assert {site.layer: site for site in sites(Net(plain).eval(), images()[:2])}["outer"].add is not None


def test_threads_of_the_network_are_not_followed() -> None:
    def threaded(net: Net, x: Tensor) -> Tensor:
        made: list[Tensor] = []
        worker = threading.Thread(target=lambda: made.append(torch.no_grad()(net.branch)(x)))
        worker.start()
        worker.join()
        return net.end(x + made[0])

    model = Net(threaded).eval()
    assert [site.layer for site in sites(model, images()[:2])] == ["stem", "head"]
    thin = copy.deepcopy(model)
    with torch.no_grad():
        thin.stem.weight *= 0.9
    before = error(thin, model, images(40))
    refit(model, thin, trace(Net(plain).eval(), images()[:2]), Plan(()), [images()])
    assert error(thin, model, images(40)) < before


def test_scripted_networks_are_refused() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    with pytest.raises(ModelError, match="scripted"):
        prune(scripted, target=0.5, calibrate=images(), latency=False)


@pytest.mark.parametrize("way", ["beside", "input"])
def test_what_is_changed_in_place_behind_a_branch_is_brought_up_to_date(way: str) -> None:
    def apart(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.inner(x))
        return net.end(x + net.outer(x))

    def in_place(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.inner(x))
        x += net.outer(x)
        return net.end(x)

    def single(net: Net, x: Tensor) -> Tensor:
        return net.end(x + net.outer(F.relu(net.inner(x))))

    def scaled(net: Net, x: Tensor) -> Tensor:
        y = F.relu(net.inner(x))
        z = net.outer(y)
        y.mul_(3.0)
        return net.end(x + z)

    pair = (single, scaled) if way == "beside" else (apart, in_place)
    (_, right, names), (_, found, same) = (fitted(Net(how), list(images().split(20))) for how in pair)
    assert same == names
    assert found == pytest.approx(right, rel=1e-3)


def test_a_layer_whose_input_changes_too_late_to_know_of_it_is_left_alone() -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__(plain)
            self.side = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            y = F.relu(self.inner(x))
            z = self.outer(y)
            w = self.side(x)  # the other half of the sum, behind which the input of the first is changed
            y.mul_(3.0)
            return self.end(z + w)

    before, after, changed = fitted(Two(), [images()])
    assert "outer" not in changed
    assert "side" in changed
    assert after < 0.5 * before


def viewed(net: Net, x: Tensor) -> Tensor:
    y = x + net.branch(x)
    return net.head(F.relu(y).view(len(y), -1).view(len(y), -1, 64).mean(2))


def by_memory(net: Net, x: Tensor) -> Tensor:
    y = x + net.branch(x)
    return net.end(y.as_strided((len(y), y.shape[1], 8, 8), (64 * y.shape[1], 64, 8, 1)))


def drawn(net: Net, x: Tensor) -> Tensor:
    return net.end(x + net.branch(x) + 0.01 * torch.randn_like(x))


@pytest.mark.parametrize(("how", "beside"), [(plain, True), (drawn, False), (viewed, False), (by_memory, False)])
def test_channels_lie_side_by_side_where_that_changes_nothing(how: Callable[[Net, Tensor], object], beside: bool):
    net, batches = Net(how).train(), [images(4), images(2)]
    before = torch.get_rng_state()
    found = laid_out(net, batches)
    assert [it.is_contiguous(memory_format=torch.channels_last) for it in found if isinstance(it, Tensor)] == [
        beside
    ] * 2
    assert all(torch.equal(it, batch) for it, batch in zip(found, batches, strict=True) if isinstance(it, Tensor))
    assert net.training
    assert torch.equal(before, torch.get_rng_state())


def test_networks_that_expect_their_own_order_are_fitted_in_it():
    dense, example = Net(viewed).eval(), images()
    graph, plan, thin = cut(dense, example[:2])
    start = error(thin, dense, example)
    assert refit(dense, thin, graph, plan, [example[:30], example[30:]])
    assert error(thin, dense, example) < start / 2
    curves = error_curves(dense, graph, [example])
    others = error_curves(Net(plain).eval(), graph, [example])  # the same layers, and their channels side by side
    assert [curve.order for curve in curves] == [curve.order for curve in others]


def test_layers_of_complex_numbers_are_left_alone() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.one, self.two = (nn.Conv2d(i, o, 3, dtype=torch.cfloat) for i, o in ((3, 8), (8, 6)))
            self.real, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x.to(torch.cfloat))
            y = self.two(torch.complex(F.relu(y.real), F.relu(y.imag))).abs().mean((2, 3))
            return self.head(F.relu(self.real(y)))

    model = Complex().eval()
    graph, plan, thin = cut(model, images(2))
    before = copy.deepcopy(thin)
    assert "two" not in {reader.name for reader in readers(model, thin, graph, plan)}
    refit(model, thin, graph, plan, [images()], seed=0)
    assert torch.equal(thin.two.weight, before.two.weight)
    assert not torch.equal(thin.head.weight, before.head.weight)
