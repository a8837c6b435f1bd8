"""Models from strangers: none runs code, unfolds without bound or leads out of its file."""

import io
import json
import os
import pathlib
import shutil

import h5py
import keras
import numpy as np
import pytest
import strangers
import tensorflow as tf
import tiny  # vfd_tf before TensorFlow
from strangers import CANARY, refusal, rewritten, zeros

from vfd_tf import InputError
from vfd_tf.cli import main
from vfd_tf.models import classifiers, initial, model_files, network
from vfd_tf.training.saving import weights_file

alive, bounded = strangers.alive, strangers.bounded
finished, copy = strangers.finished, strangers.copy
L = keras.layers


# --- code in a model --------------------------------------------------------------------


def reconfigured(path, change):
    """A .keras file whose configuration `change` has changed."""

    def changed(members):
        config = json.loads(members["config.json"])
        change(config)
        return members | {"config.json": json.dumps(config)}

    return rewritten(path, changed)


def a_lambda(path):
    tiny.model(L.Lambda(same)).save(path)
    reconfigured(path, put_lambda)


def same(x):
    return x


def layer_of(config, kind="Lambda"):
    return next(e for e in config["config"]["layers"] if e["class_name"] == kind)


def put_lambda(config):
    """Marshalled code that sings, in the place of a function's name."""
    code = keras.src.utils.python_utils.func_dump(eval(LAMBDA, {}))
    parts = dict(zip(("code", "defaults", "closure"), code, strict=True))
    layer_of(config)["config"]["function"] = {"class_name": "__lambda__", "config": parts}


LAMBDA = f"lambda x: [__import__('os').environ.update({CANARY}='dead'), x][1]"


def named(module, name, registered=None):
    """A file whose Dense layer is this class, or has this function as its activation."""

    def as_class(path):
        def change(config):
            entry = layer_of(config, "Dense")
            entry |= {"module": module, "class_name": name}
            entry |= {"registered_name": registered}

        tiny.model().save(path)
        reconfigured(path, change)

    def as_function(path):
        def change(config):
            function = {"module": module, "class_name": "function", "config": name}
            function |= {"registered_name": registered or name}
            layer_of(config, "Dense")["config"]["activation"] = function

        tiny.model().save(path)
        reconfigured(path, change)

    return as_class, as_function


FOREIGN = {
    "os.system": named("os", "system"),
    "the canary": named(strangers.__name__, "sing"),
    "a class of ours that is not registered": named(strangers.__name__, "Payload"),
    "subprocess": named("subprocess", "Popen"),
    "a download of Keras": named("keras.utils", "get_file"),
    "a download of a data set": named("keras.datasets.mnist", "load_data"),
    "a download behind a dot": named("keras", "datasets.mnist.load_data"),
    "a switch of Keras": named("keras.config", "enable_unsafe_deserialization"),
}


FOREIGN = [
    pytest.param(make, id=f"{name}, as a {kind}")
    for name, both in FOREIGN.items()
    for kind, make in zip(("class", "function"), both, strict=True)
]


OTHERS_NAME = named(strangers.__name__, "sing", "vfd_tf>VFD")[1]


FOREIGN.append(pytest.param(OTHERS_NAME, id="a function under the name of a class of ours"))


@pytest.mark.parametrize("make", FOREIGN)
def test_a_model_names_no_code_but_that_of_keras_or_registered(make):
    make("a.keras")
    with pytest.raises(InputError, match="it needs .*, which is not Keras's; load it in"):
        network.load("a.keras")


def test_a_lambda_is_refused_before_it_runs(copy, capsys):
    a_lambda("lambda.keras")
    for words in (["info"], ["evaluate", f"--dataset=npz:{copy / 'data.npz'}"]):
        assert main.main(["run.py", *words, "lambda.keras"]) == 2
        refusal(capsys, "lambda.keras", "holds a Lambda layer, which runs code from the")
    assert tiny.train(copy, "--arch=lambda.keras", "--workdir=new") == 2
    refusal(capsys, "holds a Lambda layer, which runs code from the file")


def test_the_lambda_of_these_tests_would_sing():
    a_lambda("lambda.keras")
    try:
        keras.saving.load_model("lambda.keras", safe_mode=False)
        assert os.environ.pop(CANARY) == "dead"
    finally:
        os.environ.pop(CANARY, None)


def test_a_lambda_in_an_h5_file_is_refused():
    tiny.model(L.Lambda(eval(LAMBDA, {}))).save("a.h5")
    os.environ.pop(CANARY, None)  # of the model that was built here
    with pytest.raises(InputError, match="holds a Lambda layer"):
        network.load("a.h5")


@keras.saving.register_keras_serializable(package="strangers")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@keras.saving.register_keras_serializable(package="strangers")
def halved(x):
    return x / 2


class Scoped(keras.layers.Layer):
    def call(self, x):
        return 3 * x


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_what_users_registered_still_loads(ending):
    layers = Doubled(), L.Lambda(halved), Scoped(), L.Activation(halved)
    model = tiny.model(*(layers if ending == "keras" else layers[:3:2]))
    model.save(f"a.{ending}")
    with keras.saving.custom_object_scope({"Scoped": Scoped}):
        loaded = network.load(f"a.{ending}")
    x = np.ones((2, 4, 4, 1), "float32")
    np.testing.assert_array_equal(loaded(x), model(x))


BUILT_IN = [
    L.Conv2D(2, 3, kernel_regularizer="l2", kernel_constraint="max_norm"),
    L.Conv2D(2, 3, activation=keras.activations.gelu, dtype="mixed_bfloat16"),
    L.Dense(3, kernel_initializer=keras.initializers.Orthogonal(seed=1)),
    L.Activation(keras.ops.relu6),
    L.TimeDistributed(L.Dense(2)),
    L.GaussianDropout(0.1, seed=1),
    keras.Sequential([L.Rescaling(0.5), L.Normalization(mean=0.5, variance=0.1)]),
]


@pytest.mark.parametrize("layer", BUILT_IN, ids=lambda layer: type(layer).__name__)
def test_whatever_keras_has_still_loads(layer):
    layer = type(layer).from_config(layer.get_config())
    x = keras.Input((4, 4, 1))
    y = keras.ops.concatenate([layer(x), layer(x)], -1) * 2 + 1
    model = keras.Model(x, L.Dense(3)(L.Flatten()(y)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(), ["accuracy"])
    model.save("a.keras")
    some = np.random.default_rng(0).uniform(size=(2, 4, 4, 1)).astype("float32")
    loaded = network.load("a.keras").predict(some, verbose=0)
    np.testing.assert_allclose(loaded, model.predict(some, verbose=0), rtol=1e-5)


@pytest.mark.parametrize("operation", ["WriteFile", "ReadFile"])
def test_a_saved_model_that_touches_files_is_refused(operation):
    layer, name = tf.Module(), os.path.abspath("../canary")

    @tf.function(input_signature=[tf.TensorSpec((None, 4, 4, 1))])
    def serve(x):
        if operation == "WriteFile":
            tf.io.write_file(name, "dead")
        else:
            x += tf.cast(tf.strings.length(tf.io.read_file("../secret.txt")), x.dtype)
        return tf.reduce_sum(x, (1, 2)) * tf.ones((1, 3))

    layer.serve = serve
    tf.saved_model.save(layer, "saved")
    with pytest.raises(InputError, match=f"saved holds the operation {operation}, "):
        classifiers.from_path("saved")


# --- members and weights ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../canary", "/canary", "assets/../../canary", "..\\canary", "C:/canary"]
)
def test_members_of_a_model_stay_in_it(finished, name):
    path = shutil.copy(finished / "net.keras", "a.keras")
    rewritten(path, lambda members: {**members, name: b"dead", "assets/a": b""})
    with pytest.raises(InputError, match="a.keras can't be read .* leads out of it"):
        network.load("a.keras")


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5", "assets/a.txt"])
def test_a_model_takes_little_memory(finished, member, bounded):
    path = shutil.copy(finished / "net.keras", "a.keras")
    left = {"config.json", "model.weights.h5", "metadata.json"} - {member}
    rewritten(path, lambda members: {name: members[name] for name in left})
    zeros(path, member, 2**30)
    with pytest.raises(InputError, match="a.keras can't be read as a Keras model: .*byte"):
        network.load("a.keras")


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_layer_larger_than_the_file_is_refused_before_it_is_made(ending, nested, bounded):
    layers = [L.Conv2D(2, 3, name="large"), L.Conv2D(2, 1)]
    model = tiny.model(keras.Sequential(layers)) if nested else tiny.model(*layers)
    model.save(f"a.{ending}")
    whole = keras.Layer.add_weight
    path, wide = pathlib.Path(f"a.{ending}"), {"filters": 10**9}

    def enlarge(entry):
        if isinstance(entry, dict):
            if entry.get("name") == "large":
                entry |= wide
            entry = list(entry.values())
        for each in entry if isinstance(entry, list) else ():
            enlarge(each)

    if ending == "keras":
        reconfigured(path, enlarge)
    else:
        with h5py.File(path, "a") as file:
            config = json.loads(file.attrs["model_config"])
            enlarge(config)
            file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(InputError, match="it asks for more weights than the [0-9]+ in it"):
        network.load(str(path))
    assert keras.Layer.add_weight is whole


def weights_with(change):
    """The file of net.keras's weights, changed as an h5py file."""

    def changed(members):
        file = io.BytesIO(members["model.weights.h5"])
        with h5py.File(file, "a") as weights:
            change(weights)
        return members | {"model.weights.h5": file.getvalue()}

    return changed


def huge(weights):
    group = weights["layers/dense/vars"]
    del group["0"]
    group.create_dataset("0", (10**6, 10**6), "float32", chunks=(1000, 1000))


def link_to_another_file(weights):
    del weights["layers/dense/vars/0"]
    weights["layers/dense/vars/0"] = h5py.ExternalLink("../secret.h5", "/x")


def in_another_file(weights):
    group = weights["layers/dense/vars"]
    del group["0"]
    place = [(os.path.abspath("../secret.txt"), 0, 12)]
    group.create_dataset("0", (3,), "float32", external=place)


def soft_link(weights):
    weights["layers/more"] = h5py.SoftLink("/layers")


@pytest.mark.parametrize("change", [huge, link_to_another_file, in_another_file, soft_link])
def test_weights_are_numbers_in_the_file_itself(finished, change, bounded):
    path = shutil.copy(finished / "net.keras", "a.keras")
    rewritten(path, weights_with(change))
    with pytest.raises(InputError, match="a.keras can't be read as a Keras model"):
        network.load("a.keras")
    network.load(str(finished / "net.keras")).save_weights("b.weights.h5")
    with h5py.File("b.weights.h5", "a") as weights:
        change(weights)
    with pytest.raises(InputError, match="b.weights.h5 can't be read"):
        initial.start(network.tap(tiny.model()), "b.weights.h5", "small")
    with pytest.raises(InputError, match="b.weights.h5 can't be read"):
        weights_file.restore_state("b.weights.h5", [])


@pytest.mark.parametrize("place", np.linspace(0, 1, 25, endpoint=False))
def test_a_bit_that_turned_in_a_model_is_a_sentence_or_another_weight(finished, place):
    data = bytearray((finished / "net.keras").read_bytes())
    data[int(place * len(data))] ^= 16
    pathlib.Path("a.keras").write_bytes(bytes(data))
    try:
        network.load("a.keras")
    except InputError as error:
        assert "\n" not in str(error) and "a.keras" in str(error)


def test_model_files_know_what_keras_reads():
    assert set(model_files.__dict__) >= {"CONFIG", "WEIGHTS"}
    assert keras.src.saving.saving_lib._CONFIG_FILENAME == model_files.CONFIG
    assert keras.src.saving.saving_lib._VARS_FNAME_H5 == model_files.WEIGHTS
