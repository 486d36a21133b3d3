"""The front verb: prune a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from secateur.arguments import checked
from secateur.budget import Budget
from secateur.core.graph import Groups
from secateur.core.graph.names import several
from secateur.core.method import Method, shapes
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import Inputs
from secateur.core.surgery.foreign import Network, refuse_foreign
from secateur.core.surgery.private_copies import apart
from secateur.core.surgery.untouched import ordinary, private, randomness
from secateur.data import Data
from secateur.data.calibration import COUNT, SOURCE
from secateur.errors import BranchingError, DataError, SettingError
from secateur.events import Tell, ignore, once, warn_once
from secateur.measure import Quality, Runtime
from secateur.measure.forward import device_of
from secateur.methods import default, find, name_of
from secateur.models import build
from secateur.outcome import Step
from secateur.progress import shown
from secateur.repair import chosen as steps_of_repair
from secateur.rules import Images, Minutes, Number, Rounds, Seed, Threads
from secateur.run.budget_target import check_budget
from secateur.run.calibration_images import shape_of
from secateur.run.device_placement import place_for
from secateur.run.fallback import for_images, without_fit
from secateur.run.given_inputs import Given, fitted, looked_at
from secateur.run.grid_training import on_grids
from secateur.run.headline_speed import asked_for, check_runtime
from secateur.run.job import Job
from secateur.run.latency_aware_methods import check_timing
from secateur.run.pipeline import Pipeline
from secateur.run.preflight import check_goals, warn_of_no_training, warn_of_random_weights
from secateur.run.recorded_choices import Choices
from secateur.run.result import Result
from secateur.run.time_budget import check_minutes
from secateur.run.work_folder import Work
from secateur.tasks import Task
from secateur.training import Settings
from secateur.training.objective import check_lesson


@checked
@shown
@apart()
@randomness()
@ordinary()
def prune(
    model: Network | str,
    example_inputs: Inputs | None = None,
    method: Method | str | None = None,
    target: Target | Number | None = None,
    data: Given = None,
    *,
    task: Task | None = None,
    train: Settings | None = None,
    shape: Settings | None = None,
    rounds: Rounds = 1,
    then: Sequence[Step] = (),
    leave: Sequence[str] = (),
    free_outputs: Sequence[str] = (),
    groups: Groups = "all",
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    seed: Seed = 0,
    latency: bool = True,
    repair: Sequence[str] | None = None,
    calibrate: Annotated[Any, SOURCE] = None,
    calibrate_images: Images = COUNT,
    minutes: Minutes = None,
    patience: Number | None = None,
    budget: Budget | None = None,
    runtime: Runtime | Sequence[Runtime] | None = None,
    threads: Threads = None,
    tested: Quality | None = None,
    answers: bool = True,
    work: str | Path | None = None,
    chosen: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    tell: Tell = ignore,
) -> Result:
    """Make a network smaller by a published method, and prove that nothing else changed.

    The given network is never modified: a copy of it does all the work, and the result holds a new one. Random states
    of the process are afterwards those of before, and ``torch.no_grad``, ``inference_mode`` and ``autocast`` around the
    call have no effect on it.

    Args:
        model: a network, or the name of one (``secateur.models.build``), whose weights the seed then draws. Where
            there is an accelerator, a copy of it meets the images there, unless the training settings say ``cpu``;
            latencies are measured where the network is.
        example_inputs: a tensor, tuple or dict that the network runs on, moved to its device; an image of ``data`` or
            ``calibrate`` if None.
        method: a method or its name; None: ``reconstruction`` where images are at hand (``data`` or ``calibrate``),
            else ``magnitude``.
        target: what to keep; a number is a fraction of the MACs. None: the method's own rates decide.
        data: a data set or its name; for methods that measure, for qualities and for fine-tuning. With a task also two
            or three loaders (training, validation and, if there is one, test examples), which yield what it takes.
        task: what the network is for; None for that of the data, which usually is classification.
        train: how to fine-tune after each round; None for not at all.
        shape: how a method that trains before it decides (``batch_bridgeout``, ``bn_scale``) does so; None: like
            ``train``. With neither it decides on the network as it is.
        rounds: in how many equal steps (on a logarithmic scale) the target is approached.
        then: further rounds, each with a method and target of its own; what one has zeroed stays zero in the next.
        leave: layers, or modules with all the layers in them (names or patterns), that keep all their channels.
        free_outputs: outputs, or what holds several (paths such as ``"1.feats"``, or patterns), that may lose channels,
            as features beside the prediction; what is predicted, and all that is not named, keeps its width.
        groups: which groups may lose units: all, or only those inside blocks; then residual streams, and whatever else
            several layers put out whose outputs are added up, stay as they are.
        limits: floors and multiples of widths; by default each group has the multiple that runs fast.
        seed: of everything random.
        latency: whether to time the networks, in turns when all else is done; False: nothing is timed, unless the
            budget limits the latency.
        repair: what to do after the cut without training, of ``secateur.repair.STEPS``; () for nothing; None for
            ``secateur.repair.DEFAULT`` where images are at hand, labelled or not, else ``WITHOUT_IMAGES``.
        calibrate: unlabelled images to repair and decide by: a folder of pictures, an array or a file of arrays, a
            loader or an iterable of model inputs, or a ``Calibration``, see ``secateur.data.load_calibration``; None
            for training images of ``data``, if there is any.
        calibrate_images: how many of them to use; 64 to 1,000 are useful.
        minutes: of wall-clock time for the repair and then, in what is left, for training after the last round:
            fine-tuning (as ``train`` says, whose epochs are then an upper bound) where ``data`` has validation images,
            else distillation from the dense network. Held-out images decide whether the network is better than before;
            if not, it stays as it was. 0: the repair alone; None: no limit.
        patience: give up reading the network after this many seconds; None: never.
        budget: limits of MACs, parameters, latency and drop of accuracy, which the target is then made of.
        runtime: what the network will run in, see ``secateur.measure.Runtime``, which is what its speed is stated in;
            of several, the fastest that can be had here; None: of all that read PyTorch or ONNX programs.
        threads: of the CPU that it will run on; None: as many as torch has now.
        tested: what the dense network achieves on the test images, if that is known; None: it is measured.
        answers: whether to keep what both networks make of some test examples, which the report shows.
        work: folder for plans and checkpoints; a run that was killed goes on from there when called again alike.
        chosen: what an earlier run has chosen by the clock (``Result.chosen``), which is taken instead of measuring
            again; None for nothing. What does not fit here is chosen anew, with a warning.
        progress: whether to show on standard error what goes on, a bar included; None: in a terminal and in a notebook.
        tell: hears the progress and the warnings, instead of a display and of Python's warnings.

    Returns:
        The pruned network with all measurements.

    Raises:
        SecateurError: one of its kinds, with one sentence on what to do.
    """
    tell = once(tell)
    seen = data is not None or calibrate is not None
    method_asked, repair_asked = method is not None, repair is not None
    method = default(images=seen) if method is None else method
    asked = find(method)() if isinstance(method, str) else method
    goal = Target(target) if isinstance(target, (int, float)) else target
    if train is not None and data is None:
        raise DataError("fine-tuning needs data; give it, or leave train out")
    if shape is not None and not shapes(asked):
        raise SettingError(f"{name_of(asked)} does not train before it decides; leave shape out")
    if shape is not None and data is None:
        raise DataError(f"the training of {name_of(asked)} needs data; give it, or leave shape out")
    check_goals([(asked, goal), *((step.method, step.target) for step in then)], told_later=budget is not None)
    repair = steps_of_repair(repair, images=seen)
    shape, train, repair = on_grids(
        [asked, *(step.method for step in then)], shape, train, repair, repair_asked=repair_asked, minutes=minutes
    )
    check_minutes(minutes, images=seen)
    given = model
    if isinstance(model, nn.Module):
        model = _own(model)
    images, unlabelled, example_inputs = looked_at(
        model, data, calibrate, example_inputs, task=task, count=calibrate_images, seed=seed
    )
    if images is not None:
        check_lesson(images, train)
        check_lesson(images, shape)
    if isinstance(given, str):
        given = _built(given, images, example_inputs, seed)
        model = _own(given)
    if model is given:  # no network, or it would be a copy
        refuse_foreign(given)
    assert isinstance(model, nn.Module)
    assert isinstance(given, nn.Module)
    dense = model
    example_inputs = fitted(dense, example_inputs, unlabelled)
    warn_of_random_weights(dense, tell)
    if train is None and shape is None:
        warn_of_no_training([asked, *(step.method for step in then)], tell)
    check_budget(budget, images, train)
    check_timing([asked, *(step.method for step in then)], latency, budget)
    named, among, threads = asked_for(runtime, threads, budget)
    _warn_of_optimizers(given, tell)
    folder = Work.at(work)
    begun = partial(
        Job,
        dense=dense,
        inputs=example_inputs,
        target=goal,
        data=images,
        train=train,
        shaping=shape or train,
        leave=several(leave),
        free_outputs=several(free_outputs),
        limits=limits,
        seed=seed,
        latency=latency,
        work=folder,
        choices=Choices(folder, chosen or {}, tell),
        tell=tell,
        place=place_for(dense, train or shape),
        then=tuple(then),
        patience=patience,
        budget=budget,
        tested=tested,
        answers=answers,
        calibrate=unlabelled,
        calibrate_images=calibrate_images,
        runtime=named,
        threads=threads,
        among=among,
        minutes=minutes,
        groups=groups,
        repair_asked=repair_asked,
    )
    if latency or (budget is not None and budget.max_latency is not None):
        check_runtime(named, device_of(dense))
    asked, repair = for_images(
        unlabelled, images, calibrate_images, asked, repair, method_asked=method_asked, tell=tell
    )
    job = begun(method=asked, repair=repair)
    try:
        result = Pipeline(job).run(rounds)
    except BranchingError as error:
        asked, repair = without_fit(
            error, asked, repair, then=then, method_asked=method_asked, repair_asked=repair_asked, tell=tell
        )
        other = begun(method=asked, repair=repair, clock=job.clock, graph=job.graph, tested=job.tested)
        other.images, other.looked_at = job.images, job.looked_at  # which the fit has looked at
        result = Pipeline(other).run(rounds)
    return replace(result, dense=given)


def _own(model: nn.Module) -> nn.Module:
    """Return the copy of a given network that does all the work."""
    refuse_foreign(model)
    return private(model)


def _built(spec: str, images: Data | None, example_inputs: Any, seed: int) -> nn.Module:
    """Build a network by name for the data, or for images like the example; the same for the same seed."""
    shape = images.shape if images else shape_of(example_inputs)
    channels, image = (shape[0], shape[1]) if shape else (3, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(spec, classes=images.classes if images else None, channels=channels, image=image)


def _warn_of_optimizers(model: nn.Module, tell: Tell) -> None:
    """An optimizer goes on training the network that it was made for, which is not the one that comes out.

    Nobody can be asked whether there is one: gradients are the sign that somebody trains the network here.
    """
    if all(parameter.grad is None for parameter in model.parameters()):
        return
    text = (
        "the network has gradients, so it seems to be in training: an optimizer that was made for it goes on with the "
        "dense network; make a new one for the pruned network, or move it with result.migrate(optimizer); where it is "
        "done, model.zero_grad() says so"
    )
    warn_once(text, tell)
