"""VFD on several layers and through a projection; eq. 2's single teacher."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import AdversarialTrainer, InputError, architectures, attacks
from vfd_tf.models import network, projection
from vfd_tf.training.distillation import KD, VFD

pytestmark = pytest.mark.filterwarnings("ignore:.*is not used by")


def random_features(seed):
    random = np.random.default_rng(seed)
    shapes = {"layer1": (4, 2, 2, 3), "layer2": (4, 1, 1, 5), "logits": (4, 10)}
    return {k: tf.constant(random.normal(size=shape)) for k, shape in shapes.items()}


@pytest.fixture
def views():
    student = {"clean": random_features(0), "adv": random_features(1)}
    return student, {"clean": random_features(2)}


def norm(a, b):
    return np.linalg.norm((a.numpy() - b.numpy()).reshape(len(a), -1), axis=1)


def test_several_layers_are_summed_with_their_weights(views):
    student, teacher = views
    vfd = VFD(layer=("layer1", "layer2"), layer_weights=(1.0, 0.25), adv_weight=2.0)
    assert vfd.layers == VFD(layer="layer1, layer2").layers
    expected = 0.0
    for k, weight in (("layer1", 1.0), ("layer2", 0.25)):
        clean = norm(student["clean"][k], teacher["clean"][k])
        adv = norm(student["adv"][k], teacher["clean"][k])
        expected = expected + weight * (clean + 2 * adv)
    np.testing.assert_allclose(vfd.terms(None, student, teacher)["vfd"], expected)


def test_the_report_is_each_half_of_each_layer(views):
    student, teacher = views
    vfd = VFD(layer="layer1,layer2", clean_weight=3.0)
    report = vfd.report(student, teacher)
    assert set(report) == set(vfd.reports)
    for k in ("layer1", "layer2"):
        for half in ("clean", "adv"):
            expected = norm(student[half][k], teacher["clean"][k])
            np.testing.assert_allclose(report[f"{half}_distance_{k}"], expected)


def test_as_many_layer_weights_as_layers():
    with pytest.raises(InputError, match="one weight for each"):
        VFD(layer="layer1,layer2", layer_weights=(1.0,))


def test_a_preact_tap_is_what_the_activation_takes_in():
    model = architectures.resnet8((8, 8, 1), 10)
    tapped = network.tap(model, ("layer3_preact", "layer3"))
    outputs = tapped(np.random.default_rng(0).uniform(size=(2, 8, 8, 1)))
    before, after = outputs["layer3_preact"].numpy(), outputs["layer3"].numpy()
    assert before.min() < 0
    np.testing.assert_array_equal(np.maximum(before, 0), after)


def test_kd_of_one_teacher_is_equation_2(views):
    student, teacher = views
    teacher["adv"] = random_features(3)
    kd = KD(teachers="vanilla", rho=0.3, temperature=4.0)
    assert kd.needs == ("teacher",)
    assert kd.reweigh({"adv": 1.0}, ("adv",)) == {"adv": 0.7, "kd_vanilla": 0.3}
    z, t = (v["adv"]["logits"].numpy() / 4.0 for v in (student, teacher))
    p = np.exp(t) / np.exp(t).sum(1, keepdims=True)
    log_q = z - np.log(np.exp(z).sum(1, keepdims=True))
    terms = kd.terms(None, student, teacher)
    assert set(terms) == {"kd_vanilla"}
    np.testing.assert_allclose(terms["kd_vanilla"], -16 * (p * log_q).sum(1))


def student_and_teacher(width):
    keras.utils.set_random_seed(0)
    return (architectures.resnet8((8, 8, 3), 10, w) for w in (0.25, width))


def test_a_teacher_of_another_shape_needs_a_projection():
    student, teacher = student_and_teacher(0.5)
    with pytest.raises(InputError, match=r"VFD\(project=True\)"):
        AdversarialTrainer(student, "trades", distillation="vfd", teacher=teacher)


@pytest.mark.parametrize("layer", ["last", "layer1,layer3", "layer2_preact"])
def test_a_projection_is_trained_and_not_shipped(toy, layer):
    x, y = (v[:8] for v in toy)
    student, teacher = student_and_teacher(0.5)
    vfd = VFD(layer=layer, project=True, lambda_=0.1)
    trainer = AdversarialTrainer(
        student, "trades", attacks.PGD(steps=1), vfd, teacher=teacher
    )
    trainer.compile(keras.optimizers.SGD(0.1))
    count = len(vfd.layers)
    assert len(trainer.projections) == count
    assert len(trainer.trainable_variables) == len(student.trainable_variables) + count
    before = [p.kernel.numpy() for p in trainer.projections]
    logs = trainer.fit(x, y, batch_size=8, verbose=0).history
    assert np.isfinite(logs["vfd_loss"]).all()
    for layer, old in zip(trainer.projections, before, strict=True):
        assert np.abs(layer.kernel.numpy() - old).max() > 0
    shipped = {id(v) for v in trainer.student.variables}
    assert shipped.isdisjoint(id(p.kernel) for p in trainer.projections)


def test_logits_of_other_classes_are_refused_not_projected():
    student = architectures.resnet8((8, 8, 3), 10, 0.25)
    teacher = architectures.resnet8((8, 8, 3), 20, 0.25)
    vfd = VFD(layer="logits", project=True)
    with pytest.raises(InputError, match="classes"):
        AdversarialTrainer(student, "trades", distillation=vfd, teacher=teacher)


def test_equal_shapes_need_no_projection():
    student, teacher = student_and_teacher(0.25)
    vfd = VFD(project=True)
    trainer = AdversarialTrainer(student, "trades", distillation=vfd, teacher=teacher)
    assert trainer.projections == []


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (8, 8)])
def test_maps_of_another_size_are_pooled_or_repeated_first(size):
    x = keras.Input((4, 4, 3))
    logits = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    model = keras.Model(x, {"layer1": keras.layers.Identity()(x), "logits": logits})
    projected = projection.project(model, {"layer1": (*size, 5)})
    (layer,) = projection.projections(projected)
    images = np.random.default_rng(0).uniform(size=(2, 4, 4, 3)).astype("float32")
    if size[0] <= 4:
        k = 4 // size[0]
        maps = images.reshape(2, size[0], k, size[1], k, 3).mean((2, 4))
    else:
        maps = images.repeat(2, 1).repeat(2, 2)
    expected = np.einsum("nhwd,de->nhwe", maps, layer.kernel.numpy()[0, 0])
    np.testing.assert_allclose(projected(images)["layer1"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "hint"), [((3, 3, 5), "multiple"), ((5,), "choose another layer")]
)
def test_shapes_that_no_projection_joins_are_refused(shape, hint):
    x = keras.Input((4, 4, 3))
    logits = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    model = keras.Model(x, {"layer1": keras.layers.Identity()(x), "logits": logits})
    with pytest.raises(InputError, match=hint):
        projection.project(model, {"layer1": shape})


def test_the_teacher_takes_no_gradient(make_network, toy):
    x, y = (v[:8] for v in toy)
    student, teacher = make_network(), make_network()
    trainer = AdversarialTrainer(student, "natural", distillation="vfd", teacher=teacher)
    trainer.compile("sgd")
    with tf.GradientTape() as tape:
        tape.watch([v.value for v in teacher.trainable_variables])
        batch = tf.constant(x), tf.constant(y), None, trainer._seeds(len(x))
        gradients, terms, _ = trainer._make_step()(*batch)
        total = tf.reduce_sum(terms["vfd"])
    assert all(
        g is None for g in tape.gradient(total, [v.value for v in teacher.variables])
    )
    assert all(g is not None for g in gradients)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_natural_training_has_one_pass_however_it_is_compiled(
    make_network, toy, jit_compile
):
    """BatchNorm moves once a step: by a tenth of the way to the mean of the batch."""
    x, y = toy
    student, teacher = make_network(), make_network()
    conv = keras.Model(student.inputs[0], student.layers[1].output)
    mean = conv.predict(x, verbose=0).mean((0, 1, 2))
    made = AdversarialTrainer(student, "natural", distillation="bgat", teacher=teacher)
    made.compile(keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    made.fit(x, y, batch_size=len(x), verbose=0)
    (moving,) = (v for v in made.student.variables if "moving_mean" in v.path)
    np.testing.assert_allclose(moving.numpy(), 0.1 * mean, rtol=1e-4, atol=1e-6)
