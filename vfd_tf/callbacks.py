"""Callbacks: VFD with an annealed lambda, and robust accuracy after every epoch.

Both write into the epoch's logs, so put them before TensorBoard and ModelCheckpoint.
"""

import math

import keras

from vfd_tf import evaluation
from vfd_tf.distillation import VFD
from vfd_tf.part import InputError, Part, hyper, part
from vfd_tf.trainer import AdversarialTrainer

SHAPES = {
    "constant": lambda share: 1.0,
    "linear": lambda share: share,
    "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,
}


@part
class LambdaSchedule(Part):
    """Factor on lambda: rises from 0 to 1 over `warmup_epochs`, in a shape, then stays."""

    shape: str = hyper("constant", "shape of lambda's rise", choices=tuple(SHAPES))
    warmup_epochs: int = hyper(0, "epochs until lambda is reached", minimum=0)

    def __call__(self, epoch: int) -> float:
        share = min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0
        return SHAPES[self.shape](share)


class VFDCallback(keras.callbacks.Callback):
    """Vanilla Feature Distillation in `model.fit`.

    On an `AdversarialTrainer` with a `VFD` distillation it anneals lambda and logs
    `vfd_lambda` and `vfd_share`, VFD's share of the loss. Given a teacher, it also turns
    the own `fit` of any compiled functional model into VFD adversarial training, without
    a wrapper: for the length of that `fit`, and no longer, the training step is replaced.

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


def _restore(model):
    """Back to Keras's own training step."""
    vars(model).pop("make_train_function", None)
    model.train_function = None


class StopOnDivergence(keras.callbacks.Callback):
    """Raises `InputError` at the end of an epoch whose losses are not finite.

    First in the list, it keeps every file of the epoch before.
    """

    def on_epoch_end(self, epoch, logs=None):
        lost = [n for n, value in (logs or {}).items() if not math.isfinite(float(value))]
        if lost:
            raise InputError(
                f"Training diverged in epoch {epoch + 1}: {', '.join(lost)} not finite; "
                f"lower the learning rate. What was saved after epoch {epoch} is kept."
            )


class RobustAccuracy(keras.callbacks.Callback):
    """Accuracy under a fixed attack after every epoch, as `val_<attack>_accuracy`.

    Args:
        dataset: Validation images: arrays (x, y) or a tf.data set of batches.
        attack: Name of an evaluation protocol such as "pgd10", or an attack.
        epsilon, norm: Threat model of a named attack.
        every: Epochs between evaluations.
        seed: Seed of the attack's starts: the same each time, so that epochs compare.
    """

    def __init__(
        self, dataset, attack="pgd10", epsilon=8 / 255, norm="linf", every=1, seed=0
    ):
        super().__init__()
        self.dataset, self.every = dataset, every
        self.attack = evaluation.protocol(attack, epsilon, norm)
        name = attack if isinstance(attack, str) else type(attack).__name__.lower()
        self.metric = f"val_{name}_accuracy"
        self.seed, self.target = seed, None

    def set_model(self, model):
        super().set_model(model)
        student = getattr(model, "student", model)
        self.target = evaluation.Target(student)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None and (epoch + 1) % self.every == 0:
            robust = self.target.correct(self.dataset, self.attack, seed=self.seed)
            logs[self.metric] = float(robust.mean())
