"""The files of checkpoints: which are kept, which count, and what full disks do to them."""

import errno
import json
import os
import pathlib

import keras
import numpy as np
import pytest
from fits import (
    Kill,
    Killed,
    assert_same,
    everything,
    fit,
    images,
    killed,
    natural,
    network,
    resumed,
    unbroken,
)

from vfd_tf import AdversarialTrainer, InputError
from vfd_tf.callbacks import Checkpoint
from vfd_tf.checkpoints import Checkpoints, State

ARRAYS = {"v0": np.arange(4.0), "m0": np.ones((1, 1, 2), "float32")}


def written(folder, *places, keep=9):
    """Checkpoints of these (epoch, step)."""
    store = Checkpoints(folder, keep)
    for epoch, step in places:
        store.write(State(epoch, step, logs={"loss": 0.5}), ARRAYS)
    return store


def names(folder):
    return sorted(os.listdir(folder))


# --- which are kept ---------------------------------------------------------------------


def test_the_newest_stay_and_the_newest_between_two_epochs(tmp_path):
    written(tmp_path, (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 10), keep=2)
    wanted = "2-00000000", "2-00000002", "2-00000010"
    assert names(tmp_path) == [f"checkpoint-0000{place}.npz" for place in wanted]


@pytest.mark.parametrize("keep", [1, 3])
def test_a_fit_keeps_so_many(tmp_path, keep):
    killed(natural, tmp_path, "before", 1, 2, keep=keep)
    wanted = ["0-00000002", "0-00000003", "1-00000000", "1-00000001", "1-00000002"][2:]
    if keep == 1:
        wanted.remove("1-00000001")
    assert names(tmp_path) == [f"checkpoint-0000{place}.npz" for place in wanted]


def test_minutes_alone_save_the_ends_of_epochs(tmp_path):
    killed(natural, tmp_path, "before", 1, 2, steps=None)
    assert names(tmp_path) == [
        "checkpoint-00000-00000003.npz",
        "checkpoint-00001-00000000.npz",
    ]


def test_minutes_that_have_passed_save_a_step(tmp_path):
    killed(natural, tmp_path, "before", 1, 2, steps=None, minutes=1e-9, keep=1)
    assert "checkpoint-00001-00000002.npz" in names(tmp_path)


def test_what_was_half_written_goes_and_other_files_stay(tmp_path):
    mine = "my.part", "checkpoint-00001-00000001.npz.backup", "notes.txt"
    for name in (*mine, "checkpoint-00009-00000001.npz.part"):
        (tmp_path / name).write_text("?")
    written(tmp_path, (1, 0))
    assert names(tmp_path) == sorted(["checkpoint-00001-00000000.npz", *mine])


# --- which count ------------------------------------------------------------------------


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def bit_turned(path):
    data = bytearray(path.read_bytes())
    data[data.index(ARRAYS["v0"].tobytes()) + 9] ^= 1
    path.write_bytes(bytes(data))


def foreign(path):
    np.savez(path, other=np.zeros(3))


def state_changed(path):
    """With a checksum that is no longer its own."""
    with np.load(path) as saved:
        arrays = dict(saved)
    manifest = json.loads(str(arrays["manifest"]))
    manifest["state"]["best"] = 0.25
    np.savez(path, **arrays | {"manifest": np.array(json.dumps(manifest))})


DAMAGES = [halved, emptied, bit_turned, foreign, state_changed]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_the_one_before_counts(tmp_path, capsys, damage):
    store = written(tmp_path, (1, 0), (1, 1))
    newest, before = map(pathlib.Path, store.paths())
    damage(newest)
    state, arrays = store.newest()
    assert (state.epoch, state.step, state.logs) == (1, 0, {"loss": 0.5})
    assert arrays.keys() == ARRAYS.keys()
    said = capsys.readouterr().out
    assert said.startswith(f"Note: {newest} can't be read (") and said.count("\n") == 1
    assert said.endswith(f"; training goes on from {before}.\n")


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_none_can_be_used_all_are_named_with_what_to_do(tmp_path, damage):
    store = written(tmp_path, (1, 0), (1, 1))
    for path in store.paths():
        damage(pathlib.Path(path))
    with pytest.raises(InputError, match="No checkpoint can be used: ") as refusal:
        store.newest()
    assert all(path in str(refusal.value) for path in store.paths())
    assert "Restore one from a copy, or remove them" in str(refusal.value)


def test_no_folder_and_an_empty_one_are_a_beginning(tmp_path):
    assert Checkpoints(tmp_path).newest() is None
    assert Checkpoints(tmp_path / "none").newest() is None
    assert Checkpoints(tmp_path / "none").state() == State()


def test_a_fit_goes_on_from_the_one_before_a_damaged_one(tmp_path, capsys):
    killed(natural, tmp_path, "before", 1, 2)
    newest, before, _ = (pathlib.Path(path) for path in Checkpoints(tmp_path).paths())
    halved(newest)
    kill = Kill()
    assert_same(resumed(natural, tmp_path, kill), unbroken(natural))
    assert [ran[:2] for ran in kill.ran] == [(1, 0), (1, 1), (1, 2)]
    said = capsys.readouterr().out
    assert str(newest) in said and f"training goes on from {before}." in said


def larger():
    keras.utils.set_random_seed(0)
    wide = keras.Sequential([network(), keras.layers.Dense(10)])
    trainer = AdversarialTrainer(wide, "natural")
    trainer.compile(keras.optimizers.Adam(0.01))
    return trainer


def other_optimizer():
    trainer = natural()
    trainer.compile(keras.optimizers.SGD(0.01))
    return trainer


@pytest.mark.parametrize("make", [larger, other_optimizer])
def test_a_checkpoint_of_another_network_or_optimizer_is_refused(tmp_path, make):
    killed(natural, tmp_path, "before", 0, 1)
    with pytest.raises(InputError, match="of another network, optimizer or version"):
        resumed(make, tmp_path)


def test_other_metrics_in_the_middle_of_an_epoch_are_refused(tmp_path):
    killed(natural, tmp_path, "before", 0, 1)

    def make():
        top = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
        return natural(metrics=["accuracy", top])

    with pytest.raises(InputError, match="other metrics"):
        resumed(make, tmp_path)


def test_other_versions_are_noted(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(keras, "__version__", "3.0.0")
        store = written(tmp_path, (1, 0))
    with np.load(store.paths()[0]) as saved:
        versions = json.loads(str(saved["manifest"]))["versions"]
    assert set(versions) == {"vfd_tf", "tensorflow", "keras", "numpy"}
    store.newest()
    said = capsys.readouterr().out
    assert f"keras 3.0.0 (now {keras.__version__})" in said and "last digits" in said
    written(tmp_path, (1, 0)).newest()
    assert not capsys.readouterr().out


# --- a full disk ------------------------------------------------------------------------


class Disk:
    """Without room for the checkpoints of which `full` says so."""

    def __init__(self, monkeypatch):
        self.full, self.write = lambda name: False, np.savez
        monkeypatch.setattr(np, "savez", self._savez)

    def _savez(self, file, **arrays):
        if self.full(os.path.basename(file.name)):
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.write(file, **arrays)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def test_a_full_disk_in_an_epoch_is_a_warning_and_training_goes_on(tmp_path, disk):
    disk.full = lambda name: "-00000002" in name
    with pytest.warns(UserWarning, match="is not written .*No space.*; training goes on"):
        found = resumed(natural, tmp_path)
    assert_same(found, unbroken(natural))
    assert names(tmp_path)[-1] == "checkpoint-00002-00000000.npz"


def test_a_full_disk_at_the_end_of_an_epoch_is_raised_and_older_files_stay(tmp_path, disk):
    disk.full = lambda name: name.startswith("checkpoint-00001-")
    with pytest.raises(OSError) as error:
        resumed(natural, tmp_path)
    assert error.value.errno == errno.ENOSPC
    assert names(tmp_path) == [
        "checkpoint-00000-00000002.npz",
        "checkpoint-00000-00000003.npz",
    ]
    disk.full = lambda name: False
    assert_same(resumed(natural, tmp_path), unbroken(natural))


def test_a_folder_that_vanishes_is_an_error_at_the_end_of_the_epoch(tmp_path):
    """And is not made again, as if nothing had been in it."""
    folder = tmp_path / "mounted"

    class Unmount(Kill):
        def _at(self, *place):
            if place == self.place:
                os.rename(folder, tmp_path / "elsewhere")

    with (
        pytest.warns(UserWarning, match="is not written .*No such file"),
        pytest.raises(FileNotFoundError),
    ):
        fit(natural(), folder, Unmount("before", 0, 2))
    assert not folder.exists()
    os.rename(tmp_path / "elsewhere", folder)
    assert_same(resumed(natural, folder), unbroken(natural))


def test_a_full_disk_after_the_last_epoch_is_raised(tmp_path, disk):
    disk.full = lambda name: name.startswith("checkpoint-00002-")
    with pytest.raises(OSError):
        resumed(natural, tmp_path)
    disk.full = lambda name: False
    assert_same(resumed(natural, tmp_path), unbroken(natural))


def test_a_rename_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    store = written(tmp_path, (1, 0))

    def full(*paths):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        written(tmp_path, (1, 1))
    assert names(tmp_path) == ["checkpoint-00001-00000000.npz"]
    assert store.newest()[0].epoch == 1


# --- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"minutes": 0}, "minutes above 0"),
        ({"minutes": float("nan")}, "minutes above 0"),
        ({"steps": 0}, "steps and keep from 1"),
        ({"keep": 0}, "steps and keep from 1"),
        ({"mode": "auto"}, "mode is 'max' or 'min'; got 'auto'"),
        ({"signals": ("SIGNONE",)}, "No signal 'SIGNONE'"),
    ],
)
def test_a_value_out_of_range_is_a_sentence(tmp_path, given, sentence):
    with pytest.raises(InputError, match=sentence):
        Checkpoint(tmp_path, **given)


def test_a_value_that_is_not_in_the_logs_is_named_with_those_that_are(tmp_path):
    with pytest.raises(InputError, match="'val_robust'.*: the logs have accuracy, .*loss"):
        fit(natural(), tmp_path, monitor="val_robust")


def test_a_plain_model_is_refused(tmp_path):
    x, y, _ = images()
    model = network()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(InputError, match="needs an AdversarialTrainer"):
        model.fit(x, y, callbacks=[Checkpoint(tmp_path)], verbose=0)


def test_two_of_them_are_refused(tmp_path):
    with pytest.raises(InputError, match="one Checkpoint"):
        fit(natural(), tmp_path, Checkpoint(tmp_path / "other"))


def test_a_callback_serves_a_second_fit(tmp_path):
    saves = Checkpoint(tmp_path, steps=1)
    x, y, weight = images()
    own = {"sample_weight": weight, "batch_size": 8, "validation_data": (x[:11], y[:11])}
    with pytest.raises(Killed):
        natural().fit(x, y, **own, epochs=2, verbose=0, callbacks=[saves, Kill("end", 0)])
    trainer = natural()
    history = trainer.fit(x, y, **own, epochs=2, verbose=0, callbacks=[saves])
    assert_same(everything(trainer, history), unbroken(natural))
