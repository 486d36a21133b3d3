"""What the settings of a recipe may be."""

from __future__ import annotations

from secateur import rules
from secateur.budget import Budget
from secateur.core.graph import Groups
from secateur.core.sizes.limits import MULTIPLE
from secateur.rules import Rule
from secateur.stages import FRACTION, MEASURE, OPTIONS, Stage
from secateur.training.settings import Settings

EXPORTS = ("pt2", "onnx")
FORMATS = (*EXPORTS, "source", "onnx-int8", "openvino-int8")
REPAIRS = ("reconstruct", "fold", "compensate", "recalibrate")  # in the order in which they are carried out
DATA_FREE = frozenset({"fold"})  # those that look at no image
_TRAINING_RULE = rules.optional(rules.instance(Settings, "training settings"))


def _choice_of(names: tuple[str, ...], what: str) -> Rule:
    known = Rule(lambda value: value in names, "", names)
    return rules.different(rules.each(known, f"a list of different {what} of {', '.join(names)}"))


RULES: dict[str, Rule] = {
    "model": rules.text('the name of a network such as "secateur:resnet20"', least=1),
    "weights": rules.text("the path of a file, or empty"),
    "transfer": rules.FLAG,
    "data": rules.text('the name of a data set such as "mnist5k", or empty'),
    "task": rules.text('the name of a task such as "segmentation?ignore=11", or empty'),
    "calibrate": rules.text("the path of a folder of pictures or of a file of arrays, or empty"),
    "calibrate_images": rules.IMAGES,
    "method": rules.text("the name of a pruning method", least=1),
    "options": OPTIONS,
    "keep": rules.optional(FRACTION),
    "of": MEASURE,
    "budget": rules.optional(rules.instance(Budget, "a table of limits")),
    "rounds": rules.ROUNDS,
    "leave": rules.each(rules.text(""), "a list of layer names"),
    "free_outputs": rules.each(rules.text(""), "a list of paths of outputs"),
    "groups": rules.one_of(Groups, '"'),
    "repair": rules.optional(_choice_of(REPAIRS, "repairs")),
    "patience": rules.optional(rules.number(lambda value: value > 0, "a number of seconds above 0")),
    "min_units": rules.whole(1),
    "multiple": MULTIPLE,
    "seed": rules.SEED,
    "split_seed": rules.optional(rules.SEED),
    "classes": rules.optional(rules.CLASSES),
    "mean": rules.optional(rules.each(rules.number(lambda _: True, ""), "a list of numbers, one per channel")),
    "std": rules.optional(rules.each(rules.number(lambda v: v > 0, ""), "a list of numbers above 0, one per channel")),
    "val_fraction": rules.optional(rules.number(lambda value: 0 < value < 1, "a fraction above 0 and below 1")),
    "train_images": rules.optional(rules.whole(1, "images")),
    "image": rules.IMAGE,
    "image_size": rules.optional(rules.SIDE),
    "workers": rules.WORKERS,
    "minutes": rules.MINUTES,
    "then": rules.each(rules.instance(Stage, ""), "a list of stages"),
    "train": _TRAINING_RULE,
    "pretrain": _TRAINING_RULE,
    "shape": _TRAINING_RULE,
    "export": _choice_of(FORMATS, "formats"),
    "latency": rules.FLAG,
    "runtime": rules.optional(rules.text("the name of a runtime")),
    "threads": rules.THREADS,
    "chosen": rules.table("a table of choices, as a saved recipe has it"),
}
