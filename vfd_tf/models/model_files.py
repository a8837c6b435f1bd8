"""What a model file of a stranger may hold: checked before Keras builds anything of it."""

import contextlib
import math
import os
import threading
import zipfile

import h5py
import keras
from tensorflow.core.protobuf import saved_model_pb2

from vfd_tf import archives, files
from vfd_tf.hyperparameters import InputError

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
# Where Keras has what a model is made of; the rest of it reads files or opens addresses.
_OF_KERAS = {"activations", "constraints", "dtype_policies", "initializers", "layers"}
_OF_KERAS |= {"losses", "metrics", "models", "ops", "optimizers", "quantizers", "random"}
_OF_KERAS |= {"regularizers", "src"}  # of `src` Keras takes layers and the like alone
_ROOM = 2**20  # weights that are in no file
_NOWHERE = None, "", "builtins", "keras"
# Operations of TensorFlow that no classifier needs.
_OF_FILES = {"ReadFile", "WriteFile", "MatchingFiles", "PrintV2"}
_OF_FILES |= {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


def check(path: str) -> int:
    """How many numbers the weights in a file are.

    Args:
        path: A `.keras` archive, or an HDF5 file of a whole model.

    Raises:
        ValueError, or what a damaged file raises: It is not to be loaded.
    """
    if path.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            archives.check_folder(archive)
            text = archives.read_member(archive, CONFIG, archives.LARGEST_JSON)
            check_config(archives.read_json(text))
            return archives.check_h5_bytes(archives.read_member(archive, WEIGHTS))
    with h5py.File(path, "r") as file:
        count, config = archives.check_h5(file), file.attrs.get("model_config")
    if config is not None:
        check_config(archives.read_json(config))
    return count


@contextlib.contextmanager
def no_more_weights(count: int):
    """Inside, layers of this thread that ask for more numbers in all are refused.

    A configuration of a few bytes may ask for any size, and Keras makes the weights before
    it looks for those in the file.
    """
    whole, left, own = keras.Layer.add_weight, count + _ROOM, threading.get_ident()

    def counted(layer, shape=None, *args, **kwargs):
        nonlocal left
        if threading.get_ident() == own:
            left -= math.prod(shape or ())
            if left < 0:
                raise ValueError(f"it asks for more weights than the {count:,} in it")
        return whole(layer, shape, *args, **kwargs)

    keras.Layer.add_weight = counted
    try:
        yield
    finally:
        keras.Layer.add_weight = whole


def check_config(config: dict) -> None:
    """Raises `ValueError` if Keras would look for code beyond what is known to be safe.

    That is what it has for models, and what users registered with it.
    """
    waiting = [config]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            if "class_name" in entry and {"config", "module"} & entry.keys():
                _check_class(entry)
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry


def _check_class(entry):
    name, module = entry["class_name"], entry.get("module")
    known = entry.get("registered_name", name)
    if name == "function":  # which Keras knows by its name alone
        name = known = entry.get("config")
    elif name == "__typespec__":
        name = entry.get("spec_name")
    if name == "__lambda__":
        raise ValueError("an unsafe lambda")
    if not all(isinstance(text, (str, type(None))) for text in (name, module, known)):
        raise ValueError(f"the class {str(name)[:80]!r} is not named by a text")
    if known and keras.saving.get_registered_object(known) is not None:
        return
    first, _, rest = (module or "").partition(".")
    inside = first == "keras" and rest.split(".")[0] in _OF_KERAS
    if not (inside or module in _NOWHERE) or "." in (name or ""):
        raise ValueError(f"Could not locate class '{name}' of {str(module)[:80]!r}")


def check_saved_model(folder: str) -> None:
    """Raises `InputError` for a SavedModel whose graphs read or write files."""
    model, path = saved_model_pb2.SavedModel(), os.path.join(folder, "saved_model.pb")
    with files.read_or_refused(path, "export it again"), open(path, "rb") as file:
        model.ParseFromString(file.read())
    for graph in (meta.graph_def for meta in model.meta_graphs):
        functions = (function.node_def for function in graph.library.function)
        for nodes in (graph.node, *functions):
            found = sorted({node.op for node in nodes} & _OF_FILES)
            if found:
                raise InputError(
                    f"{folder} holds the operation {found[0]}, which reads or writes "
                    "files of this machine: export the model without it."
                )
