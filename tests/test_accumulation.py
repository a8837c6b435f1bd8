"""Accumulation: the parts of a batch, one by one, train as the whole batch does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import AdversarialTrainer, InputError, TrainingOptions
from vfd_tf.attacks import PGD
from vfd_tf.training.optimizers import SGD, OneCycle
from vfd_tf.training.weights.accumulation import check_divides, in_parts

PAIRS = [("trades", "vfd"), ("hat", "vfd"), ("mart", "lbgat")]
OPTIONS = {
    "plain": {},
    "everything": {
        "awp_gamma": 0.01,
        "clip_norm": 0.5,
        "average": "ema",
        "label_smoothing": 0.1,
    },
}


@pytest.fixture
def float64():
    """In float64 no sign of a gradient near zero depends on the shape of the batch."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def trained(make_network, toy, method, distillation, steps, weights=None, **options):
    keras.utils.set_random_seed(0)
    networks = {
        "teacher": make_network(batch_norm=False),
        "partner": make_network(batch_norm=False),
    }
    trainer = AdversarialTrainer(
        make_network(batch_norm=False),
        method,
        PGD(steps=2),
        distillation,
        **networks,
        seed=3,
        options=TrainingOptions(accumulate_steps=steps, **options),
    )
    trainer.compile(SGD(OneCycle(0.1, 9), 0.9, weight_decay=5e-4))
    x, y = toy[0].astype("float64"), toy[1]
    logs = trainer.fit(x, y, batch_size=8, epochs=3, sample_weight=weights, verbose=0)
    return trainer, logs.history


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(teacher=|partner=|The teacher)")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_parts_train_as_the_whole_batch(float64, make_network, toy, pair, options):
    weights = np.linspace(0.5, 1.5, len(toy[0]))
    whole, logs = trained(make_network, toy, *pair, 1, weights, **OPTIONS[options])
    parts, other = trained(make_network, toy, *pair, 4, weights, **OPTIONS[options])
    assert int(parts.iteration) == int(parts.optimizer.iterations) == 9
    for one, two in zip(whole.weights, parts.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=0, atol=1e-12)
    for name, values in logs.items():
        np.testing.assert_allclose(values, other[name], rtol=1e-9, err_msg=name)


def test_what_is_one_tensor_is_one_in_every_part():
    """Natural training: x' is x, and a pass of the network is enough for both."""
    seen = in_parts(lambda x, x_adv: x is x_adv, 2, *[tf.range(4)] * 2)
    assert seen == [True, True]


def test_parts_come_one_after_the_other_and_none_is_left_out():
    """In the graph: the second part waits for the result of the first, and so on."""

    def function(part, nothing):
        assert nothing is None
        return tf.negative(part)

    @tf.function(autograph=False)
    def run(x):
        return tf.concat(in_parts(function, 4, x, None), 0)

    np.testing.assert_array_equal(run(tf.range(8)), -np.arange(8))
    graph = run.get_concrete_function(tf.TensorSpec([8], tf.int32)).graph
    results = [op for op in graph.get_operations() if op.type == "Neg"]
    assert len(results) == 4
    for before, after in zip(results, results[1:], strict=False):
        assert before in after.inputs[0].op.control_inputs


@pytest.mark.parametrize(
    "size, replicas, parts, nearest",
    [(100, 3, 1, "99 and 102"), (30, 4, 2, "24 and 32"), (3, 2, 4, "8")],
)
def test_a_batch_that_does_not_divide_is_refused(size, replicas, parts, nearest):
    with pytest.raises(InputError, match=f"{size} can't be shared.* (is|are) {nearest}"):
        check_divides(size, replicas, parts)
    check_divides(24, 2, 4)


def test_a_fit_says_so_before_its_first_step(make_network, toy):
    options = TrainingOptions(accumulate_steps=5)
    trainer = AdversarialTrainer(make_network(), "pgd-at", "pgd1", options=options)
    trainer.compile("sgd")
    with pytest.raises(InputError, match="nearest that can are 5 and 10"):
        trainer.fit(*toy, batch_size=8, verbose=0)
