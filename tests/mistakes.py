"""Mistakes and the sentences that they must meet, of the files test_messages_*.py.

A case is a function that makes the mistake, under the message it must meet: a regular
expression that has to match the whole sentence. Cases are refused with `InputError`, in
Python before anything is trained, at the command line with exit code 2 and one line on
stderr. Cases marked `warning=True` go on, with that warning.
"""

import contextlib
import io
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import AdversarialTrainer, InputError
from vfd_tf.cli import main
from vfd_tf.training.distillation import VFD


class Cases(list):
    """The mistakes of one file."""

    def case(self, name, message, warning=False):
        """Registers a mistake; `message` has to match what the user reads, as a whole."""

        def register(mistake):
            self.append(pytest.param(mistake, message, warning, id=name))
            return mistake

        return register


def meet(mistake, message, warning):
    """Makes a mistake and reads what is said to it."""
    if warning:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mistake()
        told = [str(w.message) for w in caught]
        assert any(re.fullmatch(message, text) for text in told), told
        return
    with pytest.raises(InputError) as refusal:
        mistake()
    text = str(refusal.value)
    assert "\n" not in text and text.endswith((".", "?")), text
    assert re.fullmatch(message, text), text


def command_line(*words):
    """Runs `python run.py WORDS`; raises what it prints on stderr as an `InputError`."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        code = main.main(["run.py", *words])
    lines = [li for li in stderr.getvalue().splitlines() if li.startswith("error: ")]
    if code:
        assert code == 2 and len(lines) == 1, stderr.getvalue()
        raise InputError(lines[0].removeprefix("error: "))


X = np.random.default_rng(0).uniform(size=(24, 4, 4, 1)).astype("float32")
Y = np.arange(24) % 3
ONE_HOT, GREY = np.eye(3)[Y], np.where(X < 0.5, 0, 255).astype("float32")
L = keras.layers


def network(*end, shape=(4, 4, 1), batch_size=None, name="net"):
    """Images -> features "features" -> 3 logits, or another end."""
    x = inputs = keras.Input(shape, batch_size=batch_size)
    for layer in (L.Conv2D(2, 3, name="features"), L.Flatten(), *(end or (L.Dense(3),))):
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def subclassed(layers=()):
    """A model of `network` and more layers whose graph can't be seen."""

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__(name="subclassed")
            self.inner, self.more = network(), list(layers)

        def call(self, x):
            x = self.inner(x)
            for layer in self.more:
                x = layer(x)
            return x

    return Subclassed()


def trainer(student=None, method="trades", optimizer="sgd", metrics=None, **fields):
    made = AdversarialTrainer(student or network(), method, **{"attack": "fgsm", **fields})
    made.compile(optimizer, metrics=metrics)
    return made


def with_vfd(student=None, teacher=None, layer="features", method="trades", **fields):
    vfd = VFD(layer=layer)
    teacher = teacher or network(name="teacher")
    return trainer(student, method, distillation=vfd, teacher=teacher, **fields)


def dataset(x=X, y=Y, size=8):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


ENDLESS = r"The data set repeats for ever: take \.repeat\(\) off, or bound it with .*\."
