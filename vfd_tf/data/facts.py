"""How many images of what size a data set has, without reading it where that is known."""

import dataclasses

from vfd_tf.data import datasets

# Name -> training and test images, their shape, classes.
_KNOWN = {
    "cifar10": (50_000, 10_000, (32, 32, 3), 10),
    "cifar100": (50_000, 10_000, (32, 32, 3), 100),
    "svhn_cropped": (73_257, 26_032, (32, 32, 3), 10),
    "digits": (1_437, 360, (8, 8, 1), 10),
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a forecast needs of a data set; splits have a length, and can be sliced."""

    train: range
    validation: range
    test: range
    input_shape: tuple[int, ...]
    num_classes: int


def facts(
    name: str,
    data_dir: str | None = None,
    validation: int | None = None,
    image_size: int | None = None,
    hold: str = "auto",
) -> Facts:
    """The facts of a data set; one that isn't in the table is read."""
    if name not in _KNOWN:
        data = datasets.load(name, data_dir, validation, image_size=image_size, hold=hold)
        splits = [range(len(split)) for split in (data.train, data.validation, data.test)]
        return Facts(*splits, data.input_shape, data.num_classes)
    train, test, shape, classes = _KNOWN[name]
    held_out = min(1000, train // 10) if validation is None else validation
    if image_size:
        shape = (image_size, image_size, shape[-1])
    return Facts(range(train - held_out), range(held_out), range(test), shape, classes)
