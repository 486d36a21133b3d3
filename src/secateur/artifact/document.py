"""One JSON document that says what was done and what came out; the report is made from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor

from secateur import reading
from secateur.core.graph.outputs import is_named, named_tensors
from secateur.core.method import Method, settings_of
from secateur.core.operator_macs import remark
from secateur.core.surgery import TOLERANCE, run
from secateur.core.surgery.private_copies import stand_in
from secateur.core.zeros.block_execution import execution_of
from secateur.errors import ArtifactError, SecateurError
from secateur.measure.bit_operations import bit_operations, grids_of
from secateur.methods import card, name_of
from secateur.outcome import Outcome
from secateur.spelling import said

FORMAT = 1
MOST_SAMPLE = 2**23
"""Numbers in one example input: a colour image of 1,672 by 1,672."""

MOST_INPUT = 2**26
_MOST_DIMS = 16


def document(result: Outcome) -> dict[str, Any]:
    """Return what a run asked for and measured as JSON values; numbers that are not finite become None.

    The keys are ``format``, ``model``, ``data``, ``target``, ``method``, ``then`` (further rounds), ``before``,
    ``cut`` (before its repair, where there was one), ``middle`` (before fine-tuning), ``after``, ``repairs`` (without
    training, on validation images), ``calibration`` (how many unlabelled images were used), ``normalisation``
    (``mean`` and ``std`` of the images), ``classes`` (of the data), ``minutes`` (how they were used), ``uncounted``
    (what is in no count of MACs, and what that means for the target), ``widths``, ``explanation``, ``verification``,
    ``budget`` (what was measured to meet limits), ``speed`` (dense and pruned network timed in turns, with the interval
    of the ratio), ``foretold`` (what was promised of it before the work), ``multiples`` (of the width of each group)
    and ``notes`` (why these, round by round),
    ``searches`` (all candidates that a method has tried), ``sensitivity`` (curves of each group, round by round,
    where they were measured), ``training``, ``sources`` (files that the recipe names, with hashes), ``seconds``,
    ``bits`` (of the weights of each layer, where a method has left them on a grid of few), ``bit_operations`` (of one
    example, of the dense network ``before``, in 32 bits a number, and of the pruned one ``after``, whose layers read
    ``inputs`` bits; None where no weights are on a grid), ``execution`` (how block layers run, which was
    timed on this machine) and ``example``. Accuracies are fractions, times in seconds, latencies in milliseconds.
    """
    recipe, target = result.recipe, result.target
    bits = grids_of(result.model, [bits for method in _methods(result) for bits in method.grids()])
    return _plain(
        {
            "format": FORMAT,
            "model": recipe.model if recipe else type(result.dense).__name__,
            "data": recipe.data if recipe else "",
            "target": {"keep": target.keep if target else None, "of": target.of if target else None},
            "method": _method(result.method),
            "then": [_step(step) for step in result.then],
            "before": result.before,
            "cut": result.cut,
            "middle": result.middle,
            "after": result.after,
            "repairs": list(result.repairs),
            "calibration": result.calibration,
            "normalisation": result.normalisation and dict(zip(("mean", "std"), result.normalisation, strict=True)),
            "classes": result.classes,
            "minutes": result.minutes,
            "uncounted": _uncounted(result),
            "widths": [{"layer": w.layer, "before": w.before, "after": w.after} for w in result.widths],
            "explanation": _explanation(result.explanation),
            "verification": {"difference": result.verification, "exact": result.verification <= TOLERANCE},
            "budget": result.budget,
            "foretold": result.foretold,
            "multiples": result.multiples,
            "notes": [note for plan in result.plans for note in plan.notes],
            "speed": result.speed,
            "searches": list(result.searches),
            "sensitivity": list(result.sensitivity),
            "training": {
                "pretrain": result.pretrain,
                "shaped": list(result.shaped),
                "rounds": list(result.histories),
            },
            "sources": list(result.sources),
            "seconds": result.seconds,
            "bits": bits,
            "bit_operations": _bit_operations(result, bits) if bits else None,
            "execution": execution_of(result.model),
            "example": _example(result),
        }
    )


def inputs_like(example: Mapping[str, Any], device: torch.device) -> Any:
    """Return inputs of the recorded shapes and types: random numbers, zeros where whole ones are wanted.

    Tables beside images hold numbers from 0 to 1: they may be boxes, whose first column says in which image they lie.

    Args:
        example: as it stands in the document.
        device: where they shall be; on ``meta`` they take no memory, however large they are.

    Raises:
        ArtifactError: if the inputs held something that cannot be recorded, or are too large for any network.
    """
    generator = torch.Generator().manual_seed(0)
    left = MOST_INPUT
    images = any(len(shape) > 2 for shape in _shapes(example))

    def make(entry: Mapping[str, Any]) -> Any:
        nonlocal left
        if "items" in entry:
            items = [make(item) for item in entry["items"]]
            return items if entry.get("list") is True else tuple(items)
        if "entries" in entry:
            return {name: make(item) for name, item in entry["entries"].items()}
        if "value" in entry:
            return entry["value"]
        if "shape" not in entry:
            kind = reading.shown(entry.get("type"))
            raise ArtifactError(
                f"the example inputs held a {kind}, which cannot be made again from a file; give {inputs_as_well()}"
            )
        shape, dtype = _shape(entry["shape"]), _dtype(entry.get("dtype", "float32"))
        left -= math.prod(shape)
        if left < 0 or math.prod(shape[1:]) > MOST_SAMPLE:
            raise ArtifactError(
                f"the example inputs of shape {shape} are larger than any that are made from a file: at most "
                f"{MOST_SAMPLE:,} numbers each, {MOST_INPUT:,} in all; pass the network another way than by its file"
            )
        if device.type == "meta":
            return torch.empty(shape, dtype=dtype, device=device)
        if dtype.is_floating_point:
            draw = torch.rand if len(shape) == 2 and images else torch.randn
            return draw(shape, generator=generator).to(device, dtype)
        return torch.zeros(shape, dtype=dtype, device=device)

    return make(example)


def _shapes(example: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield what stands for the shapes of tensors, sound or not."""
    if "items" in example or "entries" in example:
        for entry in example["items"] if "items" in example else example["entries"].values():
            yield from _shapes(entry)
    elif isinstance(example.get("shape"), list):
        yield example["shape"]


def inputs_as_well() -> str:
    """Return how to load a network that does not run on inputs that are made from a file."""
    return said(
        "inputs that it runs on as example_inputs=",
        "inputs that it runs on in Python, with secateur.load(..., example_inputs=...)",
    )


def _shape(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, list) or len(cast("list[Any]", sizes)) > _MOST_DIMS:
        raise ArtifactError(f"the shape of the example inputs is no list of sizes but {reading.written(sizes)}")
    for size in cast("list[Any]", sizes):
        if type(size) is not int or not 0 <= size < 2**31:
            raise ArtifactError(f"the example inputs have a size of {reading.written(size)}, which no tensor has")
    return tuple(cast("list[int]", sizes))


def _dtype(name: Any) -> torch.dtype:
    found = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype):
        raise ArtifactError(f"the example inputs are of the type {reading.written(name)}, which torch does not have")
    return found


def _method(method: Any) -> dict[str, Any]:
    paper = getattr(type(method), "paper", None)
    return {
        "name": name_of(method),
        "settings": settings_of(method),
        "card": card(type(method)),
        "citation": paper.cite() if paper else "",
        "bibtex": paper.bibtex() if paper else "",
    }


def _methods(result: Outcome) -> tuple[Method, ...]:
    return result.method, *(step.method for step in result.then)


def _bit_operations(result: Outcome, bits: Mapping[str, int]) -> dict[str, float]:
    inputs, example = min(method.input_bits() for method in _methods(result)), result.example_inputs
    after = bit_operations(result.model, example, bits, inputs)
    return {"before": bit_operations(result.dense, example), "after": after, "inputs": inputs}


def _uncounted(result: Outcome) -> str:
    """Return what is in no count of MACs, and what that means for the target; empty if everything is counted."""
    target, counts = result.target, result.after.counts
    keep = target.keep if target and target.of == "macs" else None
    return remark(counts.uncounted, counts.uncounted_macs, result.before.counts.macs, counts.macs, keep)


def _step(step: Any) -> dict[str, Any]:
    target = {"keep": step.target.keep, "of": step.target.of} if step.target else None
    return {"name": name_of(step.method), "settings": settings_of(step.method), "target": target}


def _explanation(explanation: Any) -> dict[str, Any]:
    rows = [{name.rstrip("_"): value for name, value in asdict(row).items()} for row in explanation.rows]
    return {"rows": rows, "reachable": explanation.reachable, "uncounted": explanation.uncounted}


def _example(result: Outcome) -> dict[str, Any]:
    """Return the shapes that went in, and that which came out first with its width: it tells the number of classes."""
    free = result.plans[0].free_outputs if result.plans else ()
    try:
        returned = run(stand_in(result.model), result.example_inputs)
        outputs = [] if _are_findings(returned) else named_tensors(returned)
    except SecateurError:
        outputs = []
    shapes = [list(tensor.shape) for path, tensor in outputs if not is_named(path, free)]
    return {"shape": None, **_describe(result.example_inputs), "output": shapes[0] if shapes else None}


def _are_findings(returned: Any) -> bool:
    """Tell whether a network returns a table for each image, whose widths say nothing of classes."""
    return isinstance(returned, list) and all(isinstance(each, Mapping) for each in cast("list[Any]", returned))


def _describe(value: Any) -> dict[str, Any]:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return {"entries": {str(name): _describe(entry) for name, entry in entries.items()}}
    if isinstance(value, list | tuple):
        items = {"items": [_describe(entry) for entry in cast("list[Any]", value)]}
        return items if isinstance(value, tuple) else {**items, "list": True}  # which detectors tell from a tuple
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    return {"type": type(value).__name__}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in cast("list[Any]", value)]
    return str(value)
