"""Code as a user writes it, which type checkers must accept, and the types that they must see. It is never run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, assert_type

import torch
from torch import Tensor, nn

import secateur
from secateur import (
    METHODS,
    Budget,
    DropUnits,
    Graph,
    Group,
    Limits,
    Method,
    Paper,
    Plan,
    Problem,
    Recipe,
    Result,
    ScoreMethod,
    SecateurError,
    Session,
    Settings,
    Step,
    Target,
    Task,
)


@dataclass(frozen=True)
class GeometricMedian(ScoreMethod):
    """A method of somebody else: a dataclass with settings of its own and one function."""

    power: float = 2.0
    paper: ClassVar[Paper] = Paper(title="A title", authors="A. Author", venue="CVPR", year=2019)

    def score(self, group: Group, problem: Problem) -> Tensor:
        assert_type(group.size, int)
        assert_type(problem.graph, Graph)
        assert_type(problem.target, Target | None)
        return torch.ones(group.size) * self.power


@dataclass(frozen=True)
class Nothing(Method):
    paper: ClassVar[Paper] = Paper(title="A title", authors="A. Author", venue="CVPR", year=2019, kind="article")

    def plan(self, problem: Problem) -> Plan:
        return Plan()


def methods_are_found_by_name() -> None:
    assert_type(METHODS, Mapping[str, type[Method]])
    assert_type(METHODS["magnitude"].paper, Paper)
    assert_type(Nothing.paper.cite(), str)
    secateur.check_method(GeometricMedian(power=1.0, scope="global", keeps=(("conv1", 0.5),)))


def a_network_is_read_cut_and_compared(model: nn.Module, images: Tensor) -> None:
    graph = secateur.trace(model, images)
    assert_type(graph, Graph)
    assert_type(secateur.trace(model, (images,), free_outputs=("head",)), Graph)
    plan = GeometricMedian().plan(Problem(model, graph, Target(0.5, "macs")))
    assert_type(plan, Plan)
    assert_type(Plan((DropUnits("conv1", (0, 3)),)).dropped(), dict[str, tuple[int, ...]])
    assert_type(Plan.from_json(plan.to_json()), Plan)
    before, after = secateur.size(graph), secateur.size(graph, plan)
    assert_type(after.macs / before.macs, float)
    assert_type(after.params, int)
    thin = secateur.apply(model, graph, plan)
    assert_type(thin, nn.Module)
    with secateur.masked(model, graph, plan) as silenced:
        assert_type(silenced, nn.Module)
    secateur.verify(model, graph, plan, thin, images)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    secateur.migrate_optimizer(optimizer, model, thin, graph, plan)
    secateur.hold(thin, graph, plan)


def a_network_is_pruned_in_one_call(model: nn.Module, images: Tensor) -> None:
    result = secateur.prune(model, images, "magnitude", 0.5, latency=False)
    assert_type(result, Result)
    assert_type(result.model, nn.Module)
    assert_type(result.graph, Graph)
    assert_type(result.save("out", force=True), Path)
    assert_type(secateur.save(result, Path("out")), Path)
    secateur.prune(model, images, GeometricMedian(), Target(0.5, of="params"), rounds=3)
    secateur.prune("secateur:lenet5", None, None, 0.5, "digits", train=Settings(epochs=1))
    secateur.prune(model, images, budget=Budget(max_macs=1e6, max_drop=0.01), calibrate=[images])
    secateur.prune(model, images, "magnitude", 0.5, then=[Step(GeometricMedian(), Target(0.9))], limits=Limits(2))
    assert_type(secateur.load("out").model, nn.Module)


def a_training_loop_prunes_as_it_goes(model: nn.Module, images: Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    session = Session(model, images, "bn_scale", 0.5, steps=4)
    while not session.finished:
        session.step(optimizer)
    assert_type(session.kept, float)
    assert_type(session.model, nn.Module)
    assert_type(session.state_dict(), dict[str, Any])
    assert_type(session.finish(latency=False), Result)


def recipes_are_read_and_run(path: Path) -> None:
    recipe = Recipe.read(path)
    assert_type(recipe, Recipe)
    assert_type(recipe.keep, float | None)
    assert_type(recipe.to_toml(), str)
    assert_type(secateur.run_recipe(recipe, work=path), Result)
    Recipe(model="secateur:lenet5", data="digits", method="magnitude", keep=0.5, train=Settings(epochs=2, lr=0.1))


def data_and_networks_come_from_many_places(images: Tensor, labels: Tensor) -> None:
    network = secateur.build("secateur:resnet20", classes=10)
    assert_type(network, nn.Module)
    data = secateur.from_arrays((images, labels), (images, labels), classes=10)
    secateur.fit(network, data, Settings(epochs=1))
    secateur.load_calibration([images], count=10)
    secateur.load_data("digits").example()
    secateur.transfer_weights(network, "weights.pt", images)
    secateur.export_onnx(network, images, "net.onnx")
    secateur.export_pt2(network, (images,), Path("net.pt2"))
    secateur.export_source(network, images, "folder")


def tasks_have_losses(task: Task, output: Tensor, labels: Tensor) -> None:
    assert_type(task.loss(output, labels), Tensor)
    assert_type(secateur.tasks.Classification(), secateur.tasks.Classification)
    with contextlib.suppress(SecateurError):
        task.meter(torch.device("cpu"))
