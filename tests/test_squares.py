"""Squares: images of any size resized, cropped and evaluated as one size."""

import numpy as np
import pytest
from PIL import Image

from vfd_tf import InputError, datasets
from vfd_tf.data import squares
from vfd_tf.data.datasets import Augmentation, Images


def _write(root, count):
    """Random colour images of 5 to 29 pixels in two classes, `count` a class and split."""
    random = np.random.RandomState(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.randint(0, 256, (*random.randint(5, 30, 2), 3))
                Image.fromarray(pixels.astype("uint8")).save(folder / f"{i:02d}.png")
    return f"dir:{root}"


def _take(split, steps, batch_size=8, **options):
    data = split.train_batches(batch_size, **options).take(steps)
    return list(data.as_numpy_iterator())


def _triangle(size, new):
    """[new, size] weights of bilinear interpolation, widened where it makes smaller."""
    scale = size / new
    centre = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(size) + 0.5 - centre[:, None]) / max(scale, 1)
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("shape", [(40, 61, 3), (61, 40, 1), (9, 14, 3), (16, 16, 1)])
def test_squares_are_resized_with_a_triangle_and_cut_from_the_centre(shape):
    x = np.random.RandomState(0).randint(0, 256, shape).astype("uint8")
    side = squares.side_of(14)
    assert side == 16
    height, width = (round(length * side / min(shape[:2])) for length in shape[:2])
    rows, columns = _triangle(shape[0], height), _triangle(shape[1], width)
    whole = np.einsum("hH,wW,HWc->hwc", rows, columns, x.astype(float))
    row, column = (height - side) // 2, (width - side) // 2
    expected = whole[row : row + side, column : column + side]
    found = squares.square(x, side)
    assert found.shape == (side, side, shape[2]) and found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1.01  # rounded after either axis


@pytest.mark.parametrize("image_size, side", [(224, 256), (32, 37), (299, 342), (8, 9)])
def test_the_square_that_is_held_is_larger_by_an_eighth(image_size, side):
    assert squares.side_of(image_size) == side


@pytest.mark.parametrize("hold", ["memory", "disk"])
def test_images_of_several_sizes_become_squares(tmp_path, hold):
    name = _write(tmp_path, 6)
    data = datasets.load(name, hold=hold, image_size=7, validation=2)
    assert data.input_shape == (7, 7, 3)
    assert data.augmentation == Augmentation(crop=7)
    held = data.train.x
    assert held.shape[1:] == (8, 8, 3)
    np.testing.assert_array_equal(data.train.floats(), _float(held[:, :7, :7]))
    assert data.validation.floats().shape == (2, 7, 7, 3)
    [(x, y)] = _take(data.train, 1, 10, augmentation=data.augmentation)
    crops = {}
    for i, image in enumerate(held):
        for row, column in np.ndindex(2, 2):
            crop = image[row : row + 7, column : column + 7]
            crops[_float(crop).tobytes()] = data.train.y[i], row, column
    found = [crops[image.tobytes()] for image in x]
    assert [label for label, _, _ in found] == y.tolist()
    assert len({(row, column) for _, row, column in found}) > 1
    [(x, _)] = _take(data.train, 1, 10)  # without augmentation: the centre
    centres = {image.tobytes() for image in data.train.floats()}
    assert {image.tobytes() for image in x} == centres


def _float(x):
    return (x.astype("float32") / np.float32(255)).astype("float32")


@pytest.mark.parametrize("hold", ["memory", "disk"])
def test_squares_of_built_in_sets(hold):
    data = datasets.load("digits", hold=hold, image_size=28)
    assert data.test.held == (32, 32, 1) and data.input_shape == (28, 28, 1)
    plain = datasets.load("digits").test
    np.testing.assert_array_equal(data.test.y, plain.y)
    expected = np.stack([squares.square(image, 32) for image in plain.x[:5]])
    np.testing.assert_array_equal(data.test[:5].x, expected)


def test_a_crop_is_any_square_of_the_image_equally_often():
    x = np.arange(7 * 9, dtype="uint8").reshape(1, 7, 9, 1)
    images = Images(np.repeat(x, 500, 0), np.zeros(500, "int32"))
    [(found, _)] = _take(images, 1, 500, augmentation=Augmentation(crop=5))
    assert found.shape == (500, 5, 5, 1)
    corner = np.round(found[:, 0, 0, 0] * 255).astype(int)
    counts = np.bincount(corner, minlength=63).reshape(7, 9)
    assert counts[:3, :5].min() > 0 and counts[:3, :5].sum() == 500
    mean = 500 / 15
    assert np.abs(counts[:3, :5] - mean).max() < 5 * np.sqrt(mean)


def test_squares_of_floats_are_refused(tmp_path):
    x, y = np.zeros((6, 4, 4, 1), "float32"), np.arange(6) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(InputError, match="are floats; save uint8"):
        datasets.load(f"npz:{tmp_path}/a.npz", image_size=8)
