"""Weights to start from: those of a file, at an address, or Keras's of ImageNet.

Layers take weights by name and shape. Names that Keras gives, such as conv2d_7, count on
from model to model, so that they stand for their rank among those of one kind.
"""

import functools
import hashlib
import math
import os
import re
import urllib.parse

import h5py
import keras
import numpy as np

from vfd_tf import archives, files
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import backbones, network
from vfd_tf.models.keras_graph import finalize, graph_of, layer_of, layers_of, own_weights
from vfd_tf.progress import say_once

IMAGENET, TEACHER = "imagenet", "teacher"
HELP = (
    "weights to start from: FILE.keras, FILE.weights.h5, an https:// address, imagenet "
    "(of --arch=keras:NAME), or teacher, those of --teacher; none: drawn"
)
_ENDINGS = ".keras", ".h5"
_ENOUGH = 0.5  # share of the weights that have to fit, but for the head's
_DAMAGED = "copy it again, or leave --init out"


def check(init: str | None, arch: str) -> None:
    """Raises `InputError` for weights that can't be, as far as their name tells."""
    if init in (None, TEACHER):
        return
    if init == IMAGENET:
        if not backbones.is_name(arch):
            raise InputError(
                f"--init=imagenet is for backbones of Keras: choose --arch=keras:NAME "
                f"instead of {arch}, or name a file of weights."
            )
        return
    if "://" in init and not init.startswith("https://"):
        raise InputError(f"--init={init}: weights are downloaded by https:// alone.")
    if not _file_name(init).endswith(_ENDINGS):
        raise InputError(
            f"--init={init} is neither imagenet nor a .keras or .h5 file (nor teacher): "
            "save the model with model.save('name.keras')."
        )
    if not _is_address(init) and not os.path.isfile(init):
        raise InputError(f"There is no file {init}, which --init names.")


def mark(init: str) -> str:
    """What weights are known by: imagenet, teacher, or the hash of what is in the file."""
    return (
        init if init in (IMAGENET, TEACHER) else f"sha256:{files.sha256(_local(init))[:16]}"
    )


def start(model: keras.Model, init: str, arch: str, width: float = 1.0) -> None:
    """Gives a fresh network the weights to start from, and says, once, what took them.

    Layers of other names or shapes keep their fresh weights, as does the head for another
    number of classes.

    Raises:
        InputError: Less than half of the weights fit, or a file that can't be read.
    """
    if init == IMAGENET:
        shape = tuple(graph_of(model).inputs[0].shape[1:])
        given = _arrays(_weights_of(backbones.imagenet(arch, shape, width)))
    else:
        given = _read(_local(init))
    say_once(_take(model, given, init, arch))


def start_from_teacher(model: keras.Model, path: str, arch: str) -> None:
    """Gives a fresh network all weights of its vanilla teacher, BatchNorm's too.

    Raises:
        InputError: A teacher of another architecture or other classes.
    """
    given = _read(path)
    own, found = _weights_of(model), _fitting(model, given)
    if len(found) < len(own) or len(given) != len(own):
        raise InputError(
            f"--init=teacher needs a teacher of the student's architecture, and {path} is "
            f"no {arch} of its width and classes: name another --teacher, or auto."
        )
    say_once(_take(model, given, path, arch))


def _fitting(model, given) -> dict[str, list]:
    """Layer of the network -> the weights given for it, of those whose shapes fit."""
    own = _weights_of(model)
    kinds = {_snake(type(layer).__name__) for layer in layers_of(model)}
    theirs = {name: given[old] for old, name in _canonical(given, kinds).items()}
    pairs = {key: theirs.get(name, []) for key, name in _canonical(own, kinds).items()}
    return {key: v for key, v in pairs.items() if _shapes(own[key]) == _shapes(v)}


def _take(model, given, init, arch) -> str:
    """Puts weights into a network; the sentence that tells which."""
    own, head = _weights_of(model), layer_of(model.output["logits"])
    fits = _fitting(model, given)
    wanted = sum(_size(values) for key, values in own.items() if key != head)
    if sum(_size(own[key]) for key in fits if key != head) < _ENOUGH * wanted:
        raise InputError(
            f"{len(fits)} of the {len(own)} layers with weights of {arch} find theirs in "
            f"{init}: name a file of the same architecture, or leave --init out."
        )
    for key in fits:
        for variable, value in zip(own[key], fits[key], strict=True):
            variable.assign(value)
    finalize(model)
    fresh = [key for key in own if key not in fits]
    text = f"{arch} starts from {init}: {len(fits)} of {len(own)} layers take its weights"
    return f"{text}; drawn anew: {', '.join(fresh)}" if fresh else text


def _weights_of(model) -> dict[str, list]:
    """Layer -> its weights; layers of nested models as if they were the model's own."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            for name, variables in _weights_of(layer).items():
                _add(found, name, variables)
            continue
        for each in layers_of(layer, itself=True):
            variables = sum(own_weights(each), [])
            if variables:
                name = layer.name if each is layer else f"{layer.name}/{each.name}"
                _add(found, name, variables)
    return found


def _add(found, name, values):
    """Enters values under a name, or the second of that name under another."""
    while name in found:
        name += "'"
    found[name] = values


def _read(path) -> dict[str, list[np.ndarray]]:
    """Layer -> arrays of a file of a model, which is loaded safely, or of weights."""
    if path.endswith(".h5"):
        with files.read_or_refused(path, _DAMAGED), h5py.File(path, "r") as file:
            archives.check_h5(file)
            root = file.get("model_weights", file)
            return _of_old_format(root) if "layer_names" in root.attrs else _of_new(file)
    return _arrays(_weights_of(network.classifier(network.load(path))))


def _arrays(weights):
    return {name: [np.array(v) for v in values] for name, values in weights.items()}


def _of_new(file):
    """Of model.save_weights("name.weights.h5"): groups .../layers/<kind>/vars."""
    stores, found = [], {}
    file.visit(lambda path: stores.append(path) if path.endswith("/vars") else None)
    for path in stores:
        arrays = [np.array(file[path][key]) for key in sorted(file[path], key=int)]
        if arrays:
            _add(found, _layer(file, path.split("/")[:-1]), arrays)
    return found


def _layer(file, groups):
    """The name of the layer that a path of groups leads to; inside another: outer/inner."""
    outermost = max((i + 2 for i, g in enumerate(groups) if g == "layers"), default=1)
    ends = dict.fromkeys((min(outermost, len(groups)), len(groups)))
    paths = ["/".join(groups[:end]) for end in ends]
    return "/".join(file[f"{p}/vars"].attrs.get("name", p.split("/")[-1]) for p in paths)


def _of_old_format(file):
    """Of the files that keras.applications downloads, among others."""
    found = {}
    for name in file.attrs["layer_names"]:
        group = file[_text(name)]
        weights = [np.array(group[_text(w)]) for w in group.attrs["weight_names"]]
        if weights:
            found[_text(name)] = weights
    return found


def _text(name) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _canonical(names, kinds) -> dict[str, str]:
    """Name -> itself, or conv2d#1 for the second of the names that Keras gave."""
    numbered = {}
    for name in names:
        outer = name.split("/")[0]
        kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", outer).groups()
        if kind in kinds:
            numbered.setdefault(kind, {})[outer] = int(number or 0)
    ranks = {
        outer: f"{kind}#{rank}"
        for kind, members in numbered.items()
        for rank, outer in enumerate(sorted(members, key=members.get))
    }
    return {
        name: "/".join([ranks.get(outer, outer), *inner])
        for name in names
        for outer, *inner in [name.split("/")]
    }


def _snake(name) -> str:
    """Conv2D -> conv2d, BatchNormalization -> batch_normalization, as Keras names."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _shapes(values):
    return [tuple(value.shape) for value in values]


def _size(values):
    return sum(math.prod(value.shape) for value in values)


def _is_address(init) -> bool:
    return init.startswith("https://")


def _file_name(init) -> str:
    path = urllib.parse.urlparse(init).path if _is_address(init) else init
    return os.path.basename(path)


@functools.cache
def _download(address):
    """The file at an address, in Keras's cache."""
    name = f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{_file_name(address)}"
    try:
        return keras.utils.get_file(name, origin=address, cache_subdir="vfd_tf")
    except Exception as error:  # a failed download is a plain Exception
        raise InputError(
            f"{address} can't be downloaded ({backbones.failure(error)}): connect to the "
            "network, or name a file on this machine with --init."
        ) from error


def _local(init) -> str:
    return _download(init) if _is_address(init) else init
