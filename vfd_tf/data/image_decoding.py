"""One image file -> uint8 pixels, of every format that TensorFlow or Pillow reads.

PNG and JPEG are decoded by TensorFlow, everything else by Pillow; the content decides, not
the suffix. Rules of all formats:

    palettes     become RGB
    alpha        is dropped where all of it is opaque; transparent pixels are refused
    16 bits      the upper 8 are read, and that is said
    animations   the first frame is read, and that is said
    rotation     that EXIF asks for is ignored, as in Keras's own readers
"""

import functools
import io

import numpy as np
import tensorflow as tf

from vfd_tf.hyperparameters import InputError

_PNG, _JPEG = b"\x89PNG", b"\xff\xd8\xff"
_TO_RGB = ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBX")
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")
_ORIENTATION = 0x0112  # EXIF
# Pillow tells these apart and can't decode them: data, films, vector graphics.
_NO_PIXELS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
WIDE = "have 16 bits a channel, of which the upper 8 are read"
FRAMES = "have several frames, of which the first is read"


@functools.cache
def suffixes() -> frozenset[str]:
    """Suffixes of the formats that can be read, in lower case: ".png", ".webp", ..."""
    from PIL import Image

    known = Image.registered_extensions().items()
    readable = Image.OPEN.keys() - set(_NO_PIXELS)
    return frozenset(suffix for suffix, name in known if name in readable)


def decode(path: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(pixels uint8 [h, w, 1 or 3], what was left out of them: `WIDE`, `FRAMES`).

    Raises:
        InputError: The file can't be read, or has no such pixels.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        image, remarks = _pixels(data)
    except tf.errors.OpError as error:
        raise _refusal(path, "the file is damaged or cut short") from error
    except _Unreadable as error:
        raise _refusal(path, str(error)) from error
    except OSError as error:
        raise _refusal(path, error.strerror or "no permission") from error
    channels = image.shape[-1]
    if channels in (2, 4) and (image[..., -1] == 255).all():
        image = image[..., :-1]
    elif channels not in (1, 3):
        raise InputError(
            f"{path} has {channels} channels; save it as greyscale or RGB, without "
            "transparency."
        )
    return image, remarks


def outline(path: str) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) of what `decode` gives, from the header alone."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.format != "TIFF":  # Pillow rotates it
                grey = image.mode in _GREY and image.format != "GIF"
                return image.height, image.width, 1 if grey else 3
    except Exception:  # Pillow's plugins raise what they like
        pass
    return decode(path)[0].shape  # what is no image is refused there


class _Unreadable(Exception):
    """Why a file can't be read, in plain words."""


def _refusal(path, reason):
    return InputError(f"{path} can't be read as an image ({reason}); replace or remove it.")


def _pixels(data):
    if not data:
        raise _Unreadable("the file is empty")
    if data.startswith((_PNG, _JPEG)):
        wide = data.startswith(_PNG) and data[24:25] == b"\x10"
        return of_tensorflow(data), (WIDE,) if wide else ()
    return _of_pillow(data)


def of_tensorflow(data: bytes, channels: int = 0) -> np.ndarray:
    """uint8 [h, w, c] of what TensorFlow decodes, not to be written to; 0: its channels."""
    image = tf.io.decode_image(data, channels, expand_animations=False)
    return np.asarray(memoryview(image))  # numpy() would copy


def _of_pillow(data):
    """Pixels of a format that is neither PNG nor JPEG."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            remarks = (FRAMES,) if getattr(image, "n_frames", 1) > 1 else ()
            image.seek(0)
            orientation = image.getexif().get(_ORIENTATION)
            image.load()
            pixels, wide = _converted(image)
            if image.format == "TIFF":  # the only one that Pillow rotates
                pixels = _unrotated(pixels, orientation)
    except UnidentifiedImageError as error:
        raise _Unreadable("it is damaged or of no image format") from error
    except Image.DecompressionBombError as error:
        raise _Unreadable("it has too many pixels") from error
    except (_Unreadable, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise what they like
        raise _Unreadable("the file is damaged or cut short") from error
    return pixels, (*remarks, WIDE) if wide else remarks


def _converted(image):
    """(uint8 [h, w, c], whether bits were lost) of an image of Pillow."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        return (np.asarray(image).astype("uint16") >> 8).astype("uint8")[..., None], True
    if mode in ("I", "F"):
        raise _Unreadable(
            "its pixels are 32-bit numbers of no known range: save it with 8 bits, or all "
            "images as npz"
        )
    if image.has_transparency_data:
        image = image.convert("LA" if mode in ("La", "LA", "L") else "RGBA")
    elif mode in _TO_RGB or image.format == "GIF":
        image = image.convert("RGB")
    elif mode == "1":
        image = image.convert("L")
    pixels = np.asarray(image, np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels, False


def _unrotated(pixels, orientation):
    """Pixels [h, w, c] as they were before an EXIF orientation was applied."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 6, 7) else 1
    columns = -1 if orientation in (2, 3, 7, 8) else 1
    return pixels[::rows, ::columns]
