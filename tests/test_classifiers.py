"""Whatever classifies images is evaluated: models, functions, files, SavedModels, runs.

And whatever holds images and labels is read: every source gives the verdicts of arrays.
"""

import vfd_tf  # noqa: F401  before TensorFlow

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from vfd_tf import AdversarialTrainer, InputError, RobustAccuracy, evaluation

SHAPE, CLASSES, N, EPSILON = (5, 5, 1), 3, 24, 0.1
RANDOM = np.random.RandomState(0)
X = RANDOM.rand(N, *SHAPE).astype("float32")
Y = RANDOM.randint(0, CLASSES, N)
ATTACKS = ["fgsm", "pgd5"]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(CLASSES)
    model = keras.Sequential([keras.Input(SHAPE), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss)
    model.fit(X, Y, epochs=30, verbose=0)
    return model


@pytest.fixture(scope="module")
def expected(model):
    return evaluation.evaluate(model, (X, Y), ATTACKS, epsilon=EPSILON)


def same(result, expected):
    np.testing.assert_array_equal(result.clean, expected.clean)
    for name in ATTACKS:
        np.testing.assert_array_equal(result.robust[name], expected.robust[name])


def saved(model, path):
    model.save(path / "model.keras")
    return path / "model.keras"


def exported(model, path):
    model.export(str(path / "served"), verbose=False)
    return str(path / "served")


def run_directory(model, path):
    saved(model, path).rename(path / "best.keras")
    (path / "run.json").write_text("{}")
    return str(path)


def subclassed(model, path):
    class Wrapper(keras.Model):
        def call(self, x):
            return model(x)

    return Wrapper()


def eager(model, path):
    """A model that reads its images as NumPy arrays, which only eager execution allows."""

    class Eager(keras.Model):
        def call(self, x):
            assert x.numpy().ndim == 4
            return model(x)

    wrapper = Eager()
    wrapper.compile(run_eagerly=True)
    return wrapper


def signature_alone(model, path):
    """A SavedModel of TensorFlow's own, without Keras's endpoint `serve`."""
    module = tf.Module()
    module.weights = [v.value for v in model.weights]
    spec = tf.TensorSpec((None, *SHAPE), tf.float32)
    served = tf.function(lambda x: {"scores": model(x)}, input_signature=[spec])
    tf.saved_model.save(module, str(path / "own"), {"serving_default": served})
    return str(path / "own")


def called_alone(model, path):
    """A SavedModel of a module that is called itself, without any signature."""

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, *SHAPE), tf.float32)])
        def __call__(self, x):
            return model(x)

    module = Module()
    module.weights = [v.value for v in model.weights]
    tf.saved_model.save(module, str(path / "called"))
    return str(path / "called")


def in_a(pack):
    """A model with its output in a container."""
    return lambda model, path: keras.Model(model.inputs, pack(model.outputs[0]))


CLASSIFIERS = {
    "a list of one output": in_a(lambda z: [z]),
    "a dict of one output": in_a(lambda z: {"scores": z}),
    "a function with a tuple": lambda model, path: lambda x: (model(x),),
    "a SavedModel that is called": called_alone,
    "a loaded one that is called": lambda m, p: tf.saved_model.load(called_alone(m, p)),
    "a model": lambda model, path: model,
    "a subclassed model": subclassed,
    "an eager model": eager,
    "a function": lambda model, path: lambda x: model(x),
    "a compiled function": lambda model, path: tf.function(lambda x: model(x)),
    "a file": saved,
    "a path as text": lambda model, path: str(saved(model, path)),
    "a run directory": run_directory,
    "a SavedModel's folder": exported,
    "a loaded SavedModel": lambda m, path: tf.saved_model.load(exported(m, path)),
    "a SavedModel of TensorFlow's": signature_alone,
}


@pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_any_classifier_gets_the_verdicts_of_its_keras_model(
    model, expected, make, tmp_path
):
    same(
        evaluation.evaluate(make(model, tmp_path), (X, Y), ATTACKS, epsilon=EPSILON),
        expected,
    )


@pytest.mark.parametrize("make", [saved, exported], ids=["a file", "a SavedModel"])
def test_a_surrogate_may_be_a_path(model, make, tmp_path):
    path = str(make(model, tmp_path))
    result = evaluation.evaluate(model, (X, Y), ["fgsm"], epsilon=EPSILON, surrogate=path)
    np.testing.assert_array_equal(result.robust["transfer-fgsm"], result.robust["fgsm"])


def test_the_student_that_is_taken_of_a_run_is_named(model, tmp_path, capsys):
    evaluation.evaluate(run_directory(model, tmp_path), (X, Y), ())
    assert "is a run directory: its best.keras is taken" in capsys.readouterr().out


NO_CLASSIFIERS = {
    "a class": (keras.Model, "is a class: pass a model"),
    "a number": (3, "is a int: pass a Keras model"),
    "a missing file": ("nowhere.keras", "no model file"),
    "an empty folder": (".", "folder without run.json or saved_model.pb"),
}


@pytest.mark.parametrize("value, message", NO_CLASSIFIERS.values(), ids=NO_CLASSIFIERS)
def test_what_is_no_classifier_is_refused(value, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        evaluation.evaluate(value, (X, Y), ["fgsm"])


class Batches(keras.utils.PyDataset):
    """Ten images at a time."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return X[10 * i : 10 * i + 10], Y[10 * i : 10 * i + 10]


class Loader:
    """Yields batches each time anew, as PyTorch's DataLoader does."""

    def __iter__(self):
        return iter([(X[:20], Y[:20]), (X[20:], Y[20:])])


def dataset(*arrays, size=7):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


FILLED = np.concatenate([X, X[:2]]), np.concatenate([Y, Y[:2]])
REAL = (np.arange(N + 2) < N).astype("float32")
ONE_HOT = np.eye(CLASSES)[Y]
SOURCES = {
    "arrays": lambda: (X, Y),
    "a list of arrays": lambda: [X, Y],
    "arrays and weights": lambda: (X, Y, np.ones(N)),
    "fill of weight 0": lambda: (*FILLED, REAL),
    "tensors": lambda: (tf.constant(X), tf.constant(Y)),
    "one-hot": lambda: (X, ONE_HOT),
    "a column of labels": lambda: (X, Y[:, None]),
    "tf.data": lambda: dataset(X, Y),
    "tf.data of one-hot": lambda: dataset(X, ONE_HOT),
    "tf.data and a column of weights": lambda: dataset(*FILLED, REAL[:, None]),
    "a smaller first batch": lambda: dataset(X[:3], Y[:3]).concatenate(
        dataset(X[3:], Y[3:])
    ),
    "dictionaries": lambda: tf.data.Dataset.from_tensor_slices(
        {"image": X, "label": Y, "id": np.arange(N)}
    ).batch(5),
    "a PyDataset": Batches,
    "a list of batches": lambda: [(X[:20], Y[:20]), (X[20:], Y[20:])],
    "a loader": Loader,
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_any_source_of_images_gets_the_verdicts_of_arrays(model, expected, source):
    same(evaluation.evaluate(model, source(), ATTACKS, epsilon=EPSILON), expected)


def test_a_generator_is_read_once(model, expected):
    same(evaluation.evaluate(model, iter(Loader()), ATTACKS, epsilon=EPSILON), expected)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_robust_accuracy_reads_any_source_of_images(model, expected, source):
    callback = RobustAccuracy(source(), "pgd5", epsilon=EPSILON)
    callback.set_model(model)
    callback.on_train_begin()
    logs = {}
    callback.on_epoch_end(0, logs)
    robust = expected.robust["pgd5"].mean()
    assert logs == {"val_pgd5_accuracy": pytest.approx(robust)}


ENDLESS = {
    "repeated": lambda: dataset(X, Y).repeat(),
    "shuffled": lambda: dataset(X, Y).repeat().shuffle(4),
    "from a generator": lambda: tf.data.Dataset.from_generator(
        lambda: iter(Loader()), output_types=(tf.float32, tf.int64)
    ).repeat(),
}


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_data_without_an_end_is_refused_at_once(model, make):
    trainer = AdversarialTrainer(keras.models.clone_model(model), "natural")
    trainer.compile(keras.optimizers.SGD(0.1))
    for attempt in (
        lambda: evaluation.evaluate(model, make(), ["fgsm"]),
        lambda: RobustAccuracy(make()),
        lambda: trainer.fit(make(), verbose=0),
        lambda: trainer.fit(X, Y, validation_data=make(), verbose=0),
        lambda: trainer.evaluate(make(), verbose=0),
    ):
        with pytest.raises(InputError, match="repeats for ever"):
            attempt()
    options = {"validation_data": make(), "validation_steps": 2, "verbose": 0}
    trainer.fit(make(), steps_per_epoch=2, **options)
