"""What a fit checks before its first step, to the end of arrays, and refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from twins import BATCH, ONE_HOT, WEIGHT, N, X, Y, ours, sliced

from vfd_tf import InputError, RobustAccuracy


def _single(x, y, w=None):
    return tf.data.Dataset.from_tensor_slices((x, y))


LATE = (np.arange(N) == N - 1)[:, None, None, None]
BAD_VALIDATION = {
    "grey levels": (lambda: (255 * X, Y), "divide by 255"),
    "grey levels at the end": (lambda: (X * (1 + 254 * LATE), Y), "divide by 255"),
    "NaN at the end": (lambda: (np.where(LATE, np.nan, X), Y), "NaN or infinite"),
    "labels at the end": (lambda: (X, Y + 100 * (np.arange(N) == N - 1)), "has 4 classes"),
    "four parts": (lambda: (X, Y, WEIGHT, WEIGHT), "validation_data has 4 parts"),
    "labels": (lambda: (X, Y + 100), "but the model has"),
    "a size": (lambda: (X[:, :4], Y), "resize the images"),
    "weights": (lambda: (X, Y, ONE_HOT), "one weight an image"),
    "no batches": (lambda: _single(X, Y), r"add \.batch\(100\)"),
    "a PyDataset": (lambda: sliced(255 * X, Y).batch(8), "divide by 255"),
}


@pytest.mark.parametrize("case", BAD_VALIDATION)
def test_validation_is_checked_before_the_first_step(case):
    data, message = BAD_VALIDATION[case]
    trainer = ours()
    with pytest.raises(InputError, match=message):
        trainer.fit(X, Y, validation_data=data(), batch_size=BATCH, verbose=0)
    assert int(trainer.iteration) == 0


@pytest.mark.parametrize("part", ["images", "labels"])
def test_arrays_are_checked_to_their_end_before_the_first_step(part):
    x = X * (1 + 254 * LATE) if part == "images" else X
    y = Y + 100 * LATE.ravel() if part == "labels" else Y
    message = "divide by 255" if part == "images" else "has 4 classes"
    # More than one batch of an evaluation, with the mistake in the last.
    many = np.concatenate([X] * 5 + [x]), np.concatenate([Y] * 5 + [y])
    for callbacks, data in ([], (x, y)), ([RobustAccuracy(many, "fgsm")], (X, Y)):
        trainer = ours()
        with pytest.raises(InputError, match=message):
            trainer.fit(*data, batch_size=BATCH, callbacks=callbacks, verbose=0)
        assert int(trainer.iteration) == 0


def test_a_later_batch_of_nan_is_called_so():
    x = np.where(LATE, np.nan, X)
    with pytest.raises(InputError, match="later batch has images that are NaN"):
        ours().fit(sliced(x, Y).batch(BATCH), verbose=0)


@pytest.mark.parametrize("train, validation", [(Y, ONE_HOT), (ONE_HOT, Y)])
def test_labels_of_two_kinds_are_refused_where_metrics_know_one(train, validation):
    trainer = ours(metrics=["accuracy"])
    with pytest.raises(InputError, match="compile again"):
        trainer.fit(X, train, validation_data=(X, validation), verbose=0)
    assert int(trainer.iteration) == 0
    without = ours()
    without.fit(X, train, validation_data=(X, validation), batch_size=BATCH, verbose=0)
    trainer = ours(metrics=["accuracy"])
    trainer.fit(X, train, batch_size=BATCH, verbose=0)
    trainer.compile("sgd", metrics=["accuracy"])
    trainer.fit(X, validation, batch_size=BATCH, verbose=0)


def test_an_unbatched_set_to_train_on_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="single image"):
        ours().fit(_single(X, Y), verbose=0)


@pytest.mark.parametrize(
    "options",
    [{"ignore_class": 1}, {"reduction": "sum"}, {"from_logits": False}],
    ids=str,
)
def test_losses_that_mean_another_thing_are_refused(options):
    loss = keras.losses.SparseCategoricalCrossentropy(**{"from_logits": True, **options})
    with pytest.raises(InputError, match="The method is the loss"):
        ours(loss=loss)
    with pytest.raises(InputError, match="The method is the loss"):
        ours(loss_weights=[3.0])


@pytest.mark.parametrize("one_hot", [False, True])
def test_cross_entropy_from_logits_is_the_loss_that_a_trainer_has(one_hot):
    kind = "CategoricalCrossentropy" if one_hot else "SparseCategoricalCrossentropy"
    options = {"shuffle": False, "verbose": 0}
    one = ours(loss=getattr(keras.losses, kind)(from_logits=True)).fit(X, Y, **options)
    assert one.history == ours().fit(X, Y, **options).history
