"""Losses, gradients and weights that are not finite: named, skipped, or gone back from."""

import contextlib
import json
import os

import keras
import numpy as np
import processes
import pytest

from vfd_tf import AdversarialTrainer, InputError, TrainingOptions, VFDCallback
from vfd_tf.callbacks import Checkpoint, RobustOverfitting
from vfd_tf.training.saving.divergence import BEFORE, ROLLBACKS, Diverged, left_out

L = keras.layers
IMAGES, SIZE, STEPS = 64, 8, 8
BROKEN = 5  # the image whose weight is infinite
RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(IMAGES, 4, 4, 1)).astype("float32")
Y = np.arange(IMAGES) % 3


def network():
    keras.utils.set_random_seed(0)
    # In front of BatchNorm the gradient of a bias is rounding and nothing else.
    convolution = L.Conv2D(2, 3, use_bias=False)
    layers = convolution, L.BatchNormalization(), L.Flatten(), L.Dense(3)
    return keras.Sequential([keras.Input((4, 4, 1)), *layers])


def trainer(on_nan="stop", **options):
    options = TrainingOptions(on_nan=on_nan, average="ema", **options)
    made = AdversarialTrainer(network(), "pgd-at", "pgd1", options=options)
    made.compile(keras.optimizers.SGD(0.1, 0.9))
    return made


def weights(*broken, value=np.inf):
    found = np.ones(IMAGES, "float32")
    found[list(broken)] = value
    return found


def fit(made, weight, *callbacks, epochs=1, shuffle=True):
    own = {"sample_weight": weight, "shuffle": shuffle, "batch_size": SIZE}
    made.fit(X, Y, epochs=epochs, callbacks=list(callbacks), verbose=0, **own)
    return made


def state(made):
    """Everything that moves, but what notes the steps that weren't finite."""
    optimizer = getattr(made.optimizer, "inner_optimizer", made.optimizer)
    known = [*made.weights, *optimizer.variables]
    noted = "not_finite", "skipped_steps"
    return [v.numpy() for v in known if not any(name in v.name for name in noted)]


def same(one, other):
    for a, b in zip(state(one), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


# --- stop -------------------------------------------------------------------------------


def test_the_step_the_term_and_the_images_are_named(tmp_path):
    with pytest.raises(Diverged) as refusal:
        fit(trainer(), weights(BROKEN), Checkpoint(tmp_path), shuffle=False)
    text = str(refusal.value)
    assert text.startswith("Training diverged in step 1 of epoch 1: loss, gradient not fin")
    assert f"(images 0, 1, 2, 3, 4, 5, 6, 7, see {tmp_path}/not_finite.json)" in text
    known = json.loads((tmp_path / "not_finite.json").read_text())
    assert known["0"]["images"] == list(range(SIZE)) and refusal.value.step == 0


@pytest.mark.parametrize("epoch", [1, 2])
def test_the_images_named_are_those_of_the_batch(tmp_path, epoch):
    """Shuffled, in a later fit, and read back from the file."""
    made = fit(trainer(), weights(), epochs=epoch)
    with pytest.raises(Diverged):
        fit(made, weights(BROKEN), Checkpoint(tmp_path))
    known = json.loads((tmp_path / "not_finite.json").read_text())
    ((step, entry),) = known.items()
    assert BROKEN in entry["images"] and len(entry["images"]) == SIZE
    assert epoch * STEPS <= int(step) < (epoch + 1) * STEPS


def test_a_batch_beside_the_infinite_one_is_not_named(tmp_path):
    """The first one counts, however many follow."""
    with pytest.raises(Diverged, match="step 3 of epoch 1"):
        fit(trainer(), weights(2 * SIZE, 3 * SIZE, 7 * SIZE), shuffle=False)


def test_the_term_that_is_not_finite_is_named():
    made = AdversarialTrainer(network(), "trades", "pgd1")
    made.compile(keras.optimizers.SGD(0.1))
    made.scheduled["adv_weight"].assign(np.inf)
    with pytest.raises(Diverged, match="epoch 1: loss, gradient not finite"):
        made.fit(X, Y, batch_size=SIZE, verbose=0)
    made = AdversarialTrainer(network(), "trades", "pgd1")
    made.compile(keras.optimizers.SGD(1e30))
    with pytest.raises(Diverged, match="clean_loss, adv_loss, loss, gradient not"):
        made.fit(X, Y, batch_size=SIZE, verbose=0)


def test_the_checkpoint_before_is_kept_and_goes_on(tmp_path):
    """With the cause gone, training ends as it would have without it."""
    with pytest.raises(Diverged):
        later = weights(7 * SIZE)
        fit(trainer(), later, Checkpoint(tmp_path, steps=1), shuffle=False)
    resumed = fit(trainer(), weights(), Checkpoint(tmp_path, steps=1), shuffle=False)
    same(resumed, fit(trainer(), weights(), shuffle=False))


class Breaks(keras.callbacks.Callback):
    """A weight is lost in the fifth step."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            kernel = self.model.student.layers[-1].kernel
            kernel.assign(kernel * np.nan)


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    with pytest.raises(Diverged, match=r"epoch 1: the weights .*kernel not finite"):
        fit(trainer(), weights(), Checkpoint(tmp_path, steps=1), Breaks())
    newest = sorted(tmp_path.glob("checkpoint-*"))[-1]
    assert newest.name == "checkpoint-00000-00000004.npz"


def test_the_advice_is_what_helps_here(tmp_path):
    """A skipped step mends no weights; nothing is kept that was not saved."""
    slower, checkpoint = "; lower the learning rate", Checkpoint(tmp_path, steps=1)
    other = Checkpoint(tmp_path / "other")
    lost = weights(BROKEN)
    for on_nan, weight, callbacks, advice in (
        ("stop", lost, [], ", or go on with on_nan='skip' or 'rollback', which needs a "
         "Checkpoint."),
        ("stop", lost, [other], ", or go on with on_nan='skip' or 'rollback' (--on_nan)."),
        ("stop", weights(), [checkpoint, Breaks()],
         ", or go on with on_nan='rollback' (--on_nan); the last checkpoint is kept."),
        ("skip", weights(), [Breaks()], ", or go on with on_nan='rollback', which needs a "
         "Checkpoint."),
    ):  # fmt: skip
        with pytest.raises(Diverged) as refusal:
            fit(trainer(on_nan), weight, *callbacks, shuffle=False)
        assert str(refusal.value).endswith(slower + advice), str(refusal.value)


def test_weights_that_never_were_finite_say_nothing(tmp_path):
    class Mask(L.Layer):
        def build(self, shape):
            own = {"initializer": keras.initializers.Constant(-np.inf), "trainable": False}
            self.mask = self.add_weight(shape=(1,), **own)

        def call(self, inputs):
            return inputs + 0 * keras.ops.maximum(self.mask, -1.0)

    model = keras.Sequential([keras.Input((4, 4, 1)), Mask(), L.Flatten(), L.Dense(3)])
    made = AdversarialTrainer(model, "natural")
    made.compile("sgd")
    fit(made, weights(), Checkpoint(tmp_path, steps=1))
    assert (tmp_path / "checkpoint-00001-00000000.npz").exists()
    assert not (tmp_path / "not_finite.json").exists()


def test_a_plain_model_stops_too():
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e30), loss)
    callback = VFDCallback(network(), attack="pgd1")
    with pytest.raises(Diverged, match=r"step \d of epoch 1: clean_loss.*vfd_loss") as lost:
        model.fit(X, Y, batch_size=SIZE, callbacks=[callback], verbose=0)
    assert str(lost.value).endswith("not finite; lower the learning rate.")  # no options


def test_a_fit_after_a_divergence_begins_anew():
    made = trainer()
    good = made.student.get_weights()
    with pytest.raises(Diverged):
        fit(made, weights(BROKEN))
    made.student.set_weights(good)
    made.compile(keras.optimizers.SGD(0.1))
    fit(made, weights())


# --- skip -------------------------------------------------------------------------------


def test_skip_changes_nothing_where_all_is_finite():
    same(fit(trainer("skip"), weights(), epochs=2), fit(trainer(), weights(), epochs=2))


def test_a_skipped_step_leaves_no_trace(tmp_path):
    """Weights, momentum, averages and statistics stay; the step counts, the update not."""
    made = fit(trainer("skip"), weights())
    before, at = state(made), int(made.iteration.numpy())
    with pytest.warns(UserWarning, match=r"Step 1 of epoch 1 is skipped: loss, gradient"):
        made.fit(
            *(X[:16], Y[:16]),
            sample_weight=weights(3, 12)[:16],
            batch_size=16,
            callbacks=[NoAlarm()],
            verbose=0,
        )
    made.iteration.assign(at)
    for old, new in zip(before, state(made), strict=True):
        np.testing.assert_array_equal(old, new)


class NoAlarm(keras.callbacks.Callback):
    """A second fit of one step that is skipped is a whole epoch: allow it."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.optimizer.dynamic_scale.assign(2.0)

    def on_train_end(self, logs=None):
        self.model.optimizer.dynamic_scale.assign(1.0)


def test_the_accuracy_of_an_epoch_is_that_of_the_steps_that_count():
    """The images of one class in order, learned by heart, but for those of one step."""
    made = trainer("skip")
    made.student.layers[-1].set_weights([np.zeros((8, 3), "f"), np.array([0.0, 9, 0], "f")])
    made.optimizer.learning_rate = 0.0
    own = {"sample_weight": weights(BROKEN), "batch_size": SIZE, "verbose": 0}
    history = made.fit(X, np.ones(IMAGES, int), shuffle=False, **own).history
    assert history["skipped_steps"] == [1] and history["accuracy"] == [1.0]


def test_losses_of_an_epoch_are_those_of_the_steps_that_count():
    """The same as of the other seven batches, one after the other."""
    made = trainer("skip")
    with pytest.warns(UserWarning, match="Step 8 of epoch 1 is skipped"):
        fit(made, weights(7 * SIZE), shuffle=False)
    logs = made.history.history
    other = trainer("skip")
    rest = slice(0, 7 * SIZE)
    other.fit(X[rest], Y[rest], batch_size=SIZE, shuffle=False, verbose=0)
    assert logs["loss"] == other.history.history["loss"]
    assert logs["skipped_steps"] == [1] and other.history.history["skipped_steps"] == [0]


@pytest.mark.filterwarnings("ignore:Step")
@pytest.mark.parametrize("stop", [3, 11])
def test_skipping_is_the_same_after_an_interruption(tmp_path, stop):
    unbroken = fit(trainer("skip"), weights(BROKEN), epochs=2)
    for callbacks in ([Interrupts(stop)], []):
        made = trainer("skip")
        saver = Checkpoint(tmp_path, steps=1)
        with interruption(callbacks):
            fit(made, weights(BROKEN), saver, *callbacks, epochs=2)
    assert int(made.loss_scaling.skipped.numpy()) == 2
    same(made, unbroken)


class Interrupts(keras.callbacks.Callback):
    """Ends the process, as far as a test can, behind so many steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        if not self.model.train_function.passing:
            self.left -= 1
        if not self.left:
            raise RuntimeError("interrupted")


def interruption(callbacks):
    if not callbacks:
        return contextlib.nullcontext()
    return pytest.raises(RuntimeError, match="interrupted")


@pytest.mark.filterwarnings("ignore:Step")
def test_an_epoch_that_is_skipped_whole_is_an_error():
    with pytest.raises(InputError, match="All 8 steps of epoch 1 were skipped.*learning"):
        fit(trainer("skip"), weights(*range(IMAGES)))


# --- rollback ---------------------------------------------------------------------------


def test_which_steps_are_left_out():
    left = [step for step in range(100) if left_out(step, [30, 60])]
    assert left == [*range(30 - BEFORE, 31), *range(60 - BEFORE, 61)]


def test_rollback_goes_back_to_the_last_epoch_and_leaves_out_what_led_there(
    tmp_path, capsys
):
    """Epoch 2 diverges in its third step; its other five are trained on."""
    made = trainer("rollback")
    fit(made, weights(), Checkpoint(tmp_path), shuffle=False)
    fit(made, weights(2 * SIZE), Checkpoint(tmp_path), epochs=2, shuffle=False)
    said = capsys.readouterr().out
    assert "Training diverged in step 3 of epoch 2" in said
    assert "It goes back to the end of epoch 1" in said
    assert int(made.iteration.numpy()) == 2 * STEPS
    assert int(made.optimizer.iterations.numpy()) == 2 * STEPS - 3
    # The same, without any rollback: the five steps alone, at their own numbers.
    other = fit(trainer(), weights(), shuffle=False)
    other.iteration.assign_add(3)
    rest = slice(3 * SIZE, None)
    other.fit(X[rest], Y[rest], batch_size=SIZE, shuffle=False, verbose=0)
    same(made, other)


@pytest.mark.parametrize("stop", [1, 4, 9, 12])
def test_rollback_is_the_same_after_an_interruption(tmp_path, stop):
    unbroken = fit(
        trainer("rollback"), weights(BROKEN), Checkpoint(tmp_path / "a"), epochs=3
    )
    for callbacks in ([Interrupts(stop)], []):
        made = trainer("rollback")
        saver = Checkpoint(tmp_path / "b", steps=1)
        with interruption(callbacks):
            fit(made, weights(BROKEN), saver, *callbacks, epochs=3)
    same(made, unbroken)
    assert made.history.history == unbroken.history.history


def test_rollback_ends_where_it_does_not_help(tmp_path):
    """With a learning rate that diverges, every batch does."""
    made = trainer("rollback")
    made.optimizer.learning_rate.assign(1e30)
    with pytest.raises(Diverged, match=f"the {ROLLBACKS + 1}th time: lower the learning"):
        fit(made, weights(), Checkpoint(tmp_path), epochs=100)


def test_rollback_needs_something_to_go_back_to():
    with pytest.raises(InputError, match=r"on_nan='rollback'.*callbacks.Checkpoint"):
        fit(trainer("rollback"), weights())


def test_float16_has_its_own_way():
    with pytest.raises(InputError, match="mixed_float16 skips"):
        trainer("rollback", precision="mixed_float16")


# --- replicas ---------------------------------------------------------------------------

ON_REPLICAS = """
import sys
import vfd_tf, tensorflow as tf
import test_divergence as t

half = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], half)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for on_nan in ("skip", "rollback"):
    trained = []
    for scope in (strategy.scope(), tf.distribute.get_strategy().scope()):
        folder = f"{sys.argv[1]}/{on_nan}{len(trained)}"
        with scope:
            made = t.trainer(on_nan)
        trained.append(t.fit(made, t.weights(t.BROKEN), t.Checkpoint(folder), epochs=2))
    for a, b in zip(*map(t.state, trained), strict=True):
        t.np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
"""


@pytest.mark.slow
def test_replicas_skip_and_go_back_as_one_device(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ON_REPLICAS)
    path = os.pathsep.join([str(processes.ROOT / "tests"), str(processes.ROOT)])
    started = processes.start(script, tmp_path, PYTHONPATH=path)
    ((code, said),) = processes.ended([started])
    assert code == 0 and "Step 3 of epoch 1 is skipped" in said, said
    assert "goes back to the end of epoch 1" in said


ON_WORKERS = """
import json, os, sys
index, ports, folder = int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3]
if len(ports) > 1:
    addresses = [f"localhost:{port}" for port in ports]
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
import vfd_tf
from vfd_tf.cli.strategies import make_strategy
import test_divergence as t

strategy = make_strategy("multi_worker" if len(ports) > 1 else "one_device")
for on_nan in ("skip", "rollback"):
    with strategy.scope():
        made = t.trainer(on_nan)
    # Each a folder of its own: what one of them finds there must not decide for all.
    saves = t.Checkpoint(f"{folder}/{on_nan}{index}of{len(ports)}", steps=3)
    t.fit(made, t.weights(t.BROKEN), saves, epochs=3)
    t.np.savez(f"{folder}/{on_nan}-{index}of{len(ports)}.npz", *t.state(made))
"""


@pytest.mark.slow
def test_workers_skip_and_go_back_as_one_device(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ON_WORKERS)
    path = os.pathsep.join([str(processes.ROOT / "tests"), str(processes.ROOT)])
    for count in (1, 2):
        ports = ",".join(map(str, processes.free_ports(count)))
        started = [
            processes.start(script, index, ports, tmp_path, PYTHONPATH=path)
            for index in range(count)
        ]
        for code, said in processes.ended(started, timeout=120):
            assert code == 0, said
    for on_nan in ("skip", "rollback"):
        one, chief, other = (
            np.load(tmp_path / f"{on_nan}-{who}.npz") for who in ("0of1", "0of2", "1of2")
        )
        for name in one.files:
            np.testing.assert_array_equal(chief[name], other[name])
            np.testing.assert_allclose(one[name], chief[name], rtol=1e-4, atol=1e-6)


# --- robust overfitting -----------------------------------------------------------------


def test_robust_overfitting_names_the_epoch_to_go_back_to(capsys):
    watch = RobustOverfitting("robust", fall=0.05, patience=2)
    watch.on_train_begin()
    said = []
    for epoch, robust in enumerate((0.3, 0.45, 0.39, 0.42, 0.38, 0.37, 0.36, 0.5, 0.5)):
        watch.on_epoch_end(epoch, {"robust": robust})
        said.append("in epoch 2" in capsys.readouterr().out)
    assert said == [False] * 5 + [True] + [False] * 3


def test_a_small_fall_is_noise(capsys):
    watch = RobustOverfitting("robust")
    watch.on_train_begin()
    for epoch in range(20):
        watch.on_epoch_end(epoch, {"robust": 0.5 - 0.04 * (epoch % 2)})
    assert not capsys.readouterr().out
