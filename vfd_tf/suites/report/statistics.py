"""The numbers behind a table: exact tests, means over seeds, average gains."""

import functools
import math
import statistics

import numpy as np

from vfd_tf.evaluation.result import wilson

LEVEL = 0.05  # below which a difference is marked


def interval(percent: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy of so many images, in percent."""
    low, high = _wilson(round(percent * images / 100), images)
    return 100 * low, 100 * high


_wilson = functools.cache(wilson)  # the same for a table, a figure and a file


def mean(values) -> float | None:
    """The mean of what is there; None of nothing."""
    values = [value for value in values if value is not None]
    return statistics.fmean(values) if values else None


def deviation(values) -> float | None:
    """Standard deviation over seeds, n - 1 in the denominator; None of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else None


def mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    """p of McNemar's exact paired test: do two models err equally often on these images?

    Of the images that only one of them gets right, each should have half: a two-sided
    binomial test.

    Args:
        one, other: Which of the same images each got right, bool [n].
    """
    from scipy.special import bdtr  # for those who need a test

    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    # Both tails are equal at a half; together they are scipy.stats.binomtest's p.
    tail = bdtr(min(only_one, only_other), only_one + only_other, 0.5)
    return min(1.0, 2 * float(tail))


def gain(accuracies: dict, row: str, others: list[str], columns) -> float | None:
    """Mean over columns of a row minus, in each, the best of the others; in points.

    Args:
        accuracies: (row, column) -> percent.

    Returns:
        None unless the row and every one of the others has all of the columns.
    """
    needed = [(name, column) for name in (row, *others) for column in columns]
    if not others or not needed or any(accuracies.get(key) is None for key in needed):
        return None
    return math.fsum(
        accuracies[row, c] - max(accuracies[other, c] for other in others) for c in columns
    ) / len(columns)
