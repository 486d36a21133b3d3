"""What a pruning method is: a frozen set of settings that turns a problem into a plan."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.graph import Group
from secateur.core.plan import EMPTY, Plan
from secateur.core.problem import Problem
from secateur.core.selection.error_shares import NO_IMAGES_NOTE, note, toward
from secateur.core.selection.latency_knapsack import by_latency
from secateur.core.selection.sensitivity_curves import Allocate, by_damage
from secateur.core.selection.target_selection import Scope, Step, by_share, family, meet
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.zeros.shaper import Shaper
from secateur.errors import SettingError, TargetError
from secateur.spelling import said, setting
from secateur.typed import check_types


@dataclass(frozen=True)
class Paper:
    """Where a method comes from.

    Attributes:
        authors: given name before family name, with commas between people.
        venue: conference, or journal with volume and pages.
        kind: type of the BibTeX entry.
    """

    title: str
    authors: str
    venue: str
    year: int
    link: str = ""
    kind: Literal["inproceedings", "article"] = "inproceedings"

    def cite(self) -> str:
        """Return a one-line citation."""
        return f"{self.authors}. {self.title}. {self.venue}, {self.year}.{' ' + self.link if self.link else ''}"

    def bibtex(self) -> str:
        """Return a BibTeX entry."""
        key = re.sub(r"\W", "", self.authors.split(",")[0].split()[-1]).lower() + str(self.year)
        fields = {"title": self.title, "author": self.authors.replace(", ", " and ")}
        place = "journal" if self.kind == "article" else "booktitle"
        fields |= {place: self.venue, "year": str(self.year)} | ({"note": self.link} if self.link else {})
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@{self.kind}{{{key},\n{body}\n}}"


_CALLED = frozenset({"plan", "check", "training", "shaping", "score", "scores"})


@checked
@dataclass(frozen=True)
class Method(ABC):
    """A published way to decide what to remove.

    Subclasses are frozen dataclasses; their fields are the settings. Values that are not of the field's type are
    refused; a ``__post_init__`` that checks more starts with ``super().__post_init__()``.

    Raises:
        SettingError: if a setting is not of its type.
    """

    paper: ClassVar[Paper]

    def __init_subclass__(cls, **settings: Any) -> None:
        """Let what a subclass says about arguments hold for whoever calls it."""
        super().__init_subclass__(**settings)
        for name in _CALLED & vars(cls).keys():
            setattr(cls, name, checked(vars(cls)[name]))

    def __post_init__(self) -> None:
        check_types(self)

    @abstractmethod
    def plan(self, problem: Problem) -> Plan:
        """Decide. Must not touch ``problem.model`` and may draw only from ``problem.rng``.

        Raises:
            TargetError: if the target cannot be reached.
        """

    def check(self, target: Target | None) -> None:  # noqa: B027  (most methods take any target)
        """Refuse a target that cannot go with these settings, before any long work; the default refuses nothing.

        Raises:
            SecateurError: one of its kinds, with one sentence on what to do.
        """

    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Generator[Shaper | None]:
        """Shape a training of ``model`` that goes before the decision; None: this method does not shape."""
        yield None

    @contextlib.contextmanager
    def shaping(self, problem: Problem) -> Generator[Shaper | None]:
        """Shape a training of ``problem.model`` with everything in sight; by default as ``training`` does.

        For methods that look at images, or at the target, while the network trains.
        """
        with self.training(problem.model) as shaper:
            yield shaper

    def grids(self) -> tuple[int, ...]:
        """Return the bits of the grids on which a training for this method leaves weights; most know none."""
        return ()

    def input_bits(self) -> int:
        """Return the bits to which a training for this method rounds what layers read; 32 where it rounds nothing."""
        return 32


def _unsaid() -> TargetError:
    target = said("target=", "--keep", "keep in [target]")
    return TargetError(f"say how much to keep: a target ({target}), or a rate for some layers ({setting('keeps')})")


@dataclass(frozen=True)
class ScoreMethod(Method):
    """A method that gives every unit one number; the lowest go first.

    Attributes:
        scope: compare within each group (``uniform``: the same share of each) or over the network (``global``).
        keeps: (pattern of layer names, fraction of units that stays) for groups with a rate of their own.
        allocate: how much goes from each group: as the scope says, or by sensitivity, so that each group alone would
            do the same damage to the loss on validation images, or by latency, so that the least importance is lost for
            the time that is saved, or by reconstruction, so that the least error is left when the layers that read the
            units are fitted anew, which images tell best, and without any weights alone.
    """

    scope: Scope = "uniform"
    keeps: Sequence[tuple[str, float]] = ()
    allocate: Allocate = "scope"

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = self.keeps.items() if isinstance(self.keeps, Mapping) else self.keeps
        object.__setattr__(self, "keeps", tuple((str(pattern), float(keep)) for pattern, keep in pairs))
        for pattern, keep in self.keeps:
            if not 0.0 < keep <= 1.0:
                raise SettingError(f"keep of '{pattern}' must be in (0, 1], not {keep}")

    def check(self, target: Target | None) -> None:
        """Refuse a run that does not say how much is to go; override this where the method knows by itself."""
        if target is None and not self.keeps:
            raise _unsaid()

    @abstractmethod
    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return ``(group.size,)``: low goes first, ``inf`` never goes."""

    def scores(self, problem: Problem) -> dict[str, Tensor]:
        """Return the scores of all groups that may be pruned."""
        return {group.name: self.score(group, problem).detach().cpu() for group in problem.graph.free}

    def plan(self, problem: Problem) -> Plan:
        """Settle the groups with rates of their own, then remove the lowest units until the target is met."""
        scores = self.scores(problem)
        for name, values in scores.items():
            if bool(torch.isnan(values).any()):
                raise SettingError(f"the weights of group '{name}' contain NaN; the network cannot be scored")
        start, settled = by_share(problem.graph, scores, self.keeps, problem.limits) if self.keeps else (EMPTY, ())
        if problem.target is None:
            if not self.keeps:
                raise _unsaid()
            return start
        open_scores = {name: values for name, values in scores.items() if name not in settled}
        order: Callable[[Limits], Sequence[Step]] = partial(family, problem.graph, open_scores, self.scope)
        if self.allocate == "sensitivity":
            order = partial(by_damage, problem.graph, open_scores, problem.curves(open_scores))
        elif self.allocate == "latency":
            order = partial(by_latency, problem.graph, open_scores, self.scope, times=problem.times())
        elif self.allocate == "reconstruction":
            curves = problem.error_curves(open_scores)
            blind = (NO_IMAGES_NOTE,) if problem.blind else ()
            order = toward(problem.graph, curves, problem.target, start)
            plan = meet(problem.graph, order, problem.target, problem.limits, start, swap=False)
            return replace(plan, notes=(*plan.notes, *blind, note(curves, plan, problem.image_count())))
        return meet(problem.graph, order, problem.target, problem.limits, start)


def shapes(method: Method) -> bool:
    """Tell whether a method has a training of its own, which goes before its decision."""
    kind = type(method)
    return kind.training is not Method.training or kind.shaping is not Method.shaping


_WIDENS = ("stem", "linear", "last")


@contextlib.contextmanager
def naming_what_widens(method: Method) -> Generator[None]:
    """Name in an error of the block that says what can be reached the settings with which a method prunes more.

    Raises:
        TargetError: with them.
    """
    try:
        yield
    except TargetError as error:
        more = [setting(name) for name in _WIDENS if getattr(method, name, None) is False]
        if error.reachable is None or not more:
            raise
        text = f"{error}; of layers that this method leaves alone, {' and '.join(more)} would let it prune some"
        raise TargetError(text, error.reachable) from error


def settings_of(method: Method) -> dict[str, object]:
    """Return the settings of a method as plain values, as they stand in a recipe."""
    return {
        field.name: [list(item) if isinstance(item, tuple) else item for item in value]
        if isinstance(value := getattr(method, field.name), tuple)
        else value
        for field in dataclasses.fields(method)
    }
