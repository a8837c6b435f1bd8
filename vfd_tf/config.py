"""Flags: one for every hyper-parameter, derived from the fields of the parts.

The name, the default, the range and the help of a flag are those of its field. Fields of
an `Experiment` and its `Recipe` give flags of their own name; fields of a method,
distillation or attack are prefixed with its name: `--vfd_lambda`, `--trades_beta`,
`--pgd_steps`. The radius and the norm of attacks are `--epsilon` and `--norm`.
"""

import dataclasses
import types
import typing
from fractions import Fraction

from absl import flags

from vfd_tf.architectures import ARCHITECTURES
from vfd_tf.attacks import ATTACKS, PGD
from vfd_tf.attacks.attack import radius
from vfd_tf.callbacks import LambdaSchedule
from vfd_tf.distillation import DISTILLATIONS
from vfd_tf.experiment import Evaluating, Experiment, Recipe
from vfd_tf.methods import METHODS
from vfd_tf.part import InputError, check_range, choose, name_of, read

_THREAT_MODEL = ("epsilon", "norm")
TRAINING_ATTACKS = {name: cls for name, cls in ATTACKS.items() if cls.trains}
_AXES = {"method": METHODS, "distill": DISTILLATIONS, "attack": TRAINING_ATTACKS}
SCHEDULED = ("lambda", "beta")
STRATEGIES = ("one_device", "mirrored")


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
    """(flag name, field) of every plain hyper-parameter of a part."""
    for field in dataclasses.fields(cls):
        if "meaning" in field.metadata and field.name not in skip:
            yield flag_name(prefix, field), field


def define() -> flags.FlagValues:
    """All flags of the command line, in sections of their help."""
    values = flags.FlagValues()
    _define_run(values)
    for name, field in (*parameters(Experiment), *parameters(Recipe)):
        _define_parameter(values, name, field, "training")
    _define_parameter(values, *_parameter(PGD, "epsilon"), "training")
    _define_parameter(values, *_parameter(PGD, "norm"), "training")
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
    def names(table):
        return ", ".join(table)

    add, run = flags.DEFINE_list, {"flag_values": values, "module_name": "run"}
    add("method", "hat", f"base methods, one run each: {names(METHODS)}", **run)
    add("distill", "vfd", f"distillations: {names(DISTILLATIONS)}", **run)
    text = flags.DEFINE_string
    text("mode", "train", "what to do; also the first word: vfd info PATH", **run)
    text("attack", "pgd", f"training attack: {names(TRAINING_ATTACKS)}", **run)
    text("runs", "runs", "folder of the run directories", **run)
    text("workdir", None, "run directory; default: named by the flags, in --runs", **run)
    text("data_dir", None, "folder of tensorflow-datasets", **run)
    flags.DEFINE_enum("strategy", "one_device", STRATEGIES, "replicas", **run)
    add("eval_attacks", "fgsm,pgd20", "protocols on the test split, in order", **run)
    text("eval_norm", None, "norm of the evaluation; default: --norm", **run)
    flags.DEFINE(
        Value("--eval_epsilon", _parameter(PGD, "epsilon")[1]),
        "eval_epsilon",
        None,
        "radius of the evaluation; default: --epsilon",
        values,
        _Serializer(),
        module_name="run",
    )
    text("out", "tradeoff.png", "plot: the figure, .png, .pdf or .svg", **run)
    text("plot_x", "clean", "plot: column of the x axis", **run)
    text("plot_y", "worst", "plot: column of the y axis", **run)
    text("plot_student", "last", "plot: student, as results.json calls it", **run)
    integer = flags.DEFINE_integer
    integer("eval_batch_size", 128, "images a batch of evaluation", 1, **run)
    integer(
        "panel_every",
        5,
        "epochs between panels of images in TensorBoard; 0: none",
        0,
        **run,
    )
    integer("max_images", None, "evaluate on the first n test images", 1, **run)
    _define_evaluate({"flag_values": values, "module_name": "evaluate"})


def _define_evaluate(own):
    text, enum, boolean = flags.DEFINE_string, flags.DEFINE_enum, flags.DEFINE_boolean
    text("model", None, "the .keras file to evaluate", **own)
    text("eval_dir", None, "folder of the results; default: beside the model", **own)
    flags.DEFINE_integer("eval_seed", 0, "seed of all attacks", 0, **own)
    boolean("eval_early_stop", True, "leave broken images, to the same verdicts", **own)
    text("save_adversarial", None, "file.npz for the adversarial examples", **own)
    text("surrogate", None, "black box: a .keras file to craft on, or auto", **own)
    arch, help_ = "wide_resnet_34_10", "architecture of --surrogate=auto"
    enum("surrogate_arch", arch, [*ARCHITECTURES], help_, **own)
    enum("referee", None, ["cleverhans"], "repeat FGSM, PGD and MIM with it", **own)
    policies, help_ = ["mixed_bfloat16", "mixed_float16"], "precision to craft in"
    enum("craft_precision", None, policies, f"{help_}; verdicts are float32", **own)
    boolean("strict", True, "refuse probabilities and images outside [0, 1]", **own)


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


def evaluating(values: flags.FlagValues) -> Evaluating:
    """The evaluation protocol that the flags ask for."""
    epsilon = values.eval_epsilon
    named = epsilon is not None or values["epsilon"].present
    if values.norm != "linf" and not named:
        raise InputError(f"--norm={values.norm} needs a radius, such as --epsilon=0.5.")
    if values.eval_norm not in (None, values.norm) and epsilon is None:
        raise InputError(
            f"--eval_norm={values.eval_norm} needs a radius of its own, such as "
            "--eval_epsilon=0.5."
        )
    return Evaluating(
        attacks=tuple(values.eval_attacks),
        epsilon=values.epsilon if epsilon is None else epsilon,
        norm=values.eval_norm or values.norm,
        batch_size=values.eval_batch_size,
        max_images=values.max_images,
    )


def names(experiment: Experiment) -> dict[str, str]:
    """The keys of an experiment's method, distillation and attack in their tables."""
    parts = experiment.method, experiment.distillation, experiment.attack
    return {
        axis: name_of(table, part)
        for (axis, table), part in zip(_AXES.items(), parts, strict=True)
    }


def flagfile(experiment: Experiment) -> str:
    """The flags that repeat an experiment, one a line, for --flagfile."""
    keys = names(experiment)
    parts = [(experiment, "", ()), (experiment.recipe, "", ())]
    parts += [(experiment[f"{prefix}_schedule"], prefix, ()) for prefix in SCHEDULED]
    parts += [(experiment.method, keys["method"], ())]
    parts += [(experiment.distillation, keys["distill"], ())]
    parts += [(experiment.attack, keys["attack"], _THREAT_MODEL)]
    flat = dict(keys)
    for part, prefix, skip in parts:
        flat |= {n: part[f.name] for n, f in parameters(type(part), prefix, skip)}
    flat |= {name: experiment.attack[name] for name in _THREAT_MODEL}
    return "".join(f"--{name}={text_of(value)}\n" for name, value in flat.items())


def help_text(values: flags.FlagValues) -> str:
    """Every flag with meaning and default, by section."""
    lines = []
    for section, members in values.flags_by_module_dict().items():
        lines.append(f"\n{section}:")
        for flag in sorted(members, key=lambda f: f.name) if section == "run" else members:
            value = flag.default
            value = ",".join(value) if isinstance(value, list) else text_of(value)
            default = "" if value in ("none", "") else f" [{value}]"
            lines.append(f"  --{flag.name:24} {flag.help}{default}")
    return "\n".join(lines)
