"""Sets that tensorflow-datasets prepared: their order, their splits, what is refused."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from readers import parts

from vfd_tf import InputError
from vfd_tf.data import tfds_sets


def _tfds(name, data_dir):
    return parts(*tfds_sets.read_tfds(name, data_dir))


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
