"""The same search on a Ray cluster: candidates are dealt out to workers, and their errors are counted as at home.

Counts do not depend on who counts, and ties go to the first candidate, so the winner is the same whatever the number
of workers. Ray starts the work of a lost worker again on another one.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.errors import SecateurError, SettingError, first_line
from secateur.search.racing.error_counts import Engine, Step
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.work_item import Stretch, split

LOCAL = "local"
PIECES = 4  # stretches per worker, so that quick ones find more to do
_engines: dict[str, Engine] = {}  # in a worker: the one for the search it takes part in


class Cluster:
    """Carries out stretches on Ray; the driver keeps the books.

    Args:
        model: the dense network.
        graph: its graph.
        plans: the candidates.
        held: the images; they travel to each machine once.
        address: of a running cluster, or ``local`` for one on this machine.

    Raises:
        SettingError: if Ray is missing or there is no cluster at the address.
    """

    def __init__(self, model: nn.Module, graph: Graph, plans: Sequence[Plan], held: HeldOut, address: str) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError:
            raise SettingError('searching on a cluster needs Ray; run: pip install "secateur[ray]"') from None
        self._started = False
        if not self._ray.is_initialized():
            options: dict[str, Any] = {"address": address}
            if address == LOCAL:
                options |= {"include_dashboard": False}
            try:
                self._ray.init(log_to_driver=False, logging_level="error", **options)
            except Exception as error:  # Ray raises many kinds, none of which says what to do
                raise SettingError(
                    f"no Ray cluster answers at '{address}' ({first_line(error)}); check the address, "
                    "or give local for a cluster on this machine"
                ) from None
            self._started = True
        self.width = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._name = uuid.uuid4().hex
        self._subject = self._ray.put((model, graph, list(plans), held))
        self._task = self._ray.remote(num_cpus=1, max_retries=-1)(_carry_out)

    def run(self, stretches: Sequence[Stretch]) -> Iterator[Step]:
        """Carry them out on all workers; yields the state of each candidate when its stretch is done."""
        pieces = [piece for stretch in stretches for piece in split(stretch, PIECES)]
        waiting = [self._task.remote(self._name, [self._subject], piece) for piece in pieces]
        while waiting:
            done, waiting = self._ray.wait(waiting)
            for reference in done:
                try:
                    yield from self._ray.get(reference)
                except SecateurError:
                    raise
                except self._ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None)
                    raise (
                        cause
                        if isinstance(cause, SecateurError)
                        else SettingError(f"the Ray cluster failed: {first_line(error, last=True)}")
                    ) from None

    def close(self) -> None:
        """Stop the cluster, if it was started here."""
        if self._started:
            self._ray.shutdown()


def _carry_out(name: str, subject: list[Any], stretch: Stretch) -> list[Step]:
    """Do one stretch in a worker; the network and images are fetched and prepared once."""
    ray: Any = importlib.import_module("ray")
    torch.set_num_threads(1)
    if name not in _engines:
        _engines.clear()
        model, graph, plans, held = ray.get(subject[0])
        _engines[name] = Engine(model, graph, plans, held)
    last: dict[int, Step] = {}
    for step in _engines[name].advance([stretch]):
        last[step[0]] = step
    return list(last.values())
