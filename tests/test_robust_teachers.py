"""Distillations from robust teachers: formulas, what they replace, what is attacked."""

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from vfd_tf import AdversarialTrainer, InputError, TrainingOptions, attacks, noise
from vfd_tf.training.distillation import BMTARD, IGDM, MTARD, RSLAD
from vfd_tf.training.methods import METHODS

N, C = 6, 5
RANDOM = np.random.RandomState(0)
Y = RANDOM.randint(0, C, N)
ROLES = ("teacher", "robust_teacher", "partner")


def outputs(*views, scale=3.0):
    """View -> {"logits": random [N, C], float64}."""
    return {view: {"logits": tf.constant(scale * RANDOM.randn(N, C))} for view in views}


def kl(p, q):
    """KL(softmax p || softmax q) [n], by its definition."""
    return (softmax(p, -1) * (log_softmax(p, -1) - log_softmax(q, -1))).sum(-1)


def logits(networks, view):
    return networks[view]["logits"].numpy()


def value_and_gradient(loss, z):
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(z)
    return value.numpy(), tape.gradient(value, z).numpy()


def by_differences(loss, z, step=1e-6):
    """d sum_i loss_i / d z by central differences, z [n, c] float64."""
    z, gradient = np.array(z), np.zeros(z.shape)
    for i in np.ndindex(*z.shape):
        moved = [z.copy(), z.copy()]
        moved[0][i] += step
        moved[1][i] -= step
        gradient[i] = np.subtract(*(loss(m).sum() for m in moved)) / (2 * step)
    return gradient


def test_rslad_is_its_formula_and_so_is_its_gradient():
    student, robust = outputs("clean", "adv"), outputs("clean")
    terms = RSLAD().terms(Y, student, None, robust)
    guide = logits(robust, "clean")
    for view in ("clean", "adv"):
        np.testing.assert_allclose(terms[f"soft_{view}"], kl(guide, logits(student, view)))

        def term(z, view=view):
            return RSLAD().terms(Y, {**student, view: {"logits": z}}, None, robust)[
                f"soft_{view}"
            ]

        _, gradient = value_and_gradient(term, student[view]["logits"])
        expected = by_differences(lambda z: kl(guide, z), logits(student, view))
        np.testing.assert_allclose(gradient, expected, atol=1e-7)


def test_rslad_of_a_teacher_that_is_the_student_is_zero_on_clean_images():
    robust = outputs("clean")
    student = {"clean": robust["clean"], "adv": robust["clean"]}
    for term in RSLAD().terms(Y, student, None, robust).values():
        np.testing.assert_allclose(term, 0, atol=1e-12)


@pytest.mark.parametrize("scale", [40.0, 1e4])
def test_rslad_is_finite_for_huge_logits(scale):
    z = tf.cast(outputs("adv", scale=scale)["adv"]["logits"], tf.float32)
    robust = outputs("clean", scale=scale)
    robust = {"clean": {"logits": tf.cast(robust["clean"]["logits"], tf.float32)}}

    def term(z):
        student = {view: {"logits": z} for view in ("clean", "adv")}
        return RSLAD().terms(Y, student, None, robust)["soft_adv"]

    value, gradient = value_and_gradient(term, z)
    assert np.isfinite(value).all() and np.isfinite(gradient).all()


def test_igdm_is_the_kl_of_differences_across_x_and_so_is_its_gradient():
    student, robust = (
        outputs("clean", "adv", "opposite"),
        outputs("clean", "adv", "opposite"),
    )
    terms = IGDM().terms(Y, student, None, robust)
    theirs = logits(robust, "adv") - logits(robust, "opposite")
    back = logits(student, "opposite")
    expected = kl(theirs, logits(student, "adv") - back)
    np.testing.assert_allclose(terms["differences"], expected)
    np.testing.assert_allclose(
        terms["soft_adv"], RSLAD().terms(Y, student, None, robust)["soft_adv"]
    )

    def term(z):
        other = {**student, "adv": {"logits": z}}
        return IGDM().terms(Y, other, None, robust)["differences"]

    _, gradient = value_and_gradient(term, student["adv"]["logits"])
    numbers = by_differences(lambda z: kl(theirs, z - back), logits(student, "adv"))
    np.testing.assert_allclose(gradient, numbers, atol=1e-7)


def test_igdm_gives_no_share_to_a_class_that_both_networks_mask():
    def masked(network):
        wide = {v: np.c_[logits(network, v), np.full(N, -np.inf)] for v in network}
        return {view: {"logits": tf.constant(z)} for view, z in wide.items()}

    views = "clean", "adv", "opposite"
    plain = outputs(*views), outputs(*views)
    wide = [masked(network) for network in plain]

    def term(student, robust, z):
        student = {**student, "adv": {"logits": z}}
        return IGDM().terms(Y, student, None, robust)["differences"]

    found, slope = value_and_gradient(lambda z: term(*wide, z), wide[0]["adv"]["logits"])
    value, own = value_and_gradient(lambda z: term(*plain, z), plain[0]["adv"]["logits"])
    np.testing.assert_allclose(found, value)
    np.testing.assert_allclose(slope, np.pad(own, [(0, 0), (0, 1)]), atol=1e-12)


def test_igdm_of_a_linear_network_and_the_same_with_another_bias_is_zero():
    x, x_adv = RANDOM.rand(2, N, 7)
    views = IGDM().views({"clean": tf.constant(x), "adv": tf.constant(x_adv)})
    np.testing.assert_allclose(views["opposite"], x - (x_adv - x))
    weights = RANDOM.randn(7, C)

    def linear(bias):
        return {
            k: {"logits": tf.constant(v.numpy() @ weights + bias)} for k, v in views.items()
        }

    term = IGDM().terms(Y, linear(0.0), None, linear(RANDOM.randn(C)))["differences"]
    np.testing.assert_allclose(term, 0, atol=1e-12)


def test_the_opposite_view_is_x_itself_where_nothing_is_attacked():
    x = tf.constant(RANDOM.rand(N, 7))
    assert IGDM().views({"clean": x, "adv": x})["opposite"] is x


def test_the_weight_of_igdm_rises_with_the_epochs(make_network, toy):
    x, y = (v[:8] for v in toy)
    with pytest.warns(UserWarning, match="is not used by"):
        trainer, _ = trainer_of(make_network, "pgd-at", IGDM(alpha=2.0))
    logs = trainer.fit(x, y, batch_size=8, epochs=4, verbose=0).history
    assert logs["differences_weight"] == [0.5, 1.0, 1.5, 2.0]


def test_mtard_is_its_formula_and_vanishes_for_teachers_that_are_the_student():
    student, robust, vanilla = outputs("clean", "adv"), outputs("adv"), outputs("clean")
    hot = MTARD(adv_temperature=2.0, clean_temperature=4.0)
    terms = hot.terms(Y, student, vanilla, robust)
    expected = kl(logits(robust, "adv") / 2, logits(student, "adv"))
    np.testing.assert_allclose(terms["robust"], expected)
    expected = kl(logits(vanilla, "clean") / 4, logits(student, "clean"))
    np.testing.assert_allclose(terms["vanilla"], expected)
    for term in MTARD().terms(Y, student, student, student).values():
        np.testing.assert_allclose(term, 0, atol=1e-12)


def test_b_mtard_begins_as_mtard():
    student, robust, vanilla = outputs("clean", "adv"), outputs("adv"), outputs("clean")
    hot = {"adv": 0.2, "clean": 0.6, "adv_temperature": 2.0}
    balanced = BMTARD(**hot).terms(Y, student, vanilla, robust)
    plain = MTARD(**hot).terms(Y, student, vanilla, robust)
    np.testing.assert_allclose(balanced["robust"], 0.25 * plain["robust"])
    np.testing.assert_allclose(balanced["vanilla"], 0.75 * plain["vanilla"])
    p = softmax(logits(robust, "adv") / 2, -1)
    np.testing.assert_allclose(balanced["robust_entropy"], -(p * np.log(p)).sum(-1))


def by_the_original(state, means):
    """One step of temperatures and shares, as the original code writes it."""
    l_adv, l_nat, h_adv, h_nat = means
    first = state["first_losses"] if state["first_losses"][0] else (l_adv, l_nat)
    adv = state["adv_temperature"] - 0.001 * np.sign(h_adv / h_nat - 1)
    nat = state["clean_temperature"] - 0.001 * np.sign(h_nat / h_adv - 1)
    hat_adv, hat_nat = l_adv / first[0], l_nat / first[1]
    mean = (hat_adv + hat_nat) / 2
    rate_adv, rate_nat = hat_adv / mean, hat_nat / mean
    share_nat, share_adv = state["clean_part"], 1 - state["clean_part"]
    share_nat -= 0.025 * (share_nat - rate_nat / (rate_adv + rate_nat))
    share_adv -= 0.025 * (share_adv - rate_adv / (rate_adv + rate_nat))
    return {
        "clean_part": share_nat / (share_nat + share_adv),
        "adv_temperature": np.clip(adv, 1, 10),
        "clean_temperature": np.clip(nat, 1, 10),
        "first_losses": np.array(first),
    }


def test_b_mtard_moves_as_the_original_does():
    method = BMTARD(clean_temperature=1.5)
    state = expected = method.state(C)
    for _ in range(5):
        means = RANDOM.uniform(0.5, 2, 4).astype("float32")
        watched = {
            n: m * np.ones(N, "f") for n, m in zip(method.watches, means, strict=True)
        }
        seen = method.seen(Y, tf.zeros([N, C]), watched)
        state, expected = method.after_step(state, seen), by_the_original(expected, means)
        for name, value in expected.items():
            np.testing.assert_allclose(state[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["adv_temperature", "clean_temperature"])
def test_b_mtard_refuses_temperatures_that_its_first_step_would_replace(name):
    for value, words in ((0.5, "at least 1.0"), (4.5, "at most hottest=4")):
        with pytest.raises(InputError, match=f"{name} must be {words}"):
            BMTARD(**{name: value}, hottest=4.0)
    assert BMTARD(**{name: 4.0}, hottest=4.0)[name] == 4.0


@pytest.mark.filterwarnings("ignore:.*is not used by")
def test_a_fit_logs_what_b_mtard_has_learned_and_the_next_step_uses_it(make_network, toy):
    trainer, _ = trainer_of(make_network, "trades", "b-mtard")
    logs = trainer.fit(*toy, batch_size=8, epochs=2, verbose=0).history
    moved = np.diff([1.0, *logs["adv_temperature"]])
    assert np.abs(moved).max() <= 0.003 + 1e-6
    assert logs["clean_temperature"] != [1.0, 1.0] or logs["adv_temperature"] != [1.0, 1.0]
    assert 0 < logs["clean_part"][-1] < 1 and logs["clean_part"][0] != 0.5
    share = trainer._make_step().distillation.learned["clean_part"]
    assert float(share) == pytest.approx(logs["clean_part"][-1])


def balanced():
    """A trainer of B-MTARD, always the same."""
    keras.utils.set_random_seed(0)
    networks = {role: fits.network() for role in ("teacher", "robust_teacher")}
    trainer = AdversarialTrainer(
        fits.network(), "pgd-at", attacks.PGD(steps=1), "b-mtard", seed=3, **networks
    )
    trainer.compile(keras.optimizers.SGD(0.5))
    return trainer


def test_a_fit_with_balanced_teachers_goes_on_to_the_same_bits(tmp_path):
    fits.killed(balanced, tmp_path, "before", 1, 1)
    fits.assert_same(fits.resumed(balanced, tmp_path), fits.unbroken(balanced))


SOFT = {"soft_adv": 5 / 6, "soft_clean": 1 / 6}
REST = {
    "natural": {},
    "pgd-at": {},
    "alp": {"pairing": 1.0},
    "trades": {"adv": 6.0},
    "mart": {"weighted_kl": 5.0},
    "hat": {"adv": 2.5, "helper": 0.5},
    "gat": {"guided": 10.0},
    "dkl": {"soft": 4.0, "variance": 20.0},
    "ikl": {"soft": 4.0, "variance": 20.0},
    "ar-at": {"align": 30.0},
}


@pytest.mark.parametrize("method", METHODS)
def test_soft_labels_replace_all_hard_labels_and_the_rest_stays(method):
    base = METHODS[method]()
    weights = RSLAD().reweigh(base.weights, base.hard_label)
    assert weights == {**REST[method], **SOFT}
    half = MTARD().reweigh(base.weights, base.hard_label)
    assert half == {**REST[method], "robust": 0.5, "vanilla": 0.5}
    tenth = RSLAD(scale=0.1).reweigh(base.weights, base.hard_label)
    assert tenth == pytest.approx({**REST[method], **{k: w / 10 for k, w in SOFT.items()}})


def trainer_of(make_network, method, distillation, **arguments):
    networks = {role: make_network() for role in ROLES}
    trainer = AdversarialTrainer(
        make_network(), method, attacks.PGD(steps=2), distillation, **networks, **arguments
    )
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    return trainer, networks


@pytest.mark.filterwarnings("ignore:.*is not used by")
@pytest.mark.parametrize("method", ["pgd-at", "trades", "mart"])
def test_the_attack_ascends_the_kl_of_rslad_from_the_method_s_start(
    make_network, toy, method
):
    x, y = (tf.constant(v[:8]) for v in toy)
    seeds = noise.example_seeds(0, 0, tf.range(8))
    trainer, networks = trainer_of(make_network, method, "rslad")

    def student(images):
        return trainer.network(images)["logits"]

    guide = networks["robust_teacher"](x)["logits"]
    start = trainer.method.start(x, seeds)
    own, other = (
        attacks.PGD(steps=2)(student, x, objective, start=start, seeds=seeds)
        for objective in (attacks.kl(guide), attacks.cross_entropy(y))
    )
    made = trainer._make_step().adversarial(x, y, seeds)
    np.testing.assert_allclose(made, own, atol=1e-6)
    assert not np.allclose(made, other, atol=1e-3)
    trainer.options = TrainingOptions(attack_objective="ce")
    made = trainer._make_step().adversarial(x, y, seeds)
    np.testing.assert_allclose(made, other, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*is not used by")
def test_natural_training_with_rslad_learns_the_robust_teacher_on_clean_images(
    make_network, toy
):
    x, y = (v[:8] for v in toy)
    trainer, networks = trainer_of(make_network, "natural", "rslad")
    twin = keras.models.clone_model(trainer.network)
    twin.set_weights(trainer.network.get_weights())
    expected = kl(
        networks["robust_teacher"](x)["logits"].numpy(),
        twin(x, training=True)["logits"].numpy(),
    )
    logs = trainer.fit(x, y, batch_size=8, verbose=0).history
    np.testing.assert_allclose(logs["loss"][0], expected.mean(), rtol=1e-4)
