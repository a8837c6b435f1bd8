"""Mixtures as they are written: entries, names, what makes them."""

import dataclasses

import keras
import numpy as np
import pytest

from vfd_tf.experiments import mixtures
from vfd_tf.experiments.mixtures import KINDS, Mix, held_out_logits, is_mixed
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import mixed_nuts
from vfd_tf.models.mixed_nuts import KEPT, Nuts


@pytest.mark.parametrize(
    "entry, text, name",
    [
        (0.8, "0.8", "last-mixture-0.8"),
        ("0.80", "0.8", "last-mixture-0.8"),
        ("mixture:0.8", "0.8", "last-mixture-0.8"),
        (1, "1", "last-mixture-1"),
        ("weights:0.5", "weights:0.5", "last-weights-0.5"),
        ("nuts:0.9", "nuts:0.9", "last-nuts-0.9"),
        ("nuts", f"nuts:{KEPT}", f"last-nuts-{KEPT}"),
    ],
)
def test_an_entry_has_one_text_and_one_name(entry, text, name):
    mix = Mix.of(entry)
    assert (mix.text, mix.name("last")) == (text, name)
    assert Mix.of(mix.text) == mix and is_mixed(name)
    assert Mix.named(name, "last") == mix and Mix.named(name, "average") is None


@pytest.mark.parametrize(
    "name", ["last", "last-", "last-mixture", "last-mixture-", "last-mixture-x",
             "last-nuts-", "last-nuts-0", "last-mixture-2", "last-mixture-0.80",
             "mixture-0.8", "last-weights-nan", "best-mixture-0.8"],
)  # fmt: skip
def test_a_name_of_no_mixture_of_the_student_stands_for_none(name):
    assert Mix.named(name, "last") is None


def test_the_fits_of_run_directories_are_of_one_attack_and_one_grid():
    """results.json names neither: a change has to tell its fits from those of before."""
    assert mixtures.FIT_ATTACK == "pgd20"
    grid = mixed_nuts.SCALES, mixed_nuts.POWERS, mixed_nuts.CLIPS
    ends = [(len(axis), axis[0], axis[-1]) for axis in grid]
    assert ends == [(8, 0.05, pytest.approx(5.0)), (8, 1.0, 4.0), (16, -2.5, 0.0)]


def test_numbers_are_fitted_to_logits_in_float32():
    """bfloat16 keeps 8 bits: sums of 16 products would be off by a hundredth."""
    random = np.random.default_rng(0)
    x = random.uniform(size=(12, 4, 4, 1)).astype("float32")
    half = keras.Sequential(
        [
            *(keras.Input((4, 4, 1)), keras.layers.Flatten()),
            keras.layers.Dense(3, dtype="mixed_bfloat16"),
        ]
    )
    kernel, bias = half.get_weights()
    wanted = x.reshape(12, 16) @ kernel + bias
    threat = {"epsilon": 0.1, "norm": "linf", "batch_size": 4}
    clean, attacked = held_out_logits(half, x, wanted.argmax(-1), "fgsm", **threat)
    np.testing.assert_allclose(clean, wanted, atol=1e-5)
    assert attacked.dtype == "float32" and (np.abs(attacked - wanted) > 1e-3).any()


def test_students_are_no_mixtures():
    assert not any(map(is_mixed, ("best", "last", "average")))


@pytest.mark.parametrize(
    "entry", [2, -0.1, "half", "", "weights", "weights:", "nuts:1.5", True, None,
              "nan", [0.5]],
)  # fmt: skip
def test_an_entry_that_is_none_is_refused(entry):
    with pytest.raises(InputError, match="numbers from 0 to 1") as caught:
        Mix.of(entry)
    assert repr(entry) in str(caught.value)


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'weights'"):
        Mix.of("weight:0.5")


def test_nuts_that_keep_nothing_are_told_a_number_above_0():
    for mix in (lambda: Mix.of("nuts:0"), lambda: Mix("nuts", 0.0)):
        with pytest.raises(InputError, match="'nuts:0'.* above 0, such as nuts:0.985"):
            mix()


def test_a_classifier_is_made_of_the_share_or_of_the_numbers_that_were_fitted(monkeypatch):
    fit = Nuts(scale=2.0, power=3.0, clip=-1.0, alpha=0.9, kept=0.99, errors=0.5)
    for kind, given, numbers in (
        ("mixture", None, {"weight": 0.5}),
        ("weights", None, {"weight": 0.5}),
        ("nuts", fit, {"scale": 2.0, "power": 3.0, "clip": -1.0, "alpha": 0.9}),
    ):
        made = dataclasses.replace(KINDS[kind], make=lambda *both, **found: (both, found))
        monkeypatch.setitem(KINDS, kind, made)
        assert Mix(kind, 0.5).classifier("v", "r", given) == (("v", "r"), numbers)
