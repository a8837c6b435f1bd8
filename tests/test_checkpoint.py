"""A fit that is interrupted and started again ends in the bits of an unbroken one."""

import os
import pathlib

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
from fits import (
    EPOCHS,
    STEPS,
    Kill,
    Killed,
    assert_same,
    fit,
    images,
    killed,
    natural,
    resumed,
    unbroken,
    vfd,
)

from vfd_tf import InputError
from vfd_tf.callbacks import CatastrophicOverfitting, Checkpoint
from vfd_tf.data import splits
from vfd_tf.data.augmentation import Augmentation
from vfd_tf.data.training_batches import TrainingBatches

# --- the same bits ----------------------------------------------------------------------

EVERYWHERE = [
    ("begin", 0),
    *(("step", 0, batch) for batch in range(STEPS)),
    ("test", 0),
    ("end", 0),
    ("begin", 1),
    *(("before", 1, batch) for batch in range(STEPS)),
    ("test", 1),
    ("end", 1),
]


@pytest.mark.slow
def test_a_fit_killed_at_every_place_in_turn_ends_as_an_unbroken_one(tmp_path):
    for place in EVERYWHERE:
        killed(natural, tmp_path, *place)
    assert_same(resumed(natural, tmp_path), unbroken(natural))


OPTIONS = {
    "average": {"average": "ema", "ema_decay": 0.9},
    "parts": {"accumulate_steps": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("place", [("before", 0, 1), ("test", 0), ("before", 1, 2)])
def test_vfd_with_averages_or_accumulation_goes_on_to_the_same_bits(
    tmp_path, options, place
):
    def make():
        return vfd(**options)

    killed(make, tmp_path, *place)
    assert_same(resumed(make, tmp_path), unbroken(make))


@pytest.mark.parametrize("place", [("before", 0, 1), ("end", 0), ("before", 1, 2)])
def test_training_batches_go_on_with_the_same_augmented_images(tmp_path, place):
    data = training_batches()
    killed(natural, tmp_path, *place, data=data)
    assert_same(resumed(natural, tmp_path, data=data), unbroken(natural, data=data))


def training_batches():
    x, y, _ = images()
    augmentation = Augmentation(flip=True, pad=1)
    return TrainingBatches(splits.Images(x, y), 8, 3, augmentation)


def test_steps_are_run_once(tmp_path):
    first = killed(natural, tmp_path, "before", 1, 1).ran
    second = Kill()
    resumed(natural, tmp_path, second)
    whole = Kill()
    fit(natural(), None, whole)
    assert first == whole.ran[: STEPS + 1]
    # What was run before is passed over, with the logs that it came to.
    assert [ran[:2] for ran in second.ran] == [(1, 0), (1, 1), (1, 2)]
    assert second.ran == whole.ran[STEPS:]


def test_several_steps_a_call_go_on_to_the_same_bits(tmp_path):
    def make():
        return natural(steps_per_execution=2)

    killed(make, tmp_path, "before", 1, 2)
    assert_same(resumed(make, tmp_path), unbroken(make))


def test_a_checkpoint_changes_nothing(tmp_path):
    assert_same(resumed(natural, tmp_path), unbroken(natural))


def test_a_complete_fit_trains_nothing_and_has_its_history(tmp_path):
    first, kill = resumed(natural, tmp_path), Kill()
    assert_same(resumed(natural, tmp_path, kill), first)
    assert not kill.ran


def test_a_complete_fit_goes_on_to_more_epochs(tmp_path):
    resumed(natural, tmp_path)
    assert_same(resumed(natural, tmp_path, epochs=3), unbroken(natural, epochs=3))


def test_a_trainer_that_was_trained_before_goes_on_from_there(tmp_path):
    def make():
        trainer = natural()
        fit(trainer, None, epochs=1)
        return trainer

    killed(make, tmp_path, "before", 1, 1)
    assert_same(resumed(make, tmp_path), unbroken(make))


def test_metrics_of_several_values_are_saved(tmp_path):
    x, y, _ = images(24)
    data, validation = (x, np.eye(10)[y]), (x[:8], np.eye(10)[y[:8]])

    def run(*callbacks):
        trainer = natural(metrics=[keras.metrics.F1Score()])
        own = {"epochs": EPOCHS, "batch_size": 8, "validation_data": validation}
        own |= {"callbacks": callbacks, "verbose": 0}
        return trainer.fit(*data, **own).history

    with pytest.raises(Killed):
        run(Checkpoint(tmp_path, steps=1), Kill("before", 1, 1))
    found, expected = run(Checkpoint(tmp_path, steps=1)), run()
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


# --- other data -------------------------------------------------------------------------


def own_set():
    x, y, _ = images(24)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


def test_a_data_set_of_the_users_goes_on_at_the_end_of_an_epoch(tmp_path, capsys):
    killed(natural, tmp_path, "before", 1, 2, data=own_set(), verbose=2)
    assert "taken up again at the end of an epoch" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["checkpoint-00001-00000000.npz"]
    kill = Kill()
    found = resumed(natural, tmp_path, kill, data=own_set())
    assert [ran[:2] for ran in kill.ran] == [(1, 0), (1, 1), (1, 2)]
    assert_same(found, unbroken(natural, data=own_set()))


def test_a_place_in_an_epoch_of_other_data_is_refused(tmp_path):
    killed(natural, tmp_path, "before", 1, 2)
    with pytest.raises(InputError, match="in the middle of an epoch: pass the arrays"):
        resumed(natural, tmp_path, data=own_set())


# --- what callbacks know ----------------------------------------------------------------


class Script(keras.callbacks.Callback):
    """Puts a given value into the logs of every epoch."""

    def __init__(self, *values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_robust"] = self.values[epoch]


def early(**given):
    own = {"patience": 2, "mode": "max", **given}
    return keras.callbacks.EarlyStopping("val_robust", **own)


def scripted(folder, callback, values, *more):
    """What a fit with these values of val_robust ends with."""
    own = {"epochs": len(values)}
    return resumed(natural, folder, Script(*values), callback, *more, **own)


def interrupted(folder, make, values, *place):
    """The same, killed at a place first."""
    with pytest.raises(Killed):
        scripted(folder, make(), values, Kill(*place))
    return scripted(folder, make(), values)


VALUES = 0.5, 0.4, 0.3, 0.9


@pytest.mark.parametrize("place", [("before", 1, 1), ("end", 1), ("before", 2, 1)])
@pytest.mark.parametrize("best", [True, False])
def test_early_stopping_counts_on_and_ends_at_the_same_epoch(tmp_path, place, best):
    def make():
        return early(restore_best_weights=best)

    found = interrupted(tmp_path, make, VALUES, *place)
    assert found[1] == [0, 1, 2]
    assert_same(found, scripted(None, make(), VALUES))


@pytest.mark.parametrize("best", [True, False])
def test_a_training_that_early_stopping_ended_stays_ended(tmp_path, best):
    first = scripted(tmp_path, early(restore_best_weights=best), VALUES)
    kill = Kill()
    again = scripted(tmp_path, early(restore_best_weights=best), VALUES, kill)
    assert not kill.ran
    assert_same(again, first)


def test_a_plateau_is_counted_on_and_lowers_the_rate_once(tmp_path):
    def make():
        own = {"factor": 0.5, "patience": 2, "cooldown": 1, "mode": "max"}
        return keras.callbacks.ReduceLROnPlateau("val_robust", **own)

    found = interrupted(tmp_path, make, VALUES, "before", 2, 1)
    assert found[2]["learning_rate"] == pytest.approx([0.01, 0.01, 0.01, 0.005])
    assert_same(found, scripted(None, make(), VALUES))


def test_model_checkpoint_keeps_the_best_of_all_epochs(tmp_path):
    def make():
        path, mode = str(tmp_path / "kept.keras"), {"mode": "max", "save_best_only": True}
        return keras.callbacks.ModelCheckpoint(path, "val_robust", **mode)

    with pytest.raises(Killed):
        scripted(tmp_path, make(), VALUES[:3], Kill("before", 1, 1))
    kept = (tmp_path / "kept.keras").read_bytes()
    scripted(tmp_path, make(), VALUES[:3])
    assert (tmp_path / "kept.keras").read_bytes() == kept


def test_the_alarm_of_overfitting_remembers_the_best_epoch(tmp_path, capsys):
    def make():
        return CatastrophicOverfitting("val_robust", fall=0.15)

    values = 0.5, 0.3, 0.3
    found = interrupted(tmp_path, make, values, "before", 2, 1)
    assert found[2]["catastrophic_overfitting"] == [0, 1, 1]
    assert capsys.readouterr().out.count("Catastrophic overfitting") == 1


@pytest.mark.parametrize("mode, best", [("max", 0.5), ("min", 0.3)])
def test_the_best_epoch_is_kept_across_an_interruption(tmp_path, mode, best):
    values = [0.4, best, 0.4]
    own = {"monitor": "val_robust", "mode": mode, "epochs": 3}
    with pytest.raises(Killed):
        fit(natural(), tmp_path, Script(*values), Kill("before", 2, 1), **own)
    fit(natural(), tmp_path, Script(*values), **own)
    epoch_2 = natural()
    fit(epoch_2, None, epochs=2)
    kept = keras.saving.load_model(tmp_path / "best.keras", compile=False)
    for one, other in zip(kept.weights, epoch_2.student.weights, strict=True):
        np.testing.assert_array_equal(one, other)


# --- replicas ---------------------------------------------------------------------------


@pytest.mark.slow
def test_two_replicas_go_on_to_the_same_bits_and_metrics(tmp_path):
    script = pathlib.Path(__file__).with_name("fits_on_replicas.py")
    ((code, said),) = processes.ended([processes.start(script, tmp_path)])
    assert code == 0, said
    whole, parts = (np.load(tmp_path / f"{n}.npz") for n in ("unbroken", "resumed"))
    assert parts.files == whole.files and "accuracy" in whole
    for name in whole.files:
        np.testing.assert_array_equal(parts[name], whole[name], err_msg=name)
    # An average of decay 0 is the last student, statistics of all replicas included.
    apart = np.load(tmp_path / "apart.npz")
    np.testing.assert_allclose(apart["average"], apart["last"], rtol=1e-5, atol=1e-7)
