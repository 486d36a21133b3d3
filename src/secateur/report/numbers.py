"""Numbers as text: shares, counts, times and changes, alike everywhere."""

from __future__ import annotations

NONE = "\N{EM DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
EVEN = "\N{PLUS-MINUS SIGN}"
"""With what a difference begins that rounds to nothing."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def percent(share: float, digits: int = 1) -> str:
    """Return a fraction as percent, such as ``49.8 %``; small shares keep two significant digits."""
    value = 100 * share
    text = f"{value:.2g} %" if 0 < abs(value) < 0.1 else f"{value:.{digits}f} %"
    return text.replace("-", MINUS)


def short(number: float) -> str:
    """Return a count with four significant digits, such as ``40.81 M``; below 1000 as it is."""
    for size, prefix in _PREFIXES:
        if abs(number) >= size * 0.99995:  # what rounds up to 1 belongs here already
            return f"{number / size:.4g} {prefix}"
    return f"{number:g}"


def milliseconds(time: float, digits: int = 3) -> str:
    """Return a time with some significant digits, or whole where these are not enough."""
    return f"{time:.{digits}g} ms" if time < 10**digits - 0.5 else f"{time:,.0f} ms"


def size(count: int) -> str:
    """Return bytes with three significant digits, such as ``1.09 MB``."""
    unit, name = next(((unit, f"{letter}B") for unit, letter in _PREFIXES if count >= unit * 0.9995), (1, "B"))
    return f"{count / unit:.3g} {name}"


def change(before: float, after: float, less: str, more: str) -> str:
    """Return how many times less or more something has become, such as ``2.01 times fewer``."""
    if before == after:
        return "unchanged"
    if not after:
        return "none left"
    factor = before / after
    return f"{factor:.2f}{TIMES} {less}" if factor > 1 else f"{1 / factor:.2f}{TIMES} {more}"


def signed(value: float, digits: int) -> str:
    """Return a difference with its sign; one that rounds to nothing has both."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return f"{EVEN}{text}"
    return f"{MINUS if value < 0 else '+'}{text}"
