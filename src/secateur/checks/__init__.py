"""Does a method keep the promises that every method makes? For the tests of one's own methods."""

from secateur.checks.contract import check_method

__all__ = ["check_method"]
