"""Architectures of files and weights to start from: what is taken, drawn, refused, said."""

import json

from vfd_tf import InputError
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.models import architectures, initial, network
from vfd_tf.models.architectures import ARCHITECTURES

# isort: split

import keras
import numpy as np
import pytest

L = keras.layers
SHAPE = (8, 8, 1)


def small(classes=5, filters=4, shape=SHAPE, name="small"):
    """A network of every kind of state: adapted, frozen, of BatchNorm, nested, inside."""
    inputs = keras.Input(shape)
    x = L.Normalization(name="adapted")(inputs)
    x = L.Conv2D(filters, 3, name="frozen", trainable=False)(x)
    x = L.BatchNormalization()(x)
    x = keras.Sequential([keras.Input(x.shape[1:]), L.Conv2D(4, 1), L.ReLU()])(x)
    x = L.Reshape((-1, 4))(x)
    x = L.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = L.Dense(8)(L.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, L.Dense(classes)(x), name=name)
    random = np.random.RandomState(0)
    model.set_weights([random.uniform(0.5, 1.5, v.shape) for v in model.get_weights()])
    model.get_layer("adapted").finalize_state()
    return model


def saved(tmp_path, model, name="net.keras"):
    path = str(tmp_path / name)
    (model.save_weights if name.endswith(".weights.h5") else model.save)(path)
    return path


def built(path, classes=5, shape=SHAPE):
    return architectures.architecture(path)(shape, classes)


def names(count):
    """Lets Keras's own names count on, as in a process that has built other networks."""
    for _ in range(count):
        keras.Sequential([keras.Input(SHAPE), L.Conv2D(2, 3), L.Dense(2)])


def x():
    return np.random.RandomState(1).rand(6, *SHAPE).astype("float32")


def weight(model, name, index=0):
    return model.get_layer(name).get_weights()[index]


# --- architectures of files -------------------------------------------------------------


def test_a_file_gives_its_architecture_with_weights_drawn_from_the_seed(tmp_path):
    path, nets = saved(tmp_path, small()), []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        nets.append(built(path))
    one, same, other = (net.get_weights() for net in nets)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert [w.shape for w in one] == [w.shape for w in small().get_weights()]
    kernel = nets[0].layers[-1].kernel.numpy()  # Glorot's, not the file's
    assert np.abs(kernel).max() <= np.sqrt(6 / (8 + 5))


def test_what_training_cannot_move_stays_as_the_file_has_it(tmp_path):
    model = small()
    new = built(saved(tmp_path, model))
    for name in ("adapted", "frozen"):
        np.testing.assert_array_equal(weight(new, name), weight(model, name))
    inner = [keras.Model(m.inputs[0], m.get_layer("adapted").output) for m in (model, new)]
    np.testing.assert_array_equal(inner[0](x()), inner[1](x()))
    norms = [la for la in new.layers if isinstance(la, L.BatchNormalization)]
    assert (norms[0].moving_mean.numpy() == 0).all()


def test_a_last_layer_of_other_classes_is_made_anew_and_said(tmp_path, capsys):
    path = saved(tmp_path, small(classes=1000))
    new = built(path, classes=7)
    assert new.output["logits"].shape == (None, 7)
    assert "1000 classes: its last layer" in capsys.readouterr().out
    built(path, classes=7)
    assert not capsys.readouterr().out


def test_files_of_any_size_take_the_size_of_the_images(tmp_path):
    inputs = keras.Input((None, None, 3))
    y = L.Dense(5)(L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(inputs)))
    path = saved(tmp_path, keras.Model(inputs, y))
    assert built(path, shape=(9, 11, 3)).inputs[0].shape == (None, 9, 11, 3)


def test_a_student_of_ours_is_an_architecture_like_others(tmp_path):
    model = ARCHITECTURES["resnet8"](SHAPE, 5, width=0.25, mean=0.3, variance=0.1)
    new = built(saved(tmp_path, network.classifier(model)))
    new.set_weights(model.get_weights())
    np.testing.assert_array_equal(new(x())["logits"], model(x())["logits"])
    assert network.last(new) == "layer3"


def refusals():
    inputs = keras.Input(SHAPE)
    flat = L.Flatten()(inputs)
    conv = L.Flatten()(L.Conv2D(3, 8)(inputs))
    yield "shape", small(shape=(9, 9, 3)), r"takes images \(9, 9, 3\), and the data set has"
    yield "head", keras.Model(inputs, conv), "no Dense layer that could be replaced"
    two = keras.Model(inputs, [L.Dense(5)(flat), L.Dense(5)(flat)])
    yield "outputs", two, r"must return logits \[n, classes\]"
    lambda_ = keras.Model(inputs, L.Dense(5)(L.Lambda(lambda x: 2 * x)(flat)))
    yield "lambda", lambda_, "holds a Lambda layer, which runs code from the file"


@pytest.mark.parametrize(
    ("model", "message"), [pytest.param(*case[1:], id=case[0]) for case in refusals()]
)
def test_files_that_do_not_fit_are_refused(tmp_path, model, message):
    with pytest.raises(InputError, match=message):
        built(saved(tmp_path, model))


def test_names_of_files_are_checked_before_they_are_read(tmp_path):
    (tmp_path / "net.h5").touch()
    (tmp_path / "cut.keras").write_text("PK")
    with pytest.raises(InputError, match="no model file nowhere.keras, which --arch names"):
        Experiment(arch="nowhere.keras")
    with pytest.raises(InputError, match="no .keras file: save the model as one"):
        Experiment(arch=str(tmp_path / "net.h5"))
    with pytest.raises(InputError, match="damaged or cut short"):
        built(str(tmp_path / "cut.keras"))
    with pytest.raises(InputError, match="has the width that it has"):
        path = saved(tmp_path, small())
        architectures.architecture(path)(SHAPE, 5, width=0.5)


# --- weights to start from --------------------------------------------------------------


@pytest.mark.parametrize("name", ["net.keras", "net.weights.h5"])
def test_a_network_starts_from_the_weights_of_a_file(tmp_path, name):
    model = small()
    path = saved(tmp_path, model, name)
    names(3)
    other = network.tap(small())
    other.set_weights([v * 0 for v in other.get_weights()])
    initial.start(other, path, "small")
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    logits = other(x(), training=False)["logits"]
    np.testing.assert_array_equal(logits, model(x(), training=False))


@pytest.mark.parametrize("name", ["net.keras", "net.weights.h5", "net.h5"])
def test_an_architecture_of_ours_starts_from_its_own_student(tmp_path, name):
    model = ARCHITECTURES["resnet8"](SHAPE, 5, width=0.25)
    path = saved(tmp_path, network.classifier(model), name)
    names(2)
    other = ARCHITECTURES["resnet8"](SHAPE, 5, width=0.25)
    initial.start(other, path, "resnet8")
    np.testing.assert_array_equal(model(x())["logits"], other(x())["logits"])


def test_a_head_of_other_classes_keeps_its_fresh_weights_and_is_said(tmp_path, capsys):
    path = saved(tmp_path, small(classes=5))
    other = network.tap(small(classes=3))
    head = other.layers[-1]
    before = head.get_weights()
    for layer in (layer for layer in other.layers if layer is not head):
        layer.set_weights([v * 0 for v in layer.get_weights()])
    initial.start(other, path, "small")
    for ours, drawn in zip(head.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, drawn)
    np.testing.assert_array_equal(weight(other, "frozen"), weight(small(), "frozen"))
    said = capsys.readouterr().out
    assert f"starts from {path}" in said and f"drawn anew: {head.name}" in said


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = saved(tmp_path, small())
    with pytest.raises(InputError, match="name a file of the same architecture"):
        initial.start(ARCHITECTURES["resnet8"](SHAPE, 5), path, "resnet8")
    inputs = keras.Input(SHAPE)
    odd = keras.Model(inputs, L.Dense(5)(L.Flatten()(L.Lambda(lambda x: x)(inputs))))
    with pytest.raises(InputError, match="Lambda layer, which runs code from the file"):
        initial.start(network.tap(small()), saved(tmp_path, odd, "odd.keras"), "small")
    (tmp_path / "cut.h5").write_text("no weights")
    with pytest.raises(InputError, match="can't be read"):
        initial.start(network.tap(small()), str(tmp_path / "cut.h5"), "small")


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (
            "imagenet",
            "for backbones of Keras: choose --arch=keras:NAME instead of resnet18",
        ),
        ("http://x.org/net.keras", "by https:// alone"),
        ("https://x.org/net.zip?a=b.keras", "neither imagenet nor a .keras or .h5 file"),
        ("imagenett", "neither imagenet nor"),
        ("nowhere.keras", "There is no file nowhere.keras, which --init names"),
    ],
)
def test_weights_that_cannot_be_are_refused_by_name(init, message):
    with pytest.raises(InputError, match=message):
        Experiment(init=init)


def test_an_address_is_read_once_it_is_needed(tmp_path, monkeypatch):
    path, asked = saved(tmp_path, small()), []

    def get_file(name, origin, cache_subdir):
        asked.append(origin)
        assert name.endswith("-net.keras")
        return path

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    address = f"https://example.org/{tmp_path.name}/net.keras"
    experiment = Experiment(init=address)
    assert not asked
    initial.start(network.tap(small()), address, "small")
    local = experiment.replace(init=path).identity("data", {})
    assert experiment.identity("data", {}) == local
    assert asked == [address]


def test_without_a_network_an_address_is_refused(monkeypatch):
    def get_file(*_, **__):
        raise Exception("URL fetch failure on https://x.org: None -- no name")

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    with pytest.raises(InputError, match=r"can't be downloaded \(no name\): connect"):
        initial.mark("https://example.org/nowhere/net.keras")


# --- what decides a run -----------------------------------------------------------------


def test_a_run_is_known_by_what_its_files_hold(tmp_path):
    plain = Experiment().identity("data", {})
    assert "init" not in plain and plain["arch"] == "resnet18"
    one, two = saved(tmp_path, small()), saved(tmp_path, small(filters=5), "other.keras")
    found = [Experiment(arch=p).identity("data", {})["arch"] for p in (one, two)]
    assert found[0].startswith("net sha256:") and found[0][3:] != found[1][5:]
    found = [Experiment(init=p).identity("data", {})["init"] for p in (one, two)]
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/net.keras").write_bytes((tmp_path / "net.keras").read_bytes())
    same = str(tmp_path / "copy/net.keras")
    assert Experiment(init=same).identity("data", {})["init"] == found[0] != found[1]
    assert Experiment(arch=one).identity("", {}) == Experiment(arch=same).identity("", {})
    json.dumps(plain)


def test_a_teacher_starts_as_its_student_where_the_weights_are_its_own(tmp_path):
    path = saved(tmp_path, small())
    file = Experiment(init=path)
    assert file.prerequisite("teacher").init == path
    assert file.replace(teacher_arch="vgg16").prerequisite("teacher").init is None
    assert file.replace(teacher_arch="vgg16").prerequisite("robust_teacher").init == path
    keras_ = Experiment(arch="keras:MobileNetV2", init="imagenet")
    others = {"vgg16": None, "keras:VGG16": "imagenet"}
    for arch, init in others.items():
        teacher = keras_.replace(teacher_arch=arch).prerequisite("teacher")
        assert (teacher.arch, teacher.init) == (arch, init)
