"""From the fields of an experiment to `fit`: network, trainer, data, callbacks."""

import importlib.util

import keras

from vfd_tf.data import datasets
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.session import Session
from vfd_tf.models import architectures, initial, network
from vfd_tf.progress import ProgressBar
from vfd_tf.training import callbacks, curves
from vfd_tf.training.distillation import VFD
from vfd_tf.training.distributed_data import by_worker
from vfd_tf.training.image_panel import ImagePanel
from vfd_tf.training.optimizers import SGD, learning_rate
from vfd_tf.training.trainer import AdversarialTrainer


def network_of(experiment: Experiment, data) -> keras.Model:
    """The network that an experiment starts from, for a data set."""
    mean, variance = (data.mean, data.variance) if experiment.normalize else (0.0, 1.0)
    arch, width = experiment.arch, experiment.width
    build = architectures.architecture(arch)
    model = build(data.input_shape, data.num_classes, width, mean, variance)
    if experiment.init:
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
        student = network_of(experiment, data)
        given = {role: network.load(path) for role, path in files.items()}
        if "partner" in experiment.distillation.needs:
            given["partner"] = network_of(experiment, data)
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


def training_batches(experiment, session, first_step):
    """The batches of a run from a step on, each replica's share on its device."""
    data, recipe = session.data, experiment.recipe
    augmentation = data.augmentation if recipe.augment else datasets.Augmentation()
    augmentation = augmentation.replace(cutout=recipe.cutout, cutmix=recipe.cutmix)

    def share_of(share):
        return data.train.train_batches(
            recipe.batch_size,
            experiment.seed,
            augmentation,
            first_step=first_step,
            num_classes=data.num_classes,
            share=share,
        )

    if session.strategy.num_replicas_in_sync == 1:
        return share_of(None)
    return by_worker(session.strategy, recipe.batch_size, share_of)


def train(experiment, session, directory, trainer, extra=()) -> None:
    """Trains from where the directory stands to the last epoch.

    Args:
        extra: More callbacks, behind the others.
    """
    data, recipe = session.data, experiment.recipe
    state = directory.restore(trainer)
    print(f"{directory.path}: from epoch {state.epoch} to {recipe.epochs}")
    steps = len(data.train) // recipe.batch_size
    if session.verbose:
        trainer.say_layers()
    trainer.fit(
        training_batches(experiment, session, state.epoch * steps),
        steps_per_epoch=steps,
        epochs=recipe.epochs,
        initial_epoch=state.epoch,
        validation_data=data.validation.batches(
            recipe.batch_size, data.num_classes if recipe.cutmix else None
        ),
        callbacks=[*callbacks_of(experiment, session, directory, state), *extra],
        verbose=0,  # the bar is among the callbacks
    )
    directory.finish(recipe.epochs, experiment.seed, session.strategy)


def callbacks_of(experiment, session, directory, state):
    """What happens at the end of an epoch, in this order."""
    data, recipe = session.data, experiment.recipe
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
    if not session.cluster.chief:
        return [*listed, ProgressBar(session.verbose)]
    if importlib.util.find_spec("tensorboard"):
        events = f"{directory.path}/tensorboard"
        listed.append(curves.Curves(events, experiment.hyperparameters()))
        if experiment.method.adversarial and session.panel_every:
            every, names = session.panel_every, data.class_names
            panel = ImagePanel(
                data.validation, events, **threat, every=every, class_names=names
            )
            listed.append(panel)
    else:
        print("TensorBoard is not installed (pip install tensorboard): no curves.")
    return [*listed, ProgressBar(session.verbose)]


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
