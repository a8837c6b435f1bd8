"""Readers: archives and folders round trip, and what doesn't fit is refused."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from vfd_tf import InputError
from vfd_tf.data import holding, image_archives, image_folders, tfds_sets

# isort: split

import tensorflow as tf
import tensorflow_datasets as tfds

from vfd_tf.data import image_decoding


def _parts(source, count, names):
    """((x, y) of train, (x, y) of test, names) of what a reader found."""
    x, y = source.everything()
    return (x[:count], y[:count]), (x[count:], y[count:]), names


def _folder(path, side=None):
    return _parts(*image_folders.read_folder(path, side))


def _tfds(name, data_dir):
    return _parts(*tfds_sets.read_tfds(name, data_dir))


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
    (x, y), (test_x, test_y), names = _folder(str(tmp_path))
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
    (x, y), (test_x, test_y), names = _folder(str(tmp_path))
    assert np.bincount(y).tolist() == [9, 2]
    assert test_y.tolist() == [0, 0, 1]
    rows = [image.tobytes() for image in (*x, *test_x)]
    assert sorted(rows) == sorted(images[file].tobytes() for file in files)
    order = [rows.index(images[file].tobytes()) for file in files]
    kept = [place for place in order if place < len(x)]
    assert kept == sorted(kept)
    other = tmp_path / "grown"
    _write(other, [*files, *(f"eel/{i}.png" for i in range(9))], (2, 3, 1))
    _, (grown, _), _ = _folder(str(other))
    np.testing.assert_array_equal(grown[:3], test_x)


def test_a_folder_may_be_named_from_home(tmp_path, monkeypatch):
    _write(tmp_path / "mine", SPLIT)
    monkeypatch.setenv("HOME", str(tmp_path))
    (x, _), _, _ = _folder("~/mine")
    assert x.shape == (4, 6, 5, 3)
    with pytest.raises(InputError, match=f"no file {tmp_path}/none.npz"):
        image_archives.read_npz("~/none.npz")


RGB = np.random.RandomState(0).randint(0, 256, (6, 5, 3)).astype("uint8")
GREY = RGB[..., 0]
ALPHA = np.dstack([RGB, np.full((6, 5), 255, "uint8")])
LOSSLESS = ("png", "webp", "bmp", "gif", "tiff", "TIF", "ppm", "tga", "jp2", "pcx", "qoi")


def _saved(path, pixels, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return str(path)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_every_lossless_format_comes_back_pixel_by_pixel(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    for name in ("a/1", "a/2", "b/1", "b/2"):  # 30 colours: a palette holds them
        _saved(tmp_path / f"{name}.{suffix}", RGB, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (x, y), (test_x, test_y), _ = _folder(str(tmp_path))
    for image in (*x, *test_x):
        np.testing.assert_array_equal(image, RGB)
    assert y.tolist() == test_y.tolist() == [0, 1]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "jfif", "avif"])
def test_lossy_formats_come_back_nearly(tmp_path, suffix):
    plain = np.full((16, 16, 3), [200, 60, 20], "uint8")
    found, _ = image_decoding.decode(_saved(tmp_path / f"a.{suffix}", plain, quality=95))
    assert np.abs(found.astype(int) - plain).max() <= 4


def test_the_content_decides_what_a_file_is_not_its_suffix(tmp_path):
    path = tmp_path / "a.png"
    _saved(path, RGB, format="BMP")
    np.testing.assert_array_equal(image_decoding.decode(str(path))[0], RGB)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "gif"])
def test_palettes_become_colours_and_greyscale_stays(tmp_path, suffix):
    palette = Image.fromarray(RGB).quantize(256)
    found, _ = image_decoding.decode(_saved(tmp_path / f"p.{suffix}", palette))
    np.testing.assert_array_equal(found, RGB)
    grey, _ = image_decoding.decode(_saved(tmp_path / f"g.{suffix}", GREY))
    channels = 3 if suffix == "gif" else 1  # a GIF is all palette
    assert grey.shape == (6, 5, channels)
    np.testing.assert_array_equal(grey, np.dstack([GREY] * channels))


def test_bits_are_black_and_white(tmp_path):
    found, _ = image_decoding.decode(_saved(tmp_path / "a.tiff", GREY > 100))
    np.testing.assert_array_equal(found[..., 0], 255 * (GREY > 100))


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "tga"])
def test_alpha_is_dropped_where_it_is_opaque_and_refused_else(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    opaque = _saved(tmp_path / f"a.{suffix}", ALPHA, **options)
    np.testing.assert_array_equal(image_decoding.decode(opaque)[0], RGB)
    half = ALPHA.copy()
    half[2, 3, 3] = 254
    with pytest.raises(InputError, match="has 4 channels; save it .* without transparency"):
        image_decoding.decode(_saved(tmp_path / f"b.{suffix}", half, **options))
    grey = np.dstack([GREY, ALPHA[..., 3]])
    if suffix != "webp":
        found, _ = image_decoding.decode(_saved(tmp_path / f"g.{suffix}", grey))
        np.testing.assert_array_equal(found[..., 0], GREY)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm", "jp2"])
def test_of_16_bits_the_upper_8_are_read_and_it_is_said(tmp_path, suffix):
    wide = GREY.astype("uint16") * 256 + 201
    for name in ("a/1", "a/2", "b/1", "b/2"):
        _saved(tmp_path / f"{name}.{suffix}", wide)
    with pytest.warns(UserWarning, match="4 of 4 images .* 16 bits .* upper 8 are read"):
        (x, _), _, _ = _folder(str(tmp_path))
    np.testing.assert_array_equal(x[0, ..., 0], GREY)


@pytest.mark.parametrize("suffix", ["gif", "webp", "tiff"])
def test_of_several_frames_the_first_is_read_and_it_is_said(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    more = {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}
    found, remarks = image_decoding.decode(
        _saved(tmp_path / f"a.{suffix}", RGB, **more, **options)
    )
    np.testing.assert_array_equal(found, RGB)
    assert remarks == (image_decoding.FRAMES,)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_by_exif_is_ignored_in_every_format(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix, options in (
        ("png", {}), ("tiff", {}), ("tiff", {"compression": "tiff_lzw"}),
        ("webp", {"lossless": True}),
    ):  # fmt: skip
        path = _saved(tmp_path / f"a.{suffix}", RGB, exif=exif, **options)
        np.testing.assert_array_equal(image_decoding.decode(path)[0], RGB)
    plain = _saved(tmp_path / "a.jpg", RGB)
    turned = _saved(tmp_path / "b.jpg", RGB, exif=exif)
    np.testing.assert_array_equal(*(image_decoding.decode(p)[0] for p in (plain, turned)))


def test_what_is_left_out_is_counted_by_suffix(tmp_path):
    _write(tmp_path, SPLIT)
    _write(tmp_path, ["train/dog/more/x.png", "val/dog/y.jpg", "val/dog/z.jpg"])
    for name in ("train/dog/notes.txt", "readme", "train/labels.csv", "test/cat/Thumbs.db"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "train/dog/.hidden").write_text("passed over")
    os.symlink(tmp_path, tmp_path / "train/round")  # in a circle
    with pytest.warns(UserWarning) as caught:
        with pytest.raises(InputError, match="round"):  # the link is a class folder
            _folder(str(tmp_path))
        os.remove(tmp_path / "train/round")
        os.symlink(tmp_path, tmp_path / "train/dog/round")
        _folder(str(tmp_path))
    (warning,) = caught
    assert str(warning.message) == (
        f"Images are read from 6 of the 13 files in {tmp_path}; left out: 2 .jpg outside "
        "the class folders, 1 .csv, 1 .db, 1 .png outside the class folders, 1 .txt, and "
        "others."
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff", "ppm"])
def test_a_damaged_file_is_named_with_a_reason_in_plain_words(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    _saved(path, RGB)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"damaged (or cut short|or of no image format)"):
        image_decoding.decode(str(path))
    for content, reason in ((b"", "the file is empty"), (b"<html>", "of no image format")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=reason) as refusal:
            image_decoding.decode(str(path))
        assert str(refusal.value).startswith(f"{path} can't be read as an image (")


def test_pixels_of_no_known_range_are_refused(tmp_path):
    with pytest.raises(InputError, match="32-bit numbers of no known range: save it"):
        image_decoding.decode(_saved(tmp_path / "a.tiff", GREY.astype("float32")))


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
        _folder(str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_a_folder_without_enough_is_refused(tmp_path):
    with pytest.raises(InputError, match="no folder .*none; name one"):
        _folder(str(tmp_path / "none"))
    _write(tmp_path, ["cat/1.png", "cat/2.png", "dog/1.png"])
    with pytest.raises(InputError, match="dog holds one image; a class needs two"):
        _folder(str(tmp_path))


def test_more_images_than_memory_are_refused_before_they_are_read(monkeypatch):
    shape = (2**10, 2**10, 1)
    memory = type("Memory", (), {"available": 4 * 2**30})
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    holding.check_memory("photos", 2**11, shape)
    with pytest.raises(
        InputError, match="need 4.1 GiB of memory where 4.0 are free; take .* --hold=disk"
    ):
        holding.check_memory("photos", 2**11 + 50, shape)


IMAGE = tfds.features.Image(shape=(6, 7, 1))
LABEL = tfds.features.ClassLabel(names=["a", "b", "c"])
NUMBERED = {"image": IMAGE, "label": LABEL, "id": tfds.features.Scalar(np.int64)}


def _prepared(folder, features, sizes, unlabelled=(), same_order=False):
    """A data set that tensorflow-datasets prepared in `folder`: {split: [examples]}."""
    random = np.random.RandomState(0)
    examples = {
        split: [
            {
                "image": random.randint(0, 256, (6, 7, 1)).astype("uint8"),
                "label": -1 if split in unlabelled else i % 3,
                "id": 100 - i,
                "boxes": list(range(i)),
            }
            for i in range(size)
        ]
        for split, size in sizes.items()
    }

    class Letters(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "letters"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=same_order,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in sizes}

        def _generate_examples(self, split):
            for i, example in enumerate(examples[split]):
                yield i, {key: example[key] for key in features}

    Letters(data_dir=str(folder)).download_and_prepare()
    return examples


def test_a_prepared_set_of_any_name_is_read_in_the_order_of_its_ids(tmp_path):
    """Numbers as ids, and a feature that no batch could hold."""
    features = {**NUMBERED, "boxes": tfds.features.Sequence(tfds.features.Scalar(np.int64))}
    examples = _prepared(tmp_path, features, {"train": 11, "test": 4})
    train, test, names = _tfds("letters", str(tmp_path))
    for split, (x, y) in (("train", train), ("test", test)):
        expected = examples[split][::-1]  # the ids fall
        np.testing.assert_array_equal(x, np.stack([e["image"] for e in expected]))
        assert y.tolist() == [e["label"] for e in expected]
        assert x.dtype == np.uint8
        assert y.dtype == np.int32
    assert names == ["a", "b", "c"]


def test_a_set_without_ids_keeps_the_order_of_its_files(tmp_path, monkeypatch):
    """Blocks of a few images; the validation split stands in for a missing test split."""
    monkeypatch.setattr(tfds_sets, "RECORDS", 4)
    features = {"image": IMAGE, "label": LABEL}
    sizes = {"train": 10, "validation": 5}
    examples = _prepared(tmp_path, features, sizes, same_order=True)
    train, test, _ = _tfds("letters", str(tmp_path))
    for split, (x, y) in (("train", train), ("validation", test)):
        np.testing.assert_array_equal(x, np.stack([e["image"] for e in examples[split]]))
        assert y.tolist() == [e["label"] for e in examples[split]]


@pytest.mark.parametrize(
    "features, options, message",
    [
        (
            NUMBERED,
            {"sizes": {"train": 3}},
            "has the splits train; .* needs train and test",
        ),
        (
            NUMBERED,
            {"sizes": {"train": 3, "test": 3}, "unlabelled": ["test"]},
            "test split of letters has images without a label; save",
        ),
        (
            {"image": IMAGE},
            {"sizes": {"train": 1}},
            "features image and label and has image",
        ),
        (
            {**NUMBERED, "image": tfds.features.Image(shape=(None, 7, 1))},
            {"sizes": {"train": 1}},
            "have several sizes; resize .* --image_size",
        ),
    ],
)
def test_a_prepared_set_that_does_not_fit_is_refused(tmp_path, features, options, message):
    _prepared(tmp_path, features, **options)
    with pytest.raises(InputError, match=message):
        _tfds("letters", str(tmp_path))


@pytest.mark.parametrize(
    "name, message",
    [
        ("fashion_mnits", "did you mean fashion_mnist?"),
        ("cmaterdb/bangle", "did you mean cmaterdb/bangla?"),
    ],
)
def test_a_set_that_does_not_exist_is_refused_with_the_nearest(tmp_path, name, message):
    with pytest.raises(InputError, match="tensorflow-datasets has no") as refusal:
        _tfds(name, str(tmp_path))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
