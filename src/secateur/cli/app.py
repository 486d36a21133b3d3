"""The program: its commands, and what becomes of errors."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from typing import Annotated, Any

import typer
import typer.core

import secateur as package
from secateur import reading
from secateur.cli import bench, command, compare, encode, network, plan, prune, sensitivity, show
from secateur.cli.ending import Terminated, ending_well
from secateur.errors import SecateurError, nearest
from secateur.spelling import spelt_for

DEBUG = "SECATEUR_DEBUG"


class Program(typer.core.TyperGroup):
    """A group of commands that turns errors into one sentence and an exit status."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept ``--debug`` after the command's name as well."""
        rest = [word for word in args if word != "--debug"]
        return super().parse_args(ctx, ["--debug", *rest] if len(rest) < len(args) else rest)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; name the nearest where there is none."""
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            ctx.fail(f"There is no command '{args[0]}'{nearest(args[0], known)}.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with the whole first sentence of each."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        records = [(name, (it.help or "").partition("\n")[0]) for name, it in found if it is not None]
        command.write_section(formatter, "Commands", records)

    def invoke(self, ctx: Any) -> Any:
        """Run the command: status 1 for an error, 2 for wrong usage, 130 for an interruption, 143 for SIGTERM."""
        debug = bool(ctx.params.get("debug"))
        try:
            with ending_well(), spelt_for("flags"), warnings.catch_warnings():
                if not debug:
                    warnings.simplefilter("ignore")
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            _end(str(error) or "interrupted", 143 if isinstance(error, Terminated) else 130, debug)
        except SecateurError as error:
            _end(f"error: {error}", 1, debug)
        except Exception as error:
            if hasattr(error, "exit_code"):  # typer's own
                raise
            what = f"{type(error).__name__}: {error}".removesuffix(": ")
            if isinstance(error, OSError) and error.strerror:
                what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
            _end(f"error: {what} (--debug shows where)", 1, debug)


app = typer.Typer(
    cls=Program,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secateur {getattr(package, '__version__', '(not installed)')}")
        raise typer.Exit


@app.callback()
def secateur(
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", envvar=DEBUG, show_envvar=False, help=f"Show where an error comes from, as with {DEBUG}=1."
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Make convolutional networks smaller and faster by pruning them, and prove it."""


command.add(
    app,
    "prune",
    prune.prune,
    prune.flags,
    example="secateur prune --model resnet20 \\\n"
    "    --data mnist5k --weights dense.safetensors \\\n"
    "    --method magnitude --keep 0.5 --epochs 3 \\\n"
    "    --out out/small",
)
command.add(app, "run", prune.run, example="secateur run out/small/recipe.toml \\\n    --out out/again")
command.add(app, "demo", prune.demo)
command.add(app, "compare", compare.compare, example="secateur compare recipes/compare-digits.toml")
command.add(
    app, "plan", plan.plan, plan.flags, example="secateur plan --model resnet20 \\\n    --data mnist5k --keep 0.5"
)
command.add(
    app,
    "sensitivity",
    sensitivity.sensitivity,
    sensitivity.flags,
    example="secateur sensitivity --model lenet5 \\\n    --data mnist5k --weights dense.safetensors",
)
command.add(app, "explain", network.explain, network.flags_of_explain, example="secateur explain --model resnet20")
command.add(app, "evaluate", network.evaluate, network.flags_of_evaluate, example="secateur evaluate out/demo")
command.add(app, "measure", network.measure, network.flags_of_measure, example="secateur measure out/demo --threads 1")
command.add(app, "bench", bench.bench, bench.flags, example="secateur bench out/demo --threads 1")
command.add(app, "export", network.export, network.flags_of_export, example="secateur export out/demo --format onnx")
command.add(app, "encode", encode.encode, encode.flags, example="secateur encode out/demo --linear-bits 5")
command.add(
    app,
    "decode",
    encode.decode,
    example="secateur decode out/demo/weights.encoded \\\n    --out decoded.safetensors",
)
command.add(app, "methods", show.methods)
command.add(app, "show", show.show)


def _end(line: str, status: int, debug: bool) -> None:
    """Say how it ended; called while the error is being handled."""
    if debug or os.environ.get(DEBUG):
        raise
    with contextlib.suppress(OSError, ValueError):  # of a stream that cannot be written; the status says it, too
        print(reading.line(line, 4000), file=sys.stderr)
    raise typer.Exit(status)
