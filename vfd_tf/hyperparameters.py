"""Components: methods, distillations, attacks and recipes as frozen, serialisable records.

The fields of a component are its hyper-parameters. Flags, configuration, `repr`, equality
and the identity of a run are all derived from them, so a default lives in one place.
"""

import dataclasses
import difflib
import types
import typing
from fractions import Fraction
from typing import Any

import keras


class InputError(ValueError):
    """Something the user can mend: one sentence that says what is wrong and what to do."""


LARGEST = {float: 3.4028234e38, int: 2**32 - 1}  # of float32, and of seeds


def hyper(
    default,
    meaning: str,
    minimum=None,
    maximum=None,
    choices=None,
    when: dict | None = None,
    part_of: str | None = None,
):
    """A hyper-parameter: a dataclass field with its default, its meaning and its range.

    `when`: the only values of another field of the component, {name: values}, under which
    it has an effect. `part_of`: "attack", for a field of a recipe that means nothing
    without one; "student", for one that no network trained before takes over.
    """
    metadata = {"meaning": meaning, "minimum": minimum, "maximum": maximum, "when": when}
    metadata |= {"choices": choices, "part_of": part_of}
    return dataclasses.field(default=default, metadata=metadata)


def component(cls):
    """Frozen dataclass that Keras can serialise; the fields are the hyper-parameters."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    return keras.saving.register_keras_serializable(package="vfd_tf")(cls)


class Component:
    """Base of everything whose fields are hyper-parameters."""

    def __post_init__(self):
        own = vars(type(self))
        if own.get("__annotations__") and "__dataclass_fields__" not in own:
            raise InputError(
                f"{type(self).__name__} has fields of its own, which count for nothing "
                "yet: put @component on the class."
            )
        for field in dataclasses.fields(self):
            check_range(f"{type(self).__name__}.{field.name}", field, self[field.name])

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def replace(self, **changes):
        """A copy with some hyper-parameters changed."""
        return dataclasses.replace(self, **changes)

    def brief(self) -> str:
        """Class and changed fields by name, `VFD(lambda_=0.02)`: stays when others come."""
        fields = sorted(dataclasses.fields(self), key=lambda field: field.name)
        changed = (f for f in fields if self[f.name] != f.default)
        fields = ", ".join(f"{f.name}={self[f.name]!r}" for f in changed)
        return f"{type(self).__name__}({fields})"

    def get_config(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def read(kind, text: str) -> Any:
    """The value of a field's type that a text stands for: 8/255, none, true, 100,105.

    Raises:
        KeyError, ValueError, ZeroDivisionError: It stands for none.
    """
    if isinstance(kind, types.UnionType):
        if text.lower() in ("none", ""):
            return None
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
        return tuple(read(kind, item) for item in text.split(",") if item)
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    if kind is float:
        return float(Fraction(text.replace(" ", "")) if "/" in text else text)
    return kind(text)


def check_range(label: str, field: dataclasses.Field, value) -> None:
    """Raises `InputError` unless `value` is in the range the field declares.

    Numbers, those in tuples too, are finite in float32, and no integer exceeds 2^32 - 1.
    """
    minimum, maximum = field.metadata.get("minimum"), field.metadata.get("maximum")
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        allowed = ", ".join(map(str, choices))
        raise InputError(f"{label} must be one of {allowed}; got {value!r}.")
    ranged = not (value is None or isinstance(value, (str, bool, tuple)))
    if ranged and minimum is not None and not value >= minimum:
        raise InputError(f"{label} must be at least {minimum}; got {value}.")
    if ranged and maximum is not None and not value <= maximum:
        raise InputError(f"{label} must be at most {maximum}; got {value}.")
    for number in value if isinstance(value, tuple) else (value,):
        largest = next((v for k, v in LARGEST.items() if isinstance(number, k)), None)
        if largest and not abs(number) <= largest:
            raise InputError(f"{label} must be finite, at most {largest}; got {number}.")


def reason(error: Exception) -> str:
    """The first line of an error, for a sentence."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:160]


def choose(table: dict[str, Any], name: str, axis: str) -> Any:
    """The entry of an axis's table, or an `InputError` with the nearest name."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"Unknown {axis} {name!r}.{hint} Choose one of: {', '.join(table)}.")


def name_of(table: dict[str, Any], value: Component) -> str:
    """The name under which a component's class stands in its table."""
    return next(name for name, cls in table.items() if cls is type(value))
