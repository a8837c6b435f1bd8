"""Curves in TensorBoard: groups, one axis, resumed runs, HParams; read with TensorBoard."""

import keras
import numpy as np
import pytest
from event_files import curves
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from vfd_tf.training.callbacks.curves import Curves, tag_of, write_accuracies
from vfd_tf.training.callbacks.image_panel import ImagePanel


def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    made = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.SGD(0.125), loss, metrics=["accuracy"])
    return made


def fit(toy, callbacks, made=None, **options):
    made = made or model()
    options = {"epochs": 3, "validation_data": toy, **options}
    return made.fit(*toy, batch_size=8, callbacks=callbacks, verbose=0, **options).history


@pytest.mark.parametrize(
    "name, tag",
    [
        ("loss", "loss/loss"),
        ("val_loss", "loss/loss"),
        ("adv_loss", "loss/adv_loss"),
        ("clean_share", "loss/clean_share"),
        ("gradient_norm", "loss/gradient_norm"),
        ("val_accuracy", "accuracy/accuracy"),
        ("adv_accuracy", "accuracy/adv_accuracy"),
        ("val_average_pgd10_accuracy", "accuracy/average_pgd10_accuracy"),
        ("catastrophic_overfitting", "accuracy/catastrophic_overfitting"),
        ("vfd_loss", "vfd/vfd_loss"),
        ("vfd_share", "vfd/vfd_share"),
        ("adv_distance_last", "vfd/adv_distance_last"),
        ("vfd_lambda", "schedule/vfd_lambda"),
        ("kl_weight", "schedule/kl_weight"),
        ("learning_rate", "schedule/learning_rate"),
        ("images_per_second", "speed/images_per_second"),
        ("val_f1", "metric/f1"),
    ],
)
def test_every_curve_has_its_group(name, tag):
    assert tag_of(name) == tag


def test_training_and_validation_share_tags_and_epochs_as_printed(toy, tmp_path):
    history = fit(toy, [Curves(tmp_path)])
    train, validation = curves(tmp_path / "train"), curves(tmp_path / "validation")
    assert set(train) == {"loss/loss", "accuracy/accuracy", "schedule/learning_rate"}
    assert set(validation) == {"loss/loss", "accuracy/accuracy"}
    for name in ("loss", "accuracy"):
        for found, own in ((train, name), (validation, f"val_{name}")):
            steps, values = zip(*found[f"{name}/{name}"], strict=True)
            assert steps == (1, 2, 3)
            np.testing.assert_allclose(values, history[own], 1e-6)
    assert train["schedule/learning_rate"] == [(1, 0.125), (2, 0.125), (3, 0.125)]


def test_a_resumed_run_goes_on_and_repeats_no_epoch(toy, tmp_path):
    made = model()
    fit(toy, [Curves(tmp_path)], made, epochs=2)
    fit(toy, [Curves(tmp_path)], made, epochs=4, initial_epoch=2)
    steps = [step for step, _ in curves(tmp_path / "train")["loss/loss"]]
    assert steps == [1, 2, 3, 4]
    # From the end of epoch 2 once more: what came later is replaced.
    history = fit(toy, [Curves(tmp_path)], model(), epochs=3, initial_epoch=2)
    for part, name in (("train", "loss"), ("validation", "val_loss")):
        *_, (step, value) = found = curves(tmp_path / part)["loss/loss"]
        assert [step for step, _ in found] == [1, 2, 3]
        np.testing.assert_allclose(value, history[name][-1], 1e-6)


def test_panels_are_at_the_epochs_of_the_curves(toy, tmp_path):
    panel = ImagePanel(toy, str(tmp_path), "fgsm", every=2, images=1)
    fit(toy, [Curves(tmp_path), panel])
    assert [step for step, _ in curves(tmp_path / "train")["loss/loss"]] == [1, 2, 3]
    found = EventAccumulator(str(tmp_path / "panel"), size_guidance={"tensors": 0})
    found.Reload()
    assert [event.step for event in found.Tensors("panel")] == [2, 3]


def test_hyperparameters_and_test_accuracies_are_in_hparams(toy, tmp_path):
    given = {"lambda": 0.01, "steps": 10, "awp": False, "milestones": [3, 5], "swa": None}
    fit(toy, [Curves(str(tmp_path), given)], epochs=1)
    write_accuracies(str(tmp_path), "best", "linf:8/255 n=100", {"clean": 81.5, "fgsm": 40})
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    (content,) = (
        found.SummaryMetadata(tag).plugin_data.content
        for tag in found.PluginTagToContent("hparams")
        if tag == metadata.SESSION_START_INFO_TAG
    )
    info = metadata.parse_session_start_info_plugin_data(content)
    values = {
        name: getattr(value, value.WhichOneof("kind"))
        for name, value in info.hparams.items()
    }
    assert values == {
        "lambda": 0.01, "steps": 10.0, "awp": False, "milestones": "3,5", "swa": "none"
    }  # fmt: skip
    known = curves(tmp_path)
    assert known["test/best/linf:8/255 n=100/clean"] == [(0, 81.5)]
    assert known["test/best/linf:8/255 n=100/fgsm"] == [(0, 40.0)]


def test_keras_s_own_callback_works_beside_it(toy, tmp_path):
    board = keras.callbacks.TensorBoard(tmp_path / "keras")
    fit(toy, [Curves(tmp_path / "own"), board], epochs=1)
    assert "epoch_loss" in curves(tmp_path / "keras/train")
