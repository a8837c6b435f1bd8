"""From the fields of an experiment to `fit`: network, trainer, data, callbacks."""

import importlib.util

import keras

from vfd_tf.data import datasets
from vfd_tf.data.training_batches import TrainingBatches
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.session import Session
from vfd_tf.models import architectures, initial, network
from vfd_tf.progress import ProgressBar
from vfd_tf.training import callbacks
from vfd_tf.training.callbacks import curves
from vfd_tf.training.callbacks.image_panel import ImagePanel
from vfd_tf.training.distillation import VFD
from vfd_tf.training.optimizers import SGD, learning_rate
from vfd_tf.training.trainer import AdversarialTrainer


def network_of(experiment: Experiment, data, teacher: str | None = None) -> keras.Model:
    """The network that an experiment starts from, for a data set.

    Args:
        teacher: File of its vanilla teacher, for `init="teacher"`; where there is none yet
            the weights are fresh ones.
    """
    mean, variance = (data.mean, data.variance) if experiment.normalize else (0.0, 1.0)
    arch, width = experiment.arch, experiment.width
    build = architectures.architecture(arch)
    model = build(data.input_shape, data.num_classes, width, mean, variance)
    if experiment.init == initial.TEACHER:
        if teacher:
            initial.start_from_teacher(model, teacher, arch)
    elif experiment.init:
        initial.start(model, experiment.init, arch, width)
    return model


def make_trainer(
    experiment: Experiment, session: Session, files: dict[str, str]
) -> AdversarialTrainer:
    """The compiled trainer of an experiment, with its teachers loaded from `files`."""
    data, recipe = session.data, experiment.recipe
    steps = len(data.train) // recipe.batch_size
    keras.utils.set_random_seed(experiment.seed)
    with session.strategy.scope():
        start = files.get("teacher")
        student = network_of(experiment, data, start)
        needed = {role: path for role, path in files.items() if role in experiment.needs}
        given = {role: network.load(path) for role, path in needed.items()}
        if "partner" in experiment.needs:
            given["partner"] = network_of(experiment, data, start)
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
        trainer.compile(
            SGD(rate, recipe.momentum, recipe.nesterov, recipe.weight_decay),
            jit_compile=session.jit_compile,
            steps_per_execution=session.steps_per_execution,
        )
    return trainer


def training_batches(experiment: Experiment, session: Session) -> TrainingBatches:
    """The batches of a run."""
    data, recipe = session.data, experiment.recipe
    augmentation = data.augmentation if recipe.augment else datasets.Augmentation()
    augmentation = augmentation.replace(cutout=recipe.cutout, cutmix=recipe.cutmix)
    own = recipe.batch_size, experiment.seed, augmentation, data.num_classes
    return TrainingBatches(data.train, *own)


def train(experiment, session, directory, trainer, extra=()) -> None:
    """Trains from where the directory stands to the last epoch.

    Args:
        extra: More callbacks, after the others.
    """
    data, recipe = session.data, experiment.recipe
    if session.verbose:
        trainer.say_layers()
    trainer.fit(
        training_batches(experiment, session),
        epochs=recipe.epochs,
        validation_data=data.validation.batches(
            recipe.batch_size, data.num_classes if recipe.cutmix else None
        ),
        callbacks=[*callbacks_of(experiment, session, directory), *extra],
        verbose=0,  # the bar is among the callbacks
    )
    directory.finish(recipe.epochs, experiment.seed, session.strategy)


def callbacks_of(experiment, session, directory):
    """What happens at the end of an epoch, in this order; the saver comes last."""
    data, recipe = session.data, experiment.recipe
    listed = [callbacks.TermShares()]
    listed += _schedules(experiment)
    if recipe.average == "swa":
        start = recipe.epochs // 2 if recipe.swa_start is None else recipe.swa_start
        whole = len(data.train) // recipe.batch_size
        clean = data.train.batches(recipe.batch_size).take(whole)
        listed.append(callbacks.StochasticWeightAverage(clean, start))
    monitor = "val_accuracy"
    threat = {"epsilon": experiment.attack.epsilon, "norm": experiment.attack.norm}
    if experiment.method.adversarial:
        own = {"attack": recipe.val_attack, "images": recipe.val_attack_images}
        robust = callbacks.RobustAccuracy(data.validation, **own, **threat)
        monitor = robust.metric
        listed += [robust, callbacks.CatastrophicOverfitting(monitor)]
        listed.append(callbacks.RobustOverfitting(monitor))
    listed.append(callbacks.Throughput(recipe.batch_size))
    if session.cluster.chief:
        listed += _curves(experiment, session, directory, threat)
    when = {"minutes": session.checkpoint_minutes, "steps": session.checkpoint_steps}
    saver = directory.saver(monitor, **when)
    return [*listed, ProgressBar(session.verbose), saver]


def _curves(experiment, session, directory, threat):
    """Callbacks that write for TensorBoard."""
    if not importlib.util.find_spec("tensorboard"):
        print("TensorBoard is not installed (pip install tensorboard): no curves.")
        return
    events, data = f"{directory.path}/tensorboard", session.data
    yield curves.Curves(events, experiment.hyperparameters())
    if experiment.method.adversarial and session.panel_every:
        every, names = session.panel_every, data.class_names
        yield ImagePanel(data.validation, events, **threat, every=every, class_names=names)


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
