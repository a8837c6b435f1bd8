"""Interleaved measurements and the tables they end in."""

import random
import statistics
import time


def timed(function):
    """A function that calls `function` and returns how many seconds that took."""

    def seconds() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return seconds


def interleave(functions: dict, repeats: int, seed: int = 0) -> dict[str, list[float]]:
    """Calls every function once a repeat, in a fresh random order.

    What drifts (clock, temperature, neighbours) then meets all of them alike, and the
    i-th values of two functions are a pair.

    Args:
        functions: Name -> callable that returns the seconds it measured.
        repeats: How often each is called.
        seed: Decides the orders.

    Returns:
        Name -> the seconds of each repeat.
    """
    order, chance = list(functions), random.Random(seed)
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        chance.shuffle(order)
        for name in order:
            seconds[name].append(functions[name]())
    return seconds


def milliseconds(seconds) -> float:
    """The median in milliseconds."""
    return statistics.median(seconds) * 1000


def spread(seconds) -> float:
    """The middle half of the values as a share of their median."""
    if len(seconds) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / middle


def ratio(one, other) -> float:
    """The median of the paired ratios of two series."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def table(header, rows) -> str:
    """A Markdown table; the first column is aligned left, the others right."""
    rows = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], _line(rule, widths), *lines[1:]])


def _line(row, widths):
    first = row[0].ljust(widths[0])
    others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return f"| {' | '.join([first, *others])} |"
