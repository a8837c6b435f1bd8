"""Data sets: stable splits, batches as functions of (seed, step), crops and flips."""

import collections
import hashlib
import itertools

import numpy as np
import pytest

from vfd_tf import InputError, datasets
from vfd_tf.data import splits
from vfd_tf.data.datasets import Augmentation, Images

# isort: split

import tensorflow as tf
import tensorflow_datasets as tfds

PLAIN = Augmentation()
CLASSES = ["cat", "dog", "eel"]
SPLITS = {
    "train": "0126d48f5f5b4701",
    "validation": "6b78b8ee6f9fd2c6",
    "test": "f28980d2b0daf9cf",
}


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def _numbered(n, shape=(2, 3, 1)):
    """Images that are all different; the label is the position."""
    x = np.random.RandomState(0).randint(0, 256, (n, *shape)).astype("uint8")
    return Images(x, np.arange(n, dtype="int32"))


def _take(images, steps, batch_size=4, **options):
    data = images.train_batches(batch_size, **options).take(steps)
    return [(x, y) for x, y in data.as_numpy_iterator()]


def test_digits_have_the_promised_shapes_and_types(digits):
    sizes = {"train": 1294, "validation": 143, "test": 360}
    for split, size in sizes.items():
        images = getattr(digits, split)
        assert images.x.shape == (size, 8, 8, 1)
        assert images.x.dtype == np.uint8
        assert images.y.shape == (size,)
        assert images.y.dtype == np.int32
        assert set(images.y) == set(range(10))
        assert images.x.max() == 255
    assert digits.num_classes == 10
    assert digits.input_shape == (8, 8, 1)
    assert digits.class_names == tuple("0123456789")


def test_digits_are_scikit_learn_s_all_of_them_once(digits):
    from sklearn.datasets import load_digits

    def rows(x, y):
        return collections.Counter(
            (*np.ravel(image), label) for image, label in zip(x, y, strict=True)
        )

    source = load_digits()
    splits = digits.train, digits.validation, digits.test
    got = sum((rows(s.x, s.y) for s in splits), collections.Counter())
    levels = np.floor(source.images * 255 / 16 + 0.5).astype("uint8")
    assert got == rows(levels, source.target)


def test_splits_stay_the_same_for_ever(digits):
    assert {
        split: getattr(digits, split).digest[:16]
        for split in ("train", "validation", "test")
    } == SPLITS
    assert digits.digest == SPLITS["train"]


def test_validation_is_the_end_of_the_training_split(digits):
    other = datasets.load("digits", validation=37)
    joined = np.concatenate([other.train.x, other.validation.x])
    np.testing.assert_array_equal(
        joined, np.concatenate([digits.train.x, digits.validation.x])
    )
    assert len(other.validation) == 37
    assert other.test.digest == digits.test.digest


def test_statistics_are_those_of_the_training_images(digits):
    x = digits.train.x / 255.0
    assert digits.mean == pytest.approx((x.mean(),), abs=1e-4)
    assert digits.variance == pytest.approx((x.var(),), abs=1e-4)


def test_digest_is_of_pixels_and_labels():
    images = _numbered(5)
    sha = hashlib.sha256(images.x.tobytes() + images.y.astype("int32").tobytes())
    assert images.digest == sha.hexdigest()
    assert Images(images.x, images.y.astype("int64")).digest == images.digest
    assert Images(images.x[::-1], images.y).digest != images.digest
    assert Images(images.x, images.y[::-1]).digest != images.digest


@pytest.mark.parametrize("n, batch_size", [(12, 4), (14, 4), (5, 5), (97, 10), (3, 1)])
def test_an_epoch_is_a_permutation_without_its_ragged_rest(n, batch_size):
    images, steps = _numbered(n), n // batch_size
    for epoch in range(3):
        first = epoch * steps
        batches = _take(images, steps, batch_size, seed=3, first_step=first)
        x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        assert all(len(labels) == batch_size for _, labels in batches)
        assert len(set(y)) == len(y) == steps * batch_size
        np.testing.assert_allclose(x, images.x[y] / 255, rtol=1e-6)


def test_epochs_and_seeds_have_orders_of_their_own():
    images = _numbered(40)
    orders = []
    for seed in (0, 1, 2):
        labels = [y for _, y in _take(images, 30, seed=seed)]
        orders += np.concatenate(labels).reshape(3, 40).tolist()
    assert len({tuple(order) for order in orders}) == 9
    assert list(range(40)) not in orders


def test_the_images_left_out_change_from_epoch_to_epoch():
    labels = np.concatenate([y for _, y in _take(_numbered(7), 40)])
    assert set(labels) == set(range(7))


@pytest.mark.parametrize("augmentation", [PLAIN, Augmentation(pad=2, flip=True)])
@pytest.mark.parametrize("first", [1, 3, 4, 11])
def test_first_step_resumes_exactly(augmentation, first):
    options = {"seed": 5, "augmentation": augmentation}
    whole = _take(_numbered(14), 14, **options)
    rest = _take(_numbered(14), 14 - first, first_step=first, **options)
    for (x, y), (other_x, other_y) in zip(whole[first:], rest, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)


def test_batches_are_float32_between_zero_and_one():
    data = _numbered(8).train_batches(4, augmentation=Augmentation(1, True))
    assert data.element_spec[0].dtype == tf.float32
    assert data.element_spec[0].shape == (4, 2, 3, 1)
    assert data.element_spec[1].dtype == tf.int32
    (x, _) = next(iter(data))
    assert float(tf.reduce_min(x)) >= 0
    assert float(tf.reduce_max(x)) <= 1
    every_level = Images(np.arange(256, dtype="uint8").reshape(1, 16, 16, 1), np.zeros(1))
    expected = np.arange(256, dtype="float32").reshape(1, 16, 16, 1) / np.float32(255)
    np.testing.assert_allclose(every_level.floats(), expected, rtol=1e-7)
    assert every_level.floats().max() == 1.0


def _candidates(image, pad, flip):
    """{bytes of a crop: (row, column, flipped)} of every crop and mirrored crop."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    found = {}
    for row, column in itertools.product(range(2 * pad + 1), repeat=2):
        crop = padded[row : row + height, column : column + width]
        found[crop.tobytes()] = row, column, False
        if flip:
            found[crop[:, ::-1].tobytes()] = row, column, True
    assert len(found) == (2 * pad + 1) ** 2 * (1 + flip)
    return found


@pytest.mark.parametrize("pad, flip", [(0, True), (1, False), (1, True), (2, True)])
def test_augmentation_is_any_crop_of_the_padded_image_or_its_mirror(pad, flip):
    images = _numbered(6, (4, 5, 2))
    images.x[images.x == 0] = 1  # all crops differ
    candidates = [_candidates(image, pad, flip) for image in images.x]
    kinds = collections.Counter()
    for x, y in _take(images, 200, 6, seed=1, augmentation=Augmentation(pad, flip)):
        for image, label in zip(np.round(x * 255).astype("uint8"), y, strict=True):
            kinds[candidates[label][image.tobytes()]] += 1
    count = (2 * pad + 1) ** 2 * (1 + flip)
    assert len(kinds) == count
    mean = 1200 / count
    deviations = [(n - mean) / np.sqrt(mean) for n in kinds.values()]
    assert np.abs(deviations).max() < 5


def test_images_of_a_batch_are_augmented_each_on_its_own():
    same = Images(np.repeat(_numbered(1, (4, 4, 1)).x, 32, axis=0), np.zeros(32, "int32"))
    [(x, _)] = _take(same, 1, 32, augmentation=Augmentation(2, True))
    assert len({image.tobytes() for image in x}) > 16


@pytest.mark.parametrize("n, batch_size", [(10, 4), (8, 4), (3, 8), (1, 1)])
def test_batches_hold_every_image_once_and_in_order(n, batch_size):
    images = _numbered(n)
    batches = list(images.batches(batch_size).as_numpy_iterator())
    assert all(len(part) == batch_size for batch in batches[:-1] for part in batch)
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_array_equal(y, np.arange(n))
    np.testing.assert_allclose(x, images.x / 255, rtol=1e-6)
    assert x.dtype == np.float32


def test_too_large_a_batch_is_refused():
    with pytest.raises(InputError, match="smaller batch_size"):
        _numbered(5).train_batches(6)


@pytest.mark.parametrize("validation", [0, -1, 1437, 5000])
def test_a_validation_split_that_does_not_fit_is_refused(validation):
    with pytest.raises(InputError, match="between 1 and 1436"):
        datasets.load("digits", validation=validation)


@pytest.mark.parametrize(
    "name, message",
    [
        ("cifar-10", "Did you mean 'cifar10'"),
        ("tdfs:mnist", "Did you mean 'tfds:mnist'"),
        ("npy:x.npz", "Did you mean 'npz:x.npz'"),
        ("dir:", "'dir:' lacks what follows the colon"),
        ("mnist", "digits, svhn_cropped, tfds:..., npz:..., dir:..."),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, message):
    with pytest.raises(InputError, match=message):
        datasets.load(name)


def _npz(path, shape, floats=False):
    """120 + 30 images sorted by class, whose first pixel is their number."""
    x = np.random.RandomState(0).randint(0, 256, (150, *shape)).astype("uint8")
    x[:, 0, 0, 0] = np.arange(150)
    x = (x / 255).astype("float32") if floats else x
    y = np.r_[np.repeat(range(3), 40), np.repeat(range(3), 10)]
    splits = {"x_train": x[:120], "y_train": y[:120], "x_test": x[120:], "y_test": y[120:]}
    np.savez(path, **splits, class_names=CLASSES)
    return x, y


@pytest.mark.parametrize("side, pad", [(31, 0), (32, 4)])
def test_files_are_shuffled_once_so_that_every_split_has_all_classes(tmp_path, side, pad):
    x, y = _npz(tmp_path / "a.npz", (side, 33, 1))
    data = datasets.load(f"npz:{tmp_path}/a.npz", validation=20)
    number = [s.x[:, 0, 0, 0] for s in (data.train, data.validation, data.test)]
    assert sorted(np.concatenate(number[:2])) == list(range(120))
    assert sorted(number[2]) == list(range(120, 150))
    splits = data.train, data.validation, data.test[:15]
    for images in splits:
        np.testing.assert_array_equal(images.x, x[images.x[:, 0, 0, 0]])
        np.testing.assert_array_equal(images.y, y[images.x[:, 0, 0, 0]])
        assert set(images.y) == {0, 1, 2}
    again = datasets.load(f"npz:{tmp_path}/a.npz", validation=20)
    assert again.digest == data.digest
    assert again.test.digest == data.test.digest
    assert data.class_names == tuple(CLASSES)
    assert data.input_shape == (side, 33, 1)
    assert data.augmentation == Augmentation(pad=pad)


@pytest.mark.parametrize("floats", [False, True])
def test_statistics_are_of_levels_between_zero_and_one(tmp_path, floats, monkeypatch):
    monkeypatch.setattr(splits, "BLOCK", 7)
    _npz(tmp_path / "a.npz", (4, 3, 3), floats)
    data = datasets.load(f"npz:{tmp_path}/a.npz")
    x = data.train.x.astype("float64") / (1 if floats else 255)
    np.testing.assert_allclose(data.mean, x.mean((0, 1, 2)), atol=6e-5)
    np.testing.assert_allclose(data.variance, x.var((0, 1, 2)), atol=6e-5)
    [(batch, _)] = _take(data.train, 1, 8)
    assert 0.9 < batch.max() <= 1


def test_a_folder_is_loaded_by_its_prefix(tmp_path):
    for i in range(20):
        folder = tmp_path / ("cat" if i < 10 else "dog")
        folder.mkdir(exist_ok=True)
        image = np.full((5, 4, 1), i, "uint8")
        (folder / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    data = datasets.load(f"dir:{tmp_path}", validation=3)
    splits = data.train, data.validation, data.test
    assert [len(images) for images in splits] == [13, 3, 4]
    levels = np.concatenate([images.x[:, 0, 0, 0] for images in splits])
    labels = np.concatenate([images.y for images in splits])
    assert sorted(levels) == list(range(20))
    np.testing.assert_array_equal(labels, levels >= 10)
    assert sorted(data.test.y) == [0, 0, 1, 1]
    assert data.class_names == ("cat", "dog")


class FakeCifar(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The features, splits and ids of tensorflow-datasets' CIFAR-10, a few images."""

    name = "cifar10"
    VERSION = tfds.core.Version("3.0.2")
    SIZES = {"train": 40, "test": 12}

    def _info(self):
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.SIZES}

    def _generate_examples(self, split):
        x, y = _official(split)
        for i in np.random.RandomState(1).permutation(len(x)):
            name = f"{split}_{i:05d}"
            yield name, {"id": name, "image": x[i], "label": y[i]}


def _official(split):
    seed, size = len(split), FakeCifar.SIZES[split]
    rng = np.random.RandomState(seed)
    x = rng.randint(0, 256, (size, 32, 32, 3)).astype("uint8")
    return x, rng.randint(0, len(CLASSES), size).astype("int32")


@pytest.fixture
def offline(monkeypatch):
    """tensorflow-datasets whose every attempt to download fails."""

    def refuse(*args, **kwargs):
        raise ConnectionError("no network\nsecond line")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "_make_download_manager", refuse)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn_cropped"])
def test_missing_data_is_refused_with_the_folder_tried(name, tmp_path, offline):
    (tmp_path / "here").mkdir()
    with pytest.raises(InputError, match="--data_dir") as refusal:
        datasets.load(name, data_dir=str(tmp_path / "here"))
    message = str(refusal.value)
    assert str(tmp_path / "here") in message
    assert "no network" in message
    assert "\n" not in message


def test_a_folder_of_data_that_does_not_exist_is_not_made(tmp_path, offline):
    with pytest.raises(InputError, match="There is no folder"):
        datasets.load("cifar10", data_dir=str(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


class FakeSvhn(FakeCifar, skip_registration=True):
    name = "svhn_cropped"
    VERSION = tfds.core.Version("3.1.0")


@pytest.mark.parametrize(
    "fake, augmentation",
    [(FakeCifar, Augmentation(pad=4, flip=True)), (FakeSvhn, Augmentation(pad=4))],
)
def test_a_prepared_folder_is_read_offline_in_official_order(
    tmp_path, request, fake, augmentation
):
    fake(data_dir=str(tmp_path)).download_and_prepare()
    request.getfixturevalue("offline")
    data = datasets.load(fake.name, data_dir=str(tmp_path), validation=7)
    x, y = _official("train")
    for images, expected in (
        (data.train, Images(x, y)[:33]),
        (data.validation, Images(x, y)[33:]),
        (data.test, Images(*_official("test"))),
    ):
        assert images.x.dtype == np.uint8
        assert images.y.dtype == np.int32
        np.testing.assert_array_equal(images.x, expected.x)
        np.testing.assert_array_equal(images.y, expected.y)
    assert data.class_names == tuple(CLASSES)
    assert data.augmentation == augmentation
    np.testing.assert_allclose(data.mean, (x[:33] / 255).mean((0, 1, 2)), atol=1e-4)
    assert data.name == fake.name


def test_any_set_of_tensorflow_datasets_is_loaded_by_its_prefix(tmp_path, request):
    FakeCifar(data_dir=str(tmp_path)).download_and_prepare()
    request.getfixturevalue("offline")
    data = datasets.load("tfds:cifar10", data_dir=str(tmp_path))
    x, _ = _official("train")
    rows = [image.tobytes() for image in (*data.train.x, *data.validation.x)]
    assert sorted(rows) == sorted(image.tobytes() for image in x)
    assert len(data.test) == 12
    assert data.name == "tfds:cifar10"
    assert data.augmentation == Augmentation(pad=4)
    with pytest.raises(InputError, match="--data_dir"):
        datasets.load("tfds:mnist", data_dir=str(tmp_path))
