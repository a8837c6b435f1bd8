"""Stored images: the batches of memory, read one by one; shares; bad input."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tiny
from PIL import Image

from vfd_tf import InputError, datasets
from vfd_tf.cli import evaluate, flags, main
from vfd_tf.data import holding, stored
from vfd_tf.data.batching import batches
from vfd_tf.data.datasets import Augmentation, Images, StoredImages
from vfd_tf.experiments.experiment import Experiment

EVERYTHING = Augmentation(pad=2, flip=True, cutout=3, cutmix=0.7)
AUGMENTATIONS = (
    Augmentation(),
    Augmentation(pad=2, flip=True),
    Augmentation(cutout=3),
    Augmentation(flip=True, cutmix=1.0),
    EVERYTHING,
    EVERYTHING.replace(pad=0, crop=6),
)


@pytest.fixture(autouse=True)
def no_notes(monkeypatch):
    monkeypatch.setattr(stored, "RECORDS", 7)


def _write(root, count=20, shape=(9, 8, 3), splits=("train", "test"), suffix="png"):
    """Random images in two classes, `count` a class and split."""
    random = np.random.RandomState(0)
    for split in splits:
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                size = shape(random) if callable(shape) else shape
                pixels = random.randint(0, 256, size).astype("uint8")
                Image.fromarray(pixels.squeeze()).save(folder / f"{i:02d}.{suffix}")
    return f"dir:{root}"


def _both(name, **options):
    """The data set held in memory, and the same on disk."""
    return [datasets.load(name, hold=hold, **options) for hold in ("memory", "disk")]


def _take(split, steps, batch_size=8, **options):
    data = split.train_batches(batch_size, num_classes=2, **options).take(steps)
    return list(data.as_numpy_iterator())


def _assert_same(some, others):
    assert len(some) == len(others)
    for batch, other in zip(some, others, strict=True):
        for part, same in zip(batch, other, strict=True):
            assert part.dtype == same.dtype
            np.testing.assert_array_equal(part, same)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_batches_from_disk_are_those_of_memory(folder, augmentation):
    memory, disk = _both(folder)
    assert isinstance(memory.train, Images) and isinstance(disk.train, StoredImages)
    options = {"seed": 3, "augmentation": augmentation}
    whole = _take(memory.train, 9, **options)
    _assert_same(whole, _take(disk.train, 9, **options))
    _assert_same(whole[4:], _take(disk.train, 5, first_step=4, **options))
    assert disk.train.train_batches(8).element_spec[0].shape == (8, 9, 8, 3)


def test_what_is_not_trained_on_is_the_same_from_disk(folder):
    memory, disk = _both(folder, validation=7)
    for split in ("train", "validation", "test"):
        one, other = getattr(memory, split), getattr(disk, split)
        np.testing.assert_array_equal(one.y, other.y)
        np.testing.assert_array_equal(one.floats(), other.floats())
        np.testing.assert_array_equal(one[3:6].x, other[3:6].x)
        batches = [list(s.batches(5).as_numpy_iterator()) for s in (one, other)]
        _assert_same(*batches)
        _assert_same(*(list(s.parts(5)) for s in (one, other)))
    for name in ("mean", "variance", "class_names", "input_shape", "augmentation"):
        assert getattr(memory, name) == getattr(disk, name)
    assert memory.digest != disk.digest


@pytest.mark.parametrize("augmentation", [AUGMENTATIONS[0], *AUGMENTATIONS[-2:]])
@pytest.mark.parametrize("hold", ["memory", "disk"])
def test_shares_put_together_are_the_whole_batch(folder, augmentation, hold):
    train = datasets.load(folder, hold=hold).train
    options = {"seed": 1, "augmentation": augmentation, "first_step": 2}
    whole = _take(train, 5, **options)
    shares = [_take(train, 5, share=s, **options) for s in ((0, 3), (3, 1), (4, 4))]
    joined = [
        tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))
        for batches in zip(*shares, strict=True)
    ]
    _assert_same(whole, joined)


def test_a_share_reads_itself_and_its_partners_alone(folder, monkeypatch):
    train, asked = datasets.load(folder, hold="disk").train, []
    read = stored.Source.read

    def counted(self, index, *rest):
        asked.append(len(index))
        return read(self, index, *rest)

    monkeypatch.setattr(stored.Source, "read", counted)
    _take(train, 6, share=(2, 2))
    assert set(asked) == {2}
    asked.clear()
    _take(train, 6, share=(2, 2), augmentation=Augmentation(cutmix=1.0))
    assert max(asked) <= 4 and len(asked) >= 6


@pytest.mark.parametrize("share", [(0, 9), (8, 1), (-1, 2), (3, 0)])
def test_a_share_that_is_no_part_of_the_batch_is_refused(share):
    images = Images(np.zeros((9, 2, 2, 1), "uint8"), np.zeros(9, "int32"))
    with pytest.raises(InputError, match="choose positions from 0 to 7"):
        images.train_batches(8, share=share)


def test_slices_read_nothing(folder, monkeypatch):
    disk = datasets.load(folder, hold="disk")
    monkeypatch.setattr(stored.Source, "read", None)
    part = disk.train[5:][np.array([4, 1])]
    assert len(part) == 2
    assert part.shape == (9, 8, 3)
    np.testing.assert_array_equal(part.y, disk.train.y[[9, 6]])
    assert part.digest != disk.train[[6, 9]].digest


def test_the_digest_of_stored_files_knows_names_sizes_and_labels(tmp_path):
    name = _write(tmp_path, 4, (3, 3, 3), suffix="bmp")

    def digest(**options):
        data = datasets.load(name, hold="disk", validation=2, **options)
        return [split.digest for split in (data.train, data.validation, data.test)]

    before = digest()
    assert digest() == before
    assert digest(image_size=7) != before
    path = tmp_path / "train/cat/00.bmp"
    path.write_bytes(path.read_bytes() + b"0")
    changed = digest()
    assert changed != before
    path.rename(tmp_path / "train/cat/0.bmp")
    assert digest() not in (before, changed)


def test_auto_decides_by_the_decoded_size_and_says_so(folder, monkeypatch, capsys):
    size = 80 * 9 * 8 * 3
    monkeypatch.setattr(holding, "LIMIT", size)
    assert isinstance(datasets.load(folder).train, Images)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(holding, "LIMIT", size - 1)
    assert isinstance(datasets.load(folder).train, StoredImages)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Note: {folder[4:]} holds 80 images of 9x8x3, ")
    assert isinstance(datasets.load(folder, hold="memory").train, Images)
    assert isinstance(datasets.load(folder, image_size=8).train, StoredImages)


def test_statistics_come_from_a_sample_evenly_spaced(folder, monkeypatch):
    train = datasets.load(folder, hold="disk").train
    monkeypatch.setattr(stored, "SAMPLE", 4)
    few = train[np.arange(4) * len(train) // 4].x / 255
    mean, variance = train.statistics()
    np.testing.assert_allclose(mean, few.mean((0, 1, 2)))
    np.testing.assert_allclose(variance, few.var((0, 1, 2)))


def test_what_is_left_out_of_images_on_disk_is_said_once(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(10):
            wide = np.full((4, 4), 256 * i, "uint16")
            Image.fromarray(wide).save(tmp_path / name / f"{i}.png")
    with pytest.warns(UserWarning) as caught:
        data = datasets.load(f"dir:{tmp_path}", hold="disk", validation=2)
        data.test.floats()
    (warning,) = caught
    assert str(warning.message) == (
        f"14 of 14 images of {tmp_path} have 16 bits a channel, of which the upper 8 are "
        "read."
    )


def _mixed_sizes(root):
    Image.fromarray(np.zeros((4, 4, 3), "uint8")).save(root / "train/dog/99.png")


def _mixed_channels(root):
    Image.fromarray(np.zeros((9, 8), "uint8")).save(root / "test/cat/99.png")


@pytest.mark.parametrize(
    "change, options, message",
    [
        (
            _mixed_sizes,
            {},
            "99.png is 4x4x3 pixels where .*00.png is 9x8x3; .*--image_size",
        ),
        (
            _mixed_channels,
            {},
            "99.png is 9x8x1 pixels where .*; convert all images to grey",
        ),
        (_mixed_channels, {"image_size": 7}, "99.png is 8x8x1 .* convert all images to"),
    ],
)
@pytest.mark.parametrize("hold", ["memory", "disk"])
def test_images_that_do_not_fit_are_refused_before_they_are_trained_on(
    tmp_path, change, options, message, hold
):
    name = _write(tmp_path, 2)
    change(tmp_path)
    with pytest.raises(InputError, match=message) as refusal:
        datasets.load(name, hold=hold, **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("digits", {"hold": "disk"}, "leave --hold=disk out, or save"),
        ("digits", {"hold": "drum"}, "hold must be one of auto, memory, disk"),
        ("digits", {"image_size": 0}, "image_size must be at least 1"),
    ],
)
def test_what_can_not_be_held_so_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        datasets.load(name, **options)


def test_runs_are_named_by_the_size_of_images_only_where_it_is_set():
    plain, sized = Experiment(), Experiment(image_size=224)
    before = plain.identity("digest", {})
    assert "image_size" not in before | plain.hyperparameters()
    assert sized.identity("digest", {}) == before | {"image_size": 224}
    assert sized.hyperparameters()["image_size"] == 224
    for hold in ("memory", "disk"):
        assert plain.replace(hold=hold).identity("digest", {}) == before
    values = flags.define()
    values(["run.py", "--image_size=224", "--hold=disk", "--method=natural"])
    (experiment,) = flags.experiments(values)
    text = flags.flagfile(experiment)
    assert "--image_size=224\n" in text and "--hold=disk\n" in text
    assert {"image_size", "hold"} <= flags.taken(values, "evaluate")


TINY = "--arch=resnet8 --width=0.2 --method=trades --distill=none --epochs=2 --batch_size=8"
TINY += (
    " --trades_beta=2 --pgd_steps=1 --schedule=cosine --eval_attacks=fgsm --panel_every=2"
)
TINY += " --cutout=3 --cutmix=1 --average=swa --image_size=14 --epsilon=0.1 --validation=6"


@pytest.mark.slow
def test_a_run_stopped_and_continued_from_disk_has_the_bits_of_one_from_memory(
    tmp_path, monkeypatch
):
    name = _write(tmp_path / "set", 12, lambda random: (*random.randint(16, 40, 2), 3))

    def run(hold):
        words = f"--hold={hold}", f"--workdir={tmp_path}/{hold}", f"--dataset={name}"
        return main.main(["run.py", *TINY.split(), *words])

    assert run("memory") == 0
    tiny.interrupt_behind(monkeypatch, 1)
    assert run("disk") == 1
    monkeypatch.undo()
    assert run("disk") == 0
    weights = [
        keras.saving.load_model(tmp_path / hold / "average.keras", compile=False).weights
        for hold in ("memory", "disk")
    ]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    both = [np.load(tmp_path / hold / "verdicts.npz") for hold in ("memory", "disk")]
    assert set(both[0].files) == set(both[1].files)
    for key in both[0].files:
        np.testing.assert_array_equal(both[0][key], both[1][key])


KILLED = """
import sys
from vfd_tf import datasets

train = datasets.load(sys.argv[1], hold="disk").train
options = {"augmentation": datasets.Augmentation(2, True), "seed": 9}
for x, y in train.train_batches(4, **options):
    print(y.numpy().tolist(), x.numpy().sum(dtype="float64"), flush=True)
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_batches_it_would_have_seen(folder):
    words = [sys.executable, "-c", KILLED, folder]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline().strip() for _ in range(5)]
        process.kill()
    options = {"augmentation": Augmentation(2, True), "seed": 9}
    memory, disk = (datasets.load(folder, hold=hold).train for hold in ("memory", "disk"))
    whole = _take(memory, 12, 4, **options)
    seen = [f"{y.tolist()} {x.sum(dtype='float64')}" for x, y in whole]
    assert lines == seen[:5]
    _assert_same(whole[5:], _take(disk, 7, 4, first_step=5, **options))


def test_a_file_that_is_damaged_later_is_one_sentence_of_the_command_line(
    tmp_path, monkeypatch, capsys
):
    name = _write(tmp_path / "set", 6)
    read = datasets.load

    def damaged(*args, **options):
        data = read(*args, **options)
        for path in data.train.source.paths:
            with open(path, "r+b") as file:
                file.truncate(50)
        for _ in data.train.train_batches(4):
            pass

    monkeypatch.setattr(datasets, "load", damaged)
    assert main.main(["run.py", f"--dataset={name}", "--hold=disk"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"error: .*\.png can't be read as an image \(.*\); replace or remove it\.", error
    )


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_evaluations_read_stored_images_in_the_range_of_the_model(folder, bounds):
    memory, disk = (datasets.load(folder, hold=hold).test for hold in ("memory", "disk"))
    one, other = (
        list(batches(evaluate._of_the_model(t, 6, bounds), 6)) for t in (memory, disk)
    )
    _assert_same(one, other)


PEAK = """
import pathlib, re, sys
import vfd_tf
import numpy as np
import tensorflow as tf
from vfd_tf import datasets
from vfd_tf.data import holding, stored

def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

folder, batch_size = sys.argv[1], 8
few = datasets.Images(np.zeros((8, 8, 8, 3), "uint8"), np.zeros(8, "int32"))
warm = few.train_batches(batch_size, augmentation=datasets.Augmentation(2, True, 2))
next(iter(warm)), few.floats(), tf.io.decode_image(tf.io.encode_png(few.x[0]))
holding.LIMIT = 0
before = peak()
data = datasets.load(folder)
augmentation = datasets.Augmentation(pad=4, flip=True)
batches = data.train.train_batches(batch_size, augmentation=augmentation)
for x, y in batches.take(len(data.train) // batch_size):
    pass
for x, y in data.test.parts(batch_size):
    pass
image = int(np.prod(data.train.held))
bound = 5 * stored.BATCHES * batch_size * image + stored.CONSTANT
print(peak() - before, bound, len(data.train.source) * image)
"""


@pytest.mark.slow
def test_memory_stays_under_the_stated_bound_of_a_set_ten_times_as_large(tmp_path):
    ramp = np.add.outer(np.arange(300), np.arange(400)) % 256
    image = Image.fromarray(np.dstack([ramp, ramp // 2, 255 - ramp]).astype("uint8"))
    image.save(tmp_path / "image.png")
    for split, count in (("train", 2100), ("test", 200)):
        for name in ("cat", "dog"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                os.link(tmp_path / "image.png", folder / f"{i}.png")
    words = [sys.executable, "-c", PEAK, f"dir:{tmp_path}/set"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    grown, bound, decoded = map(int, done.stdout.split("\n")[-2].split())
    assert decoded > 10 * bound
    assert 0 < grown < bound, (grown, bound)
