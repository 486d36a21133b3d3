"""``python -m secateur``."""

from __future__ import annotations

import contextlib
import io
import sys


def main() -> None:
    """Run the command line."""
    from secateur.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):
                stream.reconfigure(errors="replace")  # a terminal that lacks a sign shall not end the program
    app(prog_name="secateur")


if __name__ == "__main__":
    main()
