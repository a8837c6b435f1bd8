"""Running experiments: train into a run directory, or continue, or find it complete.

`run` trains an experiment and the teachers it needs, then evaluates the students it left.
"""

import dataclasses
import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable

import keras
import tensorflow as tf

from vfd_tf import evaluation, files
from vfd_tf.attacks.attack import radius
from vfd_tf.data import datasets
from vfd_tf.experiments import continuing, forecast
from vfd_tf.experiments.experiment import EvaluationPlan, Experiment
from vfd_tf.experiments.run_directory import RunDirectory, key
from vfd_tf.hyperparameters import InputError, choose, name_of
from vfd_tf.models import network
from vfd_tf.models.architectures import ARCHITECTURES
from vfd_tf.progress import ProgressBar
from vfd_tf.training import callbacks, curves, roles
from vfd_tf.training.distillation import DISTILLATIONS, VFD
from vfd_tf.training.image_panel import ImagePanel
from vfd_tf.training.methods import METHODS
from vfd_tf.training.optimizers import SGD, learning_rate
from vfd_tf.training.trainer import AdversarialTrainer


@dataclasses.dataclass
class Setting:
    """What the runs of one command share: data, strategy, folders, evaluation."""

    data: datasets.Dataset
    plan: EvaluationPlan
    root: str = "runs"
    strategy: tf.distribute.Strategy = dataclasses.field(
        default_factory=tf.distribute.get_strategy
    )
    panel_every: int = 5  # epochs between TensorBoard panels of images; 0: none
    describe: Callable[[Experiment], str] | None = None  # the flags that repeat a run
    verbose: int = dataclasses.field(
        default_factory=lambda: 1 if sys.stdout.isatty() else 2
    )
    done: list[RunDirectory] = dataclasses.field(default_factory=list)
    # Path -> work of what is still to be trained, as far as `check` has seen it.
    pending: dict[str, forecast.Work] = dataclasses.field(default_factory=dict)

    def report(self) -> str:
        """One table of the students of all runs, teachers included, and their folders."""
        test = self.data.test[: self.plan.max_images]
        threat, count = _threat_and_count(self.plan, test)
        rows = {
            f"{directory.label} ({which})": directory.accuracies(which, threat, count)
            for directory in self.done
            for which in directory.students
        }
        folders = "".join(f"\n  {d.label}: {d.path}" for d in self.done)
        title = f"{self.data.name}, {count} test images, {threat}"
        return f"\n{title}\n\n{evaluation.table(rows)}\n{folders}"


def run(experiment, setting, workdir=None, source=None, helper=False) -> RunDirectory:
    """Trains, continues or finds an experiment, evaluates it: its `RunDirectory`.

    Teachers that are wanted as "auto" are run first, the same way. No two processes have
    one directory at once.

    Args:
        experiment: The `Experiment`.
        setting: The `Setting` of the command.
        workdir: Its directory; default: named by what the result depends on.
        source: The `continuing.Source` that it goes on from, or None.
        helper: Waits for another process that trains the same, instead of refusing.
    """
    first = source.first(experiment) if source else experiment
    helpers = {role: _helper(first, role, setting) for role in experiment.prerequisites}
    identity, fields = _identity(experiment, setting, source), experiment.fields()
    directory = _directory(experiment, setting, workdir, source)
    with directory.owned(wait=helper):
        directory.check_owner(identity, fields)
        if directory.complete:
            print(f"{directory.path}: complete")
        else:
            trainer = make_trainer(experiment, setting, helpers)
            directory.claim(identity, fields, _flags(experiment, setting, source))
            if source:
                source.hand_over(directory)
                steps = len(setting.data.train) // experiment.recipe.batch_size
                print(f"{directory.path}: {source.describe(experiment, steps)}")
            _train(experiment, setting, directory, trainer)
        setting.pending.pop(directory.path, None)
        _evaluate(setting, directory)
    if directory.path not in [d.path for d in setting.done]:
        setting.done.append(directory)
    return directory


def _directory(experiment, setting, workdir=None, source=None):
    labels = _labels(experiment)
    name = "-".join((*labels, key(_identity(experiment, setting, source))))
    return RunDirectory(workdir or f"{setting.root}/{name}", label="+".join(labels[2:]))


def _flags(experiment, setting, source):
    """The flags that repeat a run."""
    text = setting.describe(experiment) if setting.describe else ""
    return text + (f"--continue_from={source.path}\n" if source else "")


def check(experiment, setting, workdir=None, source=None) -> None:
    """Raises `InputError` for what would fail later, before anything is trained."""
    for role in experiment.prerequisites:
        if experiment[role] != "auto":
            _refuse_stranger(network.load(experiment[role]), role, experiment, setting)
    first = source.first(experiment) if source else experiment
    if source:
        helpers = _helper_keys(first, setting)
        source.check(experiment, setting.data.digest, helpers)
    _check_recipe(experiment, setting)
    stand_ins = {role: _stand_in(first, role, setting.data) for role in roles.WANTED}
    student = _build(experiment, setting.data)
    roles.assemble(student, stand_ins, experiment.method, experiment.distillation)
    _check_directories(experiment, setting, workdir, source)
    for role in first.prerequisites:
        if first[role] == "auto":
            _plan_work(first.helper(role), setting, _directory(first.helper(role), setting))
    directory = _directory(experiment, setting, workdir, source)
    _plan_work(experiment, setting, directory, student, stand_ins)


def _check_directories(experiment, setting, workdir, source):
    """Refuses directories of others, damaged ones, and ones that can't be written."""
    identity = _identity(experiment, setting, source)
    directory = _directory(experiment, setting, workdir, source)
    for path in dict.fromkeys((directory.path, setting.root)):
        files.check_writable(path)
    directory.check_owner(identity, experiment.fields())
    if not directory.complete and not directory.state().epoch and not source:
        hint = continuing.hint(experiment, identity, setting.root)
        if hint:
            print(f"Note: {hint}")


def _plan_work(experiment, setting, directory, student=None, stand_ins=None):
    """Notes the work of a run that is not complete."""
    if directory.complete:
        return
    student = student or _build(experiment, setting.data)
    teachers = [model for model in (stand_ins or {}).values() if model is not None]
    setting.pending[directory.path] = forecast.Work(
        experiment, setting.data, setting.plan, student, teachers
    )


def warn_without_gpu(experiments: list[Experiment], setting: Setting) -> None:
    """A note before training where what is pending takes a CPU days."""
    student = _build(experiments[0], setting.data)
    images = setting.data.train[: experiments[0].recipe.batch_size].floats()
    note = forecast.without_gpu(student, setting.pending.values(), images)
    if note:
        print(f"Note: {note}", flush=True)


def _check_recipe(experiment, setting):
    """Refuses what doesn't fit the data or the number of epochs."""
    data, size = setting.data, experiment.recipe.batch_size
    replicas = setting.strategy.num_replicas_in_sync
    if size > len(data.train) or size % replicas:
        raise InputError(
            f"A batch of {size} doesn't fit {len(data.train)} training images on "
            f"{replicas} replicas; choose a smaller batch_size, a multiple of {replicas}."
        )
    recipe = experiment.recipe
    learning_rate(recipe, 1)
    if recipe.schedule == "piecewise" and max(recipe.lr_milestones, default=0) >= (
        recipe.epochs
    ):
        print(
            f"Note: --lr_milestones={','.join(map(str, recipe.lr_milestones))} are not all "
            f"reached in {recipe.epochs} epochs."
        )
    if recipe.average == "swa" and (recipe.swa_start or 0) >= recipe.epochs:
        raise InputError(
            f"swa_start {recipe.swa_start} leaves nothing to average in {recipe.epochs} "
            "epochs; choose a smaller one."
        )
    augmentation = data.augmentation.replace(cutout=recipe.cutout, cutmix=recipe.cutmix)
    augmentation.check(data.input_shape, size, data.num_classes)
    if experiment.method.adversarial:
        roles.refuse_no_attack(experiment.attack)


def _stand_in(experiment, role, data):
    """The network of a role as far as it is known before anything is trained."""
    if role == "partner":
        wanted = role in experiment.distillation.needs
        return _build(experiment, data) if wanted else None
    if role not in experiment.prerequisites:
        return None
    if experiment[role] != "auto":
        return network.load(experiment[role])
    return _build(experiment.helper(role), data)


def _labels(experiment):
    method = name_of(METHODS, experiment.method)
    return (
        re.sub(r"[^\w.]+", "-", experiment.dataset).strip("-"),
        experiment.arch,
        method,
        name_of(DISTILLATIONS, experiment.distillation),
    )


def _helper(experiment, role, setting):
    """The file of the network that plays `role`, which is trained first if it has to be."""
    if experiment[role] != "auto":
        return experiment[role]
    print(f"--{role}=auto: {type(experiment.helper(role).method).__name__} first")
    return run(experiment.helper(role), setting, helper=True).student("best")


def _identity(experiment, setting, source=None):
    """What the result depends on, helpers by their own identity or their file's hash."""
    helpers = _helper_keys(source.first(experiment) if source else experiment, setting)
    identity = experiment.identity(setting.data.digest, helpers)
    return identity | source.mark if source else identity


def _helper_keys(experiment, setting):
    helpers = {}
    for role in experiment.prerequisites:
        if experiment[role] == "auto":
            helpers[role] = key(_identity(experiment.helper(role), setting))
        else:
            with open(experiment[role], "rb") as file:
                helpers[role] = hashlib.sha256(file.read()).hexdigest()
    return helpers


def _refuse_stranger(model, role, experiment, setting):
    """Refuses a helper from a file that doesn't fit the data, or is near chance."""
    path = experiment[role]
    inputs = (setting.data.input_shape, setting.data.num_classes)
    plain = network.classifier(model)
    shapes = tuple(plain.input_shape[1:]), int(plain.output_shape[-1])
    if shapes != inputs:
        raise InputError(
            f"The {role} {path} takes {shapes[0]} images of {shapes[1]} classes; "
            f"{setting.data.name} has {inputs[0]} and {inputs[1]}."
        )
    accuracy = evaluation.Engine(model).correct(setting.data.validation).mean()
    print(f"{role} {path}: {100 * accuracy:.1f}% of the validation images")
    if accuracy < 1.5 / setting.data.num_classes:
        raise InputError(
            f"The {role} {path} classifies {100 * accuracy:.1f}% of the validation images, "
            "near chance: it was trained on other data or other pixel values."
        )


def _build(experiment, data):
    mean, variance = (data.mean, data.variance) if experiment.normalize else (0.0, 1.0)
    build = choose(ARCHITECTURES, experiment.arch, "architecture")
    return build(data.input_shape, data.num_classes, experiment.width, mean, variance)


def make_trainer(experiment: Experiment, setting: Setting, files: dict[str, str]):
    """The compiled trainer of an experiment, with its teachers loaded from `files`."""
    data, recipe = setting.data, experiment.recipe
    steps = len(data.train) // recipe.batch_size
    keras.utils.set_random_seed(experiment.seed)
    with setting.strategy.scope():
        student = _build(experiment, data)
        given = {role: network.load(path) for role, path in files.items()}
        if "partner" in experiment.distillation.needs:
            given["partner"] = _build(experiment, data)
        trainer = AdversarialTrainer(
            student,
            experiment.method,
            experiment.attack,
            experiment.distillation,
            seed=experiment.seed,
            options=recipe,
            **given,
        )
        rate = learning_rate(recipe, steps)
        trainer.compile(SGD(rate, recipe.momentum, recipe.nesterov, recipe.weight_decay))
    return trainer


def _train(experiment, setting, directory, trainer):
    data, recipe = setting.data, experiment.recipe
    state = directory.restore(trainer)
    print(f"{directory.path}: from epoch {state.epoch} to {recipe.epochs}")
    steps = len(data.train) // recipe.batch_size
    augmentation = data.augmentation if recipe.augment else datasets.Augmentation()
    augmentation = augmentation.replace(cutout=recipe.cutout, cutmix=recipe.cutmix)
    if setting.verbose:
        trainer.say_layers()
    trainer.fit(
        data.train.train_batches(
            recipe.batch_size,
            experiment.seed,
            augmentation,
            first_step=state.epoch * steps,
            num_classes=data.num_classes,
        ),
        steps_per_epoch=steps,
        epochs=recipe.epochs,
        initial_epoch=state.epoch,
        validation_data=data.validation.batches(
            recipe.batch_size, data.num_classes if recipe.cutmix else None
        ),
        callbacks=[
            *_callbacks(experiment, setting, directory, state),
            *_forecast(setting, directory, recipe.epochs - state.epoch),
        ],
        verbose=0,  # the bar is among the callbacks
    )
    directory.finish(recipe.epochs, experiment.seed, setting.strategy)


def _forecast(setting, directory, epochs):
    """The callback that says how long it will take; none where nobody counted the work."""
    work = setting.pending.pop(directory.path, None)
    return [forecast.Forecast(work, epochs, setting.pending.values())] if work else []


def _callbacks(experiment, setting, directory, state):
    """What happens at the end of an epoch, in this order."""
    data, recipe = setting.data, experiment.recipe
    listed = [callbacks.StopOnDivergence(), callbacks.TermShares()]
    listed += _schedules(experiment)
    if recipe.average == "swa":
        start = recipe.epochs // 2 if recipe.swa_start is None else recipe.swa_start
        whole = len(data.train) // recipe.batch_size
        clean = data.train.batches(recipe.batch_size).take(whole)
        listed.append(callbacks.StochasticWeightAverage(clean, start))
    monitor = "val_accuracy"
    threat = {"epsilon": experiment.attack.epsilon, "norm": experiment.attack.norm}
    if experiment.method.adversarial:
        robust = callbacks.RobustAccuracy(data.validation, **threat)
        monitor = robust.metric
        alarm = callbacks.CatastrophicOverfitting(monitor, best=state.best)
        listed += [robust, alarm]
    listed.append(directory.saver(monitor, state))
    # Behind the saver: the history of a run doesn't depend on how fast it was.
    listed.append(callbacks.Throughput(recipe.batch_size))
    if importlib.util.find_spec("tensorboard"):
        events = f"{directory.path}/tensorboard"
        listed.append(curves.Curves(events, experiment.hyperparameters()))
        if experiment.method.adversarial and setting.panel_every:
            every, names = setting.panel_every, data.class_names
            panel = ImagePanel(
                data.validation, events, **threat, every=every, class_names=names
            )
            listed.append(panel)
    else:
        print("TensorBoard is not installed (pip install tensorboard): no curves.")
    return [*listed, ProgressBar(setting.verbose)]


def _schedules(experiment):
    """Callbacks that change lambda, beta, the attack's strength and AWP by the epoch."""
    recipe, beta_term = experiment.recipe, experiment.method.beta_term
    if isinstance(experiment.distillation, VFD):
        yield callbacks.VFDCallback(schedule=experiment.lambda_schedule)
    if beta_term and experiment.beta_schedule.warmup_epochs:
        yield callbacks.Anneal(f"{beta_term}_weight", experiment.beta_schedule)
    if experiment.method.adversarial and recipe.attack_warmup:
        rise = callbacks.LambdaSchedule("linear", recipe.attack_warmup)
        yield callbacks.Anneal("attack_scale", rise)
    if recipe.awp_gamma and recipe.awp_warmup:
        yield callbacks.Anneal("awp_gamma", callbacks.Delay(recipe.awp_warmup))


def _threat_and_count(plan, test):
    return f"{plan.norm}:{radius(plan.epsilon)}", f"n={len(test)}"


def _evaluate(setting, directory):
    """Adds to results.json what it doesn't hold yet of the asked-for protocols."""
    plan = setting.plan
    test = setting.data.test[: plan.max_images]
    threat, count = _threat_and_count(plan, test)
    directory.keep_only(setting.data.test.digest[:16])
    for which in directory.students:
        known = directory.verdicts(which, threat, count)
        missing = [a for a in plan.attacks if a not in known]
        if not missing and "clean" in known:
            if not directory.accuracies(which, threat, count):  # results.json is new
                directory.add_verdicts(which, threat, count, {})
            continue
        print(f"{directory.path}: evaluating {which}.keras on {len(test)} test images")
        result = evaluation.evaluate(
            network.load(directory.student(which)),
            test,
            missing,
            epsilon=plan.epsilon,
            norm=plan.norm,
            batch_size=plan.batch_size,
        )
        for warning in result.warnings:
            print(f"Warning: {warning}")
        directory.add_verdicts(which, threat, count, result.verdicts())
        if importlib.util.find_spec("tensorboard"):
            known = directory.accuracies(which, threat, count)
            events = f"{directory.path}/tensorboard"
            curves.write_accuracies(events, which, f"{threat} {count}", known)
