"""The tables of the recipes that follow one paper each: train the dense network once, then prune it in every way.

    python benchmarks/paper_tables.py weak_subnetwork_vgg16 --data cifar10:DIR
    python benchmarks/paper_tables.py self_grouping_resnet56 --data cifar10:DIR --weights DIR/resnet56-4bfd9763.th
    python benchmarks/paper_tables.py random_masks_cifar10_small --data cifar10:DIR
    python benchmarks/paper_tables.py fine_pruning_textures --data imagefolder:DIR
    python benchmarks/paper_tables.py filter_std_vgg16 --data cifar10:DIR
    python benchmarks/paper_tables.py filter_std_resnet110 --data cifar10:DIR

A row is what the recipe of that name in ``recipes`` gives with other settings of its method (``ROWS``), or with only so
many of its steps; ``--epochs`` and ``--train-images`` make everything shorter, to try it. The curve of Batch Bridgeout
is that of ``batch_bridgeout.py``. Every row is one JSON file in ``--out``; those that exist are not repeated, and a
killed run goes on where it was. ``--table`` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from secateur.data import Data
from secateur.events import Event
from secateur.recipe import Recipe
from secateur.run import data_of, model_of, prune_as
from secateur.training import fit

RECIPES = Path(__file__).parents[1] / "recipes"
ROWS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "weak_subnetwork_vgg16": [(f"p = {p}", {"options": {"conv": p, "fc": p, "junction": p}}) for p in (20, 30, 40, 50)],
    "self_grouping_resnet56": [(f"{10 * (1 + steps)} % of the kernels", {"steps": steps}) for steps in range(6)],
    "random_masks_cifar10_small": [
        (f"{share:.0%} of the {what}, {many}", {"options": {"granularity": what, "ratio": share, "candidates": count}})
        for what in ("maps", "kernels")
        for share in (0.2, 0.4, 0.6)
        for many, count in (("best of 50", 50), ("one mask", 1))
    ],
    "fine_pruning_textures": [(f"{keep:.0%} of the weights", {"keep": keep}) for keep in (0.3, 0.2, 0.1)],
    "filter_std_vgg16": [("VGG-16-A", {}), ("VGG-16-A, by magnitude", {"method": "magnitude"})],
    "filter_std_resnet110": [("ResNet-110-B", {}), ("ResNet-110-B, by magnitude", {"method": "magnitude"})],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(ROWS))
    parser.add_argument("--data", default="", help="instead of the recipe's own")
    parser.add_argument("--weights", default="", help="instead of the recipe's own")
    parser.add_argument("--epochs", type=int, help="at most so many in every training")
    parser.add_argument("--train-images", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "papers")
    parser.add_argument("--table", action="store_true", help="print the table of what is there and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = arguments.out / arguments.name
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.table:
        run(recipe_of(arguments), arguments.name, folder)
    print(table(folder))


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    recipe = Recipe.read(RECIPES / f"{arguments.name}.toml")
    given = {name: getattr(arguments, name) for name in ("data", "weights", "train_images")}
    recipe = replace(recipe, **{name: value for name, value in given.items() if value})
    if arguments.epochs is None:
        return recipe
    parts = {name: getattr(recipe, name) for name in ("pretrain", "shape", "train")}
    most = arguments.epochs
    return replace(recipe, **{n: s and replace(s, epochs=min(s.epochs, most)) for n, s in parts.items()})


def changed(recipe: Recipe, change: dict[str, Any]) -> Recipe:
    """Return the recipe of one row."""
    options = {**recipe.options, **change.get("options", {})}
    then = recipe.then[: change["steps"]] if "steps" in change else recipe.then
    more = {name: change[name] for name in ("keep", "method") if name in change}
    return replace(recipe, options=options, then=then, **more)


def run(recipe: Recipe, name: str, folder: Path) -> None:
    """Make the rows that are not there yet."""
    data = data_of(recipe)
    assert data is not None
    dense = dense_network(recipe, data, folder)
    for number, (title, change) in enumerate(ROWS[name]):
        file, work = folder / f"{number}.json", folder / f".{number}"
        if file.exists():
            continue
        asked = changed(recipe, change)
        result = prune_as(asked, dense, data, work=work, tell=tell)
        row = {
            "row": title, "recipe": asked.to_toml(), "verification": result.verification,
            "params": [result.before.counts.params, result.after.counts.params],
            "macs": [result.before.counts.macs, result.after.counts.macs], "nonzero": result.after.counts.nonzero,
            "accuracy": {stage: m.quality.value for stage, m in result.stages.items() if m.quality is not None},
            "searches": [[trial.error for trial in search.trials] for search in result.searches],
            "seconds": dict(result.seconds), "torch": torch.__version__,
        }  # fmt: skip
        file.write_text(json.dumps(row) + "\n")
        shutil.rmtree(work, ignore_errors=True)


def dense_network(recipe: Recipe, data: Data, folder: Path) -> nn.Module:
    """Return the network that all rows begin with, trained once."""
    model, file = model_of(recipe, data), folder / "dense.safetensors"
    if recipe.pretrain is None:
        return model
    if file.exists():
        model.load_state_dict(load_file(file))
        return model
    checkpoint = folder / "dense.ckpt"
    fit(model, data, recipe.pretrain, checkpoint=checkpoint, seed=recipe.seed, tell=tell)
    save_file(model.state_dict(), file)
    checkpoint.unlink(missing_ok=True)
    return model


def tell(event: Event) -> None:
    if event.stage in ("train", "warning") and event.text:
        print(event.text, flush=True)


def table(folder: Path) -> str:
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem))]
    lines = ["| row | parameters kept % | nonzero % | MACs kept % | accuracy % by stage |", "| --- " * 5 + "|"]
    for row in rows:
        before, after = row["params"]
        stages = ", ".join(f"{stage} {100 * top1:.2f}" for stage, top1 in row["accuracy"].items())
        shares = (after / before, row["nonzero"] / before, row["macs"][1] / row["macs"][0])
        lines.append(f"| {row['row']} | {' | '.join(f'{100 * share:.1f}' for share in shares)} | {stages} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
