"""Mixtures as they are written: entries, names, what makes them."""

import dataclasses

import pytest

from vfd_tf.experiments.mixtures import KINDS, Mix, is_mixed
from vfd_tf.hyperparameters import InputError
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
