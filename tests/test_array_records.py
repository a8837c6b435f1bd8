"""Sets of tensorflow-datasets on disk: record by record what is read as a whole."""

import numpy as np
import pytest

from vfd_tf import InputError, datasets
from vfd_tf.data import holding, stored, tfds_sets
from vfd_tf.data.datasets import Images, StoredImages

# isort: split

import tensorflow_datasets as tfds

SIZES = {"train": 23, "test": 9}


class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Random images with ids, in several files."""

    name = "photos"
    VERSION = tfds.core.Version("1.0.0")
    shape, ids, sizes = (8, 6, 3), True, SIZES

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.shape, encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
            "boxes": tfds.features.Sequence(tfds.features.Scalar(np.int64)),
        }
        if self.ids:
            features["id"] = tfds.features.Text()
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.sizes}

    def _generate_examples(self, split):
        random = np.random.RandomState(len(split))
        unlabelled = split == "test" and "validation" in self.sizes
        for i in range(self.sizes[split]):
            size = [side or random.randint(5, 20) for side in self.shape]
            example = {"image": random.randint(0, 256, size).astype("uint8")}
            example |= {"label": -1 if unlabelled else i % 3, "boxes": list(range(i % 4))}
            yield i, example | ({"id": f"{99 - i}"} if self.ids else {})


class WithoutTestLabels(Photos, skip_registration=True):
    """As ImageNet: labels of the test split are not known."""

    name = "photos"
    sizes = {**SIZES, "validation": 6}


class Unnamed(Photos, skip_registration=True):
    name = "photos"
    ids = False


class OfAnySize(Photos, skip_registration=True):
    name = "photos"
    shape = (None, None, 3)


def _prepared(folder, kind, file_format="tfrecord"):
    builder = kind(data_dir=str(folder), file_format=file_format)
    config = tfds.download.DownloadConfig(num_shards=3)
    builder.download_and_prepare(download_config=config)
    assert len(builder.info.splits["train"].filenames) == 3
    return {"name": "tfds:photos", "data_dir": str(folder), "validation": 4}


def _same(one, other):
    for split in ("train", "validation", "test"):
        some, others = getattr(one, split), getattr(other, split)
        np.testing.assert_array_equal(some.y, others.y)
        np.testing.assert_array_equal(some.x, others.x)


@pytest.mark.parametrize(
    "kind, options",
    [(Photos, {}), (Unnamed, {}), (OfAnySize, {"image_size": 7})],
)
def test_both_formats_hold_the_same_images_in_memory_and_on_disk(
    tmp_path, kind, options, monkeypatch
):
    monkeypatch.setattr(stored, "RECORDS", 5)
    monkeypatch.setattr(tfds_sets, "RECORDS", 5)
    for name in ("whole", "records"):
        (tmp_path / name).mkdir()
    whole = _prepared(tmp_path / "whole", kind) | options
    records = _prepared(tmp_path / "records", kind, "array_record") | options
    plain = datasets.load(**whole)
    memory, disk = (datasets.load(**records, hold=hold) for hold in ("memory", "disk"))
    assert isinstance(plain.train, Images) and isinstance(memory.train, Images)
    assert isinstance(disk.train, StoredImages)
    _same(plain, memory)
    _same(plain, disk)
    assert plain.digest == memory.digest != disk.digest
    batches = [
        list(data.train.train_batches(6, 2, data.augmentation).take(5).as_numpy_iterator())
        for data in (plain, disk)
    ]
    for (x, y), (other_x, other_y) in zip(*batches, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)
    assert plain.class_names == ("cat", "dog", "eel")


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_test_split_without_labels_is_replaced_by_that_of_validation(
    tmp_path, file_format
):
    data = datasets.load(**_prepared(tmp_path, WithoutTestLabels, file_format))
    assert len(data.test) == 6
    assert sorted(data.test.y) == [0, 0, 1, 1, 2, 2]


def test_records_that_are_read_in_order_stay_in_memory_or_are_prepared_anew(
    tmp_path, monkeypatch
):
    wanted = _prepared(tmp_path, Photos)
    plain = datasets.load(**wanted)
    monkeypatch.setattr(holding, "LIMIT", 32 * 8 * 6 * 3 - 1)
    with pytest.raises(InputError, match="can't be read one by one; prepare") as refusal:
        datasets.load(**wanted)
    assert "\n" not in str(refusal.value)
    call = "tfds.builder('photos', data_dir=FOLDER).download_and_prepare(file_format="
    assert f"{call}'array_record')" in str(refusal.value)
    again = tmp_path / "again"
    Photos(data_dir=str(again)).download_and_prepare(file_format="array_record")
    disk = datasets.load(**wanted | {"data_dir": str(again)})
    assert isinstance(disk.train, StoredImages)
    _same(plain, disk)


def test_what_is_too_large_is_prepared_as_array_records_at_once(tmp_path, monkeypatch):
    builder = Photos(data_dir=str(tmp_path))
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    data = datasets.load("tfds:photos", str(tmp_path), hold="disk", validation=4)
    assert isinstance(data.train, StoredImages)
    assert builder.info.file_format.value == "array_record"


def test_the_digest_of_records_knows_files_and_labels(tmp_path):
    wanted = _prepared(tmp_path, Photos, "array_record") | {"hold": "disk"}
    before = datasets.load(**wanted)
    assert datasets.load(**wanted).digest == before.digest
    assert before.train[1:].digest != before.train[:-1].digest
    assert datasets.load(**wanted, image_size=5).digest != before.digest
