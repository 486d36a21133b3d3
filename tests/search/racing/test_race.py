"""The engine names the candidate that full passes over silenced networks would name, with the same errors."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kills import Killed
from nets import NETS, Head, conv, first, images, make
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan, ZeroWeights
from secateur.core.selection.search_results import Search, key_of
from secateur.core.selection.target_selection import plan_of
from secateur.core.surgery import masked, run
from secateur.core.trace import trace
from secateur.errors import ArtifactError, DataError, ModelError, PlanError, SettingError
from secateur.measure import quality
from secateur.search import Engine, HeldOut, Ways, best_of
from secateur.search.racing import candidates as contenders
from secateur.search.racing import held_out_images as held_outs
from secateur.search.racing import race as contests
from secateur.search.racing.image_order import Parts
from secateur.search.racing.work_item import Stretch
from strategies import networks, plans

CLASSIFIERS = sorted(set(NETS) - {"linear, written view, transposed conv", "dict of two heads"})


@pytest.fixture(autouse=True)
def _small_batches_and_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_outs, "BATCH", {"cpu": 16, "cuda": 16})
    monkeypatch.setattr(contests, "LEADERS", 1)
    monkeypatch.setattr(contests, "PURSUERS", 1)


@pytest.fixture
def two_threads() -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def held(net: nn.Module, number: int = 100, wrong: float = 0.2) -> HeldOut:
    """Return images with the network's own answers, some of them spoilt."""
    x = images(number, 1)
    answers = run(net, x).argmax(1)
    rng = torch.Generator().manual_seed(2)
    return HeldOut(x, torch.where(torch.rand(number, generator=rng) < wrong, (answers + 1) % 4, answers))


def candidates(graph: Graph, number: int = 8, share: float = 0.4) -> list[Plan]:
    rng = torch.Generator().manual_seed(3)
    drawn: list[Plan] = []
    for _ in range(number):
        keep = torch.rand(graph.units, generator=rng) > share
        for group in graph.groups:
            keep[graph.offsets[group.name]] = True
        drawn.append(plan_of(graph, keep))
    return drawn


def naive(net: nn.Module, graph: Graph, drawn: list[Plan], subject: HeldOut) -> list[int]:
    counted: list[int] = []
    for plan in drawn:
        with masked(net, graph, plan):
            counted.append(int((run(net, subject.images).argmax(1) != subject.labels).sum()))
    return counted


def first_best(counted: list[int]) -> int:
    return min(range(len(counted)), key=lambda i: (counted[i], i))


@pytest.mark.parametrize("name", [first(name) for name in CLASSIFIERS])
def test_every_score_is_that_of_a_full_pass(name: str) -> None:
    net = make(name)
    graph, subject = trace(net, images(1)), held(net)
    drawn = candidates(graph)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    search = best_of(net, graph, drawn, subject, complete=True)
    counted = naive(net, graph, drawn, subject)
    assert [(t.errors, t.images) for t in search.trials] == [(errors, 100) for errors in counted]
    assert search.best == first_best(counted)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@settings(max_examples=12)  # networks of all kinds are in the test above
@given(st.data())
def test_the_winner_of_random_networks_and_plans_is_exact(data: st.DataObject) -> None:
    net = data.draw(networks(most=3))
    graph = trace(net, images(1))
    drawn = [data.draw(plans(graph, zeros=True)) for _ in range(3)]
    subject = held(net, 48)
    search, counted = best_of(net, graph, drawn, subject), naive(net, graph, drawn, subject)
    assert (search.best, search.trials[search.best].errors) == (first_best(counted), min(counted))


@pytest.mark.parametrize("thin", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_every_way_counts_the_same(thin: bool, fused: bool, shared: bool, channels_last: bool) -> None:
    net = make("plain")
    graph, subject = trace(net, images(1)), held(net)
    drawn = candidates(graph, 4)
    ways = Ways(thin=thin, fused=fused, shared=shared, channels_last=channels_last)
    engine = Engine(net, graph, drawn, subject, ways)
    assert all(engine.bench.runner(i).network is not None for i in range(4))
    last = {i: errors for i, _, errors in engine.advance([Stretch(dict.fromkeys(range(4), (0, 0)), 100)])}
    assert [last[i] for i in range(4)] == naive(net, graph, drawn, subject)


def test_what_comes_before_the_first_reader_is_computed_once_for_all() -> None:
    """The convolution that makes the removed maps is shared as well; what reads them is not."""
    net = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 6), Head(6)).eval()
    graph = trace(net, images(1)).without("0.0")
    drawn = candidates(graph, 6)
    drawn = [Plan(tuple(e for e in plan.edits if isinstance(e, DropUnits) and e.group != "0.0")) for plan in drawn]
    subject = held(net)
    ways = Ways(fused=False)
    engine = Engine(net, graph, drawn, subject, ways)
    tape = engine.bench.tape(subject.images[:4])
    assert tape is not None
    assert [name for name in tape.names if name == "conv2d"] == ["conv2d"] * 2
    expected = net[1](net[0](subject.images[:4]))
    kept = [result for result in tape.results if isinstance(result, Tensor) and result.numel()]
    assert len(kept) == 1  # nothing but what the first reader reads stays in memory
    torch.testing.assert_close(kept[0], expected)


@pytest.mark.parametrize("name", CLASSIFIERS[::6])
def test_the_best_few_are_exact_and_ties_go_by_the_loss_also_on_a_base_that_all_share(name: str) -> None:
    net = make(name)
    graph, subject = trace(net, images(1)), held(net, 50)
    base = candidates(graph, 1, 0.2)[0]
    dropped = graph.kept(base)
    drawn: list[Plan] = []
    for group in graph.free:
        left = [unit for unit in range(group.size) if dropped[graph.offsets[group.name] + unit]]
        for unit in left[:3] if len(left) > 3 else []:
            keep = dropped.clone()
            keep[graph.offsets[group.name] + unit] = False
            drawn.append(plan_of(graph, keep))
    drawn += drawn[:1]
    counted, losses = naive(net, graph, drawn, subject), list[float]()
    for plan in drawn:
        with masked(net, graph, plan) as silenced:
            losses.append(round(quality(silenced, [(subject.images, subject.labels)]).loss_or_error, 5))
    found = best_of(net, graph, drawn, subject, places=3, base=base)
    ranked = [(counted[i], losses[i]) for i in found.winners]
    assert ranked == sorted(zip(counted[:-1], losses[:-1], strict=True))[:3]
    assert (found.best, len(set(found.winners))) == (found.winners[0], 3)
    assert len(drawn) - 1 not in found.winners
    assert all(found.trials[i].errors == counted[i] for i in found.winners)
    assert Search.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_what_a_base_has_changed_is_shared_up_to_the_first_difference() -> None:
    net = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 6), Head(6)).eval()
    graph, subject = trace(net, images(1)), held(net)
    base = Plan((DropUnits("0.0", (1, 2)),))
    drawn = [Plan((*base.edits, DropUnits("1.0", (unit,)))) for unit in range(4)]
    for way in (Ways(), Ways(thin=False, fused=False)):
        engine = Engine(net, graph, drawn, subject, way, base=base)
        tape = engine.bench.tape(engine.bench.laid_out(subject.images[:4]))
        assert tape is not None
        assert [name for name in tape.names if name == "conv2d"] == ["conv2d"] * 2
        assert all(engine.bench.runner(i).network is not None for i in range(4))
        last = {i: errors for i, _, errors in engine.advance([Stretch(dict.fromkeys(range(4), (0, 0)), 100)])}
        assert [last[i] for i in range(4)] == naive(net, graph, drawn, subject)


def test_few_images_are_given_up_early_and_name_the_same_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_outs, "BATCH", {"cpu": 2, "cuda": 2})
    net = make("plain")
    graph, subject = trace(net, images(1)), held(net, 10)
    drawn = candidates(graph, 12, 0.5)
    short, whole = (best_of(net, graph, drawn, subject, places=1, complete=each) for each in (False, True))
    assert short.winners == whole.winners
    assert any(trial.images < 10 for trial in short.trials)
    with pytest.raises(SettingError, match="racing finds no exact places"):
        best_of(net, graph, drawn, subject, places=1, racing=True)


def test_a_network_that_cannot_share_is_still_counted_right() -> None:
    """The stream's own maps are added to something before anyone reads them."""
    net = make("cat then add")
    graph, subject = trace(net, images(1)), held(net)
    drawn = candidates(graph, 4)
    engine = Engine(net, graph, drawn, subject, Ways(thin=True, shared=True))
    last = {i: errors for i, _, errors in engine.advance([Stretch(dict.fromkeys(range(4), (0, 0)), 100)])}
    assert [last[i] for i in range(4)] == naive(net, graph, drawn, subject)


def test_a_rectifier_that_says_by_keyword_what_is_usual_writes_in_place() -> None:
    net = nn.Sequential(conv(3, 6), conv(6, 8), Head(8, 4)).eval()  # ``nn.ReLU`` says ``inplace=False``
    graph, subject = trace(net, images(1)), held(net)
    engine = Engine(net, graph, candidates(graph, 1), subject, Ways())
    assert list(engine.bench.runner(0).spare.values()) == ["relu"]


class RunsAlone(nn.Module):
    """Looks at its own state while it runs, as networks may: two threads at once would disturb each other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = conv(3, 6), conv(6, 8), Head(8, 4)
        self.busy = False

    def forward(self, x: Tensor) -> Tensor:
        assert not self.busy
        self.busy = True
        time.sleep(0.001)
        out = self.head(self.conv(self.stem(x)))
        self.busy = False
        return out


def test_no_candidate_runs_in_two_threads_at_once(two_threads: None) -> None:
    net = RunsAlone().eval()
    graph, subject = trace(net, images(1)), held(net)
    drawn = candidates(graph, 1)
    engine = Engine(net, graph, drawn, subject, Ways(shared=False))
    parts = [Stretch({0: (start, 0)}, start + 20) for start in range(0, 100, 20)]
    ends = [errors for _, place, errors in engine.advance(parts) if place % 20 == 0]
    assert [sum(ends)] == naive(net, graph, drawn, subject)


class WritesInPlace(nn.Module):
    """Would spoil what is shared for all later candidates."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = conv(3, 8), nn.Conv2d(8, 8, 3, padding=1), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.mix(x)
        return self.head(y + x.mul_(0.5))


def test_a_network_that_writes_into_what_is_shared_is_counted_right() -> None:
    net = WritesInPlace().eval()
    graph, subject = trace(net, images(1)), held(net)
    keep = torch.rand(*graph.tensors["mix.weight"][0]) > 0.3
    drawn = [Plan((ZeroWeights.of("mix.weight", keep.roll(i, 0)),)) for i in range(4)]
    assert [t.errors for t in best_of(net, graph, drawn, subject, complete=True).trials] == naive(
        net, graph, drawn, subject
    )


class Coarse(nn.Module):
    """Rounds its scores, so that many decisions are ties."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = conv(3, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(self.head(self.body(x)) * 3)


class LooksTwice(nn.Module):
    """Uses what goes into a rectifier a second time, or gives it away."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)
        self.head = Head(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.one(torch.relu(self.stem(x)))
        y = self.two(torch.relu(x))
        x = torch.relu(y + 1) + x  # x was rectified above, and is needed as it was
        view = self.two(x)
        scores = self.head(torch.relu(view) + view.flip(0).flip(0))
        return scores, torch.relu(scores)


def test_only_what_nobody_else_looks_at_is_written_into() -> None:
    net = LooksTwice().eval()
    graph = trace(net, images(1))
    x = images(100, 1)
    with torch.no_grad():
        labels = net(x)[0].argmax(1)
    drawn = candidates(graph, 4)
    engine = Engine(net, graph, drawn, HeldOut(x, labels), Ways())
    # y + 1, its rectifier, and both sums: the other rectifiers look at what is needed again or given away
    assert sorted(engine.bench.runner(0).spare.values()) == ["add", "add", "add", "relu"]
    last = {i: errors for i, _, errors in engine.advance([Stretch(dict.fromkeys(range(4), (0, 0)), 100)])}
    for i, plan in enumerate(drawn):
        with masked(net, graph, plan), torch.no_grad():
            assert last[i] == int((net(x)[0].argmax(1) != labels).sum())


def test_ties_are_decided_as_the_silenced_network_decides_them() -> None:
    net = Coarse().eval()
    graph, subject = trace(net, images(1)), held(net, 200)
    drawn = candidates(graph)
    counted = naive(net, graph, drawn, subject)
    with torch.no_grad():
        top = net(subject.images).topk(2).values
    assert bool((top[:, 0] == top[:, 1]).any())
    assert [t.errors for t in best_of(net, graph, drawn, subject, complete=True).trials] == counted


def test_candidates_that_cannot_win_are_given_up() -> None:
    net = make("plain")
    graph, subject = trace(net, images(1)), held(net, 400, 0.0)
    mild = plan_of(graph, torch.ones(graph.units, dtype=torch.bool))
    drawn = [*candidates(graph, 6, 0.8), mild]
    search = best_of(net, graph, drawn, subject)
    counted = naive(net, graph, drawn, subject)
    assert search.best == 6
    assert search.trials[6].errors == 0
    for trial, errors in zip(search.trials[:6], counted[:6], strict=True):
        assert 0 < trial.errors <= errors
        assert trial.images <= 48  # a tenth, rounded up to whole batches
    assert search.exact


def test_of_equals_the_first_wins_and_is_tried_once(tmp_path: Path) -> None:
    net = make("plain")
    graph, subject = trace(net, images(1)), held(net)
    one, two = candidates(graph, 2)
    search = best_of(net, graph, [one, two, one, two], subject, work=tmp_path, complete=True)
    assert search.best in (0, 1)
    assert search.trials[:2] == search.trials[2:]
    (path,) = tmp_path.glob("search-*.jsonl")
    assert seen_in(path) == {key_of(one): 100, key_of(two): 100}


def seen_in(path: Path) -> dict[str, int]:
    """Return how many images each plan has seen, part by part, as a search has noted it; no step is there twice."""
    steps = [(e["plan"], e["images"]) for e in map(_read, path.read_text().splitlines()) if e]
    assert len(steps) == len(set(steps))
    seen: dict[str, int] = {}
    for part in {plan for plan, _ in steps}:
        key = part.partition(".")[0]
        seen[key] = seen.get(key, 0) + max(images for plan, images in steps if plan == part)
    return seen


def test_a_killed_search_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    net = make("plain")
    graph, subject = trace(net, images(1)), held(net)
    drawn = candidates(graph)
    whole = best_of(net, graph, drawn, subject, complete=True)
    heard = 0

    def kill(event: Any) -> None:
        nonlocal heard
        heard += 1
        if heard == 20:
            raise Killed

    with pytest.raises(Killed):
        best_of(net, graph, drawn, subject, complete=True, work=tmp_path, tell=kill)
    (path,) = tmp_path.glob("search-*.jsonl")
    before = path.read_text()
    path.write_text(before[:-9])  # the last line was cut short
    assert best_of(net, graph, drawn, subject, complete=True, work=tmp_path) == whole
    assert seen_in(path) == dict.fromkeys(map(key_of, drawn), 100)
    done = path.read_text()
    assert best_of(net, graph, drawn, subject, work=tmp_path).best == whole.best
    assert path.read_text() == done


def _read(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {}


def test_numbers_of_another_network_are_not_used(tmp_path: Path) -> None:
    net, other = make("plain"), make("plain")
    with torch.no_grad():
        next(other.parameters()).mul_(-1)
    graph, subject = trace(net, images(1)), held(net)
    drawn = candidates(graph, 3)
    best_of(net, graph, drawn, subject, complete=True, work=tmp_path)
    search = best_of(other, graph, drawn, subject, complete=True, work=tmp_path)
    assert [t.errors for t in search.trials] == naive(other, graph, drawn, subject)
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_images_of_a_kind_lie_together_behind_a_sample_of_every_kind() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = 2 * torch.randint(3, (200,), generator=rng)  # so that some kinds are empty
    parts = Parts.of(HeldOut(torch.arange(200.0)[:, None], labels))
    assert sorted(parts.held.images.flatten().tolist()) == list(range(200))
    assert torch.equal(parts.held.labels, labels[parts.held.images.flatten().long()])
    assert [part.stop for part in parts.all[:-1]] == [part.start for part in parts.all[1:]]
    assert (parts.all[0].start, parts.all[-1].stop) == (0, 200)
    assert len(parts.sample) == len(parts.rest) == 3
    for kind, (sample, rest) in enumerate(zip(parts.sample, parts.rest, strict=True)):
        assert {int(parts.held.labels[i]) % 3 for i in (*sample, *rest)} == {kind}
        assert all(int(parts.held.images[i]) % 10 == 0 for i in sample)


def test_a_candidate_that_forgets_a_class_is_ruled_out_by_that_class() -> None:
    """It sees little more than the images of the class that it always gets wrong."""
    net = nn.Sequential(conv(3, 8), Head(8)).eval()
    with torch.no_grad():  # all scores are positive, so the class whose weights are zero never wins
        net[1].fc.weight.abs_()  # type: ignore[union-attr, operator]
        net[1].fc.bias.zero_()  # type: ignore[union-attr, operator]
    graph, x = trace(net, images(1)), images(1200, 1)
    labels = run(net, x).argmax(1)
    common = int(labels.bincount().argmax())
    drawn = [Plan((ZeroWeights.of("1.fc.weight", mask),)) for mask in (_row(graph, common), _row(graph, -1))]
    search = best_of(net, graph, drawn, HeldOut(x, labels))
    assert search.best == 1
    lost = search.trials[0]
    assert lost.images < 600
    assert lost.guess is not None
    with masked(net, graph, drawn[0]):
        true = float((run(net, x).argmax(1) != labels).float().mean())
    assert abs(lost.guess - true) < 0.15


def _row(graph: Graph, gone: int) -> Tensor:
    mask = torch.ones(graph.tensors["1.fc.weight"][0], dtype=torch.bool)
    if gone >= 0:
        mask[gone] = False
    return mask


def test_racing_says_that_it_is_approximate_and_looks_at_less() -> None:
    net = make("plain")
    graph, subject = trace(net, images(1)), held(net, 320)
    drawn = candidates(graph, 16)
    search = best_of(net, graph, drawn, subject, racing=True)
    assert not search.exact
    assert search.trials[search.best].images == 320
    assert sorted(t.images for t in search.trials) == [32] * 8 + [48] * 4 + [80] * 2 + [160, 320]


def test_little_memory_changes_nothing_but_the_order() -> None:
    net = make("plain")
    graph, subject = trace(net, images(1)), held(net)
    drawn = candidates(graph, 5)
    engine = Engine(net, graph, drawn, subject, Ways(), memory=1)
    last = {i: errors for i, _, errors in engine.advance([Stretch(dict.fromkeys(range(5), (0, 0)), 100)])}
    assert [last[i] for i in range(5)] == naive(net, graph, drawn, subject)


def test_keys_depend_on_content_alone() -> None:
    plan = Plan((DropUnits("a", (1, 2)),))
    assert key_of(plan) == key_of(Plan((DropUnits("a", (1, 2)),))) != key_of(Plan((DropUnits("a", (1, 3)),)))
    assert len(key_of(plan)) == 16


def test_a_search_survives_json_and_gives_the_curve() -> None:
    net = make("plain")
    graph, subject = trace(net, images(1)), held(net)
    search = best_of(net, graph, candidates(graph), subject, complete=True)
    assert Search.from_dict(json.loads(json.dumps(search.to_dict()))) == search
    errors = [t.errors / 100 for t in search.trials]
    assert search.curve() == [min(errors[: i + 1]) for i in range(8)]


def test_bad_input_is_refused_in_one_sentence(tmp_path: Path) -> None:
    net = make("plain")
    graph, subject = trace(net, images(1)), held(net)
    drawn = candidates(graph, 2)
    with pytest.raises(SettingError, match="there is no candidate"):
        best_of(net, graph, [], subject)
    with pytest.raises(SettingError, match="choose one"):
        best_of(net, graph, drawn, subject, racing=True, complete=True)
    with pytest.raises(DataError, match="there are none; give data"):
        HeldOut.of(None, net)
    with pytest.raises(DataError, match="there are none"):
        HeldOut.of([], net)
    with pytest.raises(PlanError, match="is it of another network"):
        best_of(net, graph, [Plan((ZeroWeights.of("2.0.weight", torch.ones(16, 9, 3, 3)),))], subject)
    with pytest.raises(PlanError, match="is it of another network"):
        best_of(net, graph, [Plan((DropUnits("nowhere", (0,)),))], subject)
    two = make("dict of two heads")
    with pytest.raises(ModelError, match="class scores"):
        best_of(two, trace(two, images(1)), candidates(trace(two, images(1)), 2), HeldOut(images(4), torch.zeros(4)))
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="choose another folder"):
        best_of(net, graph, drawn, subject, work=tmp_path / "file")


def test_networks_are_cut_before_threads_run_them(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Surgery may trace with torch.fx, which changes the calls of all modules in all threads meanwhile."""
    net = make("plain")
    graph, subject = trace(net, images(1)), held(net)
    cutting: set[str] = set()
    cut = contenders.apply

    def noted(*given: Any) -> nn.Module:
        cutting.add(threading.current_thread().name)
        return cut(*given)

    monkeypatch.setattr(contenders, "apply", noted)
    best_of(net, graph, candidates(graph, 6), subject)
    assert cutting == {threading.main_thread().name}


def test_not_a_number_counts_as_it_does_in_a_full_pass() -> None:
    net = make("plain")
    graph, subject = trace(net, images(1)), held(net)
    subject.images[3] = float("nan")
    drawn = candidates(graph, 3)
    counted = naive(net, graph, drawn, subject)
    assert [t.errors for t in best_of(net, graph, drawn, subject, complete=True).trials] == counted


def test_the_network_may_be_training_and_stays_so() -> None:
    net = make("plain").train()
    graph, subject = trace(net, images(1)), held(net)
    best_of(net, graph, candidates(graph, 3), subject)
    assert all(module.training for module in net.modules())
