"""The public surface: what is named, typed, described, and passed by keyword."""

import importlib
import inspect

import pytest

import vfd_tf  # before TensorFlow

MODULES = "architectures attacks callbacks datasets distillation evaluation losses methods"
MODULES = (*MODULES.split(), "mixture", "optimizers")


def members(module):
    """(name, value) of what a module offers of its own."""
    names = getattr(module, "__all__", None)
    own = [n for n in vars(module) if not n.startswith("_")] if names is None else names
    for name in own:
        value = getattr(module, name)
        home = getattr(value, "__module__", None) or ""
        if home == module.__name__ or (names and home.startswith("vfd_tf")):
            yield name, value


def functions():
    """qualified name -> public function or method."""
    found = {}
    for module in (vfd_tf, *(getattr(vfd_tf, name) for name in MODULES)):
        for name, value in members(module):
            if inspect.isfunction(value):
                found[f"{module.__name__}.{name}"] = value
            elif inspect.isclass(value):
                for key, method in vars(value).items():
                    if inspect.isfunction(method) and (key[0] != "_" or key == "__init__"):
                        found[f"{module.__name__}.{name}.{key}"] = method
    own = {n: f for n, f in found.items() if f.__module__.startswith("vfd_tf")}
    return {n: f for n, f in own.items() if f.__code__.co_filename != "<string>"}


@pytest.mark.parametrize("name", MODULES)
def test_public_modules_are_read_both_ways(name):
    module = importlib.import_module(f"vfd_tf.{name}")
    assert module is getattr(vfd_tf, name) and name in vfd_tf.__all__


@pytest.mark.parametrize("name, function", functions().items())
def test_signatures_have_type_hints(name, function):
    signature = inspect.signature(function)
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    untyped = [
        key
        for key, p in signature.parameters.items()
        if p.annotation is p.empty and p.kind not in free
        if key not in ("self", "cls", "logs", "data")
    ]
    assert not untyped, name
    if not name.endswith("__init__"):
        assert signature.return_annotation is not signature.empty, name


@pytest.mark.parametrize("module", [vfd_tf, *(getattr(vfd_tf, name) for name in MODULES)])
def test_every_public_name_is_described(module):
    for name, value in members(module):
        if inspect.isfunction(value) or inspect.isclass(value):
            assert inspect.getdoc(value), name


@pytest.mark.parametrize(
    "function, positional", [(vfd_tf.evaluate, 3), (vfd_tf.perturb, 4)]
)
def test_the_user_s_two_lines_take_options_by_keyword(function, positional):
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    keyword = inspect.Parameter.KEYWORD_ONLY
    assert kinds.count(keyword) == len(kinds) - positional
    assert all(kind == keyword for kind in kinds[positional:])
