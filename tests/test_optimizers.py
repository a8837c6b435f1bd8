"""Learning rates: the end points and shapes that the recipes name."""

import keras
import numpy as np
import pytest

from vfd_tf import InputError
from vfd_tf.experiments.experiment import Recipe
from vfd_tf.training.optimizers import OneCycle, Warmup, learning_rate

STEPS = 10  # an epoch


def rates(recipe, count=None):
    rate = learning_rate(recipe, STEPS)
    count = count or recipe.epochs * STEPS
    if not callable(rate):
        return np.full(count, rate)
    return np.array([float(rate(step)) for step in range(count)])


def test_one_cycle_rises_from_a_25th_to_its_peak_and_falls_to_nothing():
    recipe = Recipe(epochs=20, schedule="one-cycle", learning_rate=0.5, lr_rise=0.25)
    values = rates(recipe)
    top = 0.25 * 200 - 1
    assert values.argmax() == top
    np.testing.assert_allclose(values[[0, int(top), -1]], [0.02, 0.5, 2e-6], rtol=1e-3)
    assert (np.diff(values[: int(top)]) > 0).all() and (
        np.diff(values[int(top) :]) < 0
    ).all()


def test_piecewise_changes_at_the_first_step_behind_a_milestone():
    recipe = Recipe(epochs=4, learning_rate=1.0, lr_milestones=(2, 3))
    np.testing.assert_allclose(rates(recipe), np.repeat([1, 1, 0.1, 0.01], STEPS))


def test_piecewise_without_milestones_is_constant():
    recipe = Recipe(epochs=2, learning_rate=0.5, schedule="piecewise", lr_milestones=())
    np.testing.assert_array_equal(rates(recipe), np.full(2 * STEPS, 0.5))


def test_piecewise_needs_a_factor_for_every_piece():
    with pytest.raises(InputError, match="one value more"):
        rates(Recipe(epochs=4, lr_milestones=(2,), lr_factors=(1.0,)))


@pytest.mark.parametrize("schedule", ["constant", "piecewise", "cosine", "one-cycle"])
def test_warm_up_multiplies_any_schedule_by_a_linear_rise(schedule):
    plain = Recipe(epochs=4, schedule=schedule, lr_milestones=(1, 3))
    warm = plain.replace(warmup_epochs=1.5)
    rise = np.minimum(1, np.arange(1, 4 * STEPS + 1) / (1.5 * STEPS))
    np.testing.assert_allclose(rates(warm), rates(plain) * rise, rtol=1e-5)


@pytest.mark.parametrize("rate", [0.1, OneCycle(0.2, 40)])
def test_a_warm_up_survives_saving(rate):
    before = Warmup(rate, 7)
    config = keras.saving.serialize_keras_object(before)
    after = keras.saving.deserialize_keras_object(config)
    for step in (0, 3, 20):
        assert float(after(step)) == float(before(step))
