"""One step of training and of the optimiser moves the weights as the originals do."""

import functools

import golden_networks as golden
import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import AdversarialTrainer, distillation
from vfd_tf.training.optimizers import SGD

# Block of the golden arrays, its gradients there, method and distillation.
STEPS = {
    "trades": ("trades", "grad", "trades", "none"),
    "mart": ("mart", "grad", "mart", "none"),
    "hat": ("hat", "grad", "hat", "none"),
    "alp": ("alp", "grad", "alp", "none"),
    "pgd-at + kd": ("kd_eval_attack", "grad", "pgd-at", "kd"),
    "pgd-at + vfd": (
        "at",
        "vfd/grad_with_base",
        "pgd-at",
        distillation.VFD(lambda_=0.02),
    ),
    "hat + vfd": ("hat", "vfd/grad_with_base", "hat", distillation.VFD(lambda_=0.02)),
}


def stored_attack(x_adv):
    """An attack that has made its examples before."""
    return lambda logits_fn, x, objective, start=None, seeds=None: tf.constant(x_adv)


@functools.cache
def trained_by_one_step(case, jit_compile=False):
    """A student after one step of plain SGD at learning rate 1."""
    block, _, method, added = STEPS[case]
    values = golden.part_a("float32")
    teacher, robust = (golden.tiny(role, "float32") for role in ("vanilla", "robust"))
    student = golden.tiny("student", "float32")
    trainer = AdversarialTrainer(
        student,
        method=method,
        distillation=added,
        attack=stored_attack(values[f"{block}/x_adv"]),
        teacher=teacher,
        robust_teacher=robust,
    )
    trainer.compile(keras.optimizers.SGD(1.0), jit_compile=jit_compile)
    # The stored examples belong to the images in their stored order.
    trainer.fit(values["x"], values["y"], batch_size=6, shuffle=False, verbose=0)
    return student


def assert_moved_along_the_gradient(student, case):
    block, key, *_ = STEPS[case]
    values = golden.part_a("float32")
    gradients = golden.under(values, f"{block}/{key}/")
    before = golden.under(values, "weights/student/")
    ours = golden.named(student.trainable_variables)
    assert set(ours) == set(gradients)
    for name, variable in ours.items():
        moved = before[name] - variable.numpy()
        np.testing.assert_allclose(moved, gradients[name], 0, 2e-5, err_msg=name)


@pytest.mark.parametrize("case", STEPS)
def test_step_is_the_gradient_of_the_original(case):
    assert_moved_along_the_gradient(trained_by_one_step(case), case)


@pytest.mark.slow
def test_compiled_step_is_the_gradient_of_the_original():
    student = trained_by_one_step("mart", jit_compile=True)
    assert_moved_along_the_gradient(student, "mart")


@pytest.mark.parametrize("method", ["mart", "hat", "alp"])
def test_step_leaves_the_statistics_of_the_original(method):
    values = golden.part_a("float32")
    expected = {
        **golden.under(values, f"{method}/after/"),
        # Keras's variance is the biased one, PyTorch's is not.
        **golden.under(values, f"{method}/after_biased/"),
    }
    student = trained_by_one_step(method)
    ours = golden.named(student.non_trainable_variables)
    assert set(ours) == set(expected)
    for name, variable in ours.items():
        np.testing.assert_allclose(variable, expected[name], 1e-6, 1e-6, err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["plain", "nesterov"])
def test_optimizer_moves_as_the_original(kind, precision):
    values = golden.part_a(precision)
    weights = golden.under(values, "weights/student/")
    gradients = [
        golden.under(values, f"{block}/grad/") for block in ("trades", "mart", "trades")
    ]
    variables = {
        name: keras.Variable(weights[name], dtype=precision) for name in gradients[0]
    }
    optimizer = SGD(
        momentum=values["sgd/hp_momentum"].item(),
        weight_decay=values["sgd/hp_weight_decay"].item(),
        nesterov=kind == "nesterov",
    )
    for index, (rate, gradient) in enumerate(
        zip(values["sgd/hp_lr"], gradients, strict=True), start=1
    ):
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant(gradient[k]) for k in variables], variables.values())
        expected = golden.under(values, f"sgd/{kind}/step{index}/")
        for name, weight in expected.items():
            np.testing.assert_allclose(variables[name], weight, 1e-6, 1e-6, err_msg=name)
    assert set(expected) == set(variables)
