"""``compare``: several methods side by side, with controls, from one recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.ending import going_on
from secateur.cli.output import saved
from secateur.cli.selection import OUTPUT, AsJson, Download, Quiet, Trust
from secateur.cli.tables import say, say_json, table
from secateur.progress import Listener
from secateur.spelling import spelt_for

if TYPE_CHECKING:
    from secateur.compare import Comparison, Findings, Line


def compare(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe that names several methods.", show_default=False, metavar="RECIPE")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Result folder; by default out/ and the name of the recipe file.",
            metavar="DIR",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Carry out nothing; show the runs that are there.", rich_help_panel=OUTPUT)
    ] = False,
    listed: Annotated[
        bool, typer.Option("--list", help="Carry out nothing; list the runs.", rich_help_panel=OUTPUT)
    ] = False,
    trust: Trust = False,
    download: Download = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare several methods at several sizes over several seeds.

    Controls run along: random units, uniform width, the thin network from scratch and the dense network
    trained on. A comparison that was killed goes on when the same command is given again.
    """
    import dataclasses

    from secateur import compare as comparing
    from secateur.artifact import check_name

    comparison = comparing.Comparison.read(recipe)
    if trust:
        comparison = dataclasses.replace(comparison, base=comparison.base.vouched())
    folder = Path("out") / recipe.stem if out is None else out
    check_name(folder)
    from secateur.compare import precisions
    from secateur.report.speed import CORNERS

    if listed:
        _list(comparison, folder, as_json)
        return
    with going_on(folder), spelt_for("recipe"), Listener(quiet or as_json) as tell:
        if show:
            done = comparing.gather(comparison, folder)
        else:
            done = comparing.carry_out(comparison, folder, download=download, tell=tell)
        found, written = comparing.write(comparison, done, folder)
        saved(folder)
    if as_json:
        from secateur.compare.tables import document

        files = {name: str(getattr(written, name)) for name in ("page", "table", "runs", "document")}
        say_json({**document(comparison, found, done), "files": files})
        return
    speak(found)
    if headings := precisions.headings(done):
        say(table(headings, precisions.rows(done), numbers=range(3, len(headings))), "", CORNERS)
        say(*(f"Left out: {reason}." for reason in precisions.left_out(done)), "")
    say(f"Table: {written.table}", f"Runs: {written.runs}", f"Page: {written.page}")


def _list(comparison: Comparison, folder: Path, as_json: bool) -> None:
    from secateur import compare as comparing

    there = {request.name for request, _ in comparing.gather(comparison, folder)}
    asked = comparing.requests(comparison)
    wanted = comparing.distinct(asked)
    also = {r.name: [other.title for other in asked if other.name == r.name and other is not r] for r in wanted}
    epochs = {request.name: _epochs(request.recipe) for request in wanted}
    if as_json:
        rows: list[dict[str, Any]] = [
            {"name": r.name, "title": r.title, "also": also[r.name], "epochs": epochs[r.name], "done": r.name in there}
            for r in wanted
        ]
        say_json({"runs": rows})
        return
    rows_ = [
        ("; the same as ".join((r.title, *also[r.name])), str(epochs[r.name]), "yes" if r.name in there else "no")
        for r in wanted
    ]
    say(table(("Run", "Epochs", "Done"), rows_, numbers=(1,)), "")
    left = {name: count for name, count in epochs.items() if name not in there}
    say(f"{len(left)} run{' is' if len(left) == 1 else 's are'} left, {sum(left.values())} epochs in all.")


def _epochs(recipe: Any) -> int:
    """Return for how many epochs a run trains, its method's own training included."""
    per_round = sum(settings.epochs for settings in (recipe.train, recipe.shape) if settings is not None)
    return recipe.rounds * per_round if recipe.method != "none" else recipe.train.epochs


def speak(found: Findings) -> None:
    """Print the table of a comparison, in 80 columns, and what to keep in mind when reading it."""
    from secateur.compare.notes import notes
    from secateur.compare.tables import change, spread
    from secateur.tasks import ACCURACY

    repairs = dict.fromkeys(line.repair for line in found.lines if line.repair)
    one = next(iter(repairs)) if len(repairs) == 1 else ""

    def cells(line: Line) -> tuple[str, ...]:
        keep = "" if line.keep is None else f"{line.keep:g}"
        random = "" if line.against_random is None else line.against_random.short
        name = f"{line.label if one else line.name}{' *' if line.same_as else ''}"
        return (
            name,
            keep,
            f"{100 * line.macs:.1f}",
            spread(line.test, line.metric.scale, line.metric.digits),
            change(line),
            random,
        )

    dense = ("dense network", "", "100.0", spread(found.dense, found.metric.scale, found.metric.digits), "", "")
    unit = found.metric.unit if found.metric == ACCURACY else found.metric.title.replace(" in ", " ")
    headings = ("Method", "Keep", "MACs %", f"Test {unit}", "Change", "Against random")
    say(table(headings, [dense, *map(cells, found.lines)], numbers=range(1, 5), whole=(5,)), "")
    same = "* The same networks as another line, see below." if any(line.same_as for line in found.lines) else ""
    say(*filter(None, (same, f"Repaired after the cut by: {one}." if one else "")), *notes(found), "")
