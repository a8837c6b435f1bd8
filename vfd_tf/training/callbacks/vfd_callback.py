"""VFDCallback: Vanilla Feature Distillation in the `fit` of a trainer or of any model."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import keras

from vfd_tf.hyperparameters import InputError
from vfd_tf.training import checks
from vfd_tf.training.distillation import VFD
from vfd_tf.training.own_schedules import OwnSchedules
from vfd_tf.training.saving.divergence import StopOnDivergence
from vfd_tf.training.trainer import AdversarialTrainer


class GuestTrainer(AdversarialTrainer):
    """Runs its training step inside another model's `fit`.

    The model is the student: its optimizer, compiled metrics and options take the place
    of the trainer's own.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Apart from Keras's tracking: the model is the student already.
        self._host = SimpleNamespace(model=None, compiled_with=())

    @property
    def fitted(self) -> keras.Model:
        return self if self._host.model is None else self._host.model

    def enter(self, model: keras.Model) -> None:
        """Prepares for the `fit` of a model whose weights are the student's."""
        self._refuse_optimizer(model)
        names = "optimizer", "_compile_metrics", "run_eagerly", "jit_compile"
        now = tuple(getattr(model, name) for name in names)
        same = zip(self._host.compiled_with, now, strict=False)
        if self._host.model is not model or any(a is not b for a, b in same):
            self.train_function = None
        self._host.model, self._host.compiled_with = model, now
        self.optimizer = model.optimizer
        self._build_optimizer()

    def _refuse_optimizer(self, model):
        """Raises `InputError` for one that knows the weights of the model alone.

        And for one that scales no loss where the model computes in float16.
        """
        scales = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        if self.float16 and not scales:
            raise InputError(
                f"The model {model.name!r} computes in float16: compile it with "
                "keras.optimizers.LossScaleOptimizer(optimizer), or build it in float32."
            )
        own = {id(v) for v in self.trainable_variables} - {id(v) for v in model.variables}
        known = model.optimizer is getattr(self, "optimizer", None)
        if own and model.optimizer.built and not known:
            raise InputError(
                f"{type(self.method).__name__} trains more than the model, which its "
                "optimizer, in use by now, doesn't know: compile the model again."
            )


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
        teacher: keras.Model | None = None,
        layer: str | None = None,
        lambda_: float | None = None,
        method: Any = None,
        attack: Any = None,
        schedule: Callable | None = None,
        seed: int = 0,
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
        self.teacher, self.schedule = teacher, schedule
        self.trainer = None
        self.companions = StopOnDivergence(), OwnSchedules()  # as of a trainer's own fit

    def set_model(self, model: keras.Model) -> None:
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
        if loss is not None and not checks.is_cross_entropy_from_logits(loss):
            raise InputError(
                "VFDCallback trains with the losses of its method instead of the model's "
                "own: compile with loss=keras.losses.SparseCategoricalCrossentropy("
                "from_logits=True), or CategoricalCrossentropy; for label smoothing use "
                "AdversarialTrainer with TrainingOptions(label_smoothing=...)."
            )
        if self.trainer is None or self.trainer.student is not model:
            with model.distribute_strategy.scope():
                self.trainer = GuestTrainer(
                    model,
                    distillation=self.distillation,
                    teacher=self.teacher,
                    **self.options,
                )
        self.trainer.enter(model)

        def adversarial(force=False):
            model.make_train_function = stock
            model.train_function = self.trainer.make_train_function()

        def stock(force=False):
            _restore(model)
            model.make_train_function(force=True)

        model.make_train_function = adversarial

    def _tell(self, event, *args):
        """Tells the companions of a guest; those of a trainer are in its own fit."""
        if self.trainer is not self.model:
            for companion in self.companions:
                getattr(companion, event)(*args)

    def on_train_begin(self, logs=None) -> None:
        self._tell("set_model", self.trainer)
        self._tell("set_params", self.params)
        self._tell("on_train_begin", logs)
        if self.schedule is None:
            self.trainer.term_weights["vfd"].assign(self.full_lambda)
        if self.trainer is not self.model and self.params.get("verbose"):
            self.trainer.say_layers()

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        self._tell("on_epoch_begin", epoch, logs)
        if self.schedule is not None:  # else an `Anneal` of the user may set it
            value = self.full_lambda * float(self.schedule(epoch))
            self.trainer.term_weights["vfd"].assign(value)
        if self.trainer is not self.model:
            self.trainer.reset_metrics()

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        self._tell("on_train_batch_end", batch, logs)

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        self._tell("on_epoch_end", epoch, logs)
        if logs is None:
            return
        logs["vfd_lambda"] = float(self.trainer.term_weights["vfd"].numpy())
        logs |= shares(self.trainer, logs, ("vfd",))

    def on_train_end(self, logs=None) -> None:
        if self.trainer is not self.model:
            _restore(self.model)


def shares(trainer: AdversarialTrainer, logs: dict, terms: Iterable[str]) -> dict:
    """`<term>_share`: weighted terms of eq. 6 as shares of the loss; {} without one."""
    if not logs.get("loss"):
        return {}
    weights = {term: float(trainer.term_weights[term].numpy()) for term in terms}
    return {
        f"{term}_share": weight * float(logs[f"{term}_loss"]) / float(logs["loss"])
        for term, weight in weights.items()
    }


def _restore(model):
    """Back to Keras's own training step."""
    vars(model).pop("make_train_function", None)
    model.train_function = None
