"""AdversarialTrainer: adversarial training as a `keras.Model`, on any replicas."""

import contextlib
from types import SimpleNamespace
from typing import Any

import keras
import tensorflow as tf

from vfd_tf import losses
from vfd_tf.attacks import PGD
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract, network, precision, projection
from vfd_tf.training import checks, choices, roles, view_norms
from vfd_tf.training.devices import replicas
from vfd_tf.training.distillation import DISTILLATIONS, Distillation
from vfd_tf.training.learned import Learning
from vfd_tf.training.methods import METHODS, Method
from vfd_tf.training.optimizers import SGD
from vfd_tf.training.options import TrainingOptions
from vfd_tf.training.saving.divergence import Watch
from vfd_tf.training.step import Step, weighted
from vfd_tf.training.trainable import Trainable
from vfd_tf.training.weights.averaging import WeightAverage
from vfd_tf.training.weights.loss_scaling import LossScaling, put_back, unless
from vfd_tf.types import Tensor, Terms


class AdversarialTrainer(Trainable):
    """A classifier in adversarial training: compile, fit, then ship `trainer.student`.

        trainer = AdversarialTrainer(model, "trades", "pgd10", "vfd", teacher=vanilla)
        trainer.compile("adam")
        trainer.fit(x, y, epochs=10)

    Args:
        student: The model to train: a network of `vfd_tf.architectures` or any Keras
            classifier, float32 images in [0, 1] -> logits.
        method: A method or its name (`vfd_tf.methods.METHODS`).
        attack: What makes the adversarial examples, or its name ("pgd7", "n-fgsm");
            default PGD-10, L-inf 8/255.
        distillation: A distillation or its name; default none.
        teacher: Frozen vanilla network, where method or distillation `needs` one.
        robust_teacher: Frozen robust network, where the distillation `needs` one.
        partner: Network trained jointly, where the distillation `needs` one.
        seed: With the step and the position in the global batch, decides all noise.
        options: `TrainingOptions`: AWP, averages of weights, clipping, label smoothing, ...

    Build it, and compile it, inside the scope of the strategy that trains it.

    Raises:
        InputError: A network that is missing, doesn't fit, or is the student itself.
    """

    def __init__(
        self,
        student: keras.Model,
        method: Method | str = "trades",
        attack: Any = None,
        distillation: Distillation | str = "none",
        teacher: keras.Model | None = None,
        robust_teacher: keras.Model | None = None,
        partner: keras.Model | None = None,
        seed: int = 0,
        options: TrainingOptions | None = None,
        name: str = "adversarial_trainer",
    ):
        super().__init__(name=name)
        self.method = choices.chosen(METHODS, method, Method, "method")
        self.distillation = choices.chosen(
            DISTILLATIONS, distillation, Distillation, "distillation"
        )
        self.attack = choices.training_attack(PGD() if attack is None else attack)
        if self.method.adversarial:
            choices.refuse_no_attack(self.attack)
        self.options, self.seed = options or TrainingOptions(), int(seed)
        precision.warn_of_hardware(self.options.precision)
        given = {"teacher": teacher, "robust_teacher": robust_teacher, "partner": partner}
        # Frozen networks are kept out of Keras's tracking: no weights of theirs in
        # checkpoints, optimiser or `trainable_variables`, and no flag of theirs changed.
        networks = roles.assemble(student, given, self.method, self.distillation)
        parts = self.method, self.distillation
        siblings, norms = view_norms.siblings(networks["student"], *parts, self.options)
        self._untracked = SimpleNamespace(networks=networks, siblings=siblings, trackers={})
        self.student = network.classifier(student)
        self.num_classes = contract.classes_of(self.student)
        # Trained with the student, not shipped with it.
        self.projections = projection.projections(networks["student"])
        self.view_norms = norms
        if "partner" in self.distillation.needs:
            self.partner = network.classifier(partner)
        self._create_state()
        self.built = True

    def _create_state(self):
        weights = choices.weights(self.method, self.distillation, self.options)
        # What a schedule may change from epoch to epoch, without tracing the step again.
        self.full_values = {f"{term}_weight": weight for term, weight in weights.items()}
        self.full_values |= {"attack_scale": 1.0, "awp_gamma": self.options.awp_gamma}
        own, constant = {"shape": (), "trainable": False}, keras.initializers.Constant
        self.scheduled = {
            name: self.add_weight(name=name, initializer=constant(value), **own)
            for name, value in self.full_values.items()
        }
        self.term_weights = {term: self.scheduled[f"{term}_weight"] for term in weights}
        own |= {"dtype": "int64", "aggregation": "only_first_replica"}
        self.iteration = self.add_weight(name="step", initializer="zeros", **own)
        outputs = getattr(self.network, "output", {})  # of a graph
        taps = self.method.taps(self.student), self.distillation.layers
        channels = [{k: outputs[k].shape[-1] for k in own if k in outputs} for own in taps]
        parts = self.method, self.distillation
        self.learning = Learning(parts, self.add_weight, self.num_classes, channels)
        self.heads = [head for own in self.learning.heads for head in own.values()]
        self.float16 = choices.trains_in_float16(self._trained(), self.options)
        skips, scales = self.options.on_nan == "skip", self.float16
        self.loss_scaling = None
        if scales or skips:
            self.loss_scaling = LossScaling(self.add_weight, scales)
        # In float16 gradients overflow all the time.
        self.watch = None if scales else Watch(self.add_weight, [*weights, "total"])
        self.average = None
        if self.options.average != "none":
            decay = self.options.ema_decay if self.options.average == "ema" else None
            self.average = WeightAverage(self.student, self.add_weight, decay)
        names = {term: f"{term}_loss" for term in weights} | {"total": "loss"}
        same = (*self.distillation.reports, "gradient_norm")
        same += ("adv_accuracy",) if self.method.adversarial else ()
        names |= {name: name for name in same}
        # Not in `metrics`: what only training knows must not show up in evaluation.
        self._untracked.trackers = {
            t: keras.metrics.Mean(name) for t, name in names.items()
        }

    def anneal(self, epoch: int, epochs: int) -> dict[str, float]:
        """Sets the running values that method and distillation change by the epoch.

        Returns:
            Running value -> what it is in this epoch.
        """
        own = choices.schedules(self.method, self.distillation, epochs, self.scheduled)
        for name, schedule in own.items():
            self.scheduled[name].assign(self.full_values[name] * schedule(epoch))
        return {name: float(self.scheduled[name].numpy()) for name in own}

    @property
    def fitted(self) -> keras.Model:
        """The model whose `fit` this is: its compiled metrics and options count."""
        return self

    @property
    def network(self) -> keras.Model:
        """The student with its layers: image -> {"logits": ..., layer k: ...}."""
        return self._untracked.networks["student"]

    @contextlib.contextmanager
    def averaged(self) -> Any:
        """Inside, the student has the averages of `TrainingOptions(average="ema")`."""
        if self.average is None:
            raise InputError(
                "Nothing is averaged: pass options=TrainingOptions(average='ema')."
            )
        if not self.average.started:
            raise InputError(
                "Nothing is averaged yet: fit first, for average='swa' with the callback "
                "StochasticWeightAverage."
            )
        with self.average.swapped():
            yield self.student

    @property
    def teacher(self) -> keras.Model | None:
        """The frozen vanilla network, or None where nothing needs one."""
        return self._untracked.networks.get("teacher")

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        return self.student(x, training=training)

    def compile(
        self,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Any = ("accuracy",),
        **kwargs,
    ) -> None:
        """As `keras.Model.compile`; the method is the loss.

        Args:
            optimizer: Default SGD, lr 0.1, momentum 0.9, coupled weight decay 5e-4.
            loss: None; sparse cross-entropy from logits is accepted and means the same.
            metrics: Computed on clean images, and labels as they come. `sample_weight`
                weighs `weighted_metrics`, as in Keras.

        With `gradient_accumulation_steps` averages of weights and `clip_norm` act once an
        update, on the accumulated gradient.
        """
        weighted = kwargs.pop("loss_weights", None) is not None
        if weighted or loss is not None and not checks.is_cross_entropy_from_logits(loss):
            raise InputError(
                "The method is the loss of an AdversarialTrainer; leave out loss=... or "
                "pass keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
            )
        metrics = list(metrics) if isinstance(metrics, tuple) else metrics
        optimizer = keras.optimizers.get(optimizer or SGD(0.1, 0.9, weight_decay=5e-4))
        if self.loss_scaling:
            optimizer = self.loss_scaling.around(optimizer)
        kwargs.setdefault("auto_scale_loss", False)  # the student decides, see `float16`
        super().compile(optimizer=optimizer, metrics=metrics, **kwargs)
        self._label_kind = None
        self._build_optimizer()

    def _build_optimizer(self):
        """Creates the optimizer's variables outside of the training step."""
        strategy = self.distribute_strategy
        if not self.trainable_variables:
            raise InputError(
                f"The student {self.student.name!r} has no weights to train: set "
                "trainable=True on it, or on some of its layers."
            )
        own = checks.inner(self.optimizer)
        if self._synchronized and self.options.attack_bn_mode == "train":
            raise InputError(
                "attack_bn_mode='train' takes BatchNorm's statistics inside the attack, "
                "where replicas can't add them up: pass sync_batch_norm=False too "
                "(--nosync_batch_norm), or train on one device."
            )
        checks.check_optimizer(own, strategy)
        self._clips = self.options.clip_norm is not None
        if self._clips and own.gradient_accumulation_steps:
            checks.check_clips_nothing(own)
            own.global_clipnorm = self.options.clip_norm  # acts on what is accumulated
            self._clips = False
        with strategy.scope():
            self.optimizer.build(self.trainable_variables)

    def train_step(self, data: Any) -> Terms:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        given, y, weight = y, contract.labels(y), contract.weights(weight)
        x = tf.cast(x, keras.config.floatx())
        x = contract.asserted(x, y, self.num_classes)
        step, seeds = self._make_step(), self._seeds(tf.shape(x)[0])
        finite, scaling = None, self.loss_scaling
        state = scaling.state_of(self._trained()) if scaling else []
        gradients, terms, clean_logits = step(x, y, weight, seeds)
        watches = *self.method.watches, *self.distillation.watches
        watched = {name: terms.pop(name) for name in dict.fromkeys(watches)}
        gradients, terms["gradient_norm"] = self._clipped(gradients)
        if self.watch:
            sound = self.watch.look(self.iteration.value, terms, terms["gradient_norm"])
            if scaling:  # skips the step, too, where only a term is not finite
                gradients = unless(sound, gradients)
        replicas.average_statistics(self._trained())  # before averages take them
        if scaling:
            finite = scaling.settle(gradients, state)  # before averages take it, too
        self._apply(gradients)
        self.learning.after_step(y, clean_logits, {**terms, **watched}, finite)
        if scaling:
            clean_logits = tf.where(finite, clean_logits, tf.zeros_like(clean_logits))
        self.iteration.assign_add(1)
        counts = scaling.counts_of(self.fitted) if scaling else []
        self.fitted.compute_metrics(x, given, clean_logits, weight)
        put_back(counts, finite)
        self._track(terms, weight, finite)
        return self._training_logs()

    @contextlib.contextmanager
    def computing(self) -> Any:
        """Inside, networks compute as training does: their precision, BatchNorm's reach."""
        networks = [
            *self._untracked.networks.values(),
            *self._untracked.siblings.values(),
        ]
        with (
            precision.computing(networks, self.options.precision),
            replicas.synchronized(self._synchronized),
        ):
            yield

    @property
    def _synchronized(self):
        """The BatchNorm layers that see the batches of several replicas in training."""
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return []
        norms = replicas.batch_norms(self._trained())
        return [n for n in norms if n.synchronized or self.options.sync_batch_norm]

    def _make_step(self):
        count = self.distribute_strategy.num_replicas_in_sync
        networks = self._untracked.networks
        trained = (networks[role] for role in roles.TRAINED if role in networks)
        xla = _in_xla if self.fitted.jit_compile else lambda function: function
        return Step(
            *self.learning.bound(self.term_weights),
            self.attack,
            self.options,
            networks=networks,
            siblings=self._untracked.siblings,
            norms=self.view_norms if self.options.batch_norm_affine == "views" else [],
            trained=[*trained, *self._untracked.siblings.values(), *self.heads],
            model=self.student,
            variables=self.trainable_variables,
            scheduled=self.scheduled,
            term_weights=self.term_weights,
            float16=self.float16,
            # Gradients are summed over replicas.
            scale_loss=lambda loss: self.optimizer.scale_loss(loss / count),
            compiled_attack=xla,
            # XLA can't reach other replicas.
            compiled=(lambda function: function) if self._synchronized else xla,
            summed=replicas.summed,
        )

    def _seeds(self, count):
        """Seeds of this replica's examples: (seed, step, position in the global batch)."""
        return replicas.example_seeds(self.seed, self.iteration.value, count)

    def _trained(self):
        """The models that are trained: the student, siblings, heads, LBGAT's partner."""
        partner = getattr(self, "partner", None)
        others = *self._untracked.siblings.values(), *self.heads, partner
        return [self.student, *(model for model in others if model is not None)]

    def _clipped(self, gradients):
        """Gradients, clipped as a sum over replicas, and the norm of that sum before."""
        summed = replicas.summed(gradients)
        scale = self.optimizer.scale_loss(1.0)  # float16 training scales the loss
        dtype = keras.config.floatx()
        norm = tf.linalg.global_norm([tf.cast(g, dtype) for g in summed if g is not None])
        norm = norm / tf.cast(scale, dtype)
        factor = tf.ones_like(norm)
        if self._clips:
            factor = self.options.clip_norm / tf.maximum(norm, self.options.clip_norm)
        if self._clips or self.loss_scaling:  # float16: all replicas skip, or none
            # The optimizer sums over replicas once more.
            share = factor / self.distribute_strategy.num_replicas_in_sync
            gradients = [None if g is None else g * tf.cast(share, g.dtype) for g in summed]
        return gradients, norm

    def _apply(self, gradients):
        updates = tf.identity(self.optimizer.iterations)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        if self.average is not None and self.average.decay is not None:
            # No update while gradients are accumulated, or in a skipped float16 step.
            self.average.update(self.optimizer.iterations > updates)

    def _track(self, terms, weight, finite=None):
        """Updates the loss and its terms, and what is no part of it; not in skipped steps.

        `sample_weight` weighs a term as it weighs the loss, a mean over images.
        """
        for name, values in terms.items():
            own = None
            if name in self.term_weights:
                values = weighted(values, weight)
            if finite is not None:
                values = tf.where(finite, values, tf.zeros_like(values))
                own = tf.where(finite, tf.ones_like(values), tf.zeros_like(values))
            self._untracked.trackers[name].update_state(values, own)

    def _training_logs(self):
        """Metrics and losses of the epoch so far."""
        logs = self.fitted.get_metrics_result()
        if self.loss_scaling:
            logs |= self.loss_scaling.logs(self.optimizer)
        return {**logs, **{t.name: t.result() for t in self._untracked.trackers.values()}}

    def test_step(self, data: Any) -> Terms:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        weight = contract.weights(weight)
        x = contract.asserted(x, contract.labels(y), self.num_classes)
        logits = self.student(x, training=False)
        if weight is not None and self._fills_batches:
            real = ~tf.math.is_nan(weight)  # not `fit_data.FILLER`
            x, y, logits, weight = (v[real] for v in (x, y, logits, weight))
        loss = losses.cross_entropy(contract.labels(y), logits)
        self._loss_tracker.update_state(weighted(loss, weight))
        return self.compute_metrics(x, y, logits, weight)

    def reset_metrics(self) -> None:
        super().reset_metrics()
        for tracker in self._untracked.trackers.values():
            tracker.reset_state()


def _in_xla(function):
    return tf.function(function, jit_compile=True, autograph=False)
