"""Callbacks: VFD with an annealed lambda, and robust accuracy after every epoch.

Both write into the epoch's logs, so put them before TensorBoard and ModelCheckpoint.
"""

import dataclasses
import math
import time

import keras

from vfd_tf import evaluation
from vfd_tf.data import batching
from vfd_tf.hyperparameters import Component, InputError, choose, component, hyper
from vfd_tf.models import contract
from vfd_tf.training.distillation import VFD
from vfd_tf.training.trainer import AdversarialTrainer, is_cross_entropy_from_logits

SHAPES = {
    "constant": lambda share: 1.0,
    "linear": lambda share: share,
    "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,
}


@component
class LambdaSchedule(Component):
    """Factor on lambda, or beta: rises from 0 to 1 over `warmup_epochs`, then stays."""

    shape: str = hyper("constant", "shape of its rise", choices=tuple(SHAPES))
    warmup_epochs: int = hyper(0, "epochs until it is reached", minimum=0)

    def __post_init__(self):
        super().__post_init__()
        if (self.shape == "constant") == bool(self.warmup_epochs):
            raise InputError(
                f"A {self.shape} schedule over {self.warmup_epochs} warmup_epochs is none: "
                "a rise needs both a shape, linear or cosine, and epochs."
            )

    def __call__(self, epoch: int) -> float:
        share = min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0
        return SHAPES[self.shape](share)


class VFDCallback(keras.callbacks.Callback):
    """Vanilla Feature Distillation in `model.fit`.

    On an `AdversarialTrainer` with a `VFD` distillation it anneals lambda and logs
    `vfd_lambda` and `vfd_share`, VFD's share of the loss. Given a teacher, it also turns
    the own `fit` of any compiled functional model into VFD adversarial training, without
    a wrapper: for the length of that `fit`, and no longer, the training step is replaced.
    The method's losses take the place of the model's, a cross-entropy from logits.

    Args:
        teacher: Frozen vanilla network; None on an `AdversarialTrainer`.
        layer: Layer k.
        lambda_: lambda of eq. 6.
        method: Base method or its name.
        attack: Attack of the inner maximisation; default PGD-10, L-inf 8/255.
        schedule: epoch -> factor on lambda, for example `LambdaSchedule("linear", 10)`.
        seed: Seed of the attack's noise.
    """

    def __init__(
        self,
        teacher=None,
        layer=None,
        lambda_=None,
        method=None,
        attack=None,
        schedule=None,
        seed=0,
    ):
        super().__init__()
        own = {"layer": layer, "lambda_": lambda_, "method": method, "attack": attack}
        own = {name: value for name, value in own.items() if value is not None}
        if own and teacher is None:
            raise InputError(
                f"VFDCallback({', '.join(own)}) needs teacher=..., a frozen vanilla "
                "network; on an AdversarialTrainer these are set there."
            )
        vfd = {name: own.pop(name) for name in ("layer", "lambda_") if name in own}
        self.distillation = VFD(**vfd)
        self.options = {"method": "trades", **own, "seed": seed}
        self.teacher, self.schedule = teacher, schedule or LambdaSchedule()
        self.trainer = None

    def set_model(self, model):
        super().set_model(model)
        if isinstance(model, AdversarialTrainer):
            self._adopt(model)
        else:
            self._install(model)
        self.full_lambda = self.trainer.distillation.lambda_

    def _adopt(self, trainer):
        if self.teacher is not None:
            raise InputError(
                "The model is an AdversarialTrainer already: give the teacher to it and "
                "call VFDCallback without one."
            )
        if not isinstance(trainer.distillation, VFD):
            raise InputError(
                "VFDCallback needs an AdversarialTrainer with distillation='vfd'; this one "
                f"has {trainer.distillation!r}."
            )
        self.trainer = trainer

    def _install(self, model):
        """Replaces the training function of the fit that is about to start.

        Keras calls `set_model` before `make_train_function`, so the next call of the
        latter belongs to this fit; the one after it restores the stock step, whether this
        fit ends, fails, or the next one comes without the callback.
        """
        if self.teacher is None:
            raise InputError(
                "VFDCallback needs teacher=..., a frozen vanilla network, to train a plain "
                "model; or wrap the model in an AdversarialTrainer."
            )
        loss = model.loss[0] if isinstance(model.loss, list) else model.loss
        if loss is not None and not is_cross_entropy_from_logits(loss):
            raise InputError(
                "VFDCallback trains with the losses of its method instead of the model's "
                "own: compile with loss=keras.losses.SparseCategoricalCrossentropy("
                "from_logits=True), or CategoricalCrossentropy; for label smoothing use "
                "AdversarialTrainer with TrainingOptions(label_smoothing=...)."
            )
        if self.trainer is None or self.trainer.student is not model:
            with model.distribute_strategy.scope():
                self.trainer = AdversarialTrainer(
                    model,
                    distillation=self.distillation,
                    teacher=self.teacher,
                    **self.options,
                )
        self.trainer.serve(model)

        def adversarial(force=False):
            model.make_train_function = stock
            model.train_function = self.trainer.make_train_function()

        def stock(force=False):
            _restore(model)
            model.make_train_function(force=True)

        model.make_train_function = adversarial

    def on_train_begin(self, logs=None):
        if self.trainer is not self.model and self.params.get("verbose"):
            self.trainer.say_layers()

    def on_epoch_begin(self, epoch, logs=None):
        value = self.full_lambda * float(self.schedule(epoch))
        self.trainer.term_weights["vfd"].assign(value)
        if self.trainer is not self.model:
            self.trainer.reset_metrics()

    def on_epoch_end(self, epoch, logs=None):
        if logs is None:
            return
        value = float(self.trainer.term_weights["vfd"].numpy())
        logs["vfd_lambda"] = value
        if logs.get("loss"):
            logs["vfd_share"] = value * float(logs["vfd_loss"]) / float(logs["loss"])

    def on_train_end(self, logs=None):
        if self.trainer is not self.model:
            _restore(self.model)


def _need_trainer(callback, model):
    if not isinstance(model, AdversarialTrainer):
        raise InputError(
            f"{type(callback).__name__} needs an AdversarialTrainer; wrap the model in one."
        )


def _restore(model):
    """Back to Keras's own training step."""
    vars(model).pop("make_train_function", None)
    model.train_function = None


class Anneal(keras.callbacks.Callback):
    """Multiplies a running value of an `AdversarialTrainer` by a schedule, and logs it.

    Args:
        name: "<term>_weight", a weight of eq. 6; "attack_scale", the factor on the
            attack's epsilon and step size; or "awp_gamma".
        schedule: epoch, from 0 -> factor, for example `LambdaSchedule("linear", 10)`.
    """

    def __init__(self, name, schedule):
        super().__init__()
        self.name, self.schedule = name, schedule

    def set_model(self, model):
        super().set_model(model)
        _need_trainer(self, model)
        choose(model.running, self.name, "running value")

    def on_epoch_begin(self, epoch, logs=None):
        full = self.model.full_values[self.name]
        self.model.running[self.name].assign(full * float(self.schedule(epoch)))

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs[self.name] = float(self.model.running[self.name].numpy())


@dataclasses.dataclass(frozen=True)
class Delay:
    """A schedule: 0 for the first `epochs` epochs, then 1."""

    epochs: int

    def __call__(self, epoch: int) -> float:
        return float(epoch >= self.epochs)


class StochasticWeightAverage(keras.callbacks.Callback):
    """Takes an epoch's last weights into the average of `TrainingOptions(average="swa")`.

    The averaged BatchNorm statistics are then computed anew, as means over batches of
    training images. Izmailov et al. 2018, https://arxiv.org/abs/1803.05407

    Args:
        data: Clean training images: a data set of (x, y) batches, or arrays (x, y).
        start: Epochs before the average begins.
        batches: How many batches the statistics are computed on.
    """

    def __init__(self, data, start, batches=100):
        super().__init__()
        self.data, self.start, self.batches = data, start, batches

    def set_model(self, model):
        super().set_model(model)
        _need_trainer(self, model)
        if model.options.average != "swa":
            raise InputError(
                "StochasticWeightAverage needs an AdversarialTrainer with "
                "options=TrainingOptions(average='swa')."
            )
        self.data = batching.as_batches(self.data)
        x, y, _ = batching.first_batch(self.data)
        contract.check_batch(model.student, x, y, soft=True)

    def on_epoch_end(self, epoch, logs=None):
        if epoch < self.start:
            return
        average = self.model.average
        average.update()
        average.recompute_statistics(self.model.student, self.data, self.batches)


class CatastrophicOverfitting(keras.callbacks.Callback):
    """Alarm: robust accuracy has fallen by more than `fall` below its best epoch.

    One-step training can lose all robustness within an epoch while its own training
    accuracy rises (Wong et al. 2020, https://arxiv.org/abs/2001.03994, who stop at a fall
    of 0.2). Warns once and logs `catastrophic_overfitting`, 0 or 1. Behind
    `RobustAccuracy` in the list.

    Args:
        monitor: Name of the robust accuracy in the logs.
        fall: Fall that is alarming, as a share of all images.
        stop: Ends training at the alarm.
        best: The best accuracy before, of a fit that is continued.
    """

    def __init__(self, monitor="val_pgd10_accuracy", fall=0.2, stop=False, best=0.0):
        super().__init__()
        self.monitor, self.fall, self.stop = monitor, fall, stop
        self.best_before, self.best, self.alarmed = best, best, False

    def on_train_begin(self, logs=None):
        self.best, self.alarmed = self.best_before, False

    def on_epoch_end(self, epoch, logs=None):
        if logs is None or self.monitor not in logs:
            return
        robust = float(logs[self.monitor])
        self.best = max(self.best, robust)
        fallen = robust < self.best - self.fall
        logs["catastrophic_overfitting"] = float(fallen)
        if fallen and not self.alarmed:
            self.alarmed = True
            print(
                f"\nCatastrophic overfitting in epoch {epoch + 1}: {self.monitor} fell "
                f"from {self.best:.3f} to {robust:.3f}. Keep the best student; train with "
                "more attack steps, n-fgsm, or a smaller epsilon or learning rate."
            )
        if fallen and self.stop:
            self.model.stop_training = True


class TermShares(keras.callbacks.Callback):
    """Logs `<term>_share`: each weighted term of eq. 6 as a share of the loss."""

    def set_model(self, model):
        super().set_model(model)
        _need_trainer(self, model)

    def on_epoch_end(self, epoch, logs=None):
        if not logs or not logs.get("loss"):
            return
        for term, weight in self.model.term_weights.items():
            part = float(weight.numpy()) * float(logs[f"{term}_loss"])
            logs[f"{term}_share"] = part / float(logs["loss"])


class Throughput(keras.callbacks.Callback):
    """Logs `images_per_second` of the training steps, without validation.

    Args:
        batch_size: Images a step, over all replicas.
    """

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def on_epoch_begin(self, epoch, logs=None):
        self.start = self.last = time.perf_counter()
        self.images = 0

    def on_train_batch_end(self, batch, logs=None):
        self.last, self.images = time.perf_counter(), (batch + 1) * self.batch_size

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None and self.last > self.start:
            logs["images_per_second"] = self.images / (self.last - self.start)


class StopOnDivergence(keras.callbacks.Callback):
    """Raises `InputError` at the end of an epoch whose losses are not finite.

    First in the list, it keeps every file of the epoch before.
    """

    def on_epoch_end(self, epoch, logs=None):
        lost = [n for n, value in (logs or {}).items() if not math.isfinite(float(value))]
        if lost:
            raise InputError(
                f"Training diverged in epoch {epoch + 1}: {', '.join(lost)} not finite; "
                f"lower the learning rate; what was saved after epoch {epoch} is kept."
            )


class RobustAccuracy(keras.callbacks.Callback):
    """Accuracy under a fixed attack after every epoch, as `val_<attack>_accuracy`.

    Where the trainer averages weights, that of the averaged student too, as
    `val_average_<attack>_accuracy`. Every image counts once, whatever its weight; one of
    weight 0 not at all. In the own `fit` of a plain model `EarlyStopping` and
    `ModelCheckpoint` need mode="max" to monitor it; `AdversarialTrainer.fit` tells them.

    Args:
        dataset: Validation images: arrays (x, y), a tf.data set of batches, ...
        attack: Name of an evaluation protocol such as "pgd10", or an attack.
        epsilon, norm: Threat model of a named attack.
        every: Epochs between evaluations.
        seed: Seed of the attack's starts: the same each time, so that epochs compare.

    Raises:
        InputError: Data without an end, or that can be read only once; at the start of a
            fit, images or labels that don't fit the model.
    """

    def __init__(
        self, dataset, attack="pgd10", epsilon=8 / 255, norm="linf", every=1, seed=0
    ):
        super().__init__()
        batching.check_readable_again(dataset)
        self.dataset, self.every = dataset, every
        self.attack = evaluation.protocol(attack, epsilon, norm)
        named = isinstance(attack, str)
        name = attack if named else type(self.attack.attack).__name__.lower()
        self.metric = f"val_{name}_accuracy"
        self.seed, self.engine = seed, None

    def set_model(self, model):
        super().set_model(model)
        student = getattr(model, "student", model)
        self.engine = evaluation.Engine(student)

    def on_train_begin(self, logs=None):
        self.engine.windows.check(self.dataset)

    def on_epoch_end(self, epoch, logs=None):
        if logs is None or (epoch + 1) % self.every:
            return
        logs[self.metric] = self._accuracy()
        average = getattr(self.model, "average", None)
        if average is not None and average.started:
            with average.swapped():
                logs[f"val_average_{self.metric[4:]}"] = self._accuracy()

    def _accuracy(self):
        robust = self.engine.correct(self.dataset, self.attack, seed=self.seed)
        return float(robust.mean())
