"""Flags: one for every hyper-parameter, derived from the fields of the components.

The name, the default, the range and the help of a flag are those of its field. Fields of
an `Experiment` and its `Recipe` give flags of their own name; fields of a method,
distillation or attack are prefixed with its name: `--vfd_lambda`, `--trades_beta`,
`--pgd_steps`. The radius and the norm of attacks are `--epsilon` and `--norm`.
"""

import dataclasses
import functools
import types
import typing
from fractions import Fraction

from absl import flags

from vfd_tf.attacks import ATTACKS, PGD
from vfd_tf.attacks.attack import radius
from vfd_tf.cli import mode_flags, recipes
from vfd_tf.experiments.evaluation_plan import EvaluationPlan, attack_images
from vfd_tf.experiments.experiment import Experiment, Recipe
from vfd_tf.experiments.features import FeaturePlan
from vfd_tf.experiments.mixtures import Mix
from vfd_tf.hyperparameters import LARGEST, InputError, check_range, choose, name_of, read
from vfd_tf.training.distillation import DISTILLATIONS
from vfd_tf.training.methods import METHODS
from vfd_tf.training.schedules import LambdaSchedule

_THREAT_MODEL = ("epsilon", "norm")
TRAINING_ATTACKS = {name: cls for name, cls in ATTACKS.items() if cls.trains}
_AXES = {"method": METHODS, "distill": DISTILLATIONS, "attack": TRAINING_ATTACKS}
SCHEDULED = ("lambda", "beta")
_DATA = ("dataset", "image_size", "hold")
_MODES = ("train", "evaluate", "info", "plot", "suite", "report", "features", "mix")
# Sections of the help and the modes that take their flags; all others are of training.
SECTIONS = {
    "all modes": _MODES,
    "runs": ("train",),
    "data": ("train", "evaluate", "features", "mix"),
    "evaluation": ("train", "evaluate", "features", "mix"),
    "evaluation of runs": ("train",),
    "evaluate": ("evaluate",),
    "plot": ("plot",),
    "suite": ("suite",),
    "features": ("features",),
    "mix": ("mix",),
}
_SURROGATE = ("surrogate", "surrogate_arch")
_ELSEWHERE = {
    "train": _SURROGATE,
    "plot": ("eval_epsilon", "eval_norm", "max_images"),
    "report": ("runs",),
}
# Flags that the rows of a suite set themselves.
OF_ROWS = ("method", "distill", "continue_from", "eval_students", "eval_teachers")
OF_ROWS += ("mixtures", "wait", "stop_signal")
_LARGEST = LARGEST[int]


class Value(flags.ArgumentParser):
    """Reads the text of a field's type: 8/255, 0.01, none, true, 100,105."""

    def __init__(self, label: str, field: dataclasses.Field):
        self.label, self.field = label, field
        optional = isinstance(field.type, types.UnionType)
        self.kind = typing.get_args(field.type)[0] if optional else field.type
        self.syntactic_help = self.flag_type()

    def flag_type(self):
        return getattr(self.kind, "__name__", str(self.kind))

    def parse(self, argument):
        try:
            value = (
                read(self.field.type, argument) if isinstance(argument, str) else argument
            )
            check_range(self.label, self.field, value)
        except InputError as error:
            raise ValueError(str(error)) from error
        except (KeyError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{argument!r} is not a {self.flag_type()}") from error
        return value


def text_of(value) -> str:
    """The text that `Value` reads back as this value."""
    if isinstance(value, tuple):
        return ",".join(map(text_of, value))
    if isinstance(value, float) and float(Fraction(radius(value))) == value:
        return radius(value)
    return str(value).lower() if isinstance(value, (bool, type(None))) else str(value)


class _Serializer(flags.ArgumentSerializer):
    def serialize(self, value):
        return text_of(value)


def flag_name(prefix: str, field: dataclasses.Field) -> str:
    """The flag of a field: prefix_field, without a trailing underscore (lambda_)."""
    name = field.name.rstrip("_")
    return f"{prefix}_{name}".replace("-", "_") if prefix else name


def parameters(cls, prefix="", skip=()):
    """(flag name, field) of every plain hyper-parameter of a component."""
    for field in dataclasses.fields(cls):
        if "meaning" in field.metadata and field.name not in skip:
            yield flag_name(prefix, field), field


def define() -> flags.FlagValues:
    """All flags of the command line, in sections of their help."""
    values = flags.FlagValues()
    _define_run(values)
    for name, field in (*parameters(Experiment), *parameters(Recipe)):
        section = "data" if name in _DATA else "training"
        _define_parameter(values, name, field, section)
    for prefix in SCHEDULED:
        for name, field in parameters(LambdaSchedule, prefix):
            _define_parameter(values, name, field, "training")
    for axis, table in _AXES.items():
        for key, cls in table.items():
            skip = _THREAT_MODEL if axis == "attack" else ()
            for name, field in parameters(cls, key, skip):
                _define_parameter(values, name, field, f"--{axis}={key}")
    return values


def _define_run(values):
    def of(section):
        return {"flag_values": values, "module_name": section}

    text = flags.DEFINE_string
    help_ = "what to do; also the first word: vfd info PATH"
    text("mode", "train", help_, **of("all modes"))
    _define_runs(of("runs"))
    help_ = "folder where tensorflow-datasets finds or prepares its sets"
    text("data_dir", None, help_, **of("data"))
    _define_evaluation(values, of("evaluation"))
    mode_flags.evaluation_of_runs(of("evaluation of runs"))
    mode_flags.suite(of("suite"))
    for name, field in parameters(FeaturePlan, "features"):
        _define_parameter(values, name, field, "features")
    mode_flags.features(of("features"))
    mode_flags.plot(of("plot"))
    mode_flags.evaluate(of("evaluate"))
    mode_flags.mix(of("mix"))


def _define_runs(own):
    def names(table):
        return ", ".join(table)

    add, text = flags.DEFINE_list, flags.DEFINE_string
    text("recipe", None, f"flags of a recipe: {', '.join(recipes.paths())}", **own)
    add("method", "hat", f"base methods, one run each: {names(METHODS)}", **own)
    add("distill", "vfd", f"distillations: {names(DISTILLATIONS)}", **own)
    text("attack", "pgd", f"training attack: {names(TRAINING_ATTACKS)}", **own)
    text("runs", "runs", "folder of the run directories", **own)
    text("workdir", None, "run directory; default: named by the flags, in --runs", **own)
    mode_flags.runs(own)


def _define_evaluation(values, own):
    integer = flags.DEFINE_integer
    for name in _THREAT_MODEL:
        _define_parameter(values, *_parameter(PGD, name), "evaluation")
    help_ = "attacks on the test split, in order: fgsm, pgd20, cw, autoattack, ..."
    flags.DEFINE_list("eval_attacks", "fgsm,pgd20", help_, **own)
    flags.DEFINE_string("eval_norm", None, "norm of the evaluation; default: --norm", **own)
    flags.DEFINE(
        Value("--eval_epsilon", _parameter(PGD, "epsilon")[1]),
        "eval_epsilon",
        None,
        "radius of the evaluation; default: --epsilon",
        values,
        _Serializer(),
        module_name="evaluation",
    )
    help_ = "images a batch of evaluation"
    integer("eval_batch_size", 128, help_, 1, _LARGEST, **own)
    help_ = "evaluate on the first n test images; none: all"
    integer("max_images", None, help_, 1, _LARGEST, **own)


def _parameter(cls, name):
    return next((n, f) for n, f in parameters(cls) if f.name == name)


def _define_parameter(values, name, field, section):
    default = field.default
    flags.DEFINE(
        Value(f"--{name}", field),
        name,
        default,
        _help(field),
        values,
        _Serializer(),
        module_name=section,
    )
    values[name].boolean = field.type is bool  # --name and --noname, too


def _help(field):
    choices = field.metadata["choices"]
    return field.metadata["meaning"] + (f": {', '.join(choices)}" if choices else "")


def experiments(values: flags.FlagValues) -> list[Experiment]:
    """One experiment for every pair of --method and --distill."""
    for axis in ("method", "distill"):
        if not values[axis].value:
            raise InputError(f"--{axis} names none: choose of {', '.join(_AXES[axis])}.")
    shared = {
        "attack": _part(
            values, TRAINING_ATTACKS, "attack", values.attack, threat_model=True
        ),
        "recipe": Recipe(**_fields(values, Recipe)),
        **{
            f"{prefix}_schedule": LambdaSchedule(**_fields(values, LambdaSchedule, prefix))
            for prefix in SCHEDULED
        },
        **_fields(values, Experiment),
    }
    return [
        Experiment(
            method=_part(values, METHODS, "method", method),
            distillation=_part(values, DISTILLATIONS, "distillation", distill),
            **shared,
        )
        for method in values.method
        for distill in values.distill
    ]


def _part(values, table, axis, key, threat_model=False):
    cls = choose(table, key, axis)
    skip = _THREAT_MODEL if threat_model else ()
    fields = _fields(values, cls, key, skip)
    if threat_model:
        fields |= {"epsilon": values.epsilon, "norm": values.norm}
    return cls(**fields)


def _fields(values, cls, prefix="", skip=()):
    return {f.name: values[name].value for name, f in parameters(cls, prefix, skip)}


def evaluation_plan(values: flags.FlagValues, training: bool = False) -> EvaluationPlan:
    """The evaluation that the flags ask for: of runs, or of a model."""
    epsilon = values.eval_epsilon
    named = epsilon is not None or values["epsilon"].present
    if values.norm != "linf" and not named:
        raise InputError(f"--norm={values.norm} needs a radius, such as --epsilon=0.5.")
    if values.eval_norm not in (None, values.norm) and epsilon is None:
        raise InputError(
            f"--eval_norm={values.eval_norm} needs a radius of its own, such as "
            "--eval_epsilon=0.5."
        )
    return EvaluationPlan(
        attacks=tuple(values.eval_attacks),
        epsilon=values.epsilon if epsilon is None else epsilon,
        norm=values.eval_norm or values.norm,
        batch_size=values.eval_batch_size,
        max_images=values.max_images,
        surrogate=values.surrogate,
        **(_of_runs(values) if training else {}),
    )


def _of_runs(values):
    """What the evaluation of a run has beside that of a model."""
    return {
        "attack_images": attack_images(values.attack_images),
        "students": tuple(values.eval_students),
        "teachers": values.eval_teachers,
        "mixtures": tuple(dict.fromkeys(map(Mix.of, values.mixtures))),
    }


def names(experiment: Experiment) -> dict[str, str]:
    """The keys of an experiment's method, distillation and attack in their tables."""
    components = experiment.method, experiment.distillation, experiment.attack
    return {
        axis: name_of(table, component)
        for (axis, table), component in zip(_AXES.items(), components, strict=True)
    }


def flagfile(experiment: Experiment) -> str:
    """The flags that repeat an experiment, one a line, for --flagfile."""
    keys = names(experiment)
    components = [(experiment, "", ()), (experiment.recipe, "", ())]
    components += [(experiment[f"{prefix}_schedule"], prefix, ()) for prefix in SCHEDULED]
    components += [(experiment.method, keys["method"], ())]
    components += [(experiment.distillation, keys["distill"], ())]
    components += [(experiment.attack, keys["attack"], _THREAT_MODEL)]
    flat = dict(keys)
    for component, prefix, skip in components:
        flat |= {n: component[f.name] for n, f in parameters(type(component), prefix, skip)}
    flat |= {name: experiment.attack[name] for name in _THREAT_MODEL}
    return "".join(f"--{name}={text_of(value)}\n" for name, value in flat.items())


def words(experiment: Experiment) -> tuple[str, ...]:
    """The flags that repeat an experiment, without those at their defaults."""
    named = ("--method=", "--distill=")
    lines = (line.rstrip() for line in flagfile(experiment).splitlines())
    return tuple(line for line in lines if line.startswith(named) or _changes(line))


def _changes(line):
    name, _, value = line.removeprefix("--").partition("=")
    return text_of(_defaults()[name].default) != value


@functools.cache
def _defaults():
    return define()


def parse(values: flags.FlagValues, words_) -> list[str]:
    """Reads flags from words, recipes too; the words that are none."""
    rest = values(recipes.expanded(["run.py", *words_]))[1:]
    recipes.refuse_unread(values)
    return rest


def taken(values: flags.FlagValues, mode: str) -> set[str]:
    """The flags that a mode takes."""
    found = set(_ELSEWHERE.get(mode, ()))
    for section, members in values.flags_by_module_dict().items():
        if mode in SECTIONS.get(section, ("train",)):
            found |= {flag.name for flag in members}
    if mode == "suite":
        return found | taken(values, "train") - set(OF_ROWS)
    surrogate = mode == "evaluate" and values["surrogate"].value == "auto"
    return found | taken(values, "train") if surrogate else found


def help_text(values: flags.FlagValues, mode: str | None = None) -> str:
    """Every flag, or those that a mode takes, with meaning and default, by section."""
    lines, wanted = [], taken(values, mode) if mode else set(values)
    for section, members in values.flags_by_module_dict().items():
        members = [flag for flag in members if flag.name in wanted]
        if section in SECTIONS:
            members.sort(key=lambda flag: flag.name)
        lines += [f"\n{section}:"] if members else []
        for flag in members:
            value = flag.default
            value = ",".join(value) if isinstance(value, list) else text_of(value)
            default = f" [{value}]" if value else ""
            lines.append(f"  --{flag.name:24} {flag.help}{default}")
    if mode == "evaluate":
        lines.append("\n--surrogate=auto trains: it also takes what `train --help` shows.")
    return "\n".join(lines)
