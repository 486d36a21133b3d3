"""The one pipeline: read, decide, act, verify, recover, measure, in as many rounds as asked."""

from secateur.run.pruning import prune
from secateur.run.recipes import data_of, example_of, method_of, model_of, run_recipe
from secateur.run.result import Result, Width

__all__ = ["Result", "Width", "data_of", "example_of", "method_of", "model_of", "prune", "run_recipe"]
