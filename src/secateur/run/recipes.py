"""Do what a recipe says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from secateur.arguments import checked
from secateur.core.method import Method
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery.private_copies import apart
from secateur.data import Calibration, Data
from secateur.errors import DataError
from secateur.events import Tell, ignore
from secateur.measure import Quality, Runtime
from secateur.methods import make, name_of
from secateur.models.sources import refuse_own_code
from secateur.outcome import Step
from secateur.progress import shown
from secateur.recipe import Recipe
from secateur.run import preflight
from secateur.run.calibration_images import for_network, images_of
from secateur.run.headline_speed import asked_for, check_runtime, meant_for
from secateur.run.pruning import prune
from secateur.run.recorded_choices import Choices
from secateur.run.result import Result
from secateur.run.sources import hold, sources
from secateur.run.stopwatch import Clock, of_epochs
from secateur.run.subject import example_of, graph_of, subject_of
from secateur.run.work_folder import Work
from secateur.training import fit
from secateur.training.objective import check_lesson


@checked
@shown
@apart()
def run_recipe(
    recipe: Recipe,
    *,
    work: str | Path | None = None,
    download: bool = False,
    method_asked: bool = True,
    progress: bool | None = None,
    tell: Tell = ignore,
) -> Result:
    """Do what a recipe says: build, load, train the dense network if asked, prune, fine-tune, measure.

    Args:
        recipe: what to do.
        work: folder for plans and checkpoints, so that a killed run goes on.
        download: whether a missing data set may be fetched.
        method_asked: whether somebody has chosen the method; if not, another one can stand in where it cannot decide,
            and the recipe of the result says so.
        progress: whether to show on standard error what goes on; None: in a terminal and in a notebook.
        tell: hears the progress and the warnings, as that of ``prune``.

    Raises:
        SecateurError: one of its kinds.
    """
    refuse_own_code(recipe.model)
    method, then = method_of(recipe), steps_of(recipe)
    runtime_of(recipe)  # refused before the long work
    target = None if recipe.keep is None else Target(recipe.keep, recipe.of)
    told_later = recipe.budget is not None
    preflight.check_goals([(method, target), *((step.method, step.target) for step in then)], told_later=told_later)
    folder = Work.at(work)
    made_from = sources(recipe) if folder is None else hold(folder.folder, recipe)
    subject = subject_of(recipe, download=download, tell=tell)
    model, data, images = subject.model, subject.data, subject.images
    if data is not None:
        for settings in (recipe.pretrain, recipe.train, recipe.shape):
            check_lesson(data, settings)
    clock, trained = Clock(), None
    choices = Choices(folder, recipe.chosen, tell)
    limits = Limits(recipe.min_units, recipe.multiple)
    if recipe.pretrain is not None:
        if data is None:
            raise DataError("training the dense network needs data; name a data set in the recipe")
        graph = graph_of(recipe, model, subject.example, tell=tell)
        first = [Step(method, target)] if target is not None or recipe.budget is None else []  # a budget tells later
        for step in (*first, *then):
            preflight.check_target(graph, step.method, step.target, limits)
        place = None if folder is None else folder.place("dense.ckpt", model)
        memory = choices.speed("pretrain", model, recipe.pretrain)
        whole = partial(fit, model, data, recipe.pretrain, checkpoint=place, seed=recipe.seed, memory=memory, tell=tell)
        trained = clock.training("train", whole, of_epochs)
    result = prune_as(recipe, model, data, images=images, method_asked=method_asked, work=work, tell=tell)
    if not method_asked and name_of(result.method) != recipe.method:
        recipe = replace(recipe, method=name_of(result.method))
    recipe = replace(recipe, chosen={**choices.made, **result.chosen})
    seconds = {**clock.seconds, **result.seconds}
    return replace(result, recipe=recipe, sources=made_from, pretrain=trained, seconds=seconds)


@shown
def prune_as(
    recipe: Recipe,
    model: nn.Module,
    data: Data | None,
    *,
    images: Calibration | None = None,
    method_asked: bool = True,
    tested: Quality | None = None,
    answers: bool = True,
    work: str | Path | None = None,
    progress: bool | None = None,
    tell: Tell = ignore,
) -> Result:
    """Prune a network that is there already as a recipe says; its model, weights and pretrain are not looked at.

    Args:
        recipe: what to do.
        model: the dense network.
        data: of the recipe, as ``data_of`` returns it.
        images: the unlabelled ones of the recipe, as ``images_of`` returns them; None to read them now.
        method_asked: whether somebody has chosen the method; else it is that of ``prune`` where none is named.
        tested: what the dense network achieves on the test images, if that is known.
        answers: whether to keep what both networks make of some test examples.
        work: folder for plans and checkpoints.
        progress: whether to show on standard error what goes on; None: in a terminal and in a notebook.
        tell: hears the progress and the warnings, as that of ``prune``.

    Raises:
        SecateurError: one of its kinds.
    """
    data, images = for_network(recipe, model, data, images or images_of(recipe, data, tell), tell)
    return prune(
        model,
        example_of(recipe, data, images),
        method_of(recipe) if method_asked else None,
        None if recipe.keep is None else Target(recipe.keep, recipe.of),
        data,
        train=recipe.train,
        shape=recipe.shape,
        rounds=recipe.rounds,
        then=steps_of(recipe),
        leave=recipe.leave,
        free_outputs=recipe.free_outputs,
        groups=recipe.groups,
        limits=Limits(recipe.min_units, recipe.multiple),
        seed=recipe.seed,
        latency=recipe.latency,
        repair=recipe.repair,
        calibrate=images,
        calibrate_images=recipe.calibrate_images,
        minutes=recipe.minutes,
        patience=recipe.patience,
        budget=recipe.budget,
        runtime=recipe.runtime or meant_for(recipe.export),
        threads=recipe.threads,
        tested=tested,
        answers=answers,
        work=work,
        chosen=recipe.chosen,
        tell=tell,
    )


def runtime_of(recipe: Recipe) -> tuple[Runtime | None, tuple[Runtime, ...], int | None]:
    """Return the runtime that a recipe names, those among which one is chosen otherwise, and the threads.

    Raises:
        SettingError: if the runtime is to be timed and cannot be had here.
    """
    named, among, threads = asked_for(recipe.runtime or meant_for(recipe.export), recipe.threads, recipe.budget)
    if recipe.latency or (recipe.budget is not None and recipe.budget.max_latency is not None):
        check_runtime(named, "cpu")  # where networks are built
    return named, among, threads


def method_of(recipe: Recipe) -> Method:
    """Return the recipe's method with its settings.

    Raises:
        SettingError: if the method or one of its options is unknown.
    """
    return make(recipe.method, recipe.options)


def steps_of(recipe: Recipe) -> tuple[Step, ...]:
    """Return the recipe's further stages with their methods.

    Raises:
        SettingError: if a method or one of its options is unknown.
    """
    return tuple(
        Step(make(stage.method, stage.options), None if stage.keep is None else Target(stage.keep, stage.of))
        for stage in recipe.then
    )
