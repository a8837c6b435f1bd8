"""What this package relies on in Keras's private graph, to fail where Keras changes it."""

import pathlib
import re

import keras
import numpy as np
import pytest

import vfd_tf  # noqa: F401  before TensorFlow
from vfd_tf.models import keras_graph

L = keras.layers
PACKAGE = pathlib.Path(keras_graph.__file__).parents[1]
PRIVATE = r"\._(nodes_by_depth|keras_history|inbound_nodes|flatten_layers|layers)\b"
PRIVATE += r"|\._(non_)?trainable_variables\b|_seed_generators"
PRIVATE += r"|\._(run_through_graph|standardize_inputs)\b"


class Outer(L.Layer):
    """A layer with another inside."""

    def __init__(self):
        super().__init__(name="outer")
        self.inner = L.Dense(2, name="inner")

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=())
        self.count = self.add_weight(name="count", shape=(), trainable=False)
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x) * self.scale


@pytest.fixture
def model():
    inputs = keras.Input((3,), name="images")
    first = L.Dense(3, name="first")(inputs)
    nested = keras.Model(nested_in := keras.Input((3,)), Outer()(nested_in), name="nested")
    return keras.Model(inputs, nested(L.Add(name="sum")([first, inputs])), name="whole")


def test_nodes_stand_in_the_order_of_computation(model):
    names = [node.operation.name for node in keras_graph.nodes(model)]
    assert names == ["first", "sum", "nested"]
    with_inputs = [node.operation.name for node in keras_graph.nodes(model, inputs=True)]
    assert with_inputs == ["images", "first", "sum", "nested"]
    first, total, _ = keras_graph.nodes(model)
    assert total.input_tensors[0] is first.output_tensors[0]
    assert total.input_tensors[1] is model.inputs[0]


def test_a_tensor_knows_the_call_it_comes_from(model):
    (total,) = (n for n in keras_graph.nodes(model) if n.operation.name == "sum")
    operation, node, index = keras_graph.origin(total.output_tensors[0])
    assert (operation, node, index) == (total.operation, total, 0)
    assert keras_graph.layer_of(total.output_tensors[0]) == "sum"
    assert keras_graph.is_symbolic(total.output_tensors[0])
    assert not keras_graph.is_symbolic(keras.ops.ones(3))


def test_all_layers_are_found_inside_models_and_layers(model):
    names = {layer.name for layer in keras_graph.layers_of(model)}
    assert {"images", "first", "sum", "nested", "outer", "inner"} <= names
    assert "whole" not in names
    assert model in keras_graph.layers_of(model, itself=True)


@pytest.mark.parametrize("frozen", [False, True])
def test_weights_of_one_layer_are_told_apart_frozen_or_not(model, frozen):
    model.trainable = not frozen
    (outer,) = (la for la in keras_graph.layers_of(model) if la.name == "outer")
    trained, others = keras_graph.own_weights(outer)
    assert [v.name for v in trained] == ["scale"]
    assert "count" in [v.name for v in others]
    assert keras_graph.own_weights(keras.ops.add) == ([], [])


def test_models_with_a_call_of_their_own_have_no_graph(model):
    class Own(keras.Model):
        def call(self, x):
            return 2 * super().call(x)

    own = Own(model.inputs, model.outputs)
    assert keras_graph.graph_of(own) is None
    assert keras_graph.graph_of(model) is model
    sequential = keras.Sequential([keras.Input((3,)), L.Dense(2, name="only")])
    (node,) = keras_graph.nodes(keras_graph.graph_of(sequential))
    assert node.operation.name == "only"


def test_calls_number_operations_and_tensors_in_their_order():
    x, twice = keras.Input((3,)), L.Dense(3)
    h = twice(twice(x))
    model = keras.Model(x, L.Dropout(0.1)(h + 2.0 * x, training=True))
    found = keras_graph.calls(model)
    assert [(type(call[0]).__name__, *call[1:]) for call in found] == [
        ("InputLayer", 0, [(), {}]),
        ("Dense", 1, [("tensor 0",), {}]),
        ("Dense", 1, [("tensor 1",), {}]),
        ("Multiply", 2, [(2.0, "tensor 0"), {}]),
        ("Add", 3, [("tensor 2", "tensor 3"), {}]),
        ("Dropout", 4, [("tensor 4",), {"training": True}]),
    ]


def test_a_graph_runs_with_other_functions_in_its_layers_places(model):
    x = keras.ops.ones((2, 3))
    same = keras_graph.run(model, x, lambda layer: layer)
    np.testing.assert_array_equal(same, model(x))
    doubled = {"sum": lambda inputs: 2 * inputs[0]}  # of first(x) and x
    found = keras_graph.run(model, x, lambda layer: doubled.get(layer.name, layer))
    expected = model.get_layer("nested")(2 * model.get_layer("first")(x))
    np.testing.assert_array_equal(found, expected)


def test_random_states_are_those_of_layers_that_draw():
    inner = keras.Sequential([keras.Input((3,)), L.Dropout(0.5, seed=3)])
    model = keras.Sequential([keras.Input((3,)), inner, L.Dropout(0.1), L.Dense(2)])
    states = keras_graph.random_states(model)
    assert len(states) == 2
    before = [keras.ops.convert_to_numpy(state).copy() for state in states]
    model(keras.ops.ones((4, 3)), training=True)
    for old, state in zip(before, states, strict=True):
        assert (keras.ops.convert_to_numpy(state) != old).any()


def test_no_other_module_reads_the_private_graph():
    found = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if re.search(PRIVATE, path.read_text()) and path.name != "keras_graph.py"
    ]
    assert not found
