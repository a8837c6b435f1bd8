"""MIM, C&W, APGD, FAB-T and Square follow the originals step for step."""

import functools

import golden_networks as golden
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import attacks, evaluation, losses
from vfd_tf.attacks import square as square_module
from vfd_tf.attacks.apgd import checkpoints

nets = pytest.mark.parametrize("net", ["robust", "standard"])


@functools.cache
def network(net, precision="float64"):
    return golden.resnet(net, precision)


def traces(net):
    return golden.under(golden.arrays("part_b_traces"), f"{net}/")


def traced_images(net, count=20):
    values, index = golden.part_b(), traces(net)["indices"][:count]
    x = values["x_u8"][index].astype("float64") / 255
    return tf.constant(x), tf.constant(values["y"][index])


def all_images(dtype="float64"):
    values = golden.part_b()
    return tf.constant((values["x_u8"] / 255).astype(dtype)), tf.constant(values["y"])


def compiled(attack, model, objective):
    """One step of the attack, (x, state, i) -> state, as a graph."""

    @tf.function(autograph=False)
    def step(x, state, i):
        return attack.step(model, x, objective, state, i)

    return step


@nets
def test_mim_finds_the_examples_of_the_original(net):
    x, y = all_images()
    attack, model = attacks.MIM(8 / 255, 2 / 255), network(net)
    run = tf.function(lambda: attack(model, x, attacks.cross_entropy(y)), autograph=False)
    x_adv, expected = run().numpy() * 255, traces(net)
    np.testing.assert_allclose(x_adv, np.round(x_adv), 0, 1e-9)
    np.testing.assert_array_equal(np.round(x_adv), expected["mim20/x_adv_u8_float64"])
    correct = model(x_adv / 255).numpy().argmax(-1) == y.numpy()
    np.testing.assert_array_equal(correct, expected["mim20/correct_float64"])


@nets
@pytest.mark.parametrize("block, c", [("cw_c1", 1.0), ("cw_c1em4", 1e-4)])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_carlini_wagner_finds_what_the_original_finds(net, block, c, precision):
    expected = golden.under(traces(net), f"{block}/")
    x, y = all_images(precision)
    model = network(net, precision)
    steps = int(expected[f"steps_run_{precision}"])
    attack = attacks.CarliniWagner(c=c, steps=steps, early_stop=False)
    run = tf.function(lambda: attack(model, x, attacks.margin(y)), autograph=False)
    x_adv = run()
    correct = model(x_adv).numpy().argmax(-1) == y.numpy()
    np.testing.assert_array_equal(correct, expected[f"correct_{precision}"])
    clean = model(x).numpy().argmax(-1) == y.numpy()
    size = np.linalg.norm((x_adv - x).numpy().reshape(len(x), -1), axis=-1)
    # The original counts only images that were right to begin with as fooled.
    tolerance = 1e-3 if c == 1 else 2e-2
    l2 = expected[f"l2_{precision}"]
    np.testing.assert_allclose(size[clean], l2[clean], 0, tolerance)


APGD = {
    "apgd_ce_linf": ("linf", lambda y, t: attacks.cross_entropy(y)),
    "apgd_ce_l2": ("l2", lambda y, t: attacks.cross_entropy(y)),
    "apgd_dlr_linf": ("linf", lambda y, t: attacks.dlr(y)),
    "apgd_t2_linf": ("linf", attacks.targeted_dlr),
}


@pytest.mark.parametrize(
    "block, net",
    [
        ("apgd_ce_linf", "robust"),
        ("apgd_ce_linf", "standard"),
        ("apgd_ce_l2", "robust"),
        ("apgd_dlr_linf", "standard"),
        ("apgd_t2_linf", "robust"),
    ],
)
def test_apgd_takes_every_step_of_the_original(net, block):
    expected, (norm, objective) = traces(net), APGD[block]
    x, y = traced_images(net)
    target = tf.constant(expected["apgd_t2_linf/y_target"])
    start = tf.constant(expected[f"start_{norm}"].astype("float64"))
    model, objective = network(net), objective(y, target)
    attack = attacks.APGD(float(expected[f"eps_{norm}"]), norm=norm)
    state, step = attack.begin(x, start, None), compiled(attack, model, objective)
    flat = np.zeros(20, bool)
    for i in range(101):
        logits = model(state["x_adv"])
        state = step(x, state, tf.constant(i))
        loss, correct = expected[f"{block}/loss"][i], tf.argmax(logits, -1) == y
        score = objective(logits).numpy()
        np.testing.assert_allclose(score[~flat], loss[~flat], 0, 1e-8)
        right = expected[f"{block}/correct"][i]
        np.testing.assert_array_equal(correct.numpy()[~flat], right[~flat])
        if block == "apgd_dlr_linf":
            # Once the label is third, DLR is 1 and its gradient nothing but rounding.
            flat |= np.abs(loss - 1) < 1e-9
        if i < 100:
            size = expected[f"{block}/step_size"][i]
            np.testing.assert_allclose(state["step"][~flat], size[~flat], 1e-12)
    assert flat.sum() <= 5 and not right[flat].any()
    np.testing.assert_allclose(state["best"], expected[f"{block}/loss_best"], 0, 1e-8)
    np.testing.assert_array_equal(
        ~state["misclassified"], expected[f"{block}/final_robust"]
    )
    if block == "apgd_ce_linf":
        latest = state["x_success"].numpy()[:4]
        np.testing.assert_allclose(latest, expected[f"{block}/x_best_adv_first4"], 0, 1e-9)


def test_apgd_looks_at_its_step_when_the_paper_says():
    assert [*checkpoints(100)] == [22, 41, 57, 70, 80, 87, 93, 99]
    assert [*checkpoints(100).values()] == [22, 19, 16, 13, 10, 7, 6, 6]


@nets
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_finds_the_distances_of_the_original(net, norm):
    expected = traces(net)
    x, y = traced_images(net, 8)
    attack = attacks.FAB(float(expected[f"eps_{norm}"]), norm=norm)
    model = network(net)
    for rank in (0, 1):
        target = tf.constant(expected[f"fab_t_{norm}/pred_target"][:, rank])
        objective = attacks.targeted_margin(y, target)
        state, step = attack.begin(x, None, None), compiled(attack, model, objective)
        for i in range(100):
            state = step(x, state, tf.constant(i))
        size = state["size"].numpy()
        size = np.where(size < 1e9, size, 0)
        distance = expected[f"fab_t_{norm}/dist_rank2_rank3"][rank]
        np.testing.assert_allclose(size, distance, 0, 1e-6)
        if rank == 0:
            first = expected[f"fab_t_{norm}/x_adv_rank2_first2"]
            np.testing.assert_allclose(state["x_best"][:2], first, 0, 1e-6)


@nets
def test_square_follows_the_original_from_the_same_draws(net):
    expected = golden.under(traces(net), "square_linf/")
    x, y = traced_images(net, 8)
    epsilon, model = float(traces(net)["eps_linf"]), network(net)
    attack, objective = attacks.Square(epsilon, queries=300), attacks.margin(y)
    np.testing.assert_array_equal(attack.sides((32, 32)), expected["side"])
    start = tf.clip_by_value(x + epsilon * expected["init_sign"], 0, 1)
    seeds = tf.zeros([8, 2], tf.uint32)
    state = attack.begin(x, start, seeds)
    accept = tf.function(
        lambda state, proposal, i: attack.accept(model, objective, state, proposal, i),
        autograph=False,
    )
    state = accept(state, start, tf.constant(0))
    np.testing.assert_allclose(-state["margin"], expected["init_margin"], 0, 1e-9)
    queries = np.ones(8)
    for i in range(300):
        open_ = state["margin"].numpy() < 0
        assert open_.sum() == expected["proposals_evaluated"][i]
        queries += open_
        corner = (tf.fill([8], int(expected[k][i])) for k in ("row", "col"))
        where = square_module.window(*corner, int(expected["side"][i]), (32, 32, 3))
        sign = tf.constant(expected["sign"][i].reshape(1, 1, 1, 3), "float64")
        proposal = square_module.LinfSquares.shift(x, state["x_adv"], epsilon, where, sign)
        state = accept(state, proposal, tf.constant(i + 1))
    np.testing.assert_array_equal(queries, expected["n_queries_per_image"])
    np.testing.assert_allclose(-state["margin"], expected["final_margin"], 0, 1e-9)
    np.testing.assert_allclose(state["x_adv"], expected["x_final"], 0, 1e-12)
    margin = losses.margin(y, model(state["x_adv"]))
    np.testing.assert_allclose(margin, state["margin"], 0, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "net, norm, epsilon, images",
    [
        ("robust", "linf", 8 / 255, 32),
        ("standard", "l2", 0.1, 16),
    ],
)
def test_autoattack_gives_the_verdicts_of_the_reference(net, norm, epsilon, images):
    reference = golden.arrays("autoattack_verdicts")[f"{net}-{norm}"][:images]
    data = tuple(array.numpy()[:images] for array in all_images("float32"))
    model = network(net, "float32")
    options = {"epsilon": epsilon, "norm": norm, "batch_size": images}
    found = evaluation.evaluate(model, data, ["autoattack"], **options)
    np.testing.assert_array_equal(found.robust["autoattack"], reference)
