"""GAT, DKL and SCORE's distance: formulas, gradients, laws, what attacks ascend."""

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from vfd_tf import (
    AdversarialTrainer,
    InputError,
    TrainingOptions,
    VFDCallback,
    attacks,
    losses,
    noise,
)
from vfd_tf.training.callbacks import Anneal, LambdaSchedule
from vfd_tf.training.methods import DKL, GAT, HAT, IKL, TRADES
from vfd_tf.training.schedules import Late

N, C = 6, 5
RANDOM = np.random.RandomState(1)
Y = RANDOM.randint(0, C, N)
A, B = 3 * RANDOM.randn(2, N, C)


def kl(p, q):
    return (softmax(p, -1) * (log_softmax(p, -1) - log_softmax(q, -1))).sum(-1)


def squares(p, q):
    return ((softmax(p, -1) - softmax(q, -1)) ** 2).sum(-1)


def cross_entropy(z):
    return -log_softmax(z, -1)[np.arange(N), Y]


def double_sum(w, a, b):
    """1/4 sum_jk w_j w_k ((a_j - a_k) - (b_j - b_k))^2, as the paper writes it."""
    found = np.zeros(len(a))
    for i in range(len(a)):
        for j in range(C):
            for k in range(C):
                off = (a[i, j] - a[i, k]) - (b[i, j] - b[i, k])
                found[i] += 0.25 * w[i, j] * w[i, k] * off**2
    return found


def terms(method, clean=A, adv=B):
    student = {"clean": {"logits": tf.constant(clean)}, "adv": {"logits": tf.constant(adv)}}
    return method.terms(Y, student, None)


def gradients(function, *logits):
    """Of the sum of a function of logits with respect to each."""
    logits = [tf.constant(z) for z in logits]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = function(*logits)
    return [g.numpy() for g in tape.gradient(value, logits)]


def by_differences(loss, z, step=1e-6):
    gradient = np.zeros(z.shape)
    for i in np.ndindex(*z.shape):
        moved = [z.copy(), z.copy()]
        moved[0][i] += step
        moved[1][i] -= step
        gradient[i] = np.subtract(*(loss(m).sum() for m in moved)) / (2 * step)
    return gradient


# --- losses -------------------------------------------------------------------------------


def test_the_squared_distance_is_symmetric_and_zero_at_equality():
    np.testing.assert_allclose(losses.squared_probabilities(A, B), squares(A, B))
    np.testing.assert_allclose(
        losses.squared_probabilities(A, B), losses.squared_probabilities(B, A)
    )
    np.testing.assert_allclose(losses.squared_probabilities(A, A + 5), 0, atol=1e-24)
    ours = gradients(losses.squared_probabilities, A, B)
    np.testing.assert_allclose(
        ours[0], by_differences(lambda z: squares(z, B), A), atol=1e-8
    )
    np.testing.assert_allclose(
        ours[1], by_differences(lambda z: squares(A, z), B), atol=1e-8
    )


def test_the_squared_label_error_is_that_of_one_hot_labels_and_of_distributions():
    expected = ((softmax(A, -1) - np.eye(C)[Y]) ** 2).sum(-1)
    for y in (Y, np.eye(C)[Y]):
        np.testing.assert_allclose(losses.squared_label_error(y, tf.constant(A)), expected)


def test_half_the_variance_is_the_double_sum_over_classes():
    w = softmax(RANDOM.randn(N, C), -1)
    np.testing.assert_allclose(losses.half_variance(w, A, B), double_sum(w, A, B))
    np.testing.assert_allclose(losses.half_variance(w, A, A + 3), 0, atol=1e-24)
    (ours,) = gradients(lambda z: losses.half_variance(w, z, B), A)
    numbers = by_differences(lambda z: double_sum(w, z, B), A)
    np.testing.assert_allclose(ours, numbers, atol=1e-7)


@pytest.mark.parametrize("scale", [0.0, 40.0, 1e4])
def test_losses_are_finite_for_huge_logits(scale):
    a, b = (tf.constant(scale * z, tf.float32) for z in (A, B))
    for method in (GAT(), DKL(), TRADES(distance="squared", label_loss="squared")):

        def total(p, q, method=method):
            student = {"clean": {"logits": p}, "adv": {"logits": q}}
            return sum(method.terms(Y, student, None).values())

        assert np.isfinite(total(a, b)).all()
        assert all(np.isfinite(g).all() for g in gradients(total, a, b))


# --- methods ------------------------------------------------------------------------------


def test_gat_is_its_formula():
    found = terms(GAT())
    np.testing.assert_allclose(found["clean"], cross_entropy(A))
    np.testing.assert_allclose(found["guided"], squares(A, B))
    assert GAT().weights == {"clean": 1.0, "guided": 10.0}


def test_gat_weighs_its_distance_four_times_in_the_last_14_of_100_epochs():
    schedule = GAT().schedules(100)["guided"]
    assert [schedule(epoch) for epoch in (0, 85, 86, 99)] == [1.0, 1.0, 4.0, 4.0]
    assert schedule == Late(86, 4.0)


def logits_fn(images):
    return tf.reshape(images, [len(images), -1]) @ tf.constant(W, images.dtype)


W = 4 * RANDOM.randn(12, C)
X = RANDOM.uniform(0.3, 0.7, (N, 2, 2, 3))


def test_the_attack_of_gat_ascends_what_it_says():
    objective = GAT(beta=3.0).objective(logits_fn, tf.constant(X), Y)
    expected = cross_entropy(B) + 3 * squares(logits_fn(tf.constant(X)).numpy(), B)
    np.testing.assert_allclose(objective(tf.constant(B)), expected)
    (ours,) = gradients(objective, B)
    clean = logits_fn(tf.constant(X)).numpy()
    numbers = by_differences(lambda z: cross_entropy(z) + 3 * squares(clean, z), B)
    np.testing.assert_allclose(ours, numbers, atol=1e-7)
    every_other = GAT(beta=3.0, alternate=True).objective(logits_fn, tf.constant(X), Y)
    halves = np.where(np.arange(N) % 2, expected, cross_entropy(B))
    np.testing.assert_allclose(every_other(tf.constant(B)), halves)


def test_the_attack_of_gat_weighs_the_distance_as_the_loss_of_the_epoch_does(make_network):
    trainer = AdversarialTrainer(make_network(), GAT(late_share=0.5), attacks.PGD(steps=1))
    clean = logits_fn(tf.constant(X)).numpy()
    for epoch, beta in enumerate([10, 40]):
        trainer.anneal(epoch, 2)
        objective = trainer._make_step().method.objective(logits_fn, tf.constant(X), Y)
        expected = cross_entropy(B) + beta * squares(clean, B)
        np.testing.assert_allclose(objective(tf.constant(B)), expected)


def test_one_step_of_gat_starts_at_plus_or_minus_its_noise():
    seeds = noise.example_seeds(0, 0, tf.range(N))
    start = GAT(start_noise=0.1).start(tf.constant(X), seeds).numpy()
    np.testing.assert_allclose(np.abs(start - X), 0.1)
    assert 0 < (start > X).mean() < 1
    attack = attacks.PGD(0.2, step_size=0.2, steps=1)
    x_adv = GAT(start_noise=0.1).adversary(
        attack, logits_fn, tf.constant(X), Y, seeds=seeds
    )
    off = np.abs(x_adv.numpy() - X)
    np.testing.assert_allclose(np.where(off > 0.15, 0.2, 0.1), off, atol=1e-7)


def test_dkl_is_its_formula():
    found = terms(DKL())
    soft = -(softmax(A, -1) * log_softmax(B, -1)).sum(-1)
    np.testing.assert_allclose(found["clean"], cross_entropy(A))
    np.testing.assert_allclose(found["soft"], soft)
    np.testing.assert_allclose(found["variance"], double_sum(softmax(A, -1), A, B))


def test_dkl_whose_variance_moves_clean_logits_alone_has_the_gradient_of_kl():
    def decoupled(clean, adv):
        student = {"clean": {"logits": clean}, "adv": {"logits": adv}}
        found = DKL(symmetric=False).terms(Y, student, None)
        return found["soft"] + found["variance"]

    theirs = by_differences(lambda z: kl(z, B), A), by_differences(lambda z: kl(A, z), B)
    for ours, expected in zip(gradients(decoupled, A, B), theirs, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-7)


def test_the_attack_of_dkl_ascends_the_kl_and_as_much_variance_as_is_asked_for():
    clean = logits_fn(tf.constant(X)).numpy()
    for beta in (0.0, 2.0):
        objective = DKL(attack_beta=beta).objective(logits_fn, tf.constant(X), Y)
        expected = kl(clean, B) + beta * double_sum(softmax(clean, -1), clean, B)
        np.testing.assert_allclose(objective(tf.constant(B)), expected)


def test_trades_takes_the_squared_distance_in_its_loss_and_its_attack():
    score = TRADES(distance="squared", label_loss="squared")
    found = terms(score)
    np.testing.assert_allclose(found["adv"], squares(A, B))
    np.testing.assert_allclose(
        found["clean"], ((softmax(A, -1) - np.eye(C)[Y]) ** 2).sum(-1)
    )
    objective = score.objective(logits_fn, tf.constant(X), Y)
    clean = logits_fn(tf.constant(X)).numpy()
    np.testing.assert_allclose(objective(tf.constant(B)), squares(clean, B))
    (ours,) = gradients(objective, B)
    numbers = by_differences(lambda z: squares(clean, z), B)
    np.testing.assert_allclose(ours, numbers, atol=1e-8)


def test_the_distance_leaves_runs_of_before_their_identity_and_hat_has_it_too():
    assert TRADES().brief() == "TRADES()" and HAT().brief() == "HAT()"
    assert TRADES(distance="squared").brief() == "TRADES(distance='squared')"
    assert HAT(distance="squared").objective(logits_fn, tf.constant(X), Y) is not None


def test_an_anneal_of_the_user_has_the_last_word(make_network, toy):
    x, y = (v[:8] for v in toy)
    trainer = AdversarialTrainer(make_network(), GAT(late_share=0.5), attacks.PGD(steps=1))
    trainer.compile("sgd", run_eagerly=True)
    logs = trainer.fit(x, y, batch_size=8, epochs=2, verbose=0).history
    assert logs["guided_weight"] == [10.0, 40.0]
    rise = Anneal("guided_weight", LambdaSchedule("linear", 4))
    logs = trainer.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[rise]).history
    assert logs["guided_weight"] == [2.5, 5.0]


def test_in_the_fit_of_a_plain_model_weights_and_means_change_by_the_epoch_too(toy):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for method in (GAT(late_share=0.5), IKL()):
        model, teacher = fits.network(), fits.network()
        model.compile(keras.optimizers.SGD(0.1), loss)
        vfd = VFDCallback(teacher, method=method, attack=attacks.PGD(steps=1))
        model.fit(*toy, batch_size=8, epochs=2, verbose=0, callbacks=[vfd])
        if "guided" in method.weights:
            assert float(vfd.trainer.scheduled["guided_weight"].numpy()) == 40.0
        else:
            means = vfd.trainer.learning.variables[0]["class_means"].numpy()
            np.testing.assert_allclose(means.sum(1), 1, rtol=1e-5)
            assert not np.allclose(means, 0.1)


# --- what IKL learns ----------------------------------------------------------------------


def test_ikl_weighs_the_variance_by_the_class_means_of_the_label():
    means = softmax(RANDOM.randn(C, C), -1)
    for power in (1.0, 0.4):
        bound = IKL(power=power).bound({"class_means": tf.constant(means)})
        w = means[Y] ** power / (means[Y] ** power).sum(-1, keepdims=True)
        np.testing.assert_allclose(terms(bound)["variance"], double_sum(w, A, B))
        mixed = bound.class_weights(tf.constant(np.eye(C)[Y]), tf.constant(A))
        np.testing.assert_allclose(mixed, w)
    uniform = np.full((N, C), 1 / C)
    np.testing.assert_allclose(terms(IKL())["variance"], double_sum(uniform, A, B))
    assert IKL().bound({"class_means": means}) == IKL()


def test_weights_of_ikl_sum_to_one_whatever_the_power():
    for power in (0.0, 60.0):
        weights = IKL(power=power).class_weights(Y, tf.constant(A, tf.float32))
        np.testing.assert_allclose(weights, 1 / C)


def test_ikl_takes_the_means_of_an_epoch_and_keeps_those_of_classes_without_images():
    method, y = IKL(temperature=2.0), np.array([0, 0, 1, 1, 3, 3])
    state = method.state(C)
    np.testing.assert_array_equal(state["class_means"], np.full((C, C), 1 / C, "float32"))
    for part in (slice(0, 4), slice(4, 6)):
        seen = method.seen(y[part], tf.constant(A[part], tf.float32), {})
        state |= {k: np.array(v) for k, v in method.after_step(state, seen).items()}
    state = method.after_epoch(state)
    for label in range(C):
        own = softmax(A[y == label] / 2, -1).mean(0) if label in y else 1 / C
        np.testing.assert_allclose(state["class_means"][label], own, rtol=1e-6)
    assert not state["class_sums"].any()


def ikl():
    """A trainer of IKL, always the same."""
    keras.utils.set_random_seed(0)
    trainer = AdversarialTrainer(fits.network(), "ikl", attacks.PGD(steps=1), seed=3)
    trainer.compile(keras.optimizers.SGD(0.5), steps_per_execution=1)
    return trainer


def test_a_fit_learns_the_means_of_its_last_epoch(make_network, toy):
    x, y = toy
    trainer = AdversarialTrainer(make_network(), IKL(), attacks.PGD(steps=1))
    trainer.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    twin = keras.models.clone_model(trainer.network)
    twin.set_weights(trainer.network.get_weights())
    trainer.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    batches = [twin(x[i : i + 8], training=True)["logits"].numpy() for i in (0, 8, 16)]
    p = softmax(np.concatenate(batches) / 4, -1)
    means = trainer.learning.variables[0]["class_means"].numpy()
    for label in set(y):
        np.testing.assert_allclose(means[label], p[y == label].mean(0), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Step 2 of epoch 1 is skipped")
def test_a_skipped_step_teaches_nothing(make_network, toy):
    weight, ended = np.repeat([1.0, np.inf], 8), []
    for count in (8, 16):
        keras.utils.set_random_seed(0)
        options = TrainingOptions(on_nan="skip")
        trainer = AdversarialTrainer(
            make_network(), "ikl", attacks.PGD(steps=1), options=options
        )
        trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        own = {"sample_weight": weight[:count], "batch_size": 8, "shuffle": False}
        trainer.fit(*(v[:count] for v in toy), verbose=0, **own)
        ended.append(trainer.learning.variables[0]["class_means"].numpy())
    np.testing.assert_array_equal(*ended)


@pytest.mark.parametrize("place", [("before", 0, 2), ("test", 0), ("before", 1, 1)])
def test_a_fit_with_class_means_goes_on_to_the_same_bits(tmp_path, place):
    fits.killed(ikl, tmp_path, *place)
    fits.assert_same(fits.resumed(ikl, tmp_path), fits.unbroken(ikl))


def test_a_student_whose_classes_are_unknown_is_refused():
    class Bare(keras.Model):
        def call(self, x):
            return tf.reduce_mean(x, (1, 2))

    student = Bare()
    student(np.zeros((1, 4, 4, 3), "float32"))
    with pytest.raises(InputError, match="IKL has to know how many classes"):
        AdversarialTrainer(student, "ikl")
