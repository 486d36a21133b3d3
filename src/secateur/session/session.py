"""A network is pruned step by step while somebody's own code trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from torch import nn

from secateur.arguments import checked
from secateur.core.graph import Groups
from secateur.core.graph.names import several
from secateur.core.method import Method
from secateur.core.plan import EMPTY
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Measure, Size, Target, size
from secateur.core.surgery import Inputs
from secateur.core.surgery.foreign import Network, refuse_foreign
from secateur.core.surgery.private_copies import apart
from secateur.core.surgery.untouched import ordinary, private, randomness
from secateur.core.task import Task
from secateur.data.calibration import COUNT, SOURCE
from secateur.errors import SettingError
from secateur.events import Event, Tell, ignore, once, warn
from secateur.measure import Runtime
from secateur.progress import Showing
from secateur.rules import Count, Images, Number, Rounds, Seed, Threads
from secateur.run import Result
from secateur.run.given_inputs import Given
from secateur.run.pipeline import Pipeline
from secateur.session.agreement import alike
from secateur.session.beginning import begun
from secateur.session.cut import Cut
from secateur.session.ending import measured, result_of
from secateur.session.holders import Holders
from secateur.session.in_training import InTraining
from secateur.session.joint_cut import cut, replay
from secateur.session.progress_state import Done
from secateur.session.schedule import Schedule, keeps
from secateur.session.wrappers import unwrapped, wrappers_in


@checked
class Session:
    """Prunes a network in place, step by step, while somebody's own code trains it.

    ``model`` itself becomes thinner: modules, parameters and hooks stay the objects that they were, so that whatever
    holds them goes on. Every cut is decided by a published method and proved as in ``secateur.prune``, or refused, and
    then nothing has changed.

    Args:
        model: the network that trains, also within ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``.
        example_inputs: a tensor, tuple or dict that it runs on; an image of ``data`` or ``calibrate`` if None.
        method: a method or its name; None: ``reconstruction`` where images are at hand, else ``magnitude``.
        keep: how much of the original network the last step leaves: a fraction of ``of``, or a ``Target``. None: each
            step removes what the method's own rates say.
        of: of what a number is the fraction.
        steps: how many cuts lead there.
        schedule: whether each takes the same share of what is there, or of the original network.
        every: cut at every so many calls of ``step``.
        data: for methods that measure, and for the qualities of ``finish``, see ``secateur.prune``.
        task: what the network is for; None for that of the data.
        calibrate: unlabelled images to decide and repair by, see ``secateur.prune``.
        calibrate_images: how many of them to use.
        repair: what to do after each cut, of ``secateur.repair.STEPS``; nothing by default, for the network trains on.
        leave: layers that keep all their channels.
        free_outputs: outputs that may lose channels.
        groups: which groups may lose units.
        limits: floors and multiples of widths.
        seed: of everything random.
        patience: give up reading the network after this many seconds; None: never.
        progress: whether to show on standard error what reading, cuts and measuring are at; None: in a terminal and in
            a notebook.
        tell: instead of a display, hears the progress and the warnings.

    Raises:
        SecateurError: one of its kinds, with one sentence on what to do.
    """

    @apart()
    @randomness()
    @ordinary()
    def __init__(
        self,
        model: Network,
        example_inputs: Inputs | None = None,
        method: Method | str | None = None,
        keep: Target | Number | None = None,
        *,
        of: Measure = "macs",
        steps: Rounds = 5,
        schedule: Schedule = "geometric",
        every: Count = 1,
        data: Given = None,
        task: Task | None = None,
        calibrate: Annotated[Any, SOURCE] = None,
        calibrate_images: Images = COUNT,
        repair: Sequence[str] = (),
        leave: Sequence[str] = (),
        free_outputs: Sequence[str] = (),
        groups: Groups = "all",
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        seed: Seed = 0,
        patience: Number | None = None,
        progress: bool | None = None,
        tell: Tell = ignore,
    ) -> None:
        self._showing = Showing(progress, tell)
        found: Any = unwrapped(model)
        refuse_foreign(found)
        self._goal = Target(keep, of) if isinstance(keep, int | float) else keep
        self._of: Measure = self._goal.of if self._goal else of
        self._steps, self._every = steps, every
        self._schedule: Schedule = schedule
        with self._showing.call():
            self._job = begun(
                private(found),
                example_inputs,
                method,
                self._goal,
                data=data,
                task=task,
                calibrate=calibrate,
                calibrate_images=calibrate_images,
                repair=repair,
                leave=several(leave),
                free_outputs=several(free_outputs),
                groups=groups,
                limits=limits,
                seed=seed,
                patience=patience,
                tell=once(self._showing),
            )
            self._pipeline = Pipeline(self._job)
            self._pipeline.begin()
        assert self._job.graph is not None
        whole = size(self._job.graph)
        self._network = InTraining(found, whole, whole, wrappers_in(model))
        self._done = Done(shapes={name: list(weight.shape) for name, weight in found.named_parameters()})

    @property
    def model(self) -> nn.Module:
        """The network that was given, without wrappers, as thin as it is now."""
        return self._network.model

    @property
    def cuts(self) -> int:
        """How many cuts of the schedule are behind."""
        return self._done.cuts

    @property
    def finished(self) -> bool:
        """Whether the schedule is at its end."""
        return self.cuts >= self._steps

    @property
    def size(self) -> Size:
        """Of the network as it is now."""
        return self._network.left

    @property
    def kept(self) -> float:
        """What is left of the original network, in the measure of the goal."""
        return self._network.kept(self._of)

    @apart()
    @randomness()
    @ordinary()
    def step(self, *holders: Any, keep: Number | None = None) -> Cut:
        """Cut if a cut is due, and carry along what the loop holds; after an error nothing has changed.

        Call it between an optimizer's step and the next forward: gradients go.

        Args:
            holders: optimizers, schedulers, averages of the weights (``AveragedModel``, ``ModelEmaV3``), gradient
                scalers, ``DistributedDataParallel`` around the network; lists of these; None is passed over.
            keep: cut now, whatever the schedule says, to this fraction of the original network.

        Returns:
            What was done, or why nothing was.

        Raises:
            SecateurError: one of its kinds, such as for a holder of another network, or a target out of reach.
        """
        alike(self._network.check)
        found = alike(partial(Holders.of, self.model, holders, self._network.wrappers))
        if keep is not None:
            return self._cut(self._less(keep), found, scheduled=False)
        if self.finished:
            return self._nothing(f"nothing was cut: the goal is reached, {self._said()} is left")
        if (self._done.calls + 1) % self._every:
            self._done.calls += 1
            return self._nothing(f"nothing was cut: one of {self._every} calls does, {self._said()} is left")
        goal = self._goal
        if goal is not None:
            goal = replace(goal, keep=keeps(goal.keep, self._steps, self._schedule)[self.cuts])
        cut = self._cut(goal, found, scheduled=True)
        self._done.calls += 1
        return cut

    def _cut(self, target: Target | None, held: Holders, *, scheduled: bool) -> Cut:
        done, network = self._done, self._network
        if target is not None and network.left.of(target.of) <= target.most(network.whole.of(target.of)):
            done.cuts += scheduled
            return self._nothing(f"nothing had to be cut for {target.keep:.3g}: {self._said()} is left")
        with self._showing.call():
            cut(self._pipeline, network, done, target, held)
        done.cuts += scheduled
        alone = "" if held.optimizers else "; no optimizer was given, so none was carried along"
        note = f"cut {len(done.plans)}: {self._said()} is left{alone}"
        self._job.tell(Event("session", note))
        return Cut(done.plans[-1], self.size, self.kept, done.differences[-1], note)

    def _less(self, keep: float) -> Target:
        target = Target(keep, self._of)
        if target.keep > self.kept:
            raise SettingError(f"keep={keep:.3g} is more than what is left: {self._said()}; a session only takes away")
        return target

    def _nothing(self, note: str) -> Cut:
        self._job.tell(Event("session", note))
        return Cut(EMPTY, self.size, self.kept, 0.0, note)

    def _said(self) -> str:
        return f"{self.kept:.3f} of the {'MACs' if self._of == 'macs' else self._of}"

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on after a kill, beside the weights: numbers and texts, for any checkpoint."""
        measured(self._pipeline, self._done)
        return self._done.to_dict(self._asked())

    @apart()
    @randomness()
    @ordinary()
    def load_state_dict(self, state: Mapping[str, Any], *holders: Any) -> None:
        """Cut the network as far as it was when ``state_dict`` was called; load weights afterwards.

        Args:
            state: what it returned.
            holders: as for ``step``; averages of the weights have to be given where they are there already.

        Raises:
            SecateurError: one of its kinds: if something else was cut already, or the network is not the original one.
        """
        done, asked = Done.from_dict(state)
        alike(self._network.check)
        self._done.check_same(done)
        done.shapes = self._done.shapes
        if self._done.plans and done.plans != self._done.plans:
            raise SettingError(
                "this session has cut already: build the original network again, give it to a new session, and load "
                "the state there"
            )
        if not self._done.plans:
            held = alike(partial(Holders.of, self.model, holders, self._network.wrappers))
            with self._showing.call():
                replay(self._job, self._network, done, held)
        self._done = done
        other = [name for name, value in self._asked().items() if asked.get(name) != value]
        if other:
            warn(f"the session goes on with another {', '.join(other)} than before it was saved", self._job.tell)

    def _asked(self) -> dict[str, Any]:
        goal = self._goal
        return {
            "keep": goal and goal.keep,
            "of": self._of,
            "steps": self._steps,
            "schedule": self._schedule,
            "every": self._every,
            "method": repr(self._job.method),
        }

    @apart()
    @randomness()
    @ordinary()
    def finish(self, *, latency: bool = True, runtime: Runtime | None = None, threads: Threads = None) -> Result:
        """Measure, and return what ``prune`` would have: a result to save, report and export.

        Its ``model`` is the network of the session itself: call this when all training is done.

        Args:
            latency: whether to time the original and the pruned network, in turns.
            runtime: in what; None: in the fastest that can be had here.
            threads: of the CPU; None: as many as torch has now.

        Raises:
            SecateurError: one of its kinds.
        """
        self._network.check()
        assert self._job.graph is not None
        graphs = self._network.graphs or [self._job.graph]
        how: dict[str, Any] = {"latency": latency, "runtime": runtime, "threads": threads}
        with self._showing.call():
            return result_of(self._pipeline, self.model, graphs, self._done, **how)
