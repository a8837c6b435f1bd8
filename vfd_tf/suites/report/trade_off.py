"""How far a model is from the trade-off curve of the method alone.

A curve is the polyline through its points (clean accuracy, robust accuracy), in the order
of their clean accuracies. The distance of a model is vertical: its robust accuracy minus
the curve's highest at the model's clean accuracy. Above zero, the model has robustness that
the method alone doesn't reach at that clean accuracy.
"""

import dataclasses
import functools

import numpy as np

RESAMPLES, SEED = 2000, 0
_ROWS = 200  # resamples at a time
FEWEST = 0.5  # share of resamples in the curve's range, below which there is no interval


@dataclasses.dataclass(frozen=True)
class Distance:
    """Points of robust accuracy above the curve, with its 95 % bootstrap interval.

    Attributes:
        value: None where the clean accuracy of any seed is outside of its curve's range.
        clean: Clean accuracy of the model, in percent, a mean over seeds; without a value
            that of the first seed outside.
        range: Lowest and highest clean accuracy of the curve, of the same seeds.
        inside: Share of the resamples in which it was within that range.
        points: How many points the curves have, the fewest of all seeds.
        seeds: How many seeds were pooled.
    """

    value: float | None
    low: float | None
    high: float | None
    clean: float
    range: tuple[float, float]
    inside: float
    points: int
    seeds: int = 1

    @property
    def sentence(self) -> str:
        """What the number doesn't say."""
        low, high = self.range
        where = f"the curve's {low:.1f} to {high:.1f} % of clean accuracy"
        if self.value is None:
            return f"at {self.clean:.1f} %, outside of {where}"
        if self.low is None:
            return f"too near the end of {where} for an interval"
        if self.inside < 0.95:
            return f"{1 - self.inside:.0%} of the resamples were outside of {where}"
        return ""

    @property
    def remark(self) -> str:
        """The same in a few words."""
        if self.value is None:
            return f"{self.clean:.1f} ∉ {self.range[0]:.1f} – {self.range[1]:.1f}"
        if self.low is None:
            return "at the curve's end"
        return f"{1 - self.inside:.0%} outside" if self.inside < 0.95 else ""


def distance(seeds: list[tuple[np.ndarray, np.ndarray]]) -> Distance | None:
    """The distance of a model to a curve, pooled over seeds.

    Images are resampled jointly: for the model and all points of the curve, and for all
    seeds, which see the same images.

    Args:
        seeds: For each, the model's verdicts bool [2, n], clean and robust, and those of
            the points of its curve [k, 2, n].

    Returns:
        None of no seed, or where a curve has fewer than two points.
    """
    if not seeds or any(len(points) < 2 for _, points in seeds):
        return None
    drawn = [_drawn(model, points) for model, points in seeds]
    found = np.mean([values for values, _, _ in drawn], axis=0)  # NaN where any is outside
    value, resampled = found[0], found[1:]
    resampled = resampled[np.isfinite(resampled)]
    inside = len(resampled) / RESAMPLES
    measured = np.isfinite(value)
    named = [each for each in drawn if np.isnan(each[0][0])][:1] or drawn
    low, high = (
        np.percentile(resampled, [2.5, 97.5])
        if measured and inside >= FEWEST
        else (None, None)
    )
    return Distance(
        value=float(value) if measured else None,
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        clean=float(np.mean([clean for _, clean, _ in named])),
        range=(min(r[0] for *_, r in named), max(r[1] for *_, r in named)),
        inside=inside,
        points=min(len(points) for _, points in seeds),
        seeds=len(seeds),
    )


def height(x: np.ndarray, points_x: np.ndarray, points_y: np.ndarray) -> np.ndarray:
    """The highest y at x [...] of the polyline through points [k, ...]; NaN outside."""
    highest = np.full(np.shape(x), -np.inf)
    for x0, x1, y0, y1 in zip(
        points_x[:-1], points_x[1:], points_y[:-1], points_y[1:], strict=True
    ):
        within = (np.minimum(x0, x1) <= x) & (x <= np.maximum(x0, x1))
        share = np.divide(x - x0, x1 - x0, out=np.zeros_like(highest), where=x1 != x0)
        y = np.where(x1 == x0, np.maximum(y0, y1), y0 + share * (y1 - y0))
        highest = np.where(within, np.maximum(highest, y), highest)
    return np.where(np.isfinite(highest), highest, np.nan)


def _drawn(model, points):
    """Distances [1 + resamples], the first of the images as they are; x; its range."""
    points = points[np.argsort(points[:, 0].mean(-1), kind="stable")]
    everything = [_resampled(both.tobytes(), both.shape[-1]) for both in (model, *points)]
    x, y = np.stack(everything, 1)
    distances = y[0] - height(x[0], x[1:], y[1:])
    return distances, float(x[0, 0]), (float(x[1:, 0].min()), float(x[1:, 0].max()))


@functools.lru_cache(maxsize=512)  # a point is compared with every row of its method
def _resampled(verdicts, images):
    """Percent right [2, 1 + resamples] of the bytes of bool [2, n]; first of all images."""
    rights = np.frombuffer(verdicts, bool).reshape(2, images).astype("float32")
    totals = [rights.sum(1, dtype="float64")[:, None]]
    # No BLAS: its threads wait for each other where trainings have the cores.
    totals += [np.einsum("vi,ri->vr", rights, weights) for weights in _weights(images)]
    return 100 * np.concatenate(totals, axis=1).astype("float64") / images


@functools.lru_cache(maxsize=2)
def _weights(images):
    """How often each image is drawn: [rows, images] for some resamples at a time."""
    random, found = np.random.default_rng(SEED), []
    for _ in range(RESAMPLES // _ROWS):
        drawn = random.integers(0, images, (_ROWS, images))
        drawn += images * np.arange(_ROWS)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=_ROWS * images)
        found.append(counts.reshape(_ROWS, images).astype("float32"))
    return found
