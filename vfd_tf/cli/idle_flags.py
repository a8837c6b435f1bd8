"""Flags of the command line that have no effect, found from the tables of flags."""

import warnings

from vfd_tf.cli import flags
from vfd_tf.experiments.experiment import Experiment, Recipe
from vfd_tf.hyperparameters import Component
from vfd_tf.models.architectures import ARCHITECTURES


def warn(values, argv: list[str], mode: str, experiments=()) -> None:
    """Warns about every flag that was written on the command line and changes nothing.

    Those of a flagfile, which many commands may share, are passed over.
    """
    given = _written(values, argv)
    takes = flags.taken(values, mode)
    for name in given:
        if name not in takes:
            warnings.warn(f"--{name} has no effect in the mode {mode}.", stacklevel=2)
    if not experiments:
        return
    counting = set().union(*(_counting(e, values.mixtures) for e in experiments))
    if values.surrogate == "auto":
        counting |= {"teacher_seed"}  # the surrogate's, too
    if None in (values.eval_epsilon, values.eval_norm):
        counting |= {"epsilon", "norm"}  # the evaluation's defaults
    settable = _settable(values)
    for name in given:
        if name in settable and name not in counting:
            why = _why(values, name, experiments)
            warnings.warn(f"--{name} has no effect: {why}.", stacklevel=2)


def _written(values, argv):
    """The flags that the command line itself names, in order."""
    names = {}
    for word in argv[1:]:
        if word == "--":
            break
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and name not in values:
            name = name.removeprefix("no")
        if word.startswith("-") and name in values:
            names[name] = True
    return list(names)


def _settable(values):
    """The flags whose effect depends on the runs that are asked for."""
    found = {"attack", "panel_every", "mixtures"}
    for section, members in values.flags_by_module_dict().items():
        if section == "training" or section.startswith("--"):
            found |= {flag.name for flag in members}
    return found | {"epsilon", "norm"}


def _counting(experiment: Experiment, mixtures=()) -> set[str]:
    """The flags that a run's result, or what it shows, depends on."""
    keys = flags.names(experiment)
    adversarial, beta = experiment.method.adversarial, experiment.method.beta_term
    found = _fields(experiment, "") - _idle_prerequisites(experiment, mixtures)
    if experiment.arch not in ARCHITECTURES:
        found.discard("normalize")  # others have a range of their own
    recipe = _fields(experiment.recipe, "")
    found |= recipe if adversarial else recipe - set(Recipe.parts_of("attack"))
    found |= _fields(experiment.method, keys["method"])
    found |= _fields(experiment.distillation, keys["distill"])
    if adversarial:
        found |= {"attack", "epsilon", "norm", "panel_every", "mixtures"}
        found |= _fields(experiment.attack, keys["attack"])
    if "vfd" in experiment.distillation.weights:
        found |= _fields(experiment.lambda_schedule, "lambda")
    if beta:
        found |= _fields(experiment.beta_schedule, "beta")
    weights = _weights(experiment)
    if "clean" in weights:
        found.discard("add_clean_ce")
    if (
        not experiment.method.weights.keys() & weights
        and not experiment.recipe.add_clean_ce
    ):
        found.discard("label_smoothing")  # soft labels have taken the place of all terms
    if experiment.attack.own_start and adversarial:
        found.discard(f"{keys['method']}_start_noise".replace("-", "_"))
    return found


def _weights(experiment):
    method = experiment.method
    return experiment.distillation.reweigh(method.weights, method.hard_label)


def _idle_prerequisites(experiment, mixtures):
    """The flags of networks that neither this run nor its mixtures need."""
    needed = experiment.prerequisites
    if mixtures and experiment.method.adversarial:
        needed = (*needed, "teacher")
    idle = {"teacher", "robust_teacher"} - set(needed)
    if all(experiment[role] != "auto" for role in needed):
        idle |= {"teacher_seed", "teacher_epochs"}
    if "teacher" not in needed or experiment.teacher != "auto":
        idle.add("teacher_arch")
    return idle


def _fields(component: Component, prefix: str) -> set[str]:
    """The flags of a component's fields that have an effect beside its others."""
    return {
        name
        for name, field in flags.parameters(type(component), prefix)
        if all(
            component[other] in allowed
            for other, allowed in (field.metadata["when"] or {}).items()
        )
    }


def _why(values, name, experiments):
    if name == "normalize":
        return f"--arch={experiments[0].arch} has a range of its own"
    section = values.find_module_defining_flag(name)
    if section.startswith("--"):
        axis, _, key = section.removeprefix("--").partition("=")
        chosen = {flags.names(e)[axis] for e in experiments}
        if key not in chosen:
            return f"it belongs to {section}, and --{axis} is {', '.join(sorted(chosen))}"
    needed = _needed(name, experiments)
    if needed:
        return f"it needs {needed}"
    pairs = {f"{k['method']} with {k['distill']}" for k in map(flags.names, experiments)}
    return f"{', '.join(sorted(pairs))} doesn't use it"


def _needed(name, experiments):
    """What another field would have to be, as flags, or an empty text."""
    for experiment in experiments:
        keys = flags.names(experiment)
        components = {"method": experiment.method, "distill": experiment.distillation}
        components["attack"] = experiment.attack
        prefixed = [(cls, keys[axis]) for axis, cls in components.items()]
        for component, prefix in (*prefixed, (Recipe(), "")):
            for flag, field in flags.parameters(type(component), prefix):
                if flag == name and field.metadata["when"]:
                    others = {
                        f.name: n for n, f in flags.parameters(type(component), prefix)
                    }
                    when = field.metadata["when"].items()
                    return " ".join(f"--{others[k]}={'|'.join(v)}" for k, v in when)
    return ""
