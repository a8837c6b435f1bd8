"""Which images a fit takes in a batch and in an epoch, also if it is resumed."""

import keras
import numpy as np
import pytest
from twins import BATCH, X, Y, network, ours, sliced, weights

from vfd_tf import AdversarialTrainer


def test_other_images_are_left_out_of_every_epoch():
    """At rate 0 the weighted loss of an epoch tells which images were in it."""
    weight = 2.0 ** np.arange(11)
    x, y = np.repeat(X[:1], 11, axis=0), np.repeat(Y[:1], 11)
    trainer = AdversarialTrainer(network(), "natural")
    trainer.compile(keras.optimizers.SGD(0.0))
    alone = trainer.evaluate(x[:1], y[:1], verbose=0)[0]
    missing = set()
    for _ in range(30):
        logs = trainer.fit(x, y, sample_weight=weight, batch_size=10, verbose=0).history
        total = logs["loss"][0] * 10 / alone
        missing.add(round(np.log2(weight.sum() - total)))
    assert len(missing) > 5


def test_the_usual_batch_is_kept_wherever_the_ragged_one_stands():
    for seed in range(6):
        data = sliced(X[:34], Y[:34]).batch(8).shuffle(5, seed=seed)
        trainer = ours()
        with pytest.warns(UserWarning, match="batch of 2 images is dropped.*usual 8"):
            trainer.fit(data, epochs=2, verbose=0)
        assert int(trainer.iteration.numpy()) == 2 * 4


def test_what_a_fit_drops_is_counted():
    data = sliced(X[:2], Y[:2]).batch(2).concatenate(sliced(X[2:34], Y[2:34]).batch(8))
    with pytest.warns(UserWarning, match="dropped 3 of 15 batches, 6 images in all"):
        ours().fit(data, epochs=3, verbose=0)
    with pytest.warns(UserWarning, match="last 4 of 36 images .* never used"):
        ours().fit(X, Y, batch_size=8, shuffle=False, verbose=0)


def test_a_fit_that_is_resumed_goes_on_in_the_order_of_the_whole(tmp_path):
    """`BackupAndRestore` brings the step back after `fit` has its data."""

    class Killed(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    whole, first, second = ours(), ours(), ours()
    whole.fit(X, Y, batch_size=BATCH, epochs=4, verbose=0)

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(KeyboardInterrupt):
        first.fit(
            X, Y, batch_size=BATCH, epochs=4, callbacks=[backup(), Killed()], verbose=0
        )
    second.fit(X, Y, batch_size=BATCH, epochs=4, callbacks=[backup()], verbose=0)
    assert int(second.iteration) == int(whole.iteration)
    np.testing.assert_allclose(weights(second), weights(whole), rtol=1e-6)


@pytest.mark.parametrize(
    "data",
    [
        lambda images: images.train_batches(4),
        lambda images: images.batches(4),
    ],
    ids=["training", "validation"],
)
def test_pipelines_of_images_are_not_tuned_at_run_time(data):
    from vfd_tf.data.datasets import Images

    images = Images((255 * X).astype("uint8"), Y.astype("int32"))
    assert data(images).options().autotune.enabled is False


def test_pipelines_of_arrays_are_not_tuned_at_run_time(monkeypatch):
    seen = []

    def spy(self, x, *args, **kwargs):
        seen.append(x)
        seen.append(kwargs.get("validation_data"))
        return keras.callbacks.History()

    trainer = ours()
    trainer.make_train_function()
    monkeypatch.setattr(keras.Model, "fit", spy)
    trainer.fit(X, Y, validation_data=(X, Y), verbose=0)
    assert [data.options().autotune.enabled for data in seen] == [False, False]
