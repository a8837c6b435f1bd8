"""Callbacks of an epoch: robust accuracy, schedules, averages, alarms, throughput."""

import functools
import time
from collections.abc import Callable
from typing import Any

import keras

from vfd_tf import evaluation
from vfd_tf.data import batching, fit_data
from vfd_tf.hyperparameters import InputError, choose
from vfd_tf.models import contract, precision
from vfd_tf.training import view_norms
from vfd_tf.training.callbacks.vfd_callback import shares
from vfd_tf.training.devices.cluster import Cluster
from vfd_tf.training.trainer import AdversarialTrainer


def _need_trainer(callback, model):
    if not isinstance(model, AdversarialTrainer):
        raise InputError(
            f"{type(callback).__name__} needs an AdversarialTrainer; wrap the model in one."
        )


class Anneal(keras.callbacks.Callback):
    """Multiplies a running value of an `AdversarialTrainer` by a schedule, and logs it.

    After the fit it stays as the last epoch had it.

    Args:
        name: "<term>_weight", a weight of eq. 6; "attack_scale", the factor on the
            attack's epsilon and step size; or "awp_gamma".
        schedule: epoch, from 0 -> factor, for example `LambdaSchedule("linear", 10)`.
    """

    def __init__(self, name: str, schedule: Callable):
        super().__init__()
        self.name, self.schedule = name, schedule

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        _need_trainer(self, model)
        choose(model.scheduled, self.name, "running value")

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        full = self.model.full_values[self.name]
        self.model.scheduled[self.name].assign(full * float(self.schedule(epoch)))

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        if logs is not None:
            logs[self.name] = float(self.model.scheduled[self.name].numpy())


class StochasticWeightAverage(keras.callbacks.Callback):
    """Takes an epoch's last weights into the average of `TrainingOptions(average="swa")`.

    The averaged BatchNorm statistics are then computed anew, as means over batches of
    training images, or of their adversarial examples for the adversarial set of BatchNorm
    by view. Izmailov et al. 2018, https://arxiv.org/abs/1803.05407

    Args:
        data: Clean training images: a data set of (x, y) batches, or arrays (x, y).
        start: Epochs before the average begins.
        batches: How many batches the statistics are computed on.
    """

    def __init__(self, data: Any, start: int, batches: int = 100):
        super().__init__()
        self.data, self.start, self.batches = data, start, batches

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        _need_trainer(self, model)
        if model.options.average != "swa":
            raise InputError(
                "StochasticWeightAverage needs an AdversarialTrainer with "
                "options=TrainingOptions(average='swa')."
            )
        self.data = fit_data.as_batches(self.data)
        x, y, _ = batching.first_batch(self.data)
        contract.check_batch(model.student, x, y, soft=True)

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        if epoch < self.start:
            return
        average = self.model.average
        average.update()
        view = functools.partial(view_norms.shipped, self.model)
        own = self.model.student, self.data, self.batches
        average.recompute_statistics(*own, view)


class CatastrophicOverfitting(keras.callbacks.Callback):
    """Alarm: robust accuracy has fallen by more than `fall` below its best epoch.

    One-step training can lose all robustness within an epoch while its own training
    accuracy rises (Wong et al. 2020, https://arxiv.org/abs/2001.03994, who stop at a fall
    of 0.2). Warns once and logs `catastrophic_overfitting`, 0 or 1. Comes after
    `RobustAccuracy` in the list.

    Args:
        monitor: Name of the robust accuracy in the logs.
        fall: Fall that is alarming, as a share of all images.
        stop: Ends training at the alarm.
        best: The best accuracy before, of a fit that is continued.
    """

    remembered = "best", "best_epoch", "alarmed"  # of `Checkpoint`

    def __init__(
        self,
        monitor: str = "val_pgd10_accuracy",
        fall: float = 0.2,
        stop: bool = False,
        best: float = 0.0,
    ):
        super().__init__()
        self.monitor, self.fall, self.stop = monitor, fall, stop
        self.best_before = best
        self.on_train_begin()

    def on_train_begin(self, logs=None) -> None:
        self.best, self.best_epoch, self.alarmed = self.best_before, 0, False

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        if logs is None or self.monitor not in logs:
            return
        robust = float(logs[self.monitor])
        if robust >= self.best:
            self.best, self.best_epoch = robust, epoch + 1
        fallen = robust < self.best - self.fall
        logs["catastrophic_overfitting"] = float(fallen)
        if fallen and not self.alarmed:
            self.alarmed = True
            where = f" in epoch {self.best_epoch}" if self.best_epoch else ""
            print(
                f"\nCatastrophic overfitting in epoch {epoch + 1}: {self.monitor} fell "
                f"from {self.best:.3f}{where} to {robust:.3f}. Keep the student of then; "
                "train with more attack steps, n-fgsm, or a smaller epsilon or learning "
                "rate."
            )
        if fallen and self.stop:
            self.model.stop_training = True


class RobustOverfitting(keras.callbacks.Callback):
    """Warns when robust accuracy has left its best epoch behind.

    Robust accuracy on new images often falls from some epoch on, while that on training
    images still rises: Rice et al. 2020, https://arxiv.org/abs/2002.11569. Warns once for
    each best epoch, and names it. Comes after `RobustAccuracy` in the list.

    Args:
        monitor: Name of the robust accuracy in the logs.
        fall: How far below its best, as a share of all images.
        patience: In how many epochs in a row.
    """

    remembered = "best", "best_epoch", "below"  # of `Checkpoint`

    def __init__(
        self, monitor: str = "val_pgd10_accuracy", fall: float = 0.05, patience: int = 2
    ):
        super().__init__()
        self.monitor, self.fall, self.patience = monitor, fall, patience

    def on_train_begin(self, logs=None) -> None:
        self.best, self.best_epoch, self.below = 0.0, 0, 0

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        if logs is None or self.monitor not in logs:
            return
        robust = float(logs[self.monitor])
        if robust >= self.best:
            self.best, self.best_epoch, self.below = robust, epoch + 1, 0
        elif robust >= self.best - self.fall and self.below < self.patience:
            self.below = 0
        else:
            self.below += 1
            if self.below == self.patience:
                print(
                    f"\nRobust overfitting: {self.monitor} was {self.best:.3f} in epoch "
                    f"{self.best_epoch} and is {robust:.3f} in epoch {epoch + 1}. Go back "
                    f"to the student of epoch {self.best_epoch}, or stop there; an average "
                    "of weights, AWP or CutMix may delay it."
                )


class TermShares(keras.callbacks.Callback):
    """Logs `<term>_share`: each weighted term of eq. 6 as a share of the loss."""

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        _need_trainer(self, model)

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        if logs:
            logs |= shares(self.model, logs, self.model.term_weights)


class Throughput(keras.callbacks.Callback):
    """Logs `images_per_second` of the training steps, without validation.

    Args:
        batch_size: Images a step, over all replicas.
    """

    def __init__(self, batch_size: int):
        super().__init__()
        self.batch_size = batch_size

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        self.start = self.last = time.perf_counter()
        self.images = self.behind = 0

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        self.last = time.perf_counter()
        if getattr(self.model.train_function, "passing", False):  # of a fit that goes on
            self.start, self.behind = self.last, batch + 1
        self.images = (batch + 1 - self.behind) * self.batch_size

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        if logs is not None and self.last > self.start:
            logs["images_per_second"] = self.images / (self.last - self.start)


class RobustAccuracy(keras.callbacks.Callback):
    """Accuracy under a fixed attack after every epoch, as `val_<attack>_accuracy`.

        trainer.fit(x, y, callbacks=[RobustAccuracy((x_val, y_val), "pgd10")])

    Where the trainer averages weights, that of the averaged student too, as
    `val_average_<attack>_accuracy`. Examples are made in the precision of the trainer's
    options, for a plain model in float32, and count as float32 sees them; replicas and
    workers share the images. Every image counts once, whatever its weight; one of weight 0
    not at all.

    "autoattack-quick", APGD-CE and then APGD-T at 3 classes, is what comes near AutoAttack
    at a price that an epoch can pay on a few hundred images: some 400 gradients of each
    that stays robust, where "pgd10" takes 10.

    In the own `fit` of a plain model `EarlyStopping` and `ModelCheckpoint` need mode="max"
    to monitor it; `AdversarialTrainer.fit` tells them.

    Args:
        dataset: Validation images: arrays (x, y), a tf.data set of batches, ...
        attack: Name of an evaluation protocol such as "pgd10", or an attack.
        epsilon, norm: Threat model of a named attack.
        every: Epochs between evaluations.
        images: The first so many images alone; default: all.
        seed: Seed of the attack's starts: the same each time, so that epochs compare.

    Raises:
        InputError: Data without an end, or that can be read only once; at the start of a
            fit, images or labels that don't fit the model, or a model in 16 bits that no
            float32 copy can be made of.
    """

    def __init__(
        self,
        dataset: Any,
        attack: Any = "pgd10",
        epsilon: float = 8 / 255,
        norm: str = "linf",
        every: int = 1,
        seed: int = 0,
        images: int | None = None,
    ):
        super().__init__()
        batching.check_readable_again(dataset)
        if images is not None:
            dataset = batching.first_images(dataset, images)
        self.dataset, self.every = dataset, every
        self.attack = evaluation.protocol(attack, epsilon, norm)
        named = isinstance(attack, str)
        name = attack if named else type(self.attack.attack).__name__.lower()
        self.metric = f"val_{name}_accuracy"
        self.seed, self.engine = seed, None

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        student = getattr(model, "student", model)
        trains = isinstance(model, AdversarialTrainer)
        craft = model.options.precision if trains else "float32"
        self.cluster = Cluster(model.distribute_strategy)
        devices, self.student = self.cluster.devices, student
        with model.distribute_strategy.scope():
            self.judged = precision.in_float32(student)
        self.engine = evaluation.Engine(self.judged, craft=craft, devices=devices)

    def on_train_begin(self, logs=None) -> None:
        self.engine.windows.check(self.dataset)

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        if logs is None or (epoch + 1) % self.every:
            return
        logs[self.metric] = self._accuracy()
        average = getattr(self.model, "average", None)
        if average is not None and average.started:
            with average.swapped():
                logs[f"val_average_{self.metric[4:]}"] = self._accuracy()

    def _accuracy(self):
        if self.judged is not self.student:
            self.judged.set_weights(self.student.get_weights())
        share = self.cluster.share(self.dataset)
        robust = self.engine.correct(share, self.attack, seed=self.seed)
        hits, images = self.cluster.sum([robust.sum(), len(robust)])
        return float(hits) / float(images)
