"""What both networks of a run make of some test examples, for people to look at."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from secateur.errors import first_line
from secateur.events import Event
from secateur.predictions import answers, drawn, painter_of, some_batches
from secateur.run.device_placement import there
from secateur.run.job import Job


def compared(job: Job, model: nn.Module) -> dict[str, Any]:
    """Return the drawn answers of the dense network and of the pruned one, see ``secateur.predictions``.

    Empty without data, and where something goes wrong, which is told: pictures are no reason to lose a run.

    Args:
        job: with the dense network and the data.
        model: the pruned network.
    """
    data = job.data
    painter = None if data is None else painter_of(data.task, data)
    if data is None or painter is None:
        return {}
    try:
        job.tell(Event("measure", "comparing answers"))
        with job.clock("answers"):
            batches = some_batches(data)
            dense, pruned = (
                there(network, job.place, partial(answers, batches=batches, painter=painter), job.tell)
                for network in (job.dense, model)
            )
            return drawn(painter, batches, dense, pruned)
    except Exception as error:  # of the data, of a network or of what draws, all of which anybody may have written
        text = f"the report will not show what the networks make of test {data.task.example}s: {first_line(error)}"
        job.tell(Event("warning", text))
        return {}
