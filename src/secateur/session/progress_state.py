"""What a session has done, as plain values that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from secateur import reading
from secateur.core.plan import Plan
from secateur.errors import ArtifactError, SecateurError
from secateur.measure import Measurement

FORMAT = 1
_LONGEST = 10_000  # cuts


@dataclass
class Done:
    """What was done so far.

    Attributes:
        calls: of ``step`` that named no size of their own.
        cuts: of the schedule that are behind.
        plans: what was removed, cut by cut.
        differences: between the silenced and the cut network, cut by cut.
        before: measurement of the original network; None where nobody has asked for it.
        shapes: of the original network's parameters, by their names; empty where an older version wrote the state.
    """

    calls: int = 0
    cuts: int = 0
    plans: list[Plan] = field(default_factory=list[Plan])
    differences: list[float] = field(default_factory=list[float])
    before: Measurement | None = None
    shapes: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    def to_dict(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return numbers, texts and lists of them.

        Args:
            asked: of the session, to be compared when it is taken up again.
        """
        return {
            "format": FORMAT,
            "asked": dict(asked),
            "calls": self.calls,
            "cuts": self.cuts,
            "plans": [plan.to_json() for plan in self.plans],
            "differences": list(self.differences),
            "before": None if self.before is None else self.before.to_dict(),
            "shapes": dict(self.shapes),
        }

    @staticmethod
    def from_dict(state: Mapping[str, Any]) -> tuple[Done, Mapping[str, Any]]:
        """Return what ``to_dict`` was called on, and what was asked then.

        Raises:
            ArtifactError: if it is not the state of a session.
        """
        try:
            if int(state["format"]) > FORMAT:
                raise ArtifactError("the state of the session is of a newer version; run: pip install -U secateur")
            asked, plans = state["asked"], state["plans"]
            if not isinstance(asked, Mapping) or not isinstance(plans, list) or len(plans) > _LONGEST:
                raise reading.Unfit("its parts are not what they should be")
            before, shapes = state["before"], state.get("shapes", {})
            if not isinstance(shapes, Mapping):
                raise reading.Unfit("its shapes are none")
            done = Done(
                calls=int(state["calls"]),
                cuts=int(state["cuts"]),
                plans=[Plan.from_json(text) for text in plans],
                differences=[float(each) for each in state["differences"]],
                before=None if before is None else Measurement.from_dict(before),
                shapes={
                    str(name): [int(size) for size in shape]
                    for name, shape in cast("Mapping[Any, Any]", shapes).items()
                },
            )
            if not 0 <= done.cuts <= done.calls or len(done.differences) != len(done.plans):
                raise reading.Unfit("its counts of calls and cuts do not fit together")
        except ArtifactError:
            raise
        except (SecateurError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ArtifactError(
                f"this is not the state of a session ({reading.wrong(error)}): give what session.state_dict() returned"
            ) from None
        return done, cast("Mapping[str, Any]", asked)

    def check_same(self, other: Done) -> None:
        """Refuse what another session has done if its original network was not like that of this one.

        Raises:
            ArtifactError: names the first parameter that differs.
        """
        here, there = self.shapes, other.shapes
        for name in (*here, *there) if there else ():
            if here.get(name) != there.get(name):
                said = [str(tuple(shapes[name])) if name in shapes else "not there" for shapes in (here, there)]
                raise other_network(f"its '{name}' is {said[0]}, where that one's is {said[1]}")


def other_network(why: str) -> ArtifactError:
    """Return the error that a network is not the one that a state is of."""
    return ArtifactError(
        f"the network is not the original one of the session that this state is of: {why}; build that one, and give "
        "it to a new session"
    )
