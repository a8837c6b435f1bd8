"""Parts: frozen records that are equal by value, serialisable and held to their ranges."""

import dataclasses

import pytest

from vfd_tf import InputError
from vfd_tf.attacks import ATTACKS, FGSM, PGD
from vfd_tf.hyperparameters import choose
from vfd_tf.training.callbacks import LambdaSchedule
from vfd_tf.training.distillation import DISTILLATIONS, KD, VFD
from vfd_tf.training.methods import ALP, HAT, MART, METHODS, TRADES

# isort: split

import keras

TABLES = {"method": METHODS, "distillation": DISTILLATIONS, "attack": ATTACKS}
PARTS = {cls.__name__: cls for table in TABLES.values() for cls in table.values()}
PARTS["LambdaSchedule"] = LambdaSchedule
CHANGED = [
    TRADES(beta=1.5),
    HAT(beta=1.0, gamma=0.1, ratio=3.0),
    MART(beta=2.0, start_noise=0.0),
    ALP(pairing=0.25),
    VFD(lambda_=0.02, layer="layer2", distance="squared", clean_weight=0.5),
    KD(hard=0.5, temperature=4.0),
    PGD(epsilon=0.5, step_size=0.1, steps=3, norm="l2", random_start=False),
    PGD(norm="l2", restarts=2),
    FGSM(epsilon=4 / 255),
    LambdaSchedule("cosine", 5),
]
everything = pytest.mark.parametrize(
    "part", [*(cls() for cls in PARTS.values()), *CHANGED], ids=repr
)


@everything
def test_a_part_is_frozen_hashable_and_equal_by_value(part):
    copy = type(part)(**part.get_config())
    assert copy == part
    assert hash(copy) == hash(part)
    assert len({part, copy}) == 1
    for field in dataclasses.fields(part):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field.name, part[field.name])


@everything
def test_a_part_round_trips_through_keras_serialisation(part):
    config = keras.saving.serialize_keras_object(part)
    restored = keras.saving.deserialize_keras_object(config)
    assert restored == part
    assert type(restored) is type(part)
    assert part.from_config(part.get_config()) == part


@everything
def test_every_field_is_a_documented_hyperparameter(part):
    assert set(part.get_config()) == {f.name for f in dataclasses.fields(part)}
    for field in dataclasses.fields(part):
        assert field.metadata["meaning"]
        assert part[field.name] == part.get_config()[field.name]


def test_parts_with_other_values_differ():
    assert TRADES(beta=1.0) != TRADES(beta=2.0)
    assert TRADES(beta=2.5) != HAT(beta=2.5)
    assert TRADES(beta=1.0).replace(beta=2.0) == TRADES(beta=2.0)


@pytest.mark.parametrize(
    "cls, field",
    [
        (cls, field)
        for cls in PARTS.values()
        for field in dataclasses.fields(cls)
        if field.metadata["minimum"] is not None
    ],
    ids=lambda value: getattr(value, "__name__", None) or value.name,
)
@pytest.mark.parametrize("below", [1e-3, 1, float("inf"), float("nan")])
def test_values_below_the_range_are_refused(cls, field, below):
    value = field.metadata["minimum"] - below
    with pytest.raises(InputError, match=f"{field.name} must be at least") as refusal:
        cls(**{field.name: value})
    assert "\n" not in str(refusal.value)
    cls(**{field.name: field.metadata["minimum"]})


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: VFD(lambda_=-0.1), "VFD.lambda_ must be at least 0"),
        (lambda: VFD(distance="l3"), "one of l2, squared"),
        (lambda: PGD(steps=0), "PGD.steps must be at least 1"),
        (lambda: PGD(norm="l1"), "linf, l2"),
        (lambda: LambdaSchedule("step"), "constant, linear, cosine"),
        (lambda: TRADES().replace(beta=-1.0), "TRADES.beta"),
        (lambda: TRADES.from_config({"beta": -1.0}), "TRADES.beta"),
    ],
)
def test_a_refusal_names_the_field_and_what_is_allowed(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("axis", TABLES)
def test_choose_finds_every_name_of_a_table(axis):
    for name, entry in TABLES[axis].items():
        assert choose(TABLES[axis], name, axis) is entry


@pytest.mark.parametrize(
    "name, hint",
    [("trade", "Did you mean 'trades'"), ("TRADES ", "Choose one of"), ("", "natural")],
)
def test_choose_suggests_the_nearest_and_lists_all(name, hint):
    with pytest.raises(InputError, match=hint) as refusal:
        choose(METHODS, name, "method")
    message = str(refusal.value)
    assert message.startswith(f"Unknown method {name!r}.")
    assert all(known in message for known in METHODS)
    assert "\n" not in message


def test_an_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)
