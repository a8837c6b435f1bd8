"""How far a model is from the trade-off curve of the method alone.

A curve is the polyline through its points (clean accuracy, robust accuracy), in the order
of their clean accuracies. Its height at a clean accuracy is the highest robust accuracy
that it has there or further right. The distance of a model is its robust accuracy minus
the height of the curve, or of the highest of several. Above zero, the model has robustness
that the method alone doesn't reach without losing clean accuracy. Below, the method alone
is more robust and no less accurate.

A model left of the curve and above it is elsewhere on the trade-off, and has no distance;
nor has one right of all points. In resamples the first counts as zero, as it is not known
to be above, and the second is left out.
"""

import dataclasses
import functools

import numpy as np

RESAMPLES, SEED = 2000, 0
_ROWS = 200  # resamples at a time
_NEARLY = 0.99  # share of them, from which the rest is not worth a word
FEWEST = 0.5  # share of resamples in the curve's range, below which there is no interval


@dataclasses.dataclass(frozen=True)
class Distance:
    """Points of robust accuracy above the curve, with its 95 % bootstrap interval.

    Attributes:
        value: None where any seed is right of its curve, or left of it and above.
        clean: Clean accuracy of the model, in percent, a mean over seeds; without a value
            that of the first seed outside.
        range: Lowest and highest clean accuracy of the curve, of the same seeds.
        inside: Share of the resamples in which it was not right of the curve.
        points: How many points the curves have, the fewest of all seeds.
        seeds: How many seeds were pooled.
        missing: What of them was asked for and is not there, in a few words.
    """

    value: float | None
    low: float | None
    high: float | None
    clean: float
    range: tuple[float, float]
    inside: float
    points: int
    seeds: int = 1
    missing: str = ""

    @property
    def sentence(self) -> str:
        """What the number doesn't say."""
        low, high = self.range
        where = f"the curve's {low:.1f} to {high:.1f} % of clean accuracy"
        said = [self.missing] if self.missing else []
        if self.value is None:
            said.insert(0, f"at {self.clean:.1f} %, outside of {where}")
        elif self.low is None:
            said.insert(0, f"too near the end of {where} for an interval")
        elif self.inside < _NEARLY:
            said.insert(0, f"{1 - self.inside:.0%} of the resamples were right of {where}")
        return "; ".join(said)

    @property
    def remark(self) -> str:
        """The same in a few words."""
        said = [self.missing] if self.missing else []
        if self.value is None:
            low, high = self.range
            said.insert(0, f"{self.clean:.1f} ∉ {low:.1f} – {high:.1f}")
        elif self.low is None:
            said.insert(0, "at the curve's end")
        elif self.inside < _NEARLY:
            said.insert(0, f"{1 - self.inside:.0%} outside")
        return ", ".join(said)


def distance(seeds: list[tuple[np.ndarray, list[np.ndarray]]]) -> Distance | None:
    """The distance of a model to a curve, pooled over seeds.

    Images are resampled jointly: for the model and all points of the curve, and for all
    seeds, which see the same images.

    Args:
        seeds: For each, the model's verdicts bool [2, n], clean and robust, and those of
            the points of its curve [k, 2, n], or of several curves, of which the highest
            counts.

    Returns:
        None of no seed, or of one without a curve of two points.
    """
    known = [[c for c in curves if len(c) > 1] for _, curves in seeds]
    if not seeds or not all(known):
        return None
    drawn = [_drawn(seed[0], curves) for seed, curves in zip(seeds, known, strict=True)]
    found = np.mean([each.distances for each in drawn], axis=0)  # NaN where any is outside
    outside = [each for each in drawn if each.outside]
    named, value = outside[:1] or drawn, None if outside else float(found[0])
    resampled = found[1:][np.isfinite(found[1:])]
    inside, (low, high) = len(resampled) / RESAMPLES, (None, None)
    if value is not None and inside >= FEWEST:
        low, high = map(float, np.percentile(resampled, [2.5, 97.5]))
    return Distance(
        **{"value": value, "low": low, "high": high},
        clean=float(np.mean([each.clean for each in named])),
        range=(min(each.range[0] for each in named), max(each.range[1] for each in named)),
        inside=inside,
        points=min(sum(map(len, curves)) for curves in known),
        seeds=len(seeds),
    )


def height(x: np.ndarray, points_x: np.ndarray, points_y: np.ndarray) -> np.ndarray:
    """The highest y of the polyline at x [...] or right of it, of points [k, ...].

    -inf right of all points.
    """
    highest = np.full(np.shape(x), -np.inf)
    for at, y in zip(points_x, points_y, strict=True):
        highest = np.where(at >= x, np.maximum(highest, y), highest)
    for x0, x1, y0, y1 in zip(
        points_x[:-1], points_x[1:], points_y[:-1], points_y[1:], strict=True
    ):
        share = np.divide(x - x0, x1 - x0, out=np.zeros_like(highest), where=x1 != x0)
        within = (share > 0) & (share < 1)
        y = y0 + share * (y1 - y0)
        highest = np.where(within, np.maximum(highest, y), highest)
    return highest


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A seed: distances [1 + resamples], the first of the images as they are."""

    distances: np.ndarray
    clean: float
    range: tuple[float, float]

    @property
    def outside(self):
        """Whether it is right of the curve, or left of it and above."""
        left = self.clean < self.range[0]
        return bool(np.isnan(self.distances[0]) or left and self.distances[0] > 0)


def _drawn(model, curves):
    x, y = _resampled(model.tobytes(), model.shape[-1])
    highest, ends, lefts = np.full(x.shape, -np.inf), [], []
    for points in curves:
        points = points[np.argsort(points[:, 0].mean(-1), kind="stable")]
        both = [_resampled(point.tobytes(), point.shape[-1]) for point in points]
        points_x, points_y = np.stack(both, 1)
        highest = np.maximum(highest, height(x, points_x, points_y))
        lefts.append(points_x.min(0))
        ends += [points_x[:, 0].min(), points_x[:, 0].max()]
    distances = y - np.where(np.isfinite(highest), highest, np.nan)
    left = x < np.min(lefts, axis=0)
    left[0] = False  # what is measured there has no distance
    distances = np.where(left, np.minimum(distances, 0), distances)
    return _Drawn(distances, float(x[0]), (float(min(ends)), float(max(ends))))


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
