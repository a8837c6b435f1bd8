"""Signals end a training behind its step, and never lose what was done."""

import errno
import os
import signal
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from fits import (
    EPOCHS,
    STEPS,
    Send,
    assert_same,
    everything,
    fit,
    images,
    natural,
    resumed,
    send,
    unbroken,
)

from vfd_tf import InputError
from vfd_tf.callbacks import Checkpoint
from vfd_tf.signals import Signals, Stopped, named
from vfd_tf.training.saving import training_state


def stopped(folder, *place, **given):
    """A fit that is asked to stop at this place: its callback, and the exception."""
    sends = Send(*place)
    with pytest.raises(Stopped) as end:
        fit(natural(), folder, sends, **given)
    return sends, end.value


@pytest.fixture(autouse=True)
def handlers():
    """Are afterwards as they were before."""
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before
    assert Signals.active is None


# --- in a fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", [("step", 0, 0), ("before", 0, 1), ("step", 0, STEPS - 1), ("step", 1, 1)]
)
def test_a_signal_stops_behind_the_step_and_the_fit_goes_on(tmp_path, capfd, place):
    sends, end = stopped(tmp_path, *place, steps=None)
    assert (end.code, end.signal, str(end)) == (75, "SIGTERM", "stopped by SIGTERM")
    assert capfd.readouterr().err.count("SIGTERM: stopping after this step") == 1
    ran = [each[:2] for each in sends.ran if each != "sent"]
    assert ran[-1] == place[1:]  # the step is finished, and no other one begun
    epoch, batch = place[1:]
    newest = max(os.listdir(tmp_path))
    assert newest == f"checkpoint-{epoch:05d}-{batch + 1:08d}.npz"
    assert_same(resumed(natural, tmp_path), unbroken(natural))


def test_a_signal_in_validation_ends_at_once(tmp_path):
    sends, _ = stopped(tmp_path, "test", 0)
    assert sends.ran[-1] != "sent"
    assert_same(resumed(natural, tmp_path), unbroken(natural))


def test_a_signal_in_a_validation_that_is_run_again_ends_at_once(tmp_path):
    for _ in range(2):
        sends, _ = stopped(tmp_path, "test", EPOCHS - 1)
        assert sends.ran[-1] != "sent"
    assert_same(resumed(natural, tmp_path), unbroken(natural))


def test_a_signal_while_the_last_step_is_saved_is_not_forgotten(tmp_path, monkeypatch):
    copied, sent = training_state.arrays_of, []

    def slow(trainer, cluster):
        if not sent and int(trainer.iteration.numpy()) == STEPS * EPOCHS:
            sent.append(send("SIGTERM"))
        return copied(trainer, cluster)

    monkeypatch.setattr(training_state, "arrays_of", slow)
    with pytest.raises(Stopped):
        fit(natural(), tmp_path)
    assert_same(resumed(natural, tmp_path), unbroken(natural))


def test_what_cannot_be_saved_is_not_said_to_be(tmp_path, monkeypatch):
    """The disk is full for the checkpoint that a signal asks for: no `Stopped`."""

    def full(*args, **arrays):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError) as end:
        fit(natural(), tmp_path, Send("step", 0, 1), steps=None)
    assert end.value.errno == errno.ENOSPC


def test_a_second_sigint_ends_at_once(tmp_path):
    sends = Send("before", 1, 1, names=("SIGINT", "SIGINT"))
    with pytest.raises(KeyboardInterrupt):
        fit(natural(), tmp_path, sends)
    assert sends.ran[-1][:2] == (1, 0)
    assert_same(resumed(natural, tmp_path), unbroken(natural))


def test_a_second_sigterm_waits_for_the_step_as_the_first(tmp_path):
    sends = Send("before", 1, 1, names=("SIGTERM", "SIGTERM"))
    with pytest.raises(Stopped):
        fit(natural(), tmp_path, sends)
    assert sends.ran[-1][:2] == (1, 1)


def test_a_data_set_of_the_users_ends_at_once(tmp_path):
    x, y, _ = images(24)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    sends, _ = stopped(tmp_path, "before", 1, 1, data=data)
    assert sends.ran[-1] != "sent"
    assert_same(resumed(natural, tmp_path, data=data), unbroken(natural, data=data))


def test_signals_of_ones_own_choice(tmp_path):
    own = {"signals": ("USR1",)}
    sends = Send("before", 0, 1, names=("SIGUSR1",))
    with pytest.raises(Stopped, match="SIGUSR1"):
        fit(natural(), tmp_path, sends, **own)


def test_no_signals_leave_handlers_alone(tmp_path):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    fit(natural(), tmp_path, Look(), signals=(), epochs=1)
    assert seen == [before] * STEPS


def in_a_thread(function):
    """What a function raised in a thread, or None."""
    raised = []

    def run():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_a_fit_in_a_thread_listens_to_no_signals(tmp_path):
    assert in_a_thread(lambda: fit(natural(), tmp_path)) is None
    trainer = natural()
    assert_same(everything(trainer, fit(trainer, tmp_path)), unbroken(natural))


def test_what_listened_in_the_main_thread_may_be_used_in_another():
    listening = Signals()

    def enter():
        with listening:
            pass

    enter()
    assert in_a_thread(enter) is None


# --- alone ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemError, RuntimeError, ValueError])
def test_a_signal_that_surfaces_as_another_error_is_still_that_signal(error):
    with pytest.raises(Stopped, match="SIGTERM") as end, Signals():
        try:
            send("SIGTERM")
        except Stopped:
            raise error("of a library") from None
    assert isinstance(end.value.__cause__, error)


def test_an_error_before_any_signal_stays_itself():
    with pytest.raises(ValueError, match="mine"), Signals():
        raise ValueError("mine")


def test_a_signal_that_is_waited_for_raises_at_the_check():
    with Signals() as signals:
        signals.waits = True
        signals.check()
        send("SIGTERM")
        with pytest.raises(Stopped, match="SIGTERM"):
            signals.check()


def test_the_outermost_listens():
    with Signals(("SIGTERM",)) as outer, Signals(("SIGUSR1",)):
        assert Signals.active is outer
        with pytest.raises(Stopped, match="SIGTERM"):
            send("SIGTERM")


def test_it_listens_again_after_a_signal():
    signals = Signals()
    for _ in range(2):
        with pytest.raises(Stopped), signals:
            send("SIGTERM")


@pytest.mark.parametrize("name", ["USR1", "usr1", "SIGUSR1", "sigusr1"])
def test_a_signal_is_named_with_and_without_sig(name):
    assert named(name) == "SIGUSR1"


@pytest.mark.parametrize("name", ["", "NONE", "SIGKILL", "STOP", "kill", "9", "SIG_DFL"])
def test_a_signal_that_is_none_or_cannot_be_waited_for_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"No signal '{name}' can be waited for"):
        named(name)
    with pytest.raises(InputError, match="name one such as USR1"):
        Checkpoint(tmp_path, signals=(name,))
