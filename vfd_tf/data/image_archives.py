"""Reader of .npz archives of images, as `image_folders` reads folders."""

import os
import zipfile

import numpy as np

from vfd_tf import archives, files
from vfd_tf.hyperparameters import InputError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: str):
    """The arrays x_train, y_train, x_test, y_test of an archive, as Keras names its own.

    Images are [n, h, w] or [n, h, w, c], uint8 or floats in [0, 1]; labels integers [n] or
    [n, 1], numbered from 0. `class_names` [classes] is optional; without it the names are
    the numbers, and every class must have training images. An archive of x_test and
    y_test alone, to evaluate on, has 0 training images.
    """
    path = os.path.expanduser(path)
    arrays = _arrays(path)
    if not {"x_train", "y_train"} & arrays.keys():
        return _test_alone(arrays, path)
    parts = []
    for split in ("train", "test"):
        x, y = f"x_{split}", f"y_{split}"
        images = _pixels(arrays[x], f"{x} of {path}")
        parts.append((images, _labels(arrays[y], len(images), f"{y} of {path}")))
    (x_train, y_train), (x_test, y_test) = parts
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        raise InputError(
            f"{path} has training images {_of(x_train)} and test images {_of(x_test)}; "
            "save both alike."
        )
    names = _class_names(arrays, y_train, path)
    for split, y in (("train", y_train), ("test", y_test)):
        _check_range(y, f"y_{split}", names, path)
    return *parts, names


def _test_alone(arrays, path):
    """An archive without training images; its classes are those of the labels, or named."""
    x = _pixels(arrays["x_test"], f"x_test of {path}")
    y = _labels(arrays["y_test"], len(x), f"y_test of {path}")
    names = [str(label) for label in range(max(2, y.max() + 1))]
    if "class_names" in arrays:
        names = _class_names(arrays, y, path)
    _check_range(y, "y_test", names, path)
    return (x[:0], y[:0]), (x, y), names


def _check_range(y, name, class_names, path):
    if y.max() >= len(class_names):
        raise InputError(
            f"{name} of {path} has the label {y.max()}, but there are {len(class_names)} "
            f"classes, 0 to {len(class_names) - 1}; number the labels from 0."
        )


def _of(x):
    return f"{'x'.join(map(str, x.shape[1:]))} {x.dtype}"


def _arrays(path):
    how = "save one with np.savez_compressed(FILE, x_train=..., y_train=..., ...)"
    if not os.path.isfile(path):
        raise InputError(f"There is no file {path}; {how}.")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an .npz archive; {how}.")
    with files.read_or_refused(path, how):
        known = archives.sizes_of_npz(path)
    alone = not {"x_train", "y_train"} & set(known)
    wanted = ARRAYS[2:] if alone and "x_test" in known else ARRAYS
    missing = [name for name in wanted if name not in known]
    if missing:
        raise InputError(
            f"{path} has no {', '.join(missing)}; save {', '.join(ARRAYS)} in it, or "
            "x_test and y_test alone to evaluate on them."
        )
    _check_memory(path, sum(known.get(name, 0) for name in ARRAYS))
    remedy = "save an array of numbers, or of strings for class_names, not of objects"
    arrays = {}
    for name in (*ARRAYS, "class_names"):
        if name in known:
            with files.read_or_refused(f"{name} of {path}", remedy):
                arrays |= archives.read_npz(path, {name})
    return arrays


def _check_memory(path, size):
    """Raises `InputError` for arrays of so many bytes that can't be held at all."""
    import psutil

    free = psutil.virtual_memory().available
    if size > free:
        raise InputError(
            f"{path} holds arrays that need {size / 2**30:.1f} GiB of memory where "
            f"{free / 2**30:.1f} are free: save fewer or smaller images, or save them as "
            "files and name them as dir:FOLDER."
        )


def _pixels(x, name):
    """Images [n, h, w, c], uint8 or float32, or an `InputError`."""
    if x.ndim not in (3, 4) or not x.size:
        raise InputError(
            f"{name} has shape {x.shape}; save images [n, height, width, channels]."
        )
    x = x[..., None] if x.ndim == 3 else x
    if x.shape[1] in (1, 3) and x.shape[-1] not in (1, 3):
        raise InputError(
            f"{name} has shape {x.shape}, channels first; transpose it to [n, height, "
            "width, channels] with x.transpose(0, 2, 3, 1)."
        )
    if x.dtype == np.uint8:
        return x
    if not np.issubdtype(x.dtype, np.floating):
        raise InputError(f"{name} is {x.dtype}; save uint8, or float32 in [0, 1].")
    low, high = x.min(), x.max()
    if np.isnan(low):
        raise InputError(f"{name} has NaN pixels; save float32 in [0, 1], or uint8.")
    if low < 0 or high > 1:
        raise InputError(
            f"{name} ranges from {low:.4g} to {high:.4g}; save float32 in [0, 1], for "
            "example x / 255, or uint8, and no normalised pixels."
        )
    return x.astype("float32", copy=False)


def _labels(y, count, name):
    """Labels int32 [count], none negative, or an `InputError`."""
    if y.ndim == 2 and y.shape[1] > 1:
        raise InputError(
            f"{name} has shape {y.shape}, which looks one-hot; save integer class indices "
            "[n], for example y.argmax(-1)."
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"{name} is {y.dtype}; save integer class indices [n].")
    if y.shape not in ((count,), (count, 1)):
        raise InputError(
            f"{name} has shape {y.shape} for {count} images; save one label an image."
        )
    if y.min() < 0:
        raise InputError(f"{name} has the label {y.min()}; number the labels from 0.")
    return y.reshape(-1).astype("int32")


def _class_names(arrays, y, path):
    if "class_names" in arrays:
        with files.read_or_refused(f"class_names of {path}", "save it as strings"):
            names = [str(name) for name in np.ravel(arrays["class_names"]).astype(str)]
            "".join(names).encode()
            return names
    used = np.unique(y)
    if len(used) != used[-1] + 1 or len(used) < 2:
        raise InputError(
            f"The labels of y_train of {path} run from {used[0]} to {used[-1]} and "
            f"{len(used)} of them are used; number two or more classes from 0 without "
            "gaps, or save class_names."
        )
    return [str(label) for label in used]
