"""A network that trains, and what follows it through cuts in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.sizes.size import Measure, Size, size
from secateur.core.surgery import Hold, Inputs, apply, become, zeros_left
from secateur.core.surgery.untouched import private
from secateur.errors import ArtifactError, ModelError, PlanError, TargetError, TraceError
from secateur.run.job import Job
from secateur.session.holders import Holders
from secateur.session.wrappers import wrap_again


@dataclass
class InTraining:
    """A network on its way through the cuts of a session.

    Attributes:
        model: the network, which stays the object that it is.
        whole: size of the original.
        left: size of what is left.
        wrappers: around the network, as far as they are known.
        graphs: of the networks that the cuts began with.
        zeros: single weights that a cut has set to zero and that stay so.
    """

    model: nn.Module
    whole: Size
    left: Size
    wrappers: Sequence[DistributedDataParallel] = ()
    graphs: list[Graph] = field(default_factory=list[Graph])
    zeros: Plan = EMPTY
    _held: list[Any] = field(default_factory=list[Any])

    def kept(self, of: Measure) -> float:
        """Return which fraction of the original is left."""
        return self.left.of(of) / max(1, self.whole.of(of))

    def become(self, thin: nn.Module, graph: Graph, plan: Plan, inputs: Inputs, held: Holders) -> None:
        """Make the network the thin one, and let all that was given follow; the first error changes nothing.

        Args:
            thin: used up.
            graph: of the network before the cut.
            plan: what was removed.
            inputs: of the network.
            held: what follows.
        """
        zeros = zeros_left(thin, graph, plan)
        follow = held.prepared(self.model, graph, plan, inputs)
        become(self.model, thin)
        follow()
        for wrapper in held.wrappers:
            wrap_again(wrapper)
        self.wrappers, self.zeros, self.left = held.wrappers, zeros, size(graph, plan)
        self.graphs.append(graph)
        self._hold_zeros(held)

    def _hold_zeros(self, held: Holders) -> None:
        """Let the optimizers set back to zero what is to stay so."""
        for handle in self._held:
            handle.remove()
        masks = {edit.tensor: edit.mask() for edit in self.zeros.edits if isinstance(edit, ZeroWeights)}
        keeper = Hold(self.model, masks)

        def set_back(*_: object) -> None:
            keeper.after_step(0)

        self._held = [each.register_step_post_hook(set_back) for each in held.optimizers] if masks else []

    def replay(self, job: Job, plans: Sequence[Plan], held: Holders) -> None:
        """Cut as another session has done, when the whole of it can be.

        Args:
            job: with the first graph.
            plans: in their order.
            held: what follows.

        Raises:
            ArtifactError: if the network is not the original one of that session.
        """
        for thin, graph, plan in list(_replayed(job, private(self.model), plans)):
            self.become(thin, graph, plan, job.inputs, held)


def _replayed(job: Job, model: nn.Module, plans: Sequence[Plan]) -> Iterator[tuple[nn.Module, Graph, Plan]]:
    for number, plan in enumerate(plans):
        try:
            fresh = number == 0 and job.graph is not None and job.graph.tried == plan.tried
            graph = job.graph if fresh and job.graph is not None else job.read(model, plan.tried)
            thin = apply(model, graph, plan)
        except (PlanError, ModelError, TraceError, TargetError) as error:
            raise ArtifactError(
                f"the network is not the original one of the session that this state is of: {error}"
            ) from error
        model = private(thin)
        yield thin, graph, plan
