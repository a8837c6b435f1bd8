"""Points of many dimensions in the plane, and how well their classes are apart."""

import numpy as np

from vfd_tf.hyperparameters import InputError

COMPONENTS = 50  # that t-SNE is given
_BLOCK = 2048  # dimensions at once, in float64


def plane(points: np.ndarray, seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """The t-SNE of points [n, d] in the plane: float32 [n, 2]; same seed, same result.

    Of more than 50 dimensions the first 50 principal components are taken. It begins with
    the first two, so that the picture as a whole has an order. Of few points, the
    perplexity is a third of their number at most. It runs in one thread, so that it is the
    same on any number of cores; on busy ones that is also faster.

    van der Maaten and Hinton 2008, https://jmlr.org/papers/v9/vandermaaten08a.html

    Raises:
        InputError: Points that are not finite, or are all the same.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # scikit-learn's own

    points = np.asarray(points, "float32")
    if not np.isfinite(points).all():
        raise InputError("Some features are NaN or infinite: train the student anew.")
    if not np.ptp(points, 0).any():
        raise InputError(
            "The features of all images are the same, so that there is nothing to draw: "
            "choose another layer, or another student."
        )
    perplexity = min(perplexity, (len(points) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    with threadpool_limits(1):
        if min(points.shape) > COMPONENTS:
            points = PCA(COMPONENTS, random_state=seed).fit_transform(points)
        return tsne.fit_transform(points).astype("float32")


def silhouettes(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean silhouettes by class of clean points, of adversarial ones, of both: float64 [3].

    1: classes are far apart and narrow; 0: they touch; below: points lie in other classes.
    NaN where there are no two classes, or none of two points.

    Rousseeuw 1987, https://doi.org/10.1016/0377-0427(87)90125-7

    Args:
        points: [2n, d]; the clean ones first.
        labels: [n].
    """
    from threadpoolctl import threadpool_limits

    count = len(labels)
    with threadpool_limits(1):
        apart = _distances(np.asarray(points))
        clean, moved = apart[:count, :count], apart[count:, count:]
        twice = np.tile(labels, 2)
        parts = (clean, labels), (moved, labels), (apart, twice)
        return np.array([_silhouette(*part) for part in parts])


def _distances(points):
    """Euclidean distances [n, n], float64; a block of dimensions at a time."""
    products = np.zeros((len(points), len(points)))
    for first in range(0, points.shape[1], _BLOCK):
        part = points[:, first : first + _BLOCK].astype("float64")
        part -= part.mean(0)  # less is lost of what is far from the origin
        products += part @ part.T
    squares = np.diag(products)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0))
    np.fill_diagonal(apart, 0)
    return apart


def _silhouette(distances, labels):
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(labels)) < len(labels):
        return np.nan
    return float(silhouette_score(distances, labels, metric="precomputed"))
