from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from kills import Killed
from nets import Plain
from secateur.core.graph import Graph
from secateur.core.selection.sensitivity_curves import points
from secateur.core.sizes.limits import Limits
from secateur.core.surgery import masked
from secateur.core.trace import trace
from secateur.errors import ModelError
from secateur.events import Event
from secateur.search import HeldOut
from secateur.search.racing import candidates
from secateur.search.sensitivity import curves


@pytest.fixture
def net() -> Plain:
    torch.manual_seed(3)
    return Plain().eval()


@pytest.fixture
def graph(net: Plain) -> Graph:
    return trace(net, torch.randn(1, 3, 8, 8))


@pytest.fixture
def held(net: Plain) -> HeldOut:
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(150, 3, 8, 8, generator=rng)
    with torch.no_grad():
        classes = net(images).shape[1]
    return HeldOut(images, torch.randint(classes, (150,), generator=rng))


def scores(graph: Graph) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(2)
    return {group.name: torch.rand(group.size, generator=rng) for group in graph.free}


def test_every_point_is_the_loss_of_the_silenced_network(net: Plain, graph: Graph, held: HeldOut) -> None:
    given, limits = scores(graph), Limits(min_units=2)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = curves(net, graph, given, held, limits=limits, levels=3)
    assert [curve.group for curve in found] == [group.name for group in graph.free]
    for curve in found:
        rungs = points(graph.group(curve.group), given[curve.group], limits, 3)
        assert curve.kept == (curve.size, *(kept for kept, _ in rungs))
        for place, (_, plan) in enumerate(rungs, 1):
            with torch.no_grad(), masked(net, graph, plan) as silenced:
                out = silenced(held.images)
            assert curve.loss[place] == pytest.approx(float(F.cross_entropy(out, held.labels)), rel=1e-5)
            assert curve.values[place] == int((out.argmax(1) == held.labels).sum()) / len(held)
    assert len({curve.loss[0] for curve in found}) == 1
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_a_killed_measurement_goes_on(net: Plain, graph: Graph, held: HeldOut, tmp_path: Path) -> None:
    whole = curves(net, graph, scores(graph), held)

    def kill(event: Event) -> None:
        if event.step == 1:
            raise Killed

    with pytest.raises(Killed):
        curves(net, graph, scores(graph), held, work=tmp_path, tell=kill)
    [file] = tmp_path.glob("sensitivity-*.jsonl")
    lines = file.read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1]
    forged = [json.loads(line) for line in lines]
    forged[1]["points"][0][0] = 123.0  # what is there is believed, not measured again
    file.write_text("".join(json.dumps(line) + "\n" for line in forged))
    found = curves(net, graph, scores(graph), held, work=tmp_path)
    assert found[0].loss[1] == 123.0
    assert found[0].loss[2:] == pytest.approx(whole[0].loss[2:])
    assert found[1].loss == pytest.approx(whole[1].loss)
    other = curves(net, graph, scores(graph), HeldOut(held.images[:100], held.labels[:100]), work=tmp_path)
    assert other[0].loss[1] != 123.0


def test_a_network_that_gives_no_numbers_is_refused(net: Plain, graph: Graph, held: HeldOut) -> None:
    next(net.parameters()).data[0] = torch.nan
    with pytest.raises(ModelError, match="not finite before anything is pruned"):
        curves(net, graph, scores(graph), held)


def test_no_clock_decides_how_candidates_run(
    net: Plain, graph: Graph, held: HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other ways round sums otherwise, so two measurements are equal bit for bit only if both take the same way."""
    found: list[object] = []
    monkeypatch.setattr(HeldOut, "batch", 50)
    for best in range(4):
        times = iter(0.0 if turn // 3 == best else 1.0 for turn in range(1000))  # each way is timed three times
        monkeypatch.setattr(candidates.Bench, "_seconds", lambda self, work, times=times: (work(), next(times))[1])
        found.append(curves(net, graph, scores(graph), held))
    assert all(each == found[0] for each in found)


def test_a_measurement_that_goes_on_runs_the_rest_as_before(
    net: Plain, graph: Graph, held: HeldOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = candidates.Ways(thin=False, channels_last=True)
    monkeypatch.setattr(HeldOut, "batch", 50)

    def kill(event: Event) -> None:
        if event.step == 1:
            raise Killed

    with monkeypatch.context() as then:
        then.setattr(candidates.Bench, "_fastest", lambda self, timed: ways)
        whole = curves(net, graph, scores(graph), held)
        with pytest.raises(Killed):
            curves(net, graph, scores(graph), held, work=tmp_path, tell=kill)
    (file,) = tmp_path.iterdir()
    with file.open("a") as lines:  # what nobody measured is measured anew
        lines.write('{"number": 2, "points": [[0.1, 0.5]], "ways": {"thin": 3}}\n{"number": 3, "points": 4}\n')
    used: list[object] = []
    use = candidates.Bench.use
    monkeypatch.setattr(candidates.Bench, "use", lambda self, ways: (used.append(ways), use(self, ways))[1])
    assert curves(net, graph, scores(graph), held, work=tmp_path) == whole
    assert set(used) == {ways}
