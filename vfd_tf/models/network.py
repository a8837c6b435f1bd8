"""Networks: any Keras classifier as a function image -> {"logits": ..., layer: ...}.

A network is a functional model from float32 images in [0, 1] to a dict, so that the
paper's F^k(x) is `network(x)[k]`. What is saved and shipped is the classifier: the same
graph with the logits as its only output, which loads without this package.
"""

import difflib
import os
import re
import zipfile

import keras
import tensorflow as tf

from vfd_tf.hyperparameters import InputError
from vfd_tf.models import feature_layer, model_files
from vfd_tf.models.keras_graph import (
    functional,
    graph_of,
    has_graph,
    layers_of,
    nodes,
    own_weights,
)
from vfd_tf.models.outputs import bare, is_single, refusal_of_single

_FIRST = "keras.Model(model.inputs, model.outputs[0]), or with another of its outputs"
_NUMBERED = re.compile(r"layer(\d+)")


def last_layer(names) -> str | None:
    """The highest of layer1, layer2, ... among `names`: the default layer k."""
    numbered = [name for name in names if _NUMBERED.fullmatch(name)]
    return max(numbered, key=lambda name: int(name[5:]), default=None)


def features(outputs, layer: str):
    """F^k of one view: `outputs[layer]`; "last" may stand for the last numbered one."""
    if layer == "last" and "last" not in outputs:
        return outputs[last_layer(outputs)]
    return outputs[layer]


class LogitsNetwork(keras.Model):
    """A model whose graph can't be seen (subclassed), as a network of logits alone."""

    def __init__(self, model):
        # Images reach the model as they are, whatever the policy of the process is.
        super().__init__(name=f"{model.name}_network", dtype="float32", autocast=False)
        self.model = model

    def call(self, x, training=None):
        outputs = bare(self.model(x, training=training))
        return outputs if isinstance(outputs, dict) else {"logits": outputs}

    def __call__(self, x, training=None):
        # Not in `call`: Keras would put its own lines around an error there.
        try:
            outputs = super().__call__(x, training=training)
        except Exception as error:
            told = None if isinstance(error, InputError) else _of_call(self.model, x, error)
            if told is None:
                raise
            raise told from error
        if "logits" not in outputs:
            raise InputError(_nameless(self.model, outputs))
        _refuse_shape(self.model, outputs["logits"])
        return outputs


def _of_call(model, x, error) -> InputError | None:
    """What to do about an error in the call of a model whose graph can't be seen."""
    text, shape = str(error), tuple(x.shape[1:])
    what = f"The model {model.name!r}"
    if isinstance(error, tf.errors.OperatorNotAllowedInGraphError):
        return InputError(
            f"{what} has Python's if, for or while on the values of tensors: pass "
            "tf.function(f) of the function f, or write it with tf.where or tf.cond."
        )
    if "symbolic" in text.lower():
        return InputError(
            f"{what} leaves TensorFlow, as model.predict, np.asarray and .numpy() do, and "
            "so has no gradient: make it of TensorFlow or Keras operations, such as "
            "lambda x: model(x)."
        )
    if "incompatible with the layer" not in text and "must be equal" not in text:
        return None
    remedy = "pass images of the shape that it was built for"
    if len(shape) == 2:
        remedy = "pass x[..., None], images with a channel"
    return InputError(f"{what} doesn't take images {shape}: {remedy}.")


def tap(model: keras.Model, layers=()) -> keras.Model:
    """The network of a classifier: the same weights, output {"logits": ..., layer: ...}.

    Args:
        model: A network already, or any model with logits [n, c] as its single output:
            functional, Sequential, with nested backbones, or (without `layers`) subclassed.
        layers: Names of layers to expose; "last" is the last of layer1, layer2, ..., else
            the last layer with features that training can move (`feature_layer.last`).

    Raises:
        InputError: A layer that doesn't exist, more than one input or output, or layers of
            a subclassed model.
    """
    layers = [name for name in layers if name != "logits"]
    if not has_graph(model):
        if layers:
            raise InputError(
                f"The layers of the subclassed model {model.name!r} can't be tapped: write "
                "it as a functional model, or train by logits alone."
            )
        return LogitsNetwork(model)
    model = functional(model)
    outputs = _outputs(model)
    missing = [name for name in layers if name not in outputs]
    if isinstance(model.output, dict) and "logits" in model.output and not missing:
        return model
    sources = {name: last(model) if name == "last" else name for name in missing}
    wanted = {source for source in sources.values() if source not in outputs}
    tensors = _tensors(model)
    if wanted - set(tensors):
        model, tensors = _recall(model, wanted)
        outputs = _outputs(model)
    for name, source in sources.items():
        if source not in outputs and source not in tensors:
            _unknown_layer(model, name)
        outputs[name] = outputs[source] if source in outputs else tensors[source]
    return keras.Model(model.inputs[0], outputs, name=model.name)


def classifier(model: keras.Model) -> keras.Model:
    """The logits-only model of a network, which shares its graph and weights."""
    if isinstance(model, LogitsNetwork):
        return model.model
    if has_graph(model) and isinstance(functional(model).output, (dict, list, tuple)):
        logits = _outputs(model)["logits"]
        return keras.Model(model.inputs[0], logits, name=model.name)
    return model


def in_float32(outputs: dict) -> dict:
    """Outputs of a network, those in 16 bits cast to float32."""
    half = {k: v for k, v in outputs.items() if v.dtype.name in ("float16", "bfloat16")}
    return {**outputs, **{k: tf.cast(v, "float32") for k, v in half.items()}}


class Forward(dict):
    """Outputs of one network on each named view, computed when first asked for.

    Losses get them in float32, whatever the network computes in.

    Views that are the same tensor share one pass (natural training: x' is x). Frozen
    networks run in inference mode and off the tape. `others`: view -> network that it goes
    through instead. `losses` are what layers have added in the passes so far.
    """

    def __init__(self, model, views, training=False, tape=None, others=None):
        super().__init__()
        self.model, self.views, self.others = model, views, others or {}
        self.training, self.tape = training, tape
        self.losses = []

    def __missing__(self, view):
        model = self.others.get(view, self.model)
        for seen, outputs in self.items():
            same = self.others.get(seen, self.model) is model
            if same and self.views[seen] is self.views[view]:
                return outputs
        if self.tape is None:
            outputs = model(self.views[view], training=self.training)
            self.losses += added_losses(model)
        else:
            with self.tape.stop_recording():
                outputs = model(self.views[view], training=False)
            outputs = tf.nest.map_structure(tf.stop_gradient, outputs)
        self[view] = in_float32(outputs)
        return self[view]


def regularisers(model: keras.Layer) -> list:
    """The losses of a layer's weights; Keras lists them behind what its calls added."""
    return _split_losses(model)[1]


def added_losses(model: keras.Model) -> list:
    """What layers added in the last call: `add_loss`, regularisers of activities."""
    return _split_losses(model)[0]


def _split_losses(layer):
    found = layer.losses
    of_weights = sum(v.regularizer is not None for v in layer.trainable_weights)
    first = len(found) - of_weights
    return found[:first], found[first:]


def load(path: str) -> keras.Model:
    """The model in a `.keras` or `.h5` file, without its optimizer; no code of it runs."""
    if not os.path.isfile(path):
        raise InputError(f"There is no model file {path}.")
    if path.endswith(".keras") and not zipfile.is_zipfile(path):
        raise InputError(
            f"{path} is damaged or cut short: copy it again, or train it anew."
        )
    try:
        kept = path.endswith((".keras", ".h5", ".hdf5"))  # Keras refuses others
        with model_files.no_more_weights(model_files.check(path) if kept else 0):
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise InputError(f"{path} can't be read as a Keras model: {_why(error)}") from error


def _why(error) -> str:
    """What keeps Keras from reading a file, and what to do."""
    text = str(error).strip()
    unknown = re.search(r"Could not locate (?:class|function) '([^']+)'", text)
    if unknown:
        return (
            f"it needs {unknown[1]!r}, which is not Keras's; load it in Python, where that "
            "is registered, and call vfd_tf.evaluation.evaluate(model, data, ...)."
        )
    if "unsafe" in text.lower() and "lambda" in text.lower():
        return (
            "it holds a Lambda layer, which runs code from the file; write that with "
            "Keras's own layers or keras.ops and save it again, or load it in Python with "
            "safe_mode=False and call vfd_tf.evaluation.evaluate(model, data, ...)."
        )
    return f"{text.split(chr(10))[0][:160]}; save one with model.save('name.keras')."


def channels_first(model: keras.Model, shape) -> bool:
    """Whether a model takes images of this shape, without the batch, as (c, h, w).

    Its layers tell; where none does, or something may turn the images, the side that is
    as short as channels are.
    """
    layers = layers_of(model, itself=True)
    kept = keras.layers.Flatten  # has a format that leaves the values as they are
    layers = [la for la in layers if not isinstance(la, kept)]
    formats = [la.data_format for la in layers if hasattr(la, "data_format")]
    first, last = (shape[i] in (1, 3, 4) for i in (0, -1))
    if first != last and not (formats and _keeps_layout(model)):
        return first
    turns = _operations(model) & {"Permute", "Transpose"}
    own = formats[0] if formats and not turns else keras.config.image_data_format()
    return own == "channels_first"


def _operations(model) -> set[str]:
    return {type(operation).__name__ for operation in getattr(model, "operations", ())}


def _keeps_layout(model) -> bool:
    """Whether all of a model is in sight and nothing in it turns the images."""
    graph = graph_of(model)
    if graph is None or _operations(graph) & {"Permute", "Transpose", "Lambda"}:
        return False
    known = all(type(op).__module__.startswith("keras.") for op in graph.operations)
    nested = [op for op in graph.operations if isinstance(op, keras.Model)]
    return known and all(map(_keeps_layout, nested))


def batch_size_of(model: keras.Model) -> int | None:
    """The only batch size that a model takes, or None: most take any."""
    graph = graph_of(model)
    return None if graph is None else graph.inputs[0].shape[0]


def shares_weights(one: keras.Model, other: keras.Model) -> bool:
    """Whether training the one model would move a variable of the other."""
    return bool(_moved_by_training(one) & {id(v) for v in other.variables})


def _moved_by_training(model):
    """Ids of all variables but those of frozen layers, and of what was adapted to data."""
    return {
        id(v)
        for layer in layers_of(model, itself=True)
        if layer.trainable and not isinstance(layer, keras.layers.Normalization)
        for weights in own_weights(layer)
        for v in weights
    }


def _tensors(model) -> dict:
    """What each layer puts out in this model, whatever else it was called on."""
    return {
        node.operation.name: node.output_tensors[0] for node in nodes(model, inputs=True)
    }


def _outputs(model) -> dict:
    if len(model.inputs) != 1:
        raise InputError(
            f"The model {model.name!r} has {len(model.inputs)} inputs; "
            "an image classifier has one."
        )
    _refuse_integers(model)
    output = bare(model.output)
    if isinstance(output, dict):
        if "logits" not in output:
            raise InputError(_nameless(model, output))
        _refuse_shape(model, output["logits"])
        return dict(output)
    _refuse_shape(model, output)
    return {"logits": output}


def _nameless(model, outputs) -> str:
    text = f"The model {model.name!r} returns {sorted(outputs)}; name one output 'logits'"
    return f"{text}, or pass {_FIRST}." if has_graph(model) else f"{text}."


def _refuse_shape(model, logits):
    """Raises `InputError` unless these are logits [n, classes]."""
    shape = getattr(logits, "shape", ())
    if is_single(shape):
        raise InputError(refusal_of_single(model))
    known = isinstance(shape, tuple) or shape.rank is not None
    if not known or len(shape) != 2:
        raise InputError(
            f"The model {model.name!r} must return logits [n, classes] as its only output"
            + (
                f": pass {_FIRST}."
                if isinstance(logits, (list, tuple)) and has_graph(model)
                else "."
            )
        )


def takes_integers(model: keras.Model) -> bool:
    """Whether the input of a functional model is integers: no gradient leads there."""
    dtype = model.inputs[0].dtype
    return "int" in dtype or dtype == "bool"


def _refuse_integers(model):
    if takes_integers(model):
        image = model.inputs[0]
        raise InputError(
            f"The model {model.name!r} takes {image.dtype} images, which have no gradient: "
            "take keras.models.clone_model(model, input_tensors=keras.Input("
            f"{tuple(image.shape[1:])}), clone_function=lambda layer: layer), which has "
            "its layers, and, where it begins with Rescaling(1 / 255), leave that out."
        )


def _names(model) -> set[str]:
    return {layer.name for layer in model.layers}


def last(model: keras.Model) -> str:
    """The default layer k: the last of layer1, layer2, ..., else the last features."""
    return last_layer(_names(model)) or feature_layer.last(model)


def _recall(model, names):
    """The model called anew, and what layers of these names put out, nested ones too."""
    tensors = {}

    def call(layer, *args, **kwargs):
        found = {}
        if isinstance(layer, keras.Model) and has_graph(layer):
            inner, found = _recall(functional(layer), names)
        if found:
            whole = keras.Model(inner.inputs[0], [inner.output, found], name=layer.name)
            result, found = whole(*args, **kwargs)
            tensors.update(found)
        else:
            result = layer(*args, **kwargs)
        if layer.name in names:
            tensors[layer.name] = result
        return result

    model = keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=call
    )
    return model, tensors


def _unknown_layer(model, name):
    names = sorted(layer.name for layer in layers_of(model))
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" It has: {', '.join(names)}."
    raise InputError(f"The model {model.name!r} has no layer {name!r}.{hint}")


def refuse_augmentation(model: keras.Model) -> None:
    """Raises `InputError` for a model to train that holds random augmentation layers."""
    for layer in layers_of(model):
        kind = type(layer)
        if kind.__name__.startswith("Rand") and "preprocessing" in kind.__module__:
            raise InputError(
                f"The model {model.name!r} holds the random augmentation layer "
                f"{layer.name!r} ({kind.__name__}), which would act on adversarial "
                "images too: move it into the data with dataset.map."
            )
