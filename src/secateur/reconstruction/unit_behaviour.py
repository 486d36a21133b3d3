"""What becomes of units before they are read, found by trying: are copies and multiples of a unit as good as it?

Nothing is assumed of the code between: some units of a copy of the network are made multiples of others. Then what
reads them must be given such multiples, which one pass tells of all groups together, and the network must put out the
same when the others stand in for them.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, Group, Member, layer_of, positions, tensor_of
from secateur.core.surgery import Inputs, relative_difference, run, tensors_in
from secateur.errors import ModelError
from secateur.reconstruction.noise import noises
from secateur.reconstruction.unit_similarity import Behaviour, Course

MULTIPLE = 0.125
"""Times a unit that its multiples are: small, so that rectifiers with a limit, such as that at 6, pass."""
NEAR = 1e-4
"""Relative difference of outputs up to which they are the same."""
_NEARLY = 2e-2  # for multiples, which need not be exact
_READ = 0.1  # relative error of what is read up to which a hypothesis is worth trying on the outputs


def even(group: Group) -> bool:
    """Tell whether all units have equally many positions in every dimension that they touch."""
    for member in group.members:
        counts = torch.bincount(member.unit[member.unit >= 0], minlength=group.size)
        if len(counts[counts > 0].unique()) > 1:
            return False
    return True


@dataclass(frozen=True, eq=False)
class Trial:
    """A group, and what is tried on it.

    Attributes:
        group: of the graph.
        found: how its units come about.
        gone: ``(pairs,)``, units that are made multiples of others.
        kept: ``(pairs,)``, these others, which stand in for them.
    """

    group: Group
    found: Course
    gone: Tensor
    kept: Tensor

    @staticmethod
    def of(group: Group, found: Course, pairs: Iterable[tuple[int, int]]) -> Trial:
        """Put the pairs into tensors; no unit is both made a multiple and standing in."""
        table = torch.tensor(list(pairs), dtype=torch.long).view(-1, 2)
        return Trial(group, found, table[:, 0], table[:, 1])

    def readers(self) -> Iterator[Member]:
        """Yield the members that read the units."""
        return (member for member in self.group.members if member.role == "reads")

    def places(self, member: Member) -> tuple[Tensor, Tensor]:
        """Return the positions of both units of each pair that has any in a member."""
        table = positions(member, self.group.size)
        gone, kept = table[self.gone], table[self.kept]
        both = ((gone >= 0) & (kept >= 0)).all(1)
        return gone[both].flatten(), kept[both].flatten()


class Trials:
    """A copy of a network on which units are made multiples of others.

    Whatever cannot be run, or cannot be changed so, is found to behave like nothing that is known.

    Args:
        model: the network, left as it is and not run.
        graph: its graph.
        inputs: what its forward takes; only its kind is looked at, see ``noise``.
    """

    def __init__(self, model: nn.Module, graph: Graph, inputs: Inputs) -> None:
        self.graph, self.dense = graph, model
        self.model = copy.deepcopy(model)
        if half := any(it.dtype in (torch.float16, torch.bfloat16) for it in self.model.parameters()):
            self.model.float()
        self.inputs = next((it for it in noises(self.model, inputs, single=half) if self._runs(it)), inputs)
        self.over_channels = {
            int(unit) for one in graph.statistics for unit in one.units[one.units >= 0].unique().tolist()
        }

    def _runs(self, inputs: Inputs) -> bool:
        try:
            found = [it for it in tensors_in(run(self.model, inputs)) if it.is_floating_point()]
        except ModelError:
            return False
        return all(bool(it.isfinite().all()) for it in found)

    def behaviours(self, trials: Iterable[Trial]) -> dict[str, Behaviour | None]:
        """Return by name what becomes of the units of each group; None where not even copies can stand in.

        All groups are tried at once; only where that fails they are halved until those are found that fail.
        """
        found: dict[str, Behaviour | None] = {}
        left = list[Trial]()
        for trial in trials:
            found[trial.group.name] = None
            first = self.graph.offsets[trial.group.name]
            over = self.over_channels.intersection(range(first, first + trial.group.size))
            if len(trial.gone) and even(trial.group) and not over:
                left.append(trial)
        kinds: tuple[tuple[Behaviour, float], ...] = (("linear", -MULTIPLE), ("rectified", MULTIPLE), ("other", 1.0))
        for behaviour, times in kinds:
            tried = [trial for trial in left if behaviour == "other" or trial.found.plain]
            if tried:
                holding = self._holding(tried, times)
                found |= dict.fromkeys(holding, behaviour)
                left = [trial for trial in left if trial.group.name not in holding]
        return found

    @torch.no_grad()
    def _holding(self, trials: Sequence[Trial], times: float) -> list[str]:
        """Return the groups in which units can stand in for such multiples of them."""
        with self._restored(trials):
            try:
                for trial in trials:
                    self._multiply(trial, times)
                wanted, wrong = self._watched(trials, times)
            except (ModelError, RuntimeError, IndexError):  # the network takes no such weights
                return []
            held = list[str]()
            near: dict[float, list[Trial]] = {}
            for trial in trials:
                if trial.group.name not in wrong:  # a product of two is nearly a sum where one hardly varies
                    rough = times > 0 and times != 1 and len(trial.found.makers) == 1
                    near.setdefault(_NEARLY if rough else NEAR, []).append(trial)
            for tolerance, some in near.items():
                held += self._standing_in(some, times, wanted, tolerance)
            return held

    def _standing_in(self, trials: Sequence[Trial], times: float, wanted: Any, tolerance: float) -> list[str]:
        if self._same(trials, times, wanted, tolerance):
            return [trial.group.name for trial in trials]
        if len(trials) == 1:
            return []
        half = len(trials) // 2
        parts = (trials[:half], trials[half:])
        return [name for some in parts for name in self._standing_in(some, times, wanted, tolerance)]

    def _same(self, trials: Sequence[Trial], times: float, wanted: Any, tolerance: float) -> bool:
        """Tell whether the network puts out the same where the others stand in for the multiples of them."""
        before: dict[str, Tensor] = {}
        try:
            for trial in trials:
                for member in trial.readers():
                    tensor = tensor_of(self.model, member.tensor)
                    before.setdefault(member.tensor, tensor.detach().clone())
                    columns = tensor.movedim(member.dim, 0)
                    gone, kept = trial.places(member)
                    columns.index_add_(0, kept.to(columns.device), columns[gone] * times)
                    alone = positions(member, trial.group.size)[trial.gone].flatten()
                    columns[alone[alone >= 0]] = 0.0
            return relative_difference(wanted, self._put_out()) <= tolerance
        except ModelError:
            return False
        finally:
            for name, tensor in before.items():
                tensor_of(self.model, name).copy_(tensor)

    def _put_out(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in tensors_in(run(self.model, self.inputs))]

    def _watched(self, trials: Sequence[Trial], times: float) -> tuple[list[Tensor], set[str]]:
        """Return what the network puts out, and the groups whose readers are given anything else than multiples."""
        wrong, hooks = set[str](), list[Any]()
        for trial in trials:
            for member in trial.readers():
                layer = self.model.get_submodule(layer_of(member.tensor))
                if not isinstance(layer, torch.jit.ScriptModule):
                    given = _given(trial, member, times, wrong)
                    hooks.append(layer.register_forward_pre_hook(given, with_kwargs=True))
        try:
            return self._put_out(), wrong
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _restored(self, trials: Sequence[Trial]) -> Generator[None]:
        try:
            yield
        finally:
            for name in {member.tensor for trial in trials for member in trial.group.members}:
                tensor_of(self.model, name).copy_(tensor_of(self.dense, name))

    def _multiply(self, trial: Trial, times: float) -> None:
        """Make units multiples of others; what is read of them is neither more nor less than before."""
        for member in trial.group.members:
            if member.role != "reads":
                gone, kept = trial.places(member)
                rows = tensor_of(self.model, member.tensor).movedim(member.dim, 0)
                rows[gone] = rows[kept]
        if times == 1.0:
            return
        for number, stage in enumerate((*trial.found.makers, *trial.found.later)):
            for name in self._scaling(trial.found, number):
                dim = stage.weight.dim if name == f"{stage.layer}.weight" else 0
                self._scale(Member(name, dim, "scales", stage.weight.unit), trial, times)
        for member in trial.readers():
            self._scale(member, trial, 1 / abs(times))

    def _scaling(self, found: Course, number: int) -> list[str]:
        """Return the parameters of a stage that are multiplied with what it sends."""
        stage, made = (*found.makers, *found.later)[number], number < len(found.makers)
        layer: Any = self.model.get_submodule(stage.layer)
        own = [f"{stage.layer}.bias"] if layer.bias is not None else []
        if not stage.norm:
            return [*own, f"{stage.layer}.weight"] if made else own
        norm: Any = self.model.get_submodule(stage.norm)
        if made and norm.weight is None:
            return [*own, f"{stage.layer}.weight", f"{stage.norm}.running_mean"]
        parts = [part for part in ("weight" if made else "running_mean", "bias") if getattr(norm, part) is not None]
        return [*([] if made else own), *(f"{stage.norm}.{part}" for part in parts)]

    def _scale(self, member: Member, trial: Trial, times: float) -> None:
        gone = positions(member, trial.group.size)[trial.gone].flatten()
        tensor_of(self.model, member.tensor).movedim(member.dim, 0)[gone[gone >= 0]] *= times


def _given(trial: Trial, member: Member, times: float, wrong: set[str]) -> Any:
    """Return a hook that looks at what a reader is given; readers that tell nothing are none of the wrong ones."""

    def hook(layer: Any, given: Any, named: Any) -> None:
        value = next(iter((*given, *named.values())), None)
        weight = getattr(layer, "weight", None)
        if not isinstance(value, Tensor) or not isinstance(weight, Tensor) or member.tensor.endswith("bias"):
            return
        axis = value.dim() - weight.dim() + 1  # channels stand before the dimensions that a kernel has, features last
        if axis < 0 or value.shape[axis] != len(member.unit):
            return
        gone, kept = (value.index_select(axis, it.to(value.device)).double() for it in trial.places(member))
        if not float((gone - times * kept).norm()) <= _READ * abs(times) * float(kept.norm()):
            wrong.add(trial.group.name)

    return hook
