"""``encode`` and ``decode``: the weights of a result as one small file, and as ordinary weights again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.command import Given
from secateur.cli.flags import Flag, flags_of
from secateur.cli.output import saved
from secateur.cli.selection import OUTPUT, AsJson, Force, Quiet, Trust
from secateur.cli.subject import load
from secateur.cli.tables import say, say_json, table
from secateur.errors import ArtifactError, DataError, SettingError
from secateur.events import Event
from secateur.progress import Listener

if TYPE_CHECKING:
    from secateur.data import Data
    from secateur.encoding import Encoded
    from secateur.measure import Quality
    from secateur.recipe import Recipe
    from secateur.training import Settings

NAME = "weights.encoded"
_SLOWER = 10.0  # than the training of the recipe


@dataclass(frozen=True)
class Fitting:
    """How shared values train.

    Attributes:
        epochs: passes over the training images of the recipe; 0 for none. By default 1 where the recipe trains. Weights
            on grids are not trained.
        lr: learning rate; a tenth of the recipe's if not given.
    """

    epochs: int | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 0:
            raise SettingError(f"epochs must be at least 0, not {self.epochs}")

    def settings(self, recipe: Recipe | None) -> Settings | None:
        """Return the settings of a training like those of a recipe, or None where there is to be none."""
        usual = None if recipe is None else recipe.train or recipe.shape or recipe.pretrain
        epochs = self.epochs if self.epochs is not None else int(usual is not None)
        if not epochs:
            return None
        if usual is None:
            raise SettingError("this result was not trained, so nothing says how to train its values; take epochs 0")
        plain: dict[str, Any] = {"schedule": "constant", "milestones": (), "warmup_epochs": 0, "recalibrate": False}
        plain |= {"distill": 0.0, "select": "last", "epochs": epochs}
        return replace(usual, lr=usual.lr / _SLOWER if self.lr is None else self.lr, **plain)


def flags(args: Sequence[str]) -> list[Flag]:
    """Return the flags of ``encode``."""
    from secateur.encoding import Encoding

    bits = flags_of(Encoding, "own", "Encoding", names=("conv_bits", "linear_bits", "gap_bits"))
    return [*bits, *flags_of(Fitting, "fitting", "Training of shared values")]


def encode(
    given: Given,
    folder: Annotated[Path, typer.Argument(help="A result folder.", show_default=False, metavar="DIR")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help=f"The file; {NAME} in the folder by default.", metavar="FILE", rich_help_panel=OUTPUT
        ),
    ] = None,
    force: Force = False,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the weights of a result as one file, with few values, gaps between them and Huffman codes.

    It is Deep Compression (Han, Mao, Dally, 2016), and pays after a method that leaves zeros, such as weight_magnitude.
    """
    from secateur import artifact
    from secateur.encoding import Encoding
    from secateur.encoding import encode as encoded

    fitting, settings = Fitting(**given.of("fitting")), Encoding(**given.of("own"))
    path = folder / NAME if out is None else out
    if path.exists() and not force:
        raise ArtifactError(f"{path} exists already; name another with --out, or replace it with --force")
    with Listener(quiet or as_json) as tell:
        tell(Event("load", "loading the network"))
        loaded = load(folder, trust)
        train = fitting.settings(loaded.recipe)
        data = _data(loaded.recipe, needed=train is not None)
        seed = 0 if loaded.recipe is None else loaded.recipe.seed
        made = encoded(loaded.model, path, settings, data=data, train=train, seed=seed, force=force, tell=tell)
        if out is None:
            artifact.record(folder, NAME)
        saved(path)
        qualities = {} if data is None else {"before": loaded.model, "encoded": made.model}
        if qualities:
            tell(Event("measure", "measuring on test images"))
        found = {name: _quality(model, data) for name, model in qualities.items()}
    if as_json:
        say_json({**_document(made), "test": {name: value.to_dict() for name, value in found.items()}})
        return
    rows = [
        (it.name, f"{it.weights:,}", f"{100 * it.left / max(it.weights, 1):.3g} %", str(it.bits), f"{it.written:,}")
        for it in made.layers
    ]
    say(table(("Weight", "Numbers", "Left", "Bits", "Bytes"), rows, numbers=(1, 2, 3, 4)), "")
    say(
        f"Encoded: {path} has {made.size:,} bytes, {_against(made)} the {made.dense_size:,} of all numbers in "
        "float32; read again, it is the same in every bit."
    )
    if exact := sum(layer.steps > 0 for layer in made.layers):
        say(f"On the grids that they were trained on, and not trained here: {exact} of {len(made.layers)} weights.")
    for name, value in found.items():
        say(f"On test images, {name}: {value.metric.name} {value.metric.text(value.value)}.")


def decode(
    file: Annotated[Path, typer.Argument(help="What encode has written.", show_default=False, metavar="FILE")],
    out: Annotated[
        Path,
        typer.Option("--out", help="The safetensors file.", show_default=False, metavar="FILE", rich_help_panel=OUTPUT),
    ],
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write the weights of an encoded file as an ordinary safetensors file, for --weights or any other program."""
    from secateur import artifact
    from secateur.atomic import refuse_special
    from secateur.encoding.encoded import to_safetensors

    if out.exists() and not force:
        raise ArtifactError(f"{out} exists already; name another with --out, or replace it with --force")
    try:
        refuse_special(out)
        with Listener(quiet) as tell:
            tell(Event("decode", "reading codes"))
            content = to_safetensors(file)
        artifact.write_file(out, content)
    except OSError as error:
        raise ArtifactError(f"cannot write {out}: {error.strerror or error}; name another with --out") from None
    saved(out)
    say(f"Decoded: {out} has {len(content):,} bytes.")


def _against(made: Encoded) -> str:
    if made.rate >= 1:
        return f"{made.rate:.3g} times fewer than"
    return f"{made.size - made.dense_size:,} more than"


def _data(recipe: Recipe | None, *, needed: bool) -> Data | None:
    """Return the data of a result; where it is only to be tested on, none if it is gone."""
    from secateur import run

    try:
        return None if recipe is None else run.data_of(recipe)
    except DataError:
        if needed:
            raise
        return None


def _quality(model: Any, data: Data | None) -> Quality:
    from secateur.measure import quality

    assert data is not None
    return quality(model, data.batches("test"), data.task)


def _document(made: Encoded) -> dict[str, Any]:
    from dataclasses import asdict

    layers = [{**asdict(layer), "bits": layer.bits} for layer in made.layers]
    sizes = {"bytes": made.size, "float32_bytes": made.dense_size, "rate": made.rate}
    return {"path": str(made.path), **sizes, "rate_before_huffman": made.shared_rate, "layers": layers}
