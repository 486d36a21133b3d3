"""The one pipeline: read, decide, act, verify, recover, measure, in as many rounds as asked."""

from secateur.outcome import Step, Width
from secateur.run.calibration_images import images_of
from secateur.run.pruning import prune
from secateur.run.recipes import method_of, prune_as, run_recipe, steps_of
from secateur.run.result import Result
from secateur.run.subject import Subject, data_of, example_of, graph_of, images_again, model_of, subject_of

__all__ = [
    "Result",
    "Step",
    "Subject",
    "Width",
    "data_of",
    "example_of",
    "graph_of",
    "images_again",
    "images_of",
    "method_of",
    "model_of",
    "prune",
    "prune_as",
    "run_recipe",
    "steps_of",
    "subject_of",
]
