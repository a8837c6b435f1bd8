"""Augmentation: bits that stay, Cutout's squares, CutMix's boxes and labels."""

import collections
import hashlib
import itertools

import numpy as np
import pytest
import scipy.stats

from vfd_tf import InputError, noise
from vfd_tf.data import augmentation
from vfd_tf.data.datasets import Augmentation, Images

# isort: split

import tensorflow as tf

PLAIN = Augmentation()


def _seeds(n, seed=0):
    return noise.example_seeds(seed, 0, tf.range(n))


def _numbered(n, shape=(4, 5, 1)):
    """Image i has the grey level 10 + i everywhere and the label i."""
    levels = np.arange(10, 10 + n).reshape(-1, 1, 1, 1)
    return Images((levels * np.ones(shape)).astype("uint8"), np.arange(n, dtype="int32"))


def _grey(x):
    return np.round(np.asarray(x) * 255).astype(int)


def _batches(images, steps=1, batch_size=None, num_classes=None, **options):
    """(grey levels, labels) of some batches."""
    options = {"batch_size": batch_size or len(images), **options}
    data = images.train_batches(num_classes=num_classes, **options).take(steps)
    return [(_grey(x), y) for x, y in data.as_numpy_iterator()]


GOLDEN = {
    (0, False, 0, 0): "359911d9e43c6b01",
    (2, False, 0, 0): "40a21624d74bc2b8",
    (3, True, 7, 11): "e3fb9c564cdb61b6",
}


@pytest.mark.parametrize("pad, flip, seed, first", GOLDEN)
def test_crops_and_flips_stay_the_same_for_ever(pad, flip, seed, first):
    x = np.random.RandomState(0).randint(0, 256, (50, 9, 7, 3)).astype("uint8")
    images, sha = Images(x, np.arange(50, dtype="int32")), hashlib.sha256()
    options = {"seed": seed, "augmentation": Augmentation(pad, flip), "first_step": first}
    for batch in images.train_batches(16, **options).take(7).as_numpy_iterator():
        for part in batch:
            sha.update(part.tobytes())
    assert sha.hexdigest()[:16] == GOLDEN[pad, flip, seed, first]


def test_without_options_nothing_is_done():
    x, y = tf.ones([3, 2, 2, 1]), tf.range(3)
    same_x, same_y = augmentation.augment(x, y, _seeds(3), PLAIN)
    assert same_x is x
    assert same_y is y


def _squares(height, width, rows, columns):
    """{bytes of the mask: how many of the centres have it}, by the definition."""
    found = collections.Counter()
    for row, column in itertools.product(range(height), range(width)):
        mask = np.zeros((height, width), bool)
        for r, c in itertools.product(range(rows), range(columns)):
            r, c = row - rows // 2 + r, column - columns // 2 + c
            if 0 <= r < height and 0 <= c < width:
                mask[r, c] = True
        found[mask.tobytes()] += 1
    return found


@pytest.mark.parametrize("rows, columns", [(1, 1), (2, 2), (3, 3), (4, 2), (0, 3)])
def test_boxes_are_clipped_squares_around_uniform_centres(rows, columns):
    n, x = 4000, tf.zeros([1, 5, 6, 1])
    masks = augmentation.boxes(_seeds(n), rows, columns, x).numpy()
    assert masks.shape == (n, 5, 6, 1)
    expected = _squares(5, 6, rows, columns)
    got = collections.Counter(mask.tobytes() for mask in masks)
    assert set(got) == set(expected)
    for mask, centres in expected.items():
        mean = n * centres / 30
        assert abs(got[mask] - mean) < 5 * np.sqrt(mean)


def test_cutout_covers_a_square_with_the_mean_of_the_training_images():
    random = np.random.RandomState(1)
    x = random.randint(0, 256, (30, 8, 9, 3)).astype("uint8")
    x[..., 1] //= 2
    images = Images(x, np.arange(30, dtype="int32"))
    mean = np.round(x.mean((0, 1, 2))).astype(int)
    squares = _squares(8, 9, 3, 3)
    counts = collections.Counter()
    for got, labels in _batches(images, 4, augmentation=Augmentation(cutout=3)):
        hidden = (got == mean).all(-1)
        kept = np.where(hidden[..., None], x[labels], got)
        np.testing.assert_array_equal(kept, x[labels])
        for mask in hidden:
            assert mask.tobytes() in squares
            counts[int(mask.sum())] += 1
    assert set(counts) <= {4, 6, 9}
    assert counts[9] == pytest.approx(120 * 42 / 72, abs=5 * np.sqrt(120 / 4))


def test_cutout_of_floats_is_their_mean_to_float_precision():
    x = np.random.RandomState(0).uniform(size=(8, 6, 6, 1)).astype("float32")
    images = Images(x, np.arange(8, dtype="int32"))
    data = images.train_batches(8, augmentation=Augmentation(cutout=2))
    got, labels = next(data.as_numpy_iterator())
    changed = got != x[labels]
    assert changed.any((1, 2, 3)).all()
    np.testing.assert_allclose(got[changed], x.astype("float64").mean(), rtol=1e-6)


def test_cutout_and_cutmix_leave_the_crops_as_they_are():
    x = np.random.RandomState(0).randint(1, 256, (20, 8, 8, 1)).astype("uint8")
    images = Images(x, np.arange(20, dtype="int32"))
    [(plain, order)] = _batches(images, augmentation=Augmentation(2, True))
    [(cut, _)] = _batches(images, augmentation=Augmentation(2, True, cutout=3))
    same = (cut == plain).sum((1, 2, 3))
    assert (same >= 64 - 9).all()
    assert (same < 64).sum() > 15
    [(mixed, y)] = _batches(
        images, num_classes=20, augmentation=Augmentation(2, True, cutmix=1.0)
    )
    for i, row in enumerate(y):
        own = (mixed[i] == plain[i])[..., 0]
        partners = [j for j in range(20) if row[order[j]] > 0 and j != i]
        other = plain[partners[0]] if partners else plain[i]
        assert (own | (mixed[i] == other)[..., 0]).all()


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 2.0])
def test_beta_quantiles_are_the_inverse_of_the_distribution_function(alpha):
    got = augmentation.beta_quantiles(alpha, 100)
    u = (np.arange(100) + 0.5) / 100
    np.testing.assert_allclose(scipy.stats.beta.cdf(got, alpha, alpha), u, atol=1e-9)
    closed = {0.5: np.sin(np.pi * u / 2) ** 2, 1.0: u}
    if alpha in closed:
        np.testing.assert_allclose(got, closed[alpha], atol=1e-12)
    if alpha == 2.0:
        np.testing.assert_allclose(3 * got**2 - 2 * got**3, u, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3)])
def test_cutmix_labels_are_the_shares_of_the_pixels(shape):
    images = _numbered(24, shape)
    area, partners = shape[0] * shape[1], 0
    for x, y in _batches(images, 3, 12, 24, augmentation=Augmentation(cutmix=1.0)):
        assert y.dtype == np.float32
        for image, row in zip(x, y, strict=True):
            assert (image == image[..., :1]).all()
            share = np.bincount(image[..., 0].ravel() - 10, minlength=24) / area
            np.testing.assert_allclose(row, share, atol=1e-6)
            assert (row > 0).sum() <= 2
            partners += (row > 0).sum() == 2
    assert partners > 18


def test_cutmix_pastes_one_rectangle_of_another_image_in_its_place():
    n, height, width = 16, 7, 8
    x = np.arange(n * height * width).reshape(n, height, width, 1)
    x = (x / x.size).astype("float32")  # no two pixels are equal
    images = Images(x, np.arange(n, dtype="int32"))
    data = images.train_batches(n, augmentation=Augmentation(cutmix=1.0), num_classes=n)
    got, labels = next(data.as_numpy_iterator())
    for image, row in zip(got, labels, strict=True):
        source = np.searchsorted(x.ravel(), image.ravel()).reshape(height, width)
        place = np.arange(height * width).reshape(height, width)
        np.testing.assert_array_equal(source % (height * width), place)
        sources = source // (height * width)
        assert set(np.unique(sources)) == set(np.flatnonzero(row > 0))
        one = sources == sources[0, 0]
        inside = one if one.sum() < (~one).sum() else ~one
        # A rectangle, or all but one where the box is the larger part.
        ways = (inside, ~inside)
        assert any((m == m.any(1)[:, None] & m.any(0)[None]).all() for m in ways if m.any())


def test_cutmix_takes_any_other_image_of_the_batch_equally_often():
    images, counts = _numbered(5), np.zeros((5, 5))
    mixing = {"num_classes": 5, "augmentation": Augmentation(cutmix=50.0)}
    plain, mixed = _batches(images, 300), _batches(images, 300, **mixing)
    for (_, own), (_, y) in zip(plain, mixed, strict=True):
        np.add.at(counts, own, (y > 0) & (own[:, None] != range(5)))
    other = counts[~np.eye(5, dtype=bool)]
    assert counts.trace() == 0
    assert counts.sum() > 1450
    assert np.abs(other - 75).max() < 5 * np.sqrt(75)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_cutmix_boxes_have_the_distribution_of_the_paper(alpha):
    """Shares of pixels against a simulation of the algorithm with SciPy's Beta."""
    n, height, width = 4000, 32, 24
    labels = tf.range(n) % 2  # neighbours differ; half of the partners do as well
    x = tf.tile(tf.reshape(labels, [n, 1, 1, 1]), [1, height, width, 1])
    mixed, y = augmentation.augment(
        tf.cast(x, tf.uint8), labels, _seeds(n), Augmentation(cutmix=alpha), None, 2
    )
    foreign = (mixed.numpy()[..., 0] != labels.numpy()[:, None, None]).mean((1, 2))
    np.testing.assert_allclose(foreign, y.numpy()[range(n), 1 - labels.numpy()], atol=1e-6)
    random = np.random.RandomState(0)
    lam = scipy.stats.beta.rvs(alpha, alpha, size=n, random_state=random)

    def clipped(size):
        side = (size * np.sqrt(1 - lam)).astype(int)
        first = random.randint(0, size, n) - side // 2
        return (np.minimum(first + side, size) - np.maximum(first, 0)) / size

    share = clipped(height) * clipped(width) * (random.uniform(size=n) < 0.5)
    assert foreign.mean() == pytest.approx(share.mean(), abs=0.02)
    assert scipy.stats.ks_2samp(foreign, share).pvalue > 1e-4


def test_one_class_stays_one_class():
    images = Images(_numbered(8).x, np.full(8, 3, "int32"))
    [(_, y)] = _batches(images, 1, 8, 5, augmentation=Augmentation(cutmix=1.0))
    np.testing.assert_allclose(y, np.eye(5)[[3] * 8], atol=1e-6)


def test_cutout_and_cutmix_resume_exactly(first=5):
    options = {"augmentation": Augmentation(1, True, 2, 0.7), "seed": 4, "num_classes": 14}
    whole = _batches(_numbered(14), 8, 4, **options)
    rest = _batches(_numbered(14), 8 - first, 4, first_step=first, **options)
    for (x, y), (other_x, other_y) in zip(whole[first:], rest, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)


def test_an_image_is_cut_by_its_own_seed_only():
    """The same square in another batch, eagerly and in a graph."""
    x = tf.cast(_numbered(12, (6, 6, 1)).x, tf.uint8)
    options = {"augmentation": Augmentation(cutout=3), "fill": np.zeros(1, "uint8")}
    whole, _ = augmentation.augment(x, tf.range(12), _seeds(12), **options)
    part, _ = augmentation.augment(x[5:], tf.range(7), _seeds(12)[5:], **options)
    graph, _ = tf.function(augmentation.augment)(x, tf.range(12), _seeds(12), **options)
    np.testing.assert_array_equal(whole[5:], part)
    np.testing.assert_array_equal(whole, graph)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"augmentation": Augmentation(cutout=4)}, "side below 4"),
        ({"augmentation": Augmentation(cutout=3, crop=3)}, "side below 3"),
        ({"augmentation": Augmentation(crop=5)}, "crop of 5 .* into 4x5 images; choose"),
        ({"augmentation": Augmentation(cutmix=1.0)}, "num_classes"),
        (
            {"augmentation": Augmentation(cutmix=1.0), "num_classes": 3, "batch_size": 1},
            "batch_size of 2",
        ),
    ],
)
def test_what_can_not_be_augmented_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        _numbered(3).train_batches(**{"batch_size": 3, **options})


@pytest.mark.parametrize("field", ["pad", "cutout", "cutmix"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(InputError, match=f"Augmentation.{field} must be at least 0"):
        Augmentation(**{field: value})
