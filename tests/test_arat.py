"""AR-AT: formula, gradients, layers, predictors, the share a, what is resumed."""

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from vfd_tf import (
    AdversarialTrainer,
    InputError,
    TrainingOptions,
    VFDCallback,
    attacks,
    losses,
    noise,
)
from vfd_tf.hyperparameters import component
from vfd_tf.models import architectures, batch_norms, keras_graph, projection
from vfd_tf.training.distillation import VFD
from vfd_tf.training.methods import ARAT

L = keras.layers
N, C, D = 6, 5, 8
RANDOM = np.random.RandomState(2)
Y = RANDOM.randint(0, C, N)
Z, Z_ADV = 3 * RANDOM.randn(2, N, C)
F, F_ADV = RANDOM.randn(2, N, 3, 3, D)


def cross_entropy(z):
    return -log_softmax(z, -1)[np.arange(N), Y]


def pooled(features):
    return np.maximum(features, 0).mean((1, 2))


def cosine(a, b):
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / lengths


def led(h, weights):
    """h_l by hand: Dense, BatchNorm on the batch, ReLU, Dense."""
    first, gamma, beta, last, bias = weights
    h = h @ first
    h = gamma * (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) + beta
    return np.maximum(h, 0) @ last + bias


def head():
    with_own = projection.predictor(D, 4, "h")
    for v in with_own.trainable_variables:
        v.assign(RANDOM.randn(*v.shape))
    return with_own


def loss(head, a, z=Z, z_adv=Z_ADV, f=F, f_adv=F_ADV):
    """Eq. 6 of the method: a mean over images."""
    bound = ARAT(beta=3.0).bound({"adv_part": tf.constant(a, "float64")}, {"k": head})
    student = {
        "clean": {"logits": tf.convert_to_tensor(z), "k": tf.convert_to_tensor(f)},
        "adv": {"logits": tf.convert_to_tensor(z_adv), "k": tf.convert_to_tensor(f_adv)},
    }
    terms = bound.terms(Y, student, None)
    return sum(weight * terms[name] for name, weight in bound.weights.items())


@pytest.fixture
def in_float64():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(before)


def test_the_loss_is_its_formula(in_float64):
    own = head()
    weights = [v.numpy() for v in own.trainable_variables]
    align = 1 - cosine(led(pooled(F_ADV), weights), pooled(F))
    expected = 0.3 * cross_entropy(Z_ADV) + 0.7 * cross_entropy(Z) + 3 * align
    np.testing.assert_allclose(loss(own, 0.3), expected, rtol=1e-9)


def test_the_gradient_is_that_of_differences_and_stops_at_the_clean_features(in_float64):
    own, step = head(), 1e-6
    given = {"z": Z, "z_adv": Z_ADV, "f_adv": F_ADV}
    tensors = {name: tf.constant(value) for name, value in {**given, "f": F}.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = tf.reduce_sum(loss(own, 0.3, **tensors))
    gradients = tape.gradient(total, tensors)
    assert gradients.pop("f") is None
    for name, value in given.items():
        direction = RANDOM.randn(*value.shape)
        ends = [
            loss(own, 0.3, **{name: value + side * step * direction}).numpy().sum()
            for side in (1, -1)
        ]
        slope = (gradients[name].numpy() * direction).sum()
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-5)


def test_the_cosine_distance_is_finite_at_zero():
    zero, one = tf.zeros([2, 3]), tf.ones([2, 3])
    with tf.GradientTape() as tape:
        tape.watch([zero, one])
        value = losses.cosine_distance(zero, one)
    np.testing.assert_array_equal(value, [1, 1])
    assert all(np.isfinite(g).all() for g in tape.gradient(value, [zero, one]))
    np.testing.assert_allclose(losses.cosine_distance(one, 4 * one), 0, atol=1e-6)


# --- a ------------------------------------------------------------------------------------


def after_steps(method, state, *batches):
    for hits in batches:
        z = tf.constant(np.eye(C, dtype="float32")[np.where(hits, Y, (Y + 1) % C)])
        seen = {k: tf.cast(v, tf.float32) for k, v in method.seen(Y, z, {}).items()}
        moved = method.after_step({k: tf.constant(v) for k, v in state.items()}, seen)
        state = state | {name: value.numpy() for name, value in moved.items()}
    return state


def test_a_is_the_accuracy_of_the_epoch_before():
    method = ARAT()
    state = method.state(C)
    assert state["adv_part"] == np.float32(0.2) and method.state(None)["adv_part"] == 0
    none, half = np.zeros(N, bool), np.arange(N) < N // 2
    state = after_steps(method, state, none, half)
    assert state["adv_part"] == np.float32(0.2)  # within the epoch it stays
    state = method.after_epoch(state)
    assert state["adv_part"] == 0.25
    state = method.after_epoch(after_steps(method, state, half))
    assert state["adv_part"] == 0.5
    assert method.after_epoch(state)["adv_part"] == 0.5  # an epoch without images


def test_a_is_that_of_the_latest_images_where_it_is_asked_for():
    method = ARAT(accuracy_images=N + 1)  # two batches
    none, half, all_ = np.zeros(N, bool), np.arange(N) < N // 2, np.ones(N, bool)
    state = after_steps(method, method.state(C), none, none, half, all_, none)
    assert method.after_epoch(state)["adv_part"] == 0.75


def test_a_comes_even_where_an_epoch_has_fewer_images_than_are_asked_for():
    method, all_ = ARAT(accuracy_images=3 * N), np.ones(N, bool)
    state = method.after_epoch(after_steps(method, method.state(C), all_, all_))
    assert state["adv_part"] == np.float32(0.2)
    state = method.after_epoch(after_steps(method, state, ~all_, all_))
    assert state["adv_part"] == pytest.approx(2 / 3)


def arat(**fields):
    """A trainer of AR-AT, always the same."""
    keras.utils.set_random_seed(0)
    method, options = ARAT(**fields), TrainingOptions(average="ema")
    trainer = AdversarialTrainer(
        fits.network(), method, attacks.PGD(0.1, steps=2), seed=3, options=options
    )
    trainer.compile(keras.optimizers.SGD(0.1), steps_per_execution=1)
    return trainer


def test_a_fit_logs_a_and_the_next_epoch_uses_it(toy):
    trainer = arat()
    logs = trainer.fit(*toy, batch_size=8, epochs=2, verbose=0).history
    np.testing.assert_allclose(logs["adv_part"], logs["accuracy"], rtol=1e-6)
    step = trainer._make_step()
    assert float(step.method.learned["adv_part"]) == pytest.approx(logs["adv_part"][-1])


@pytest.mark.parametrize("place", [("before", 0, 2), ("before", 1, 1)])
def test_a_fit_goes_on_to_the_same_bits(tmp_path, place):
    fits.killed(arat, tmp_path, *place)
    fits.assert_same(fits.resumed(arat, tmp_path), fits.unbroken(arat))


# --- layers, predictors, BatchNorm --------------------------------------------------------


def test_the_layers_of_resnet_18_are_the_four_of_its_last_stage():
    model = architectures.resnet18((32, 32, 3), 10, width=0.05)
    names = batch_norms.last_stage(model)
    order = [layer.name for layer in model.layers]
    assert len(names) == 4
    stage = order.index("layer3")
    assert all(order.index(name) > stage for name in names)
    for name in names:  # behind a 3x3 convolution, not that of the shortcut
        convolution, *_ = keras_graph.origin(model.get_layer(name).input)
        assert convolution.kernel_size == (3, 3)


@pytest.mark.parametrize(
    ("arch", "count"),
    [("preact_resnet18", 4), ("vgg16", 3), ("resnet8", 2), ("wide_resnet_28_10", 8)],
)
def test_other_architectures_have_those_of_their_last_stage(arch, count):
    model = architectures.ARCHITECTURES[arch]((32, 32, 3), 10, width=0.05)
    assert len(ARAT().taps(model)) == count


def test_layers_of_the_user_s_choice_and_of_nested_models():
    inner = keras.Sequential(
        [keras.Input((6, 6, 4)), L.Conv2D(4, 3), L.BatchNormalization(name="deep")]
    )
    model = keras.Sequential(
        [
            *(keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.BatchNormalization(name="early")),
            *(L.ReLU(name="layer1"), inner, L.Flatten(), L.Dense(10)),
        ]
    )
    assert ARAT().taps(model) == ("deep",)
    assert ARAT(layers="early, layer1").taps(model) == ("early", "layer1")
    trainer = AdversarialTrainer(model, ARAT(layers="early,deep"), "pgd1")
    trainer.compile("sgd")
    x, y = RANDOM.rand(8, 8, 8, 3).astype("float32"), np.arange(8)
    logs = trainer.fit(x, y, batch_size=8, verbose=0).history
    assert np.isfinite(logs["align_loss"]).all() and len(trainer.heads) == 2


def test_layers_of_a_distillation_get_no_predictors(make_network):
    """AR-AT + VFD has AR-AT's own terms, whatever layers VFD compares."""
    student, teacher = make_network(), make_network()
    alone = AdversarialTrainer(student, "ar-at", "pgd1")
    joined = AdversarialTrainer(
        student, "ar-at", "pgd1", VFD(layer="logits"), teacher=teacher
    )
    own = [list(trainer.learning.heads[0]) for trainer in (alone, joined)]
    assert own[0] == own[1] and len(joined.heads) == len(own[0]) == 1


def test_a_student_whose_channels_come_first_is_refused():
    first = {"data_format": "channels_first"}
    model = keras.Sequential(
        [
            *(
                keras.Input((3, 8, 8)),
                L.Conv2D(4, 3, **first),
                L.BatchNormalization(axis=1),
            ),
            *(L.ReLU(), L.GlobalAveragePooling2D(**first), L.Dense(10)),
        ]
    )
    with pytest.raises(InputError, match="channels come first in the model"):
        AdversarialTrainer(model, "ar-at")


def test_predictors_are_trained_and_not_shipped(toy):
    trainer = arat()
    before = [v.numpy() for v in trainer.heads[0].variables]
    shipped = len(trainer.student.weights)
    trainer.fit(*toy, batch_size=8, verbose=0)
    pairs = zip(trainer.heads[0].variables, before, strict=True)
    assert all(np.abs(v.numpy() - b).max() > 0 for v, b in pairs)
    assert len(trainer.student.weights) == shipped == len(fits.network().weights)


@pytest.mark.filterwarnings("ignore:This CPU has no units")
def test_predictors_compute_in_float32_where_the_process_computes_in_16_bits(toy):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trainer = arat()
        logs = trainer.fit(*toy, batch_size=8, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert trainer.student.layers[1].compute_dtype == "bfloat16"
    assert np.isfinite(logs["align_loss"]).all()


def test_clean_and_adversarial_images_have_batch_norm_of_their_own_unless_told(
    make_network,
):
    assert "clean" in arat()._untracked.siblings
    shared = TrainingOptions(batch_norm="shared")
    trainer = AdversarialTrainer(make_network(), "ar-at", options=shared)
    assert not trainer._untracked.siblings
    with pytest.raises(InputError, match="no BatchNormalization"):
        AdversarialTrainer(make_network(batch_norm=False), "ar-at")
    plain = AdversarialTrainer(make_network(batch_norm=False), "ar-at", options=shared)
    assert plain.method.taps(plain.student) == ("last",)


def test_in_the_fit_of_a_plain_model_its_optimizer_trains_the_predictors(toy):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model, teacher = fits.network(), fits.network()
    vfd = VFDCallback(teacher, method="ar-at", attack=attacks.PGD(steps=1))
    fit = {"batch_size": 8, "verbose": 0}
    model.compile(keras.optimizers.SGD(0.1), loss)
    model.fit(*toy, **fit)
    with pytest.raises(InputError, match="compile the model again"):
        model.fit(*toy, callbacks=[vfd], **fit)
    model.compile(keras.optimizers.SGD(0.1), loss)
    for _ in range(2):
        logs = model.fit(*toy, callbacks=[vfd], **fit).history
        assert np.isfinite(logs["align_loss"]).all()


def test_noise_on_images_is_where_both_views_and_the_attack_begin(toy):
    x, y = (tf.constant(v[:8]) for v in toy)
    seeds = noise.example_seeds(0, 0, tf.range(8))
    method = ARAT(image_noise=0.1)
    noisy = method.images(x, seeds)
    off = np.abs(noisy - x)
    assert 0.09 < off.max() <= 0.1 + 1e-6
    assert method.start(noisy, seeds) is noisy
    assert ARAT().images(x, seeds) is x and ARAT().start(x, seeds) is None
    seen = []

    @component
    class Seen(ARAT):
        def views(self, x, x_adv):
            seen.append((x, x_adv))
            return super().views(x, x_adv)

    attack = attacks.PGD(0.1, steps=2)
    trainer = AdversarialTrainer(fits.network(), Seen(image_noise=0.1), attack)
    trainer.compile("sgd")
    trainer._make_step()(x, y, None, seeds)
    ((clean, adv),) = seen
    np.testing.assert_array_equal(clean, noisy)
    assert 0.1 < np.abs(adv - x).max() <= 0.2 + 1e-6
    assert np.abs(adv - clean).max() <= 0.1 + 1e-6


def test_the_attack_is_pgd_on_cross_entropy_of_the_adversarial_set(toy):
    x, y = (tf.constant(v[:8]) for v in toy)
    trainer = arat()
    trainer.fit(*toy, batch_size=8, verbose=0)
    seeds = noise.example_seeds(0, 0, tf.range(8))
    found = trainer._make_step().adversarial(x, y, seeds)
    objective = attacks.cross_entropy(y)
    expected = attacks.PGD(0.1, steps=2)(trainer.student, x, objective, seeds=seeds)
    np.testing.assert_allclose(found, expected, atol=1e-6)
