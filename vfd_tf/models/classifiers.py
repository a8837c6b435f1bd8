"""Any classifier as a Keras model: files, run directories, SavedModels, plain functions."""

import inspect
import os
import warnings

import keras
import tensorflow as tf

from vfd_tf.hyperparameters import InputError
from vfd_tf.models import model_files, network


class FunctionModel(keras.Model):
    """A function images -> logits as a model that has no weights of its own.

    Args:
        function: Made of TensorFlow or Keras operations, so that gradients flow.
    """

    def __init__(self, function, name):
        super().__init__(name=name, dtype="float32", autocast=False)
        self.function, self.built = function, True

    def call(self, x):
        outputs = self.function(x)
        dtypes = {tf.as_dtype(t.dtype).name for t in tf.nest.flatten(outputs)}
        if half := dtypes & {"float16", "bfloat16"}:
            warnings.warn(
                f"The function {self.name!r} returns {half.pop()}, and verdicts are those "
                "of 16 bits: let it compute in float32.",
                stacklevel=2,
            )
        return outputs


def as_model(classifier) -> keras.Model:
    """The Keras model of whatever classifies images.

    Args:
        classifier: A Keras model or layer, the path of a `.keras` file, of a SavedModel
            or of a run directory (its best student), a loaded SavedModel, or a function
            images [n, h, w, c] -> logits [n, classes].

    Raises:
        InputError: It is none of them.
    """
    if isinstance(classifier, keras.Model):
        return classifier
    if inspect.isclass(classifier):
        raise InputError(
            f"{classifier.__name__} is a class: pass a model, {classifier.__name__}(...)."
        )
    if isinstance(classifier, (str, os.PathLike)):
        return from_path(os.fspath(classifier))
    if hasattr(classifier, "signatures"):
        return _of_saved_model(classifier, "saved_model")
    if callable(classifier):
        name = getattr(classifier, "__name__", type(classifier).__name__)
        return FunctionModel(classifier, name.strip("<>_") or "function")
    raise InputError(
        f"The model is a {type(classifier).__name__}: pass a Keras model, a path, or a "
        "function from images to logits."
    )


def from_path(path: str) -> keras.Model:
    """The model of a `.keras` or `.h5` file, a SavedModel folder or a run directory."""
    student = student_of_run(path)
    if student is not None:
        print(f"{path} is a run directory: its {os.path.basename(student)} is taken")
        return network.load(student)
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        name = os.path.basename(os.path.normpath(path))
        model_files.check_saved_model(path)
        return _of_saved_model(tf.saved_model.load(path), name)
    if os.path.isdir(path):
        raise InputError(
            f"{path} is a folder without run.json or saved_model.pb: name a .keras file, a "
            "run directory or a SavedModel."
        )
    return network.load(path)


def student_of_run(path: str) -> str | None:
    """The file of the best student of a run directory, or None for any other path."""
    if not os.path.exists(os.path.join(path, "run.json")):
        return None
    student = os.path.join(path, "best.keras")
    if not os.path.exists(student):
        raise InputError(f"The run {path} has no best.keras yet: wait for its first epoch.")
    return student


def _of_saved_model(loaded, name):
    """The model of `keras.Model.export`'s endpoint `serve`, or of the default signature.

    Without these, what the loaded object does when it is called.
    """
    serve = getattr(loaded, "serve", None)
    if serve is None and "serving_default" not in loaded.signatures:
        if not callable(loaded):
            raise InputError(
                f"The SavedModel {name} has no endpoint 'serve' or 'serving_default', nor "
                "is it called itself: make one with model.export(path), or pass lambda x: "
                "loaded.method(x)."
            )
        serve = loaded
    if serve is None:
        signature = loaded.signatures["serving_default"]
        key = next(iter(signature.structured_input_signature[1]))

        def serve(x):
            outputs = signature(**{key: x})
            return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    model = FunctionModel(serve, name)
    model.loaded = loaded  # a SavedModel lives as long as something refers to it
    return model
