"""What a network may cost, in the words of those who ship it: several limits, all to be met at once."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from secateur import rules
from secateur.arguments import checked
from secateur.errors import SettingError, nearest
from secateur.measure.runtimes import Runtime, known
from secateur.rules import Rule

_After = Literal["cut", "training"]
_LATENCY = re.compile(r"([0-9.]+(?:e[+-]?\d+)?) ?(ms)?", re.IGNORECASE)


@checked
@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits that the pruned network meets, all of them; the largest network that does is taken.

    Attributes:
        max_macs: most MACs: a fraction of the dense network's up to 1, or a number above 1.
        max_params: most parameters: a fraction of the dense network's up to 1, or a number above 1.
        max_latency: longest forward pass of the example's batch: a fraction of the dense network's up to 1, or a time
            such as 12ms.
        max_drop: largest loss of the metric on the validation examples, in its own unit: of accuracy and other shares
            a fraction such as 0.01, of PSNR decibels; alone it asks for the smallest network that loses no more.
        drop_after: when that loss counts: cut (with the repair of the run), or training (every candidate is fine-tuned
            then).
        runtime: in what the latency is measured; None for that of the run.
        threads: of the CPU for it; None for those of the run.

    Raises:
        SettingError: if a limit is out of range, or there is none.
    """

    max_macs: float | None = None
    max_params: float | None = None
    max_latency: float | str | None = None
    max_drop: float | None = None
    drop_after: _After = "cut"
    runtime: Runtime | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, refusal in rules.broken(self, _RULES):
            raise SettingError(f"'{name}' {refusal}")
        if self.runtime is not None:
            known(self.runtime)
        self.latency()
        if all(getattr(self, name) is None for name in ("max_macs", "max_params", "max_latency", "max_drop")):
            raise SettingError("a budget needs a limit: 'max_macs', 'max_params', 'max_latency' or 'max_drop'")

    def latency(self) -> tuple[float, str] | None:
        """Return the limit of the latency with its unit, ``"ms"`` or ``""`` for a fraction; None if there is none."""
        if self.max_latency is None:
            return None
        found = _LATENCY.fullmatch(str(self.max_latency).strip())
        try:
            value, unit = float(found[1]) if found else 0.0, (found[2] or "").lower() if found else ""
        except ValueError:
            value, unit = 0.0, ""
        if isinstance(self.max_latency, bool) or not 0 < value < math.inf or (not unit and value > 1):
            raise SettingError(
                f"'max_latency' must be a fraction up to 1 or a time such as 12ms, not "
                f"{json.dumps(self.max_latency, default=str)}"
            )
        return value, unit

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from its default, as it stands in ``[budget]`` of a recipe."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    @staticmethod
    def from_dict(table: object) -> Budget:
        """Read what ``to_dict`` returns, or what a person has written.

        Raises:
            SettingError: if something is unknown or impossible.
        """
        entries, wrong = rules.judged(table, _TABLE)
        if wrong:
            raise SettingError(f"'budget' in the recipe {wrong}; write a line [budget] with its limits below")
        names = [f.name for f in fields(Budget)]
        for name in entries:
            if name not in names:
                raise SettingError(
                    f"unknown limit '{name}' in [budget] of the recipe{nearest(name, names)}; known are "
                    f"{', '.join(names)}"
                )
        return Budget(**entries)


def agreed(budget: Budget | None, runtime: Runtime | None, threads: int | None) -> tuple[Runtime | None, int | None]:
    """Return the runtime and the threads of a run, which its budget may name as well.

    Raises:
        SettingError: if the two differ.
    """
    if budget is None:
        return runtime, threads
    for name, own, limits in (("runtime", runtime, budget.runtime), ("threads", threads, budget.threads)):
        if own is not None and limits is not None and own != limits:
            raise SettingError(f"'{name}' is {own} for the run, but {limits} for its budget; name it once")
    return runtime or budget.runtime, threads or budget.threads


_TABLE = rules.table("a table")
_SIZE = rules.optional(rules.number(lambda v: v > 0, "a fraction up to 1 or a number above 1"))
_LIMIT = rules.Rule(
    lambda v: rules.text("").accepts(v) or _SIZE.accepts(v),
    "a fraction up to 1 or a time such as 12ms",
    plain=rules.scalar,
)
_RULES: dict[str, Rule] = {
    "max_macs": _SIZE,
    "max_params": _SIZE,
    "max_latency": _LIMIT,
    "max_drop": rules.optional(rules.number(lambda v: v >= 0, "a number of at least 0, of shares such as 0.01")),
    "drop_after": rules.one_of(_After),
    "runtime": rules.optional(rules.text("the name of a runtime")),
    "threads": rules.THREADS,
}
