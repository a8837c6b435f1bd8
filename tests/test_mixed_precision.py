"""Training in 16 bits: float32 where it matters, nothing lost where float16 overflows."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import vfd_tf
from vfd_tf import AdversarialTrainer, InputError, TrainingOptions
from vfd_tf.attacks import PGD
from vfd_tf.models import precision
from vfd_tf.models.architectures import ARCHITECTURES
from vfd_tf.training.optimizers import SGD, OneCycle

pytestmark = pytest.mark.filterwarnings("ignore:This CPU has no units")
HALF = "mixed_bfloat16", "mixed_float16"
SHAPE = (8, 8, 3)


def network(seed=1, arch="resnet8"):
    keras.utils.set_random_seed(seed)
    return ARCHITECTURES[arch](SHAPE, 10, 0.25)


def trainer(policy, student=None, method="trades", **options):
    options = TrainingOptions(precision=policy, **options)
    made = AdversarialTrainer(
        student or network(),
        method,
        PGD(steps=2),
        "vfd",
        teacher=network(2),
        options=options,
    )
    made.compile(SGD(0.01, 0.9))
    return made


def plain():
    inputs = keras.Input(SHAPE)
    x = L.ZeroPadding2D()(L.Rescaling(2.0)(inputs))  # in 16 bits it would round images
    x = L.Conv2D(4, 3, name="first")(x)
    x = L.Conv2D(4, 3, name="second")(x)
    x = L.ReLU(name="layer1")(L.BatchNormalization()(x))
    x = L.Dense(10)(L.Flatten()(x))
    return keras.Model(inputs, L.Rescaling(0.5)(x))


@pytest.mark.parametrize("policy", HALF)
def test_only_the_layers_between_the_first_and_the_last_compute_in_16_bits(policy):
    model, x = plain(), tf.random.uniform((2, *SHAPE))
    model(x)
    names = {la.name: la for la in model.layers}
    with precision.computing([model], policy):
        computed = {n: la.compute_dtype for n, la in names.items()}
        logits, first = model(x), keras.Model(model.inputs, names["first"].output)
        seen = first(x)
    np.testing.assert_array_equal(seen, first(x))  # images reach it unrounded
    half = policy.removeprefix("mixed_")
    assert computed["first"] == "float32" and computed["second"] == half
    assert computed[model.layers[-2].name] == computed[model.layers[-1].name] == "float32"
    assert logits.dtype == "float32"
    assert {la.compute_dtype for la in model.layers} == {"float32"}
    assert {v.dtype for v in model.variables} == {"float32"}


def test_an_end_that_is_called_twice_stays_in_float32():
    inputs, first = keras.Input(SHAPE), L.Conv2D(3, 3, padding="same", name="first")
    x = L.Conv2D(4, 3, name="second")(first(L.ReLU()(first(inputs))))
    model = keras.Model(inputs, L.Dense(10)(L.Flatten()(x)))
    with precision.computing([model], "mixed_bfloat16"):
        assert model.get_layer("first").compute_dtype == "float32"
        assert model.get_layer("second").compute_dtype == "bfloat16"


@pytest.mark.parametrize("policy", HALF)
def test_steps_of_2_grey_levels_survive(policy):
    """bfloat16 resolves 1/256 near 1: rounded there, steps of 2/255 would be 0 or 4/255."""
    x = tf.random.uniform((4, *SHAPE), 0.5, 0.9, seed=1)
    attack = PGD(epsilon=8 / 255, step_size=2 / 255, steps=3, random_start=False)
    made = trainer(policy, method="pgd-at")
    step, y = made._make_step(), tf.constant([0, 1, 2, 3])
    step.attack = attack
    with made.computing():
        x_adv = step.adversarial(x, y, made._seeds(4))
    assert x_adv.dtype == tf.float32
    steps = (x_adv - x).numpy() * 255 / 2
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert {-3, 3} <= set(np.round(steps).astype(int).ravel().tolist())


@pytest.mark.parametrize("policy", HALF)
def test_a_step_in_16_bits_is_that_of_float32_but_for_rounding(toy, policy):
    logs = {}
    for name in ("float32", policy):
        made = trainer(name)
        before = [w.copy() for w in made.student.get_weights()]
        history = made.fit(*toy, batch_size=24, verbose=0).history
        moved = [w - b for w, b in zip(made.student.get_weights(), before, strict=True)]
        logs[name] = np.concatenate([m.ravel() for m in moved]), history
    (full, one), (half, other) = logs["float32"], logs[policy]
    assert np.dot(full, half) / np.linalg.norm(full) / np.linalg.norm(half) > 0.99
    assert np.abs(full - half).max() > 0
    for name in ("loss", "clean_loss", "vfd_loss"):
        np.testing.assert_allclose(one[name], other[name], rtol=0.03)


@pytest.mark.parametrize("policy", HALF)
def test_the_student_is_shipped_in_float32(toy, policy, tmp_path):
    made = trainer(policy)
    made.fit(*toy, batch_size=8, verbose=0)
    made.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    assert {la.dtype_policy.name for la in loaded.layers} == {"float32"}
    exact = made.student(toy[0])
    np.testing.assert_array_equal(loaded(toy[0]), exact)
    result = vfd_tf.evaluate(made.student, toy, [])
    np.testing.assert_array_equal(result.clean, exact.numpy().argmax(-1) == toy[1])


def test_a_float16_overflow_loses_nothing(toy):
    """A step whose gradient overflows is skipped, and what follows goes on unharmed."""
    x, y = toy[0][:8], toy[1][:8]
    made = trainer("mixed_float16", average="ema", clip_norm=1.0)
    made.fit(x, y, batch_size=8, verbose=0)
    made.optimizer.dynamic_scale.assign(2.0**100)
    before = [v.numpy() for v in made.weights]
    names = [v.name for v in made.weights]
    logs = made.fit(x, y, batch_size=8, verbose=0).history
    assert logs["skipped_steps"] == [1] and logs["loss_scale"] == [2.0**99]
    for name, old, new in zip(names, before, made.weights, strict=True):
        if name not in ("step", "skipped_steps"):
            np.testing.assert_array_equal(old, new.numpy(), err_msg=name)
    assert int(made.iteration.numpy()) == 2 and int(made.optimizer.iterations) == 1
    made.optimizer.dynamic_scale.assign(1024.0)
    logs = made.fit(x, y, batch_size=8, epochs=2, verbose=0).history
    assert logs["skipped_steps"][-1] == 1 and np.isfinite(logs["loss"]).all()
    assert int(made.optimizer.iterations) == 3


def test_averages_take_nothing_of_a_forward_that_overflows(toy):
    """Then BatchNorm's statistics aren't finite either, for as long as the step lasts."""
    x, y = toy[0][:8], toy[1][:8]
    made = trainer("mixed_float16", average="ema", method="pgd-at")
    made.fit(x, y, batch_size=8, verbose=0)
    averages = [v.numpy() for v in made.average.values]
    kernels = [v for v in made.student.trainable_variables if v.value.shape.rank == 4]
    kernels[1].assign(1e6 * kernels[1].value)
    statistics = [v.numpy() for v in made.student.non_trainable_variables]
    logs = made.fit(x, y, batch_size=8, verbose=0).history
    assert logs["skipped_steps"] == [1]
    for before, after in zip(averages, made.average.values, strict=True):
        np.testing.assert_array_equal(before, after.numpy())
    for before, after in zip(statistics, made.student.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(before, after.numpy())


def test_losses_of_an_epoch_with_a_skipped_step_are_those_of_the_others(toy):
    x, y = toy[0][:16], toy[1][:16]
    made = trainer("mixed_float16")
    made.optimizer.dynamic_scale.assign(2.0**100)
    made.fit(x, y, batch_size=8, shuffle=False, verbose=0, epochs=60)
    skipped = int(made.loss_scaling.skipped.numpy())
    assert 0 < skipped < 120
    assert int(made.optimizer.iterations) == 120 - skipped
    logs = made.history.history
    whole = [i for i, n in enumerate(np.diff(logs["skipped_steps"])) if n == 2]
    assert np.isfinite(logs["gradient_norm"]).all() and np.isfinite(logs["loss"]).all()
    assert all(logs["loss"][i + 1] == 0 for i in whole)


def test_the_gradient_of_a_confident_image_survives_float16():
    """Its logits have gradients below the least number of float16, 6e-8."""
    weights = tf.constant(np.random.RandomState(0).normal(size=(12, 3)), tf.float32)
    x, y = tf.random.uniform((5, 12), seed=1), tf.ones(5, tf.int32)

    def logits_fn(x, dtype="float16"):
        z = tf.matmul(tf.cast(x, dtype), tf.cast(weights, dtype))
        return tf.cast(z, "float32") + [0.0, 25.0, 0.0]

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.nn.sparse_softmax_cross_entropy_with_logits(y, function(x))
        return tape.gradient(score, x).numpy()

    expected = gradient(lambda x: logits_fn(x, "float32"))
    assert 0 < np.abs(expected).max() < 1e-7
    assert np.count_nonzero(gradient(logits_fn)) == 0
    found = gradient(precision.without_underflow(logits_fn))
    size = np.abs(expected).max(-1, keepdims=True)
    np.testing.assert_allclose(found / size, expected / size, atol=0.01)


def test_the_logits_stay_in_float32_beside_a_projection():
    """Which VFD puts behind a student's layer for a wider teacher."""
    wide = ARCHITECTURES["resnet8"](SHAPE, 10, 0.5)
    vfd = vfd_tf.distillation.VFD(project=True)
    options = TrainingOptions(precision="mixed_bfloat16")
    made = AdversarialTrainer(
        network(), "pgd-at", "pgd1", vfd, teacher=wide, options=options
    )
    with made.computing():
        policies = {la.name: la.compute_dtype for la in made.network.layers}
    assert policies["logits"] == "float32" and policies["layer3"] == "bfloat16"


def test_an_epoch_that_overflows_whatever_the_scale_is_an_error(toy):
    made = trainer("mixed_float16")
    made.optimizer.dynamic_scale.assign(4.0)
    weight = np.full(24, np.inf)
    with pytest.raises(InputError, match="All 3 steps of epoch 1 .* mixed_bfloat16"):
        made.fit(*toy, batch_size=8, sample_weight=weight, verbose=0)


def test_a_network_with_nothing_between_its_ends_trains_in_float32(toy):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.Dense(10)(L.Flatten()(inputs)))
    options = TrainingOptions(precision="mixed_bfloat16")
    made = AdversarialTrainer(model, "pgd-at", "pgd1", options=options)
    made.compile("sgd")
    robust = vfd_tf.RobustAccuracy(toy, "pgd1")
    logs = made.fit(*toy, batch_size=8, callbacks=[robust], verbose=0).history
    assert "val_pgd1_accuracy" in logs


def test_an_unknown_precision_is_refused(toy):
    with pytest.raises(InputError, match="No precision 'bfloat16'"):
        vfd_tf.evaluate(network(), toy, [], craft_precision="bfloat16")


def test_what_has_no_layers_to_compute_in_16_bits_is_refused(toy):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.Dense(10)(L.Flatten()(inputs)))
    with pytest.raises(InputError, match="no layers between"):
        vfd_tf.evaluate(model, toy, ["fgsm"], craft_precision="mixed_bfloat16")


@pytest.mark.parametrize("policy", HALF)
def test_validation_attacks_are_made_in_16_bits_and_counted_in_32(toy, policy):
    made = trainer(policy)
    robust = vfd_tf.RobustAccuracy(toy, "pgd3", epsilon=0.2)
    logs = made.fit(*toy, batch_size=8, callbacks=[robust], verbose=0).history
    assert robust.engine.model.craft == policy
    assert robust.engine.logits(toy[0]).dtype == np.float32
    assert 0 <= logs["val_pgd3_accuracy"][0] <= 1


def test_hardware_without_units_is_named():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vfd_tf.startup.has_cpu_units", lambda dtype: False)
        with pytest.warns(UserWarning, match="no units for bfloat16"):
            precision.warn_of_hardware("mixed_bfloat16")


@pytest.fixture(scope="module")
def digits():
    return vfd_tf.load_data("digits")


@pytest.fixture(scope="module")
def vanilla(digits):
    """A teacher for the digits."""
    keras.utils.set_random_seed(7)
    teacher = ARCHITECTURES["resnet8"](digits.input_shape, 10, 0.5)
    plain = AdversarialTrainer(teacher, "natural")
    plain.compile(SGD(OneCycle(0.2, 88), 0.9))
    plain.fit(digits.train.floats(), digits.train.y, batch_size=64, epochs=4, verbose=0)
    return teacher


def accuracies(digits, teacher, policy, method, seeds):
    """(clean, PGD-5) accuracies on the test split after short trainings, one a seed."""
    made = AdversarialTrainer(
        ARCHITECTURES["resnet8"](digits.input_shape, 10, 0.5),
        method,
        PGD(0.1, steps=3),
        "vfd",
        teacher=teacher,
        options=TrainingOptions(precision=policy),
    )
    made.compile(SGD(OneCycle(0.2, 88), 0.9))
    compilations, found = vfd_tf.evaluation.Compilations(), []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        fresh = ARCHITECTURES["resnet8"](digits.input_shape, 10, 0.5)
        made.student.set_weights(fresh.get_weights())
        for variable in made.optimizer.variables:
            variable.assign(tf.zeros_like(variable.value))
        made.fit(digits.train.floats(), digits.train.y, batch_size=64, epochs=4, verbose=0)
        result = vfd_tf.evaluate(
            made.student, digits.test, ["pgd5"], epsilon=0.1, compilations=compilations
        )
        found.append((result.clean.mean(), result.robust["pgd5"].mean()))
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["trades", "hat"])
def test_bfloat16_reaches_the_accuracy_of_float32_within_noise(digits, vanilla, method):
    found = {
        policy: accuracies(digits, vanilla, policy, method, range(3))
        for policy in ("float32", "mixed_bfloat16")
    }
    full, half = found.values()
    assert full.mean(0).min() > 0.7 and not np.array_equal(full, half)
    noise = 2 * np.sqrt((full.var(0, ddof=1) + half.var(0, ddof=1)) / 3)
    assert (np.abs(full.mean(0) - half.mean(0)) <= np.maximum(noise, 0.02)).all(), found


def in_float16():
    """A student whose own policy is float16, as Keras's global policy makes it."""
    own = {"dtype": "mixed_float16"}
    inputs = keras.Input(SHAPE)
    x = L.Flatten()(L.Conv2D(4, 3, activation="relu", **own)(inputs))
    return keras.Model(inputs, L.Dense(10, dtype="float32")(L.Dense(8, **own)(x)))


def test_a_student_in_float16_is_trained_as_one(toy):
    x, y = toy
    made = AdversarialTrainer(in_float16(), "pgd-at", PGD(0.1, steps=1, random_start=False))
    made.compile(keras.optimizers.SGD(1e-3))
    made.optimizer.dynamic_scale.assign(1e9)
    logs = made.fit(x, y, batch_size=8, verbose=0).history
    assert logs["skipped_steps"] == [3] and logs["loss_scale"] == [1e9 / 8]
    # Where images are classified with confidence their gradients vanish in float16.
    last = made.student.layers[-1]
    last.set_weights([v * 1e3 for v in last.get_weights()])
    labels = np.argmax(made.student.predict(x, verbose=0), -1)
    seeds = tf.zeros([len(x), 2], tf.int32)
    x_adv = made._make_step().adversarial(tf.constant(x), labels, seeds).numpy()
    assert (np.abs(x_adv - x).max((1, 2, 3)) > 0.02).all()


def test_layers_decide_what_a_student_computes_in_and_not_the_process(tmp_path):
    def made():
        return keras.Sequential([keras.Input(SHAPE), L.Flatten(), L.Dense(10)])

    made().save(tmp_path / "float32.keras")
    students, options = [made()], TrainingOptions(on_nan="rollback")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        students.append(keras.saving.load_model(tmp_path / "float32.keras"))
        plain = [AdversarialTrainer(s, "pgd-at", options=options) for s in students]
        float16 = AdversarialTrainer(made(), "pgd-at")
    finally:
        keras.config.set_dtype_policy("float32")
    assert [trainer.float16 for trainer in plain] == [False, False] and float16.float16
    assert all(trainer.watch for trainer in plain) and float16.watch is None


def test_a_partner_in_float16_has_its_loss_scaled():
    made = AdversarialTrainer(
        network(), "trades", distillation="lbgat", partner=in_float16()
    )
    assert made.float16 and made.loss_scaling.scales


@pytest.mark.parametrize("policy", HALF)
def test_what_layers_add_in_16_bits_joins_the_loss(toy, policy):
    class Adding(L.Layer):
        def call(self, x):
            self.add_loss(tf.fill([3], tf.constant(0.5, x.dtype)))  # Keras sums it
            return x

    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, activation="relu")(inputs)
    x = L.Conv2D(4, 3, activity_regularizer="l2")(Adding()(x))
    model = keras.Model(inputs, L.Dense(10)(L.Flatten()(x)))
    model(toy[0][:8])
    expected = sum(float(tf.reduce_sum(value)) for value in model.losses)
    made = AdversarialTrainer(model, "natural", options=TrainingOptions(precision=policy))
    made.compile(keras.optimizers.SGD(0.0))
    logs = made.fit(toy[0][:8], toy[1][:8], batch_size=8, verbose=0).history
    assert expected > 1.5
    assert logs["loss"][0] - logs["clean_loss"][0] == pytest.approx(expected, 0.02)


def test_what_float16_cannot_do_without_is_said():
    options = TrainingOptions(on_nan="rollback")
    with pytest.raises(InputError, match="leave out on_nan='rollback'"):
        AdversarialTrainer(in_float16(), "pgd-at", options=options)
    model = in_float16()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    guest = vfd_tf.VFDCallback(in_float16(), layer="logits", method="pgd-at")
    with pytest.raises(InputError, match="compile it with keras.optimizers.LossScale"):
        model.fit(np.zeros((8, *SHAPE)), np.zeros(8, int), verbose=0, callbacks=[guest])
