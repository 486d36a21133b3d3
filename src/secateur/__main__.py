"""``python -m secateur``."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from secateur.cli.app import app
    from secateur.cli.output import program

    with program():
        app(prog_name="secateur")


if __name__ == "__main__":
    main()
