"""ImagePanel: when it writes, where, and that what it shows is the attack's doing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vfd_tf import AdversarialTrainer, InputError, attacks, evaluation
from vfd_tf.data.datasets import Images
from vfd_tf.models import network
from vfd_tf.training.callbacks.image_panel import ImagePanel, amplified, panel


def plain(make_network):
    model = network.classifier(make_network())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss)
    return model


def events(log_dir):
    """tag -> [(step, tensor)] of `<log_dir>/panel`."""
    found = EventAccumulator(str(log_dir / "panel"), size_guidance={"tensors": 0})
    found.Reload()
    tags = found.Tags()["tensors"]
    return {
        tag: [(e.step, tf.make_ndarray(e.tensor_proto)) for e in found.Tensors(tag)]
        for tag in tags
    }


def steps(log_dir):
    return [step for step, _ in events(log_dir)["panel"]]


def test_every_n_epochs_and_the_last(make_network, toy, tmp_path):
    model = plain(make_network)
    callback = ImagePanel(toy, str(tmp_path), "fgsm", every=2, images=1)
    model.fit(*toy, epochs=5, batch_size=24, callbacks=[callback], verbose=0)
    assert {tag: [s for s, _ in found] for tag, found in events(tmp_path).items()} == {
        tag: [2, 4, 5] for tag in ("panel", "margin/clean", "margin/adversarial")
    }
    assert callback.examine.experimental_get_tracing_count() == 1


class StopsAfterSecond(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


def test_the_last_epoch_of_a_fit_that_ends_early(make_network, toy, tmp_path):
    model = plain(make_network)
    callbacks = [ImagePanel(toy, str(tmp_path), "fgsm", images=1), StopsAfterSecond()]
    model.fit(*toy, epochs=4, batch_size=24, callbacks=callbacks, verbose=0)
    assert steps(tmp_path) == [2]


def test_it_writes_while_keras_records_only_some_steps(make_network, toy, tmp_path):
    board = keras.callbacks.TensorBoard(tmp_path, update_freq=1000)
    callbacks = [ImagePanel(toy, str(tmp_path), "fgsm", images=1), board]
    plain(make_network).fit(*toy, batch_size=24, callbacks=callbacks, verbose=0)
    assert steps(tmp_path) == [1]


def test_margins_are_those_of_the_whole_data_set(make_network, toy, tmp_path):
    model, (x, y) = plain(make_network), toy
    callback = ImagePanel(toy, str(tmp_path), "fgsm", epsilon=0.1, images=1)
    callback.set_model(model)
    callback.write(4)
    callback.on_train_end()
    x_adv = attacks.FGSM(0.1)(model, tf.constant(x), attacks.cross_entropy(y)).numpy()
    for view, images in (("clean", x), ("adversarial", x_adv)):
        z = model.predict(images, verbose=0)
        others = np.where(np.eye(10)[y] > 0, -np.inf, z).max(-1)
        margins = z[np.arange(len(y)), y] - others
        ((step, bins),) = events(tmp_path)[f"margin/{view}"]
        assert step == 5 and bins[:, 2].sum() == len(y)
        np.testing.assert_allclose(bins[0, 0], margins.min(), rtol=1e-3)
        np.testing.assert_allclose(bins[-1, 1], margins.max(), rtol=1e-3)
        counts, _ = np.histogram(margins, [*bins[:, 0], bins[-1, 1]])
        # A margin on an edge may fall to either side of it.
        assert np.abs(counts - bins[:, 2]).sum() <= 2


def test_the_verdicts_are_those_of_evaluate_however_the_data_come(make_network, toy):
    x, y = toy
    model = plain(make_network)
    wanted = evaluation.evaluate(model, toy, ["pgd3"], epsilon=0.1, seed=5)
    ragged = tf.data.Dataset.from_tensor_slices(toy).batch(10)
    for data in (Images(x, y), Images(x, y).batches(9), ragged):
        callback = ImagePanel(data, "unused", "pgd3", epsilon=0.1, images=12, seed=5)
        callback.set_model(model)
        margins, shown = callback._examine_all()
        np.testing.assert_array_equal(margins["clean"] > 0, wanted.clean)
        np.testing.assert_array_equal(margins["adversarial"] > 0, wanted.robust["pgd3"])
        assert [len(part) for part in shown] == [12] * 5
        np.testing.assert_array_equal(shown[0], x[:12])
        assert 0.099 < np.abs(shown[1] - x[:12]).max() < 0.101
        assert callback.examine.experimental_get_tracing_count() == 1


def test_the_student_of_a_trainer_is_shown_and_left_alone(make_network, toy, tmp_path):
    found = []
    for callbacks in ([], [ImagePanel(toy, str(tmp_path), "fgsm", images=1)]):
        keras.utils.set_random_seed(1)
        trainer = AdversarialTrainer(make_network(), "natural")
        trainer.compile(keras.optimizers.SGD(0.05))
        trainer.fit(*toy, batch_size=24, callbacks=callbacks, verbose=0)
        found.append([v.numpy() for v in trainer.student.weights])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert steps(tmp_path) == [1]


def test_a_perturbation_is_amplified_to_the_full_range():
    x = np.full((3, 2, 2, 1), 0.5, "float32")
    delta = np.zeros_like(x)
    delta[0, :, 0], delta[1, 0, 0] = 0.03, -0.25  # the third image is untouched
    shown = amplified(x, x + delta)
    np.testing.assert_allclose(shown[0, :, :, 0], [[1, 0.5], [1, 0.5]], atol=1e-6)
    np.testing.assert_allclose(shown[1, :, :, 0], [[0, 0.5], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_array_equal(shown[2], 0.5)


def reds(picture):
    """Pixels of pure tab:red: text of wrong predictions."""
    return int((picture == [214, 39, 40]).all(-1).sum())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_panel_is_a_picture_in_which_only_errors_are_red(channels):
    x = np.full((3, 8, 8, channels), 0.25, "float32")
    y, right = np.arange(3), np.eye(4)[:3]
    fine = panel(x, x + 0.1, y, right, right, class_names="abcd")
    assert fine.dtype == np.uint8 and fine.ndim == 3 and fine.shape[-1] == 3
    wrong = panel(x, x + 0.1, y, right, np.roll(right, 1, -1), class_names="abcd")
    assert reds(fine) == 0 < reds(wrong)
    assert fine.shape == wrong.shape


def test_the_picture_of_an_event_is_a_png_of_that_panel(make_network, toy, tmp_path):
    callback = ImagePanel(toy, str(tmp_path), "fgsm", images=2)
    callback.set_model(plain(make_network))
    callback.write(0)
    callback.on_train_end()
    ((_, (width, height, png)),) = events(tmp_path)["panel"]
    _, shown = callback._examine_all()
    picture = tf.io.decode_png(png).numpy()
    assert picture.shape == (int(height), int(width), 3)
    np.testing.assert_array_equal(picture, panel(*shown, title="epoch 1"))


def test_misuse_is_refused_before_the_first_epoch(make_network, toy, tmp_path):
    for options in ({"every": 0}, {"images": 0}):
        with pytest.raises(InputError, match="at least 1"):
            ImagePanel(toy, str(tmp_path), **options)
    with pytest.raises(InputError, match="Did you mean 'fgsm'"):
        ImagePanel(toy, str(tmp_path), "fsgm")
    model, (x, y) = plain(make_network), toy
    cases = {
        "name every class": ImagePanel(toy, str(tmp_path), class_names=["cat", "dog"]),
        "divide by 255": ImagePanel((255 * x, y), str(tmp_path)),
        "is empty": ImagePanel((x[:0], y[:0]), str(tmp_path)),
    }
    for words, callback in cases.items():
        with pytest.raises(InputError, match=words):
            model.fit(*toy, callbacks=[callback], verbose=0)
    assert not list(tmp_path.iterdir())
