"""One decision for all processes that train a network together: the first one decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.distributed as dist

from secateur.core.method import Method, Paper
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.errors import SecateurError, TargetError


@dataclass(frozen=True)
class Agreed(Method):
    """A method whose plan is that of the first process.

    Attributes:
        inner: decides.
    """

    paper: ClassVar[Paper] = Paper("", "", "", 2000)
    inner: Method

    def plan(self, problem: Problem) -> Plan:
        """Return the plan of the first process, which alone asks the method.

        Raises:
            TargetError: in the others, if the first one found none.
            SecateurError: in the first one, as the method does.
        """
        trouble: SecateurError | None = None
        sent = ["", ""]  # a plan, or what went wrong
        if dist.get_rank() == 0:
            try:
                sent[0] = self.inner.plan(problem).to_json()
            except SecateurError as error:
                trouble, sent[1] = error, str(error)
        dist.broadcast_object_list(sent, 0)
        if trouble is not None:
            raise trouble
        if sent[1]:
            raise TargetError(sent[1])
        return Plan.from_json(sent[0])


def agreed(method: Method) -> Method:
    """Return a method that decides the same in all processes: the method itself where there is only this one."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return Agreed(method) if several else method
