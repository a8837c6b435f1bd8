"""Folders of images: their order, what is held out or left out, and what is refused."""

import os

import numpy as np
import pytest
import tensorflow as tf
from readers import read_folder

from vfd_tf import InputError
from vfd_tf.data import holding, image_archives


def _write(root, files, shape=(6, 5, 3), seed=0):
    """Random images {relative path: image}, written as PNG, or JPEG of the mean grey."""
    random, images = np.random.RandomState(seed), {}
    for file in files:
        image = random.randint(0, 256, shape).astype("uint8")
        if file.lower().endswith(("jpg", "jpeg")):
            image[:] = image.mean()  # a plain image survives JPEG
            data = tf.io.encode_jpeg(image, quality=100)
        else:
            data = tf.io.encode_png(image)
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.numpy())
        images[file] = image
    return images


SPLIT = ["train/dog/b.png", "train/dog/a.jpg", "train/cat/10.PNG", "train/cat/9.jpeg"]
SPLIT += ["test/dog/c.png", "test/cat/d.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_in_the_order_of_its_sorted_paths(tmp_path, channels):
    images = _write(tmp_path, SPLIT, (6, 5, channels))
    (tmp_path / "train/dog/notes.txt").write_text("no image")
    (tmp_path / "train/dog/._b.png").write_bytes(b"of another system")
    (tmp_path / "train/.cache").mkdir()
    (x, y), (test_x, test_y), names = read_folder(str(tmp_path))
    train = ["train/cat/10.PNG", "train/cat/9.jpeg", "train/dog/a.jpg", "train/dog/b.png"]
    expected = np.stack([images[file] for file in train])
    np.testing.assert_allclose(x.astype(int), expected.astype(int), atol=1)
    test = [images["test/cat/d.png"], images["test/dog/c.png"]]
    np.testing.assert_array_equal(test_x, np.stack(test))
    assert x.dtype == np.uint8
    assert y.dtype == test_y.dtype == np.int32
    assert y.tolist() == [0, 0, 1, 1]
    assert test_y.tolist() == [0, 1]
    assert names == ["cat", "dog"]


def test_a_fixed_fifth_of_every_class_is_held_out_where_there_is_no_test_folder(tmp_path):
    files = [f"cat/{i:02d}.png" for i in range(11)] + [f"dog/{i}.png" for i in range(3)]
    images = _write(tmp_path, files, (2, 3, 1))
    (x, y), (test_x, test_y), names = read_folder(str(tmp_path))
    assert np.bincount(y).tolist() == [9, 2]
    assert test_y.tolist() == [0, 0, 1]
    rows = [image.tobytes() for image in (*x, *test_x)]
    assert sorted(rows) == sorted(images[file].tobytes() for file in files)
    order = [rows.index(images[file].tobytes()) for file in files]
    kept = [place for place in order if place < len(x)]
    assert kept == sorted(kept)
    other = tmp_path / "grown"
    _write(other, [*files, *(f"eel/{i}.png" for i in range(9))], (2, 3, 1))
    _, (grown, _), _ = read_folder(str(other))
    np.testing.assert_array_equal(grown[:3], test_x)


def test_a_folder_may_be_named_from_home(tmp_path, monkeypatch):
    _write(tmp_path / "mine", SPLIT)
    monkeypatch.setenv("HOME", str(tmp_path))
    (x, _), _, _ = read_folder("~/mine")
    assert x.shape == (4, 6, 5, 3)
    with pytest.raises(InputError, match=f"no file {tmp_path}/none.npz"):
        image_archives.read_npz("~/none.npz")


def test_what_is_left_out_is_counted_by_suffix(tmp_path):
    _write(tmp_path, SPLIT)
    _write(tmp_path, ["train/dog/more/x.png", "val/dog/y.jpg", "val/dog/z.jpg"])
    for name in ("train/dog/notes.txt", "readme", "train/labels.csv", "test/cat/Thumbs.db"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "train/dog/.hidden").write_text("passed over")
    os.symlink(tmp_path, tmp_path / "train/round")  # in a circle
    with pytest.warns(UserWarning) as caught:
        with pytest.raises(InputError, match="round"):  # the link is a class folder
            read_folder(str(tmp_path))
        os.remove(tmp_path / "train/round")
        os.symlink(tmp_path, tmp_path / "train/dog/round")
        read_folder(str(tmp_path))
    (warning,) = caught
    assert str(warning.message) == (
        f"Images are read from 6 of the 13 files in {tmp_path}; left out: 2 .jpg outside "
        "the class folders, 1 .csv, 1 .db, 1 .png outside the class folders, 1 .txt, and "
        "others."
    )


def _odd_size(root):
    _write(root, ["train/dog/z.png", "train/cat/99.png"], (6, 6, 3))


def _odd_channels(root):
    _write(root, ["test/dog/grey.png"], (6, 5, 1))


def _transparent(root):
    _write(root, ["train/cat/0.png"], (6, 5, 4))


def _broken(root):
    (root / "train/dog/b.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")


def _no_test(root):
    os.rename(root / "test", root / "tests")


def _extra_class(root):
    _write(root, ["test/eel/1.png"])


def _empty_class(root):
    (root / "train/bee").mkdir()


def _one_class(root):
    for split in ("train", "test"):
        os.rename(root / split / "dog", root / f"{split}-dog")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            _odd_size,
            "train/cat/99.png is 6x6x3 pixels where .*10.PNG is 6x5x3; .*--image_size",
        ),
        (_odd_channels, "test/dog/grey.png is 6x5x1 pixels where .*; convert all"),
        (_transparent, "train/cat/0.png has 4 channels; save it as greyscale or RGB"),
        (_broken, "train/dog/b.png can't be read as an image .*; replace or remove"),
        (_no_test, "has a train folder but no test folder; add it"),
        (_extra_class, "the class folders eel; give both the same"),
        (_empty_class, "train/bee holds no image files .*; put"),
        (_one_class, "train has 1 class folders; put"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path, change, message):
    _write(tmp_path, SPLIT)
    change(tmp_path)
    with pytest.raises(InputError, match=message) as refusal:
        read_folder(str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_a_folder_without_enough_is_refused(tmp_path):
    with pytest.raises(InputError, match="no folder .*none; name one"):
        read_folder(str(tmp_path / "none"))
    _write(tmp_path, ["cat/1.png", "cat/2.png", "dog/1.png"])
    with pytest.raises(InputError, match="dog holds one image; a class needs two"):
        read_folder(str(tmp_path))


def test_more_images_than_memory_are_refused_before_they_are_read(monkeypatch):
    shape = (2**10, 2**10, 1)
    memory = type("Memory", (), {"available": 4 * 2**30})
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    holding.check_memory("photos", 2**11, shape)
    with pytest.raises(
        InputError, match="need 4.1 GiB of memory where 4.0 are free; take .* --hold=disk"
    ):
        holding.check_memory("photos", 2**11 + 50, shape)
