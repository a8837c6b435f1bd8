"""Photographs that no camera took, as files and as array records, for the pipelines.

They are noise of every wavelength, strong where it is long, so that a JPEG of 500x375
pixels has some 100 kB, as those of ImageNet have.
"""

import os

import numpy as np

CLASSES = 4


def photograph(seed: int, height: int = 375, width: int = 500) -> np.ndarray:
    """uint8 [height, width, 3]."""
    from PIL import Image

    random, levels = np.random.default_rng(seed), np.full((height, width, 3), 128.0)
    for side in (4, 16, 64, 256):
        noise = random.integers(0, 256, (side, side, 3), dtype="uint8")
        layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        levels += (np.asarray(layer) - 128.0) * (4 / side) ** 0.4
    return np.clip(levels, 0, 255).astype("uint8")


def folder(root: str, count: int, kinds: int = 50) -> None:
    """`count` links to files of `kinds` photographs, in train/ and test/, by classes."""
    from PIL import Image

    for i in range(count):
        split = "test" if i // CLASSES % 10 == 9 else "train"
        path = f"{root}/{split}/{i % CLASSES}/{i:06d}.jpg"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        original = f"{root}-originals/{i % kinds}.jpg"
        os.makedirs(os.path.dirname(original), exist_ok=True)
        if not os.path.exists(original):
            Image.fromarray(photograph(i)).save(original, quality=90)
        os.link(original, path)


def records(root: str, data_dir: str) -> str:
    """The files of a folder as a set of tensorflow-datasets in array records: its name."""
    import tensorflow_datasets as tfds

    class BenchmarkPhotographs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=CLASSES),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in ("train", "test")}

        def _generate_examples(self, split):
            for label in range(CLASSES):
                part = f"{root}/{split}/{label}"
                for file in sorted(os.listdir(part)):
                    yield f"{label}/{file}", {"image": f"{part}/{file}", "label": label}

    builder = BenchmarkPhotographs(data_dir=data_dir)
    builder.download_and_prepare(file_format="array_record")
    return builder.name
