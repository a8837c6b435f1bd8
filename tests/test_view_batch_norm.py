"""BatchNorm by view: statistics, gradients, what is shipped, what it works with."""

import itertools

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import AdversarialTrainer, InputError, TrainingOptions, attacks, noise
from vfd_tf.experiments.experiment import Recipe
from vfd_tf.hyperparameters import component
from vfd_tf.models import batch_norms, network
from vfd_tf.training.callbacks import StochasticWeightAverage
from vfd_tf.training.devices import replicas
from vfd_tf.training.methods import HAT

L = keras.layers
VIEWS = {"batch_norm": "views"}


def user_model():
    """A Sequential model with a nested one, BatchNorm in both, and a norm without scale."""
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), L.Conv2D(4, 3), L.BatchNormalization(scale=False)]
    )
    return keras.Sequential(
        [
            *(keras.Input((8, 8, 3)), L.Conv2D(4, 3, padding="same", name="layer1")),
            *(L.BatchNormalization(momentum=0.9), L.ReLU(), inner, L.ReLU()),
            *(L.GlobalAveragePooling2D(), L.Dense(10)),
        ]
    )


def trainer_of(student, method="alp", rate=0.1, compiling=None, **options):
    trainer = AdversarialTrainer(
        student,
        method,
        attacks.PGD(0.1, steps=2),
        options=TrainingOptions(**options),
        seed=3,
    )
    trainer.compile(keras.optimizers.SGD(rate), **(compiling or {}))
    return trainer


def copy_of(model):
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def state(model):
    return [np.copy(v) for v in model.variables]


def same(one, other, **tolerance):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def sibling_of(trainer):
    (found,) = trainer._untracked.siblings.values()
    return found


def batch(toy):
    x, y = (tf.constant(v[:8]) for v in toy)
    return x, y, noise.example_seeds(3, 0, tf.range(8))


# --- laws ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ship", ["adv", "clean"])
def test_every_set_has_the_statistics_of_a_network_fed_its_view_alone(toy, ship):
    x, y, seeds = batch(toy)
    student = user_model()
    clean, adv = copy_of(student), copy_of(student)
    trainer = trainer_of(student, rate=0.0, ship_view=ship, **VIEWS)
    x_adv = trainer._make_step().adversarial(x, y, seeds)
    trainer.fit(x.numpy(), y.numpy(), batch_size=8, shuffle=False, verbose=0)
    clean(x, training=True)
    adv(x_adv, training=True)
    alone = {"clean": clean, "adv": adv}
    shipped = alone.pop(ship)
    same(state(trainer.student), state(shipped), rtol=1e-4, atol=1e-6)
    (other,) = alone.values()
    same(state(sibling_of(trainer)), state(other), rtol=1e-4, atol=1e-6)
    moved = zip(state(clean), state(adv), strict=True)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in moved)


def test_kernels_get_the_gradients_of_both_views_and_norms_those_of_their_own(toy):
    x, y, seeds = batch(toy)
    trainer = trainer_of(user_model(), "alp", **VIEWS)
    step = trainer._make_step()
    x_adv = step.adversarial(x, y, seeds)
    pairs = zip(trainer.trainable_variables, step(x, y, None, seeds)[0], strict=True)
    found = {id(v): g.numpy() for v, g in pairs}
    student, other = copy_of(trainer.student), copy_of(sibling_of(trainer))
    with tf.GradientTape() as tape:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        z, z_adv = other(x, training=True)["logits"], student(x_adv, training=True)
        total = 0.5 * loss(y, z) + 0.5 * loss(y, z_adv)
        total += 0.5 * tf.reduce_mean((z - z_adv) ** 2)
    pairs = [m.trainable_variables for m in (student, other)]
    gradients = tape.gradient(total, [[v.value for v in own] for own in pairs])
    for ours, of_adv, of_clean in zip(
        trainer.student.trainable_variables, *gradients, strict=True
    ):
        shared = "kernel" in ours.name or "bias" in ours.name
        expected = of_adv + of_clean if shared else of_adv
        np.testing.assert_allclose(found[id(ours)], expected, rtol=1e-3, atol=1e-6)
    theirs = sibling_of(trainer).trainable_variables
    for ours, gradient in zip(theirs, gradients[1], strict=True):
        if "gamma" in ours.name or "beta" in ours.name:
            np.testing.assert_allclose(found[id(ours)], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["natural", "pgd-at"])
def test_where_one_set_is_read_the_option_changes_nothing(toy, method):
    ended = []
    for options in ({}, VIEWS):
        keras.utils.set_random_seed(0)
        trainer = trainer_of(user_model(), method, awp_gamma=0.01, **options)
        logs = trainer.fit(*toy, batch_size=8, epochs=2, verbose=0).history
        ended.append((state(trainer), logs))
    same(ended[0][0], ended[1][0], rtol=0)
    assert ended[0][1] == ended[1][1]


def test_the_attack_sees_the_adversarial_set_folded_or_not(toy):
    x, y, seeds = batch(toy)
    for ship in ("adv", "clean"):
        keras.utils.set_random_seed(0)
        trainer = trainer_of(user_model(), "alp", ship_view=ship, **VIEWS)
        trainer.fit(*toy, batch_size=8, epochs=2, verbose=0)
        sets = {ship: trainer.network, **trainer._untracked.siblings}
        attack = attacks.PGD(0.1, steps=2)
        expected = {
            name: attack(
                lambda x, own=own: own(x)["logits"],
                x,
                attacks.cross_entropy(y),
                seeds=seeds,
            )
            for name, own in sets.items()
        }
        found = trainer._make_step().adversarial(x, y, seeds)
        np.testing.assert_allclose(found, expected["adv"], atol=1e-6)
        assert np.abs(found - expected["clean"]).max() > 1e-3


def test_scale_and_shift_are_shared_where_statistics_alone_are_by_view(toy):
    trainer = trainer_of(user_model(), batch_norm_affine="shared", **VIEWS)
    student, other = trainer.student, sibling_of(trainer)
    assert trainer.trainable_variables == student.trainable_variables
    trainer.fit(*toy, batch_size=8, verbose=0)
    trained = {id(v) for v in student.trainable_variables}
    assert {id(v) for v in other.trainable_variables} == trained
    moving = {id(v) for v in other.non_trainable_variables}
    assert len(moving) == 4 and not moving & {id(v) for v in student.variables}


def test_a_method_may_give_each_of_its_views_a_set(toy):
    @component
    class Three(HAT):
        batch_norm = "views"

        def set_of(self, view):
            return view

    student, teacher = user_model(), user_model()
    trainer = AdversarialTrainer(student, Three(), attacks.PGD(0.1), teacher=teacher)
    trainer.compile(keras.optimizers.SGD(0.1))
    trainer.fit(*toy, batch_size=8, verbose=0)
    assert [*trainer._untracked.siblings] == ["clean", "helper"]
    networks = trainer.network, *trainer._untracked.siblings.values()
    means = [moving_means(each) for each in networks]
    assert all(np.abs(a - b).max() > 1e-5 for a, b in itertools.combinations(means, 2))


def moving_means(model):
    """The moving means of a network."""
    norms = replicas.batch_norms([model])
    return np.concatenate([norm.moving_mean.numpy() for norm in norms])


# --- what is shipped ----------------------------------------------------------------------


def test_the_shipped_student_is_a_plain_model_with_the_adversarial_set(toy, tmp_path):
    student = user_model()
    trainer = trainer_of(student, **VIEWS)
    trainer.fit(*toy, batch_size=8, epochs=2, verbose=0)
    assert trainer.student is student
    trainer.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    assert type(loaded) is keras.Sequential and len(loaded.weights) == len(student.weights)
    same(state(loaded), state(student), rtol=0)
    np.testing.assert_allclose(loaded(toy[0]), student(toy[0]), atol=1e-6)
    clean = sibling_of(trainer)(toy[0])["logits"].numpy()
    assert np.abs(clean - student(toy[0]).numpy()).max() > 1e-3


def test_weights_files_hold_every_set(toy, tmp_path):
    path = str(tmp_path / "all.weights.h5")
    trainer = trainer_of(user_model(), **VIEWS)
    trainer.fit(*toy, batch_size=8, verbose=0)
    trainer.save_weights(path)
    other = trainer_of(user_model(), **VIEWS)
    other.load_weights(path)
    same(state(sibling_of(other)), state(sibling_of(trainer)), rtol=0)


# --- with everything else -----------------------------------------------------------------


class Steps(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.student.get_weights())


def test_ema_averages_the_shipped_set(toy):
    steps = Steps()
    trainer = trainer_of(user_model(), average="ema", ema_decay=0.3, **VIEWS)
    trainer.fit(*toy, batch_size=8, verbose=0, callbacks=[steps])
    expected = steps.seen[0]
    for t, weights in enumerate(steps.seen[1:], 1):
        decay = min(0.3, (1 + t) / (10 + t))
        pairs = zip(expected, weights, strict=True)
        expected = [decay * e + (1 - decay) * w for e, w in pairs]
    with trainer.averaged() as student:
        same(student.get_weights(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ship", ["adv", "clean"])
def test_swa_takes_the_statistics_of_the_shipped_set_s_own_images(toy, ship):
    x, y = toy
    trainer = trainer_of(user_model(), average="swa", ship_view=ship, **VIEWS)
    data = tf.data.Dataset.from_tensor_slices(toy).batch(8)
    trainer.fit(x, y, batch_size=8, verbose=0)
    step, images = trainer._make_step(), []
    for i in (0, 8, 16):
        seeds = noise.example_seeds(3, trainer.iteration.value, tf.range(8))
        own = tf.constant(x[i : i + 8]), tf.constant(y[i : i + 8])
        images.append(own[0] if ship == "clean" else step.adversarial(*own, seeds))
    swa = StochasticWeightAverage(data, start=0)
    swa.set_model(trainer)
    swa.on_epoch_end(0)
    convolution, norm = trainer.student.layers[:2]
    with trainer.averaged():
        means = [convolution(each).numpy().mean((0, 1, 2)) for each in images]
        np.testing.assert_allclose(norm.moving_mean, np.mean(means, 0), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"awp_gamma": 0.01, "clip_norm": 0.5, "average": "ema", "label_smoothing": 0.1},
        {"attack_bn_mode": "train", "accumulate_steps": 2, "on_nan": "skip"},
        {"precision": "mixed_bfloat16"},
        {"batch_norm_affine": "shared", "ship_view": "clean", "awp_gamma": 0.01},
    ],
    ids=["awp", "parts", "16 bits", "shared scale"],
)
@pytest.mark.filterwarnings("ignore:This CPU has no units")
def test_other_options_join_it_and_xla_trains_to_the_same(toy, options):
    ended = []
    for xla in (False, True):
        keras.utils.set_random_seed(0)
        compiling = {"jit_compile": xla}
        trainer = trainer_of(user_model(), compiling=compiling, **options, **VIEWS)
        logs = trainer.fit(*toy, batch_size=8, shuffle=False, verbose=0).history
        assert all(np.isfinite(v).all() for v in logs.values())
        ended.append(state(trainer))
    loose = options.get("precision") or options.get("attack_bn_mode")
    same(*ended, rtol=1e-2, atol=1e-2 if loose else 1e-3)


def test_awp_of_a_vanishing_radius_trains_every_set_as_without(toy):
    ended = []
    for gamma in (0.0, 1e-30):
        keras.utils.set_random_seed(0)
        trainer = trainer_of(user_model(), awp_gamma=gamma, **VIEWS)
        trainer.fit(*toy, batch_size=8, shuffle=False, verbose=0)
        ended.append([*state(trainer.student), *state(sibling_of(trainer))])
    same(*ended, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Step 2 of epoch 1 is skipped")
def test_a_skipped_step_leaves_no_trace_in_any_set(toy):
    weight, ended = np.repeat([1.0, np.inf], 8), []
    for count in (8, 16):
        keras.utils.set_random_seed(0)
        trainer = trainer_of(user_model(), on_nan="skip", **VIEWS)
        x, y = (v[:count] for v in toy)
        own = {"sample_weight": weight[:count], "batch_size": 8, "shuffle": False}
        trainer.fit(x, y, verbose=0, **own)
        ended.append([*state(trainer.student), *state(sibling_of(trainer))])
    same(*ended, rtol=0)


def by_view():
    """A trainer with BatchNorm by view, always the same."""
    keras.utils.set_random_seed(0)
    return trainer_of(fits.network(), average="ema", **VIEWS)


@pytest.mark.parametrize("place", [("before", 0, 2), ("before", 1, 1)])
def test_a_fit_goes_on_to_the_same_bits(tmp_path, place):
    fits.killed(by_view, tmp_path, *place)
    fits.assert_same(fits.resumed(by_view, tmp_path), fits.unbroken(by_view))


def test_regularisers_of_a_sibling_s_norms_join_the_loss_once(make_network, toy):
    found = []
    for options in ({}, VIEWS, {**VIEWS, "batch_norm_affine": "shared"}):
        student = make_network()
        student.layers[2].gamma.regularizer = keras.regularizers.L2(1.0)
        student.layers[2].gamma_regularizer = keras.regularizers.L2(1.0)
        trainer = trainer_of(student, "trades", rate=0.0, **options)
        logs = trainer.fit(*toy, batch_size=8, verbose=0).history
        terms = logs["clean_loss"][0] + 6 * logs["adv_loss"][0]
        found.append(logs["loss"][0] - terms)
    np.testing.assert_allclose(found, [4, 8, 4], rtol=1e-4)


# --- refusals -----------------------------------------------------------------------------


def test_what_has_no_batch_norm_to_take_apart_is_refused(make_network):
    with pytest.raises(InputError, match="no BatchNormalization that training moves"):
        trainer_of(make_network(batch_norm=False), **VIEWS)

    class Own(L.Layer):
        def __init__(self):
            super().__init__()
            self.norm = L.BatchNormalization(name="hidden")

        def call(self, x):
            return self.norm(x)

    model = keras.Sequential([keras.Input((8, 8, 3)), Own(), L.Flatten(), L.Dense(10)])
    with pytest.raises(InputError, match="'hidden' is inside a layer"):
        trainer_of(model, **VIEWS)


def test_frozen_batch_norm_stays_shared(toy):
    student = user_model()
    frozen = student.layers[1]
    frozen.trainable = False
    other, norms = batch_norms.sibling(network.tap(student))
    assert len(norms) == 1
    assert {id(v) for v in frozen.weights} <= {id(v) for v in other.weights}


def test_a_set_that_nothing_trains_is_not_shipped():
    with pytest.raises(InputError, match="ship the set adv"):
        trainer_of(user_model(), "pgd-at", ship_view="clean", **VIEWS)
    with pytest.raises(InputError, match="ship_view needs batch_norm='views'"):
        trainer_of(user_model(), ship_view="clean")


def test_runs_of_before_keep_their_identity_and_teachers_their_batch_norm():
    assert Recipe().brief() == "Recipe()"
    assert Recipe(batch_norm="views").without("student") == Recipe()
