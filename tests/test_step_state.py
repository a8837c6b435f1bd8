"""What a step leaves behind: state that layers assign, averages and clipped updates.

The references are plain `keras.Model.fit`, and one batch where a step accumulates several.
"""

import vfd_tf  # noqa: F401  before TensorFlow

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from vfd_tf import AdversarialTrainer, InputError, attacks, losses, noise
from vfd_tf.training.optimizers import SGD, OneCycle, Warmup
from vfd_tf.training.options import TrainingOptions

SHAPE, CLASSES, N, BATCH = (6, 6, 1), 3, 16, 4
RANDOM = np.random.RandomState(0)
X = RANDOM.rand(N, *SHAPE).astype("float32")
Y = RANDOM.randint(0, CLASSES, N)


class MeanShift(L.Layer):
    """A normaliser of its own: subtracts a running mean, which only training moves."""

    def build(self, shape):
        self.mean = self.add_weight(
            shape=(shape[-1],), initializer="zeros", trainable=False
        )

    def call(self, x, training=False):
        if training:
            batch = keras.ops.mean(x, axis=(0, 1, 2))
            self.mean.assign(0.9 * self.mean + 0.1 * batch)
        return x - self.mean


LAYERS = {
    "spectral normalisation": lambda: L.SpectralNormalization(L.Conv2D(4, 3)),
    "batch normalisation": lambda: L.BatchNormalization(momentum=0.9),
    "a normaliser of its own": MeanShift,
    "dropout": lambda: L.Dropout(0.5, seed=3),
    "noise": lambda: L.GaussianNoise(0.1, seed=3),
}


def network(layer=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, name="layer1")(inputs)
    x = layer()(x) if layer else x
    return keras.Model(inputs, L.Dense(CLASSES)(L.Flatten()(L.ReLU()(x))))


def state(model):
    """Every variable of a model, seeds included."""
    return [np.copy(v) for v in model.variables]


def same(one, other, **tolerance):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def natural(model, optimizer, **options):
    trainer = AdversarialTrainer(model, "natural", options=TrainingOptions(**options))
    trainer.compile(optimizer)
    return trainer


@pytest.mark.parametrize("gamma", [0.0, 1e-30], ids=["plain", "AWP"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_layers_keep_the_state_that_keras_s_own_training_leaves(layer, gamma):
    """AWP of a vanishing radius trains at the weights themselves."""
    fit = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    model, student = network(layer), network(layer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    model.fit(X, Y, **fit)
    natural(student, keras.optimizers.SGD(0.1), awp_gamma=gamma).fit(X, Y, **fit)
    same(state(student), state(model), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_an_attack_leaves_no_trace_in_the_network(layer, mode):
    student = network(layer)
    options = TrainingOptions(attack_bn_mode=mode)
    trainer = AdversarialTrainer(
        student, "trades", attacks.PGD(0.1, steps=3), options=options
    )
    trainer.compile(keras.optimizers.SGD(0.1))
    before, step = state(student), trainer._make_step()
    seeds = noise.example_seeds(0, 0, tf.range(N))
    x_adv = tf.function(step.adversarial)(tf.constant(X), tf.constant(Y), seeds)
    assert np.abs(x_adv - X).max() > 0.05
    same(state(student), before, rtol=0)


class Counter(L.Layer):
    """Counts its calls, in any mode."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


@pytest.mark.parametrize("awp_gamma", [0.0, 0.01])
@pytest.mark.parametrize("method, passes", [("natural", 1), ("pgd-at", 1), ("trades", 2)])
def test_checks_attacks_and_logs_leave_no_trace_in_layers_that_count(
    method, passes, awp_gamma
):
    """Only the passes of the loss count: one a view."""
    inputs = keras.Input(SHAPE)
    counter = Counter()
    h = L.Flatten()(counter(L.Conv2D(4, 3)(inputs)))
    model = keras.Model(inputs, L.Dense(CLASSES)(h))
    options = TrainingOptions(awp_gamma=awp_gamma)
    trainer = AdversarialTrainer(model, method, attack="pgd2", options=options)
    trainer.compile("sgd", metrics=None)
    trainer.fit(X, Y, batch_size=BATCH, epochs=2, verbose=0)
    assert float(counter.calls) == passes * 2 * (N // BATCH)


def accumulated(make_optimizer, micro_batches, **options):
    """(trainer, its averages) after training in so many micro-batches an update."""
    extra = {"gradient_accumulation_steps": micro_batches} if micro_batches > 1 else {}
    trainer = natural(network(), make_optimizer(**extra), **options)
    size = N // 2 // micro_batches
    trainer.fit(X, Y, batch_size=size, epochs=3, shuffle=False, verbose=0)
    average = (
        [] if trainer.average is None else [np.copy(v) for v in trainer.average.values]
    )
    return state(trainer.student), average


OPTIMIZERS = {
    "SGD of Keras": lambda **extra: keras.optimizers.SGD(0.5, momentum=0.9, **extra),
    "Adam": lambda **extra: keras.optimizers.Adam(0.05, **extra),
    "coupled decay": lambda **extra: SGD(0.5, weight_decay=0.01, **extra),
    "one cycle": lambda **extra: SGD(OneCycle(0.5, 6), **extra),
    "warm-up": lambda **extra: SGD(Warmup(0.5, 4), **extra),
}
STEPS = {
    "plain": {},
    "EMA and clipping": {"average": "ema", "ema_decay": 0.9, "clip_norm": 0.05},
}


@pytest.mark.parametrize("options", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_accumulated_micro_batches_train_as_one_batch(make, options):
    one, average = accumulated(make, 1, **options)
    two, other_average = accumulated(make, 2, **options)
    same(two, one, rtol=1e-3, atol=1e-5)
    same(other_average, average, rtol=1e-3, atol=1e-5)


def test_accumulated_gradients_are_clipped_once():
    """The first update has the length of the clipped mean gradient of all micro-batches."""
    model = network()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(losses.cross_entropy(Y, model(X)))
    norm = float(
        tf.linalg.global_norm(tape.gradient(loss, [v.value for v in model.weights]))
    )
    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=4)
    trainer = natural(network(), optimizer, clip_norm=norm / 10)
    trainer.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    moved = [a - b for a, b in zip(state(trainer.student), state(model), strict=True)]
    length = np.sqrt(sum(np.square(part).sum() for part in moved))
    np.testing.assert_allclose(length, norm / 10, rtol=1e-4)


def test_a_second_clipping_beside_clip_norm_is_refused():
    optimizer = keras.optimizers.SGD(0.1, clipvalue=1.0, gradient_accumulation_steps=2)
    with pytest.raises(InputError, match="clips gradients itself"):
        natural(network(), optimizer, clip_norm=1.0)


def test_clipping_reaches_the_optimizer_inside_one_that_scales_the_loss():
    inner = keras.optimizers.SGD(1.0, gradient_accumulation_steps=2)
    scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)
    plain = natural(network(), keras.optimizers.SGD(1.0), clip_norm=0.05)
    plain.fit(X, Y, batch_size=N, shuffle=False, verbose=0)
    trainer = natural(network(), scaled, clip_norm=0.05)
    trainer.fit(X, Y, batch_size=N // 2, shuffle=False, verbose=0)
    same(state(trainer.student), state(plain.student), rtol=1e-3, atol=1e-5)
    inner = keras.optimizers.SGD(0.1, clipvalue=1.0, gradient_accumulation_steps=2)
    with pytest.raises(InputError, match="clips gradients itself"):
        natural(network(), keras.optimizers.LossScaleOptimizer(inner), clip_norm=1.0)
