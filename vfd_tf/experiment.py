"""An experiment: one training run with everything that decides its result.

`run` trains it (and the teachers it needs) into a run directory, or continues, or finds
it complete; then evaluates the students it left.
"""

import dataclasses
import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable

import keras
import tensorflow as tf

from vfd_tf import datasets, evaluation, network
from vfd_tf.architectures import ARCHITECTURES
from vfd_tf.attacks import PGD, Attack
from vfd_tf.attacks.attack import radius
from vfd_tf.callbacks import LambdaSchedule, RobustAccuracy, StopOnDivergence, VFDCallback
from vfd_tf.distillation import DISTILLATIONS, VFD, Distillation, NoDistillation
from vfd_tf.methods import HAT, METHODS, PGDAT, Method, Natural
from vfd_tf.optimizers import SCHEDULES, SGD
from vfd_tf.part import InputError, Part, choose, hyper, name_of, part
from vfd_tf.run_directory import RunDirectory, key
from vfd_tf.trainer import AdversarialTrainer


@part
class Recipe(Part):
    """How a network is trained, whatever the method."""

    epochs: int = hyper(110, "epochs of training", minimum=1)
    batch_size: int = hyper(128, "images a step, over all replicas", minimum=1)
    learning_rate: float = hyper(0.1, "learning rate, the peak of its schedule", 0.0)
    schedule: str = hyper("piecewise", "learning-rate schedule", choices=tuple(SCHEDULES))
    lr_milestones: tuple[int, ...] = hyper(
        (100, 105), "piecewise: whole epochs after which the learning rate changes"
    )
    lr_factors: tuple[float, ...] = hyper(
        (), "piecewise: factors on the learning rate; empty: 1, 0.1, 0.01, ..."
    )
    lr_rise: float = hyper(0.25, "one-cycle: share of the steps that rise", 0.0, 1.0)
    momentum: float = hyper(0.9, "momentum of SGD", minimum=0.0, maximum=1.0)
    nesterov: bool = hyper(False, "Nesterov momentum")
    weight_decay: float = hyper(5e-4, "coupled weight decay, as PyTorch's", minimum=0.0)
    augment: bool = hyper(True, "random crop and flip, where the data set has them")
    attack_bn_mode: str = hyper(
        "eval", "BatchNorm inside the training attack", choices=("eval", "train")
    )


@part
class Experiment(Part):
    """Everything that decides the result of one training run."""

    dataset: str = hyper("cifar10", "data set", choices=tuple(datasets.DATASETS))
    validation: int | None = hyper(
        None, "images held out of training; none: 1,000, at most a tenth", minimum=1
    )
    arch: str = hyper("resnet18", "architecture", choices=tuple(ARCHITECTURES))
    width: float = hyper(1.0, "factor on the channels of the architecture", minimum=0.01)
    normalize: bool = hyper(True, "first layer: the data set's mean and variance")
    seed: int = hyper(0, "seed of weights, order, augmentation and noise", minimum=0)
    teacher: str = hyper("auto", "vanilla teacher: a .keras file, or auto (find or train)")
    robust_teacher: str = hyper("auto", "robust teacher of kd: a .keras file, or auto")
    teacher_seed: int = hyper(1000, "seed of teachers trained by auto", minimum=0)
    method: Method = HAT()
    distillation: Distillation = VFD()
    attack: Attack = PGD()
    recipe: Recipe = Recipe()
    lambda_schedule: LambdaSchedule = LambdaSchedule()

    @property
    def helpers(self) -> tuple[str, ...]:
        """The networks this run needs that are trained before it."""
        needs = dict.fromkeys((*self.method.needs, *self.distillation.needs))
        return tuple(role for role in needs if role in HELPERS)

    def helper(self, role: str) -> "Experiment":
        """The experiment whose student plays `role` here."""
        if self.seed == self.teacher_seed:
            raise InputError(
                f"seed and teacher_seed are both {self.seed}; a teacher must start from "
                "other weights than its student."
            )
        return self.replace(
            method=HELPERS[role](),
            distillation=NoDistillation(),
            seed=self.teacher_seed,
        )

    def identity(self, digest: str, helpers: dict[str, str]) -> dict:
        """What the result depends on; equal identities give equal weights.

        Parts are named by the fields that differ from their defaults, so that a new field
        whose default changes nothing leaves the runs of before their names.

        Args:
            digest: Hash of the training images.
            helpers: Role -> key or file hash of the networks trained before.
        """
        same = ("dataset", "arch", "width", "normalize", "seed")
        identity = {name: self[name] for name in same}
        identity |= {"data": digest, "helpers": helpers}
        return identity | {name: part.brief() for name, part in self._parts().items()}

    def fields(self) -> dict[str, dict]:
        """Every hyper-parameter that counts, defaults included: part -> field -> value."""
        parts = self._parts()
        return json.loads(json.dumps({n: dataclasses.asdict(p) for n, p in parts.items()}))

    def _parts(self) -> dict[str, Part]:
        """The parts that decide the result: no attack where nothing is attacked."""
        parts = {"method": self.method, "distillation": self.distillation}
        parts["recipe"] = self.recipe
        if self.method.adversarial:
            parts["attack"] = self.attack
        else:
            parts["recipe"] = self.recipe.replace(attack_bn_mode="eval")
        if isinstance(self.distillation, VFD):
            parts["lambda_schedule"] = self.lambda_schedule
        return parts


HELPERS = {"teacher": Natural, "robust_teacher": PGDAT}


@dataclasses.dataclass(frozen=True)
class Evaluating:
    """How the students of a run are evaluated on the test split."""

    attacks: tuple[str, ...] = ("fgsm", "pgd20")
    epsilon: float = 8 / 255
    norm: str = "linf"
    batch_size: int = 128
    max_images: int | None = None


@dataclasses.dataclass
class Setting:
    """What the runs of one command share: data, strategy, folders, evaluation."""

    data: datasets.Dataset
    evaluating: Evaluating
    root: str = "runs"
    strategy: tf.distribute.Strategy = dataclasses.field(
        default_factory=tf.distribute.get_strategy
    )
    describe: Callable[[Experiment], str] | None = None  # the flags that repeat a run
    verbose: int = dataclasses.field(
        default_factory=lambda: 1 if sys.stdout.isatty() else 2
    )
    done: list[RunDirectory] = dataclasses.field(default_factory=list)

    def report(self) -> str:
        """One table of the students of all runs, teachers included, and their folders."""
        test = self.data.test[: self.evaluating.max_images]
        threat, count = _threat_and_count(self.evaluating, test)
        rows = {
            f"{directory.label} ({which})": directory.accuracies(which, threat, count)
            for directory in self.done
            for which in ("best", "last")
        }
        folders = "".join(f"\n  {d.label}: {d.path}" for d in self.done)
        title = f"{self.data.name}, {count} test images, {threat}"
        return f"\n{title}\n\n{evaluation.table(rows)}\n{folders}"


def run(experiment: Experiment, setting: Setting, workdir: str | None = None):
    """Trains, continues or finds `experiment`, evaluates it: its `RunDirectory`.

    Teachers that are wanted as "auto" are run first, the same way.
    """
    files, identities = {}, {}
    for role in experiment.helpers:
        files[role], identities[role] = _helper(experiment, role, setting)
    identity = experiment.identity(setting.data.digest, identities)
    fields = experiment.fields()
    name = "-".join((*_labels(experiment), key(identity)))
    directory = RunDirectory(
        workdir or f"{setting.root}/{name}", label="+".join(_labels(experiment)[2:])
    )
    directory.check_owner(identity, fields)
    if directory.complete:
        print(f"{directory.path}: complete")
    else:
        trainer = make_trainer(experiment, setting, files)
        describe = setting.describe or (lambda _: "")
        directory.claim(identity, fields, describe(experiment))
        _train(experiment, setting, directory, trainer)
    _evaluate(setting, directory)
    if directory.path not in [d.path for d in setting.done]:
        setting.done.append(directory)
    return directory


def check(experiment: Experiment, setting: Setting) -> None:
    """Raises `InputError` for what would fail later, before anything is trained."""
    data, size = setting.data, experiment.recipe.batch_size
    replicas = setting.strategy.num_replicas_in_sync
    if size > len(data.train) or size % replicas:
        raise InputError(
            f"A batch of {size} doesn't fit {len(data.train)} training images on "
            f"{replicas} replicas; choose a smaller batch_size, a multiple of {replicas}."
        )
    recipe = experiment.recipe
    choose(SCHEDULES, recipe.schedule, "schedule")(recipe, 1)
    if recipe.schedule == "piecewise" and max(recipe.lr_milestones, default=0) >= (
        recipe.epochs
    ):
        print(
            f"Note: --lr_milestones={','.join(map(str, recipe.lr_milestones))} are not all "
            f"reached in {recipe.epochs} epochs."
        )
    network.tap(_build(experiment, data), experiment.distillation.layers)
    for role in experiment.helpers:
        if experiment[role] == "auto":
            experiment.helper(role)
        else:
            network.load(experiment[role])


def _labels(experiment):
    method = name_of(METHODS, experiment.method)
    return (
        experiment.dataset,
        experiment.arch,
        method,
        name_of(DISTILLATIONS, experiment.distillation),
    )


def _helper(experiment, role, setting):
    """The file of the network that plays `role`, and what identifies it."""
    path = experiment[role]
    if path != "auto":
        model = network.load(path)
        _refuse_chance(model, path, role, setting)
        with open(path, "rb") as file:
            return path, hashlib.sha256(file.read()).hexdigest()
    print(f"--{role}=auto: {type(experiment.helper(role).method).__name__} first")
    directory = run(experiment.helper(role), setting)
    return directory.student("best"), directory.key


def _refuse_chance(model, path, role, setting):
    inputs = (setting.data.input_shape, setting.data.num_classes)
    plain = network.classifier(model)
    shapes = tuple(plain.input_shape[1:]), int(plain.output_shape[-1])
    if shapes != inputs:
        raise InputError(
            f"The {role} {path} takes {shapes[0]} images of {shapes[1]} classes; "
            f"{setting.data.name} has {inputs[0]} and {inputs[1]}."
        )
    accuracy = evaluation.Target(model).correct(setting.data.validation).mean()
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
        roles = {role: network.load(path) for role, path in files.items()}
        if "partner" in experiment.distillation.needs:
            roles["partner"] = _build(experiment, data)
        trainer = AdversarialTrainer(
            student,
            experiment.method,
            experiment.attack,
            experiment.distillation,
            seed=experiment.seed,
            attack_bn_mode=recipe.attack_bn_mode,
            **roles,
        )
        rate = choose(SCHEDULES, recipe.schedule, "schedule")(recipe, steps)
        trainer.compile(SGD(rate, recipe.momentum, recipe.nesterov, recipe.weight_decay))
    return trainer


def _train(experiment, setting, directory, trainer):
    data, recipe = setting.data, experiment.recipe
    state = directory.restore(trainer)
    print(f"{directory.path}: from epoch {state.epoch} to {recipe.epochs}")
    steps = len(data.train) // recipe.batch_size
    augmentation = data.augmentation if recipe.augment else datasets.Augmentation()
    trainer.fit(
        data.train.train_batches(
            recipe.batch_size, experiment.seed, augmentation, state.epoch * steps
        ),
        steps_per_epoch=steps,
        epochs=recipe.epochs,
        initial_epoch=state.epoch,
        validation_data=data.validation.batches(recipe.batch_size),
        callbacks=_callbacks(experiment, setting, directory, state),
        verbose=setting.verbose,
    )
    directory.finish(experiment.seed, setting.strategy)


def _callbacks(experiment, setting, directory, state):
    callbacks, monitor = [StopOnDivergence()], "val_accuracy"
    if isinstance(experiment.distillation, VFD):
        callbacks.append(VFDCallback(schedule=experiment.lambda_schedule))
    if experiment.method.adversarial:
        robust = RobustAccuracy(
            setting.data.validation,
            epsilon=experiment.attack.epsilon,
            norm=experiment.attack.norm,
        )
        callbacks.append(robust)
        monitor = robust.metric
    callbacks.append(directory.saver(monitor, state))
    if importlib.util.find_spec("tensorboard"):
        callbacks.append(keras.callbacks.TensorBoard(f"{directory.path}/tensorboard"))
    else:
        print("TensorBoard is not installed (pip install tensorboard): no curves.")
    return callbacks


def _threat_and_count(evaluating, test):
    return f"{evaluating.norm}:{radius(evaluating.epsilon)}", f"n={len(test)}"


def _evaluate(setting, directory):
    """Adds to results.json what it doesn't hold yet of the asked-for protocols."""
    evaluating = setting.evaluating
    test = setting.data.test[: evaluating.max_images]
    threat, count = _threat_and_count(evaluating, test)
    for which in ("best", "last"):
        known = directory.accuracies(which, threat, count)
        missing = [a for a in evaluating.attacks if a not in known]
        if not missing and "clean" in known:
            continue
        print(f"{directory.path}: evaluating {which}.keras on {len(test)} test images")
        result = evaluation.evaluate(
            network.load(directory.student(which)),
            test,
            missing,
            evaluating.epsilon,
            evaluating.norm,
            batch_size=evaluating.batch_size,
        )
        directory.add_accuracies(which, threat, count, result.accuracies())
