"""Formats of image files: their pixels, depths and frames, damage in plain words."""

import warnings

import numpy as np
import pytest
from PIL import Image
from readers import read_folder

from vfd_tf import InputError
from vfd_tf.data import image_decoding

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
        (x, y), (test_x, test_y), _ = read_folder(str(tmp_path))
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
        (x, _), _, _ = read_folder(str(tmp_path))
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
