"""Archives of images come back as they were saved, and what doesn't fit is refused."""

import types

import numpy as np
import pytest

from vfd_tf import InputError, archives
from vfd_tf.data import datasets, image_archives


def _arrays(seed=0, **changes):
    random = np.random.RandomState(seed)
    arrays = {
        "x_train": random.randint(0, 256, (12, 5, 6, 3)).astype("uint8"),
        "y_train": np.arange(12) % 3,
        "x_test": random.randint(0, 256, (4, 5, 6, 3)).astype("uint8"),
        "y_test": np.array([2, 0, 1, 1]),
    }
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


def _npz(tmp_path, **changes):
    path = str(tmp_path / "data.npz")
    np.savez(path, **_arrays(**changes))
    return path


def test_an_archive_comes_back_as_it_was_saved(tmp_path):
    arrays = _arrays()
    (x, y), (test_x, test_y), names = image_archives.read_npz(_npz(tmp_path))
    np.testing.assert_array_equal(x, arrays["x_train"])
    np.testing.assert_array_equal(test_x, arrays["x_test"])
    assert x.dtype == test_x.dtype == np.uint8
    assert y.dtype == test_y.dtype == np.int32
    assert y.tolist() == [0, 1, 2] * 4
    assert test_y.tolist() == [2, 0, 1, 1]
    assert names == ["0", "1", "2"]


def test_an_archive_may_be_as_keras_saves_its_own(tmp_path):
    """Greyscale [n, h, w] as mnist.npz; labels [n, 1] of uint8 as CIFAR-10's."""
    arrays = _arrays()
    grey = {name: arrays[name][..., 0] for name in ("x_train", "x_test")}
    columns = {
        name: arrays[name][:, None].astype("uint8") for name in ("y_train", "y_test")
    }
    path = _npz(tmp_path, **grey, **columns, class_names=["ä", "b", "c", "unseen"])
    (x, y), _, names = image_archives.read_npz(path)
    assert x.shape == (12, 5, 6, 1)
    np.testing.assert_array_equal(x[..., 0], grey["x_train"])
    assert y.tolist() == [0, 1, 2] * 4
    assert names == ["ä", "b", "c", "unseen"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_become_float32(tmp_path, dtype):
    floats = {n: (_arrays()[n] / 255).astype(dtype) for n in ("x_train", "x_test")}
    (x, _), (test_x, _), _ = image_archives.read_npz(_npz(tmp_path, **floats))
    assert x.dtype == test_x.dtype == np.float32
    np.testing.assert_array_equal(x, floats["x_train"].astype("float32"))
    assert x.max() <= 1


_FLOATS = _arrays()["x_train"] / 255
_NAN = _FLOATS.copy()
_NAN[3, 2, 1, 0] = np.nan


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x_test": None, "y_test": None}, "has no x_test, y_test; save"),
        ({"x_train": _FLOATS * 255}, "ranges from 0 to 255; save"),
        ({"x_train": _FLOATS - 0.5}, "ranges from -0.5 to 0.5; save"),
        ({"x_train": _NAN}, "NaN"),
        ({"x_train": np.where(np.isnan(_NAN), np.inf, _FLOATS)}, "to inf; save"),
        ({"x_train": _arrays()["x_train"].astype("int64")}, "int64; save uint8"),
        ({"x_train": np.zeros((12, 3, 5, 6), "uint8")}, "channels first; transpose"),
        ({"x_train": np.zeros((12, 30), "uint8")}, "shape .12, 30.; save images"),
        ({"x_train": np.zeros((0, 5, 6, 3), "uint8")}, "shape .0, 5, 6, 3."),
        ({"x_train": np.zeros((12, 5, 7, 3), "uint8")}, "5x7x3 uint8 and test images 5x6"),
        ({"x_train": _FLOATS}, "5x6x3 float32 and test images 5x6x3 uint8"),
        ({"y_train": np.arange(12) % 3 + 0.5}, "float64; save integer"),
        ({"y_train": np.eye(3)[np.arange(12) % 3]}, "one-hot; save integer"),
        ({"y_train": np.arange(11) % 3}, "for 12 images; save one label"),
        ({"y_train": np.arange(12) % 3 - 1}, "label -1; number"),
        ({"y_train": np.arange(12) % 3 + 1}, "run from 1 to 3 and 3 of them"),
        ({"y_train": np.zeros(12, int)}, "two or more classes"),
        ({"y_test": np.array([0, 1, 2, 3])}, "label 3, but there are 3 classes"),
        ({"class_names": ["a", "b"]}, "label 2, but there are 2 classes"),
        ({"x_test": np.array([{}, 1, 2, 3])}, "x_test .* can't be read"),
    ],
)
def test_an_archive_that_does_not_fit_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as refusal:
        image_archives.read_npz(_npz(tmp_path, **changes))
    assert "data.npz" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_is_no_archive_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no file .*none.npz; save"):
        image_archives.read_npz(str(tmp_path / "none.npz"))
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(InputError, match="not an .npz archive; save"):
        image_archives.read_npz(str(tmp_path / "x.npy"))


def test_an_archive_of_test_images_alone_has_no_training_images(tmp_path):
    arrays = _arrays(x_train=None, y_train=None)
    np.savez(tmp_path / "test.npz", **arrays)
    (x, y), (test_x, test_y), names = image_archives.read_npz(str(tmp_path / "test.npz"))
    assert x.shape == (0, 5, 6, 3) and x.dtype == np.uint8 and y.shape == (0,)
    np.testing.assert_array_equal(test_x, arrays["x_test"])
    assert test_y.tolist() == [2, 0, 1, 1] and names == ["0", "1", "2"]
    for missing in ({"y_test": None}, {"x_train": _arrays()["x_train"]}):
        np.savez(
            tmp_path / "part.npz", **_arrays(**{"x_train": None, "y_train": None} | missing)
        )
        with pytest.raises(InputError, match="x_test and y_test alone to evaluate"):
            image_archives.read_npz(str(tmp_path / "part.npz"))


def test_a_channel_that_hardly_varies_is_not_divided_by_next_to_nothing(tmp_path, capsys):
    """0 in four digits: a dark channel keeps its variance, a constant one is taken as 1."""
    x = np.random.RandomState(0).randint(0, 256, (40, 5, 6, 3)).astype("uint8")
    x[..., 0], x[..., 1] = 200, x[..., 1] > 127
    path = _npz(tmp_path, x_train=x, y_train=np.arange(40) % 3)
    data = datasets.load(f"npz:{path}", validation=4)
    true = (data.train.x / 255).var((0, 1, 2))
    assert true[0] < 1e-20 and 1e-6 < true[1] < 5e-5
    assert data.variance == pytest.approx((1.0, true[1], round(true[2], 4)), rel=1e-6)
    said = capsys.readouterr().out
    assert said.count("Note: ") == 1 and f"channels 0 and 1 of npz:{path}" in said
    grey = _npz(
        tmp_path, x_train=x[..., 2:], x_test=x[:4, ..., 2:], y_train=np.arange(40) % 3
    )
    datasets.load(f"npz:{grey}", validation=4)
    assert "Note: " not in capsys.readouterr().out


def test_an_archive_that_memory_can_t_hold_is_refused_before_it_is_read(
    tmp_path, monkeypatch
):
    import psutil

    path = _npz(tmp_path)
    size = sum(array.nbytes for array in _arrays().values())
    free = types.SimpleNamespace(available=size - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(archives, "read_npz", None)
    with pytest.raises(InputError, match="GiB of memory where .* name them as dir:FOLDER"):
        image_archives.read_npz(path)
    monkeypatch.undo()
    free.available = 2 * size + 2**20
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    image_archives.read_npz(path)
