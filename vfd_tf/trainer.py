"""AdversarialTrainer: the one place with tapes, optimisers and replicas.

Eq. 6 of https://arxiv.org/abs/2206.02158 is the one weighted sum in `_gradients`.
"""

import warnings
from types import SimpleNamespace

import keras
import tensorflow as tf

from vfd_tf import inputs, losses, network, noise
from vfd_tf.attacks import PGD
from vfd_tf.dispatch import Dispatch, shares
from vfd_tf.distillation import DISTILLATIONS
from vfd_tf.methods import METHODS
from vfd_tf.network import Forward
from vfd_tf.optimizers import SGD
from vfd_tf.part import InputError, choose

_ROLES = {
    "teacher": "a vanilla teacher (teacher=..., trained on clean images)",
    "robust_teacher": "a robust teacher (robust_teacher=..., trained with pgd-at)",
    "partner": "a partner network (partner=..., trained jointly from scratch)",
}


class AdversarialTrainer(keras.Model):
    """A classifier in adversarial training: compile, fit, then ship `trainer.student`.

    Args:
        student: The model to train: a network of `vfd_tf.architectures` or any Keras
            classifier, float32 images in [0, 1] -> logits.
        method: A method or its name (`vfd_tf.methods.METHODS`).
        attack: What makes the adversarial examples; default PGD-10, L-inf 8/255.
        distillation: A distillation or its name; default none.
        teacher: Frozen vanilla network (VFD, KD, BGAT, HAT).
        robust_teacher: Frozen robust network (KD).
        partner: Network trained jointly (LBGAT).
        seed: With the step and the position in the global batch, decides all noise.
        attack_bn_mode: "eval" (moving statistics) or "train" (batch statistics, which
            then leave the moving ones as they were) inside the attack.

    Build it, and compile it, inside the scope of the strategy that trains it.

    Raises:
        InputError: A network that is missing, doesn't fit, or is the student itself.
    """

    def __init__(
        self,
        student,
        method="trades",
        attack=None,
        distillation="none",
        teacher=None,
        robust_teacher=None,
        partner=None,
        seed=0,
        attack_bn_mode="eval",
        name="adversarial_trainer",
    ):
        super().__init__(name=name)
        self.method = _part(METHODS, method, "method")
        self.distillation = _part(DISTILLATIONS, distillation, "distillation")
        self.attack = PGD() if attack is None else attack
        if attack_bn_mode not in ("eval", "train"):
            raise InputError(
                f"attack_bn_mode must be 'eval' or 'train'; got {attack_bn_mode!r}."
            )
        self.attack_bn_mode, self.seed = attack_bn_mode, int(seed)
        given = {
            "teacher": teacher,
            "robust_teacher": robust_teacher,
            "partner": partner,
        }
        # Frozen networks are kept out of Keras's tracking: no weights of theirs in
        # checkpoints, optimiser or `trainable_variables`, and no flag of theirs changed.
        self._roles = SimpleNamespace(host=self, **self._networks(student, given))
        self.student = network.classifier(student)
        if "partner" in self.distillation.needs:
            self.partner = network.classifier(partner)
        self._create_state()
        self.built = True

    def _networks(self, student, given):
        """The networks with layer k tapped, checked against each other."""
        layers = self.distillation.layers
        networks = {"student": network.tap(student, layers)}
        inputs.refuse_probabilities(student)
        inputs.warn_of_onednn(student)
        if not student.built:
            raise InputError(
                f"The model {student.name!r} has no weights yet: call it once on a batch."
            )
        needs = dict.fromkeys((*self.method.needs, *self.distillation.needs))
        for role, model in given.items():
            if model is not None and role not in needs:
                warnings.warn(f"{role}=... is not used by {self._pair}.", stacklevel=3)
        for role in needs:
            if given[role] is None:
                raise InputError(f"{self._pair} needs {_ROLES[role]}.")
            inputs.refuse_probabilities(given[role])
            networks[role] = network.tap(given[role], layers)
            inputs.check_fit(networks["student"], networks[role], role, ("logits", *layers))
        return networks

    def _create_state(self):
        weights = self.distillation.reweigh(self.method.weights, self.method.hard_label)
        self.term_weights = {
            term: self.add_weight(
                name=f"{term}_weight",
                shape=(),
                initializer=keras.initializers.Constant(weight),
                trainable=False,
            )
            for term, weight in weights.items()
        }
        self.step = self.add_weight(
            name="step",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        trackers = {term: keras.metrics.Mean(f"{term}_loss") for term in weights}
        trackers["total"] = keras.metrics.Mean("loss")
        if self.method.adversarial:
            trackers["adv_accuracy"] = keras.metrics.Mean("adv_accuracy")
        # Not in `metrics`: what only training knows must not show up in evaluation.
        self._roles.trackers = trackers

    @property
    def _pair(self) -> str:
        return f"{type(self.method).__name__} with {type(self.distillation).__name__}"

    @property
    def network(self) -> keras.Model:
        """The student with its layers: image -> {"logits": ..., layer k: ...}."""
        return self._roles.student

    @property
    def teacher(self) -> keras.Model | None:
        """The frozen vanilla network, or None where nothing needs one."""
        return getattr(self._roles, "teacher", None)

    def call(self, x, training=None):
        return self.student(x, training=training)

    def compile(self, optimizer=None, loss=None, metrics=("accuracy",), **kwargs):
        """As `keras.Model.compile`; the method is the loss.

        Args:
            optimizer: Default SGD, lr 0.1, momentum 0.9, coupled weight decay 5e-4.
            loss: None; sparse cross-entropy from logits is accepted and means the same.
            metrics: Computed on clean images and labels, weighted by `sample_weight`.
        """
        if loss is not None and not _is_cross_entropy_from_logits(loss):
            raise InputError(
                "The method is the loss of an AdversarialTrainer; leave out loss=... or "
                "pass keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
            )
        weighted = [*(metrics or ()), *(kwargs.pop("weighted_metrics", None) or ())]
        optimizer = optimizer or SGD(0.1, 0.9, weight_decay=5e-4)
        super().compile(optimizer=optimizer, weighted_metrics=weighted, **kwargs)
        inputs.check_clipping(self.optimizer, self.distribute_strategy)
        self._build_step()

    def serve(self, model):
        """Makes `train_step` train `model`, whose weights are the student's.

        The model's optimizer, compiled metrics and options take the place of this
        trainer's own: `VFDCallback` inside the `fit` of a plain model.
        """
        if self._roles.host is not model or self.optimizer is not model.optimizer:
            self.train_function = None
        self._roles.host, self.optimizer = model, model.optimizer
        inputs.check_clipping(self.optimizer, self.distribute_strategy)
        self._build_step()

    def _build_step(self):
        """Creates the variables of optimizer and metrics outside of the training step."""
        with self.distribute_strategy.scope():
            self.optimizer.build(self.trainable_variables)
            metrics = self._roles.host._compile_metrics
            if (
                metrics is not None
                and not metrics.built
                and hasattr(self.network, "output")
            ):
                classes = self.network.output["logits"].shape[-1]
                metrics.build(tf.zeros([1], tf.int32), tf.zeros([1, classes]))

    def fit(self, x=None, y=None, batch_size=None, epochs=1, **kwargs):
        """As `keras.Model.fit`; checks the first batch and drops ragged ones.

        `sample_weight` weighs every term of the loss. A batch of another size than the
        first one (the rest of an epoch) is dropped, so that every replica always has the
        same share.
        """
        if kwargs.get("class_weight") is not None:
            raise InputError(
                "class_weight is not supported: pass sample_weight, one weight an image."
            )
        inputs.check_callbacks(kwargs.get("callbacks"))
        weight, split = kwargs.pop("sample_weight", None), kwargs.pop("validation_split", 0)
        if split:
            (x, y, weight), kwargs["validation_data"] = inputs.split(x, y, weight, split)
        shuffle_seed = self.seed if kwargs.get("shuffle", True) else None
        data = inputs.as_dataset(x, y, weight, batch_size, shuffle_seed)
        if isinstance(data, tf.data.Dataset):
            kwargs["shuffle"] = False  # a data set has its own order
        validation = kwargs.pop("validation_data", None)
        if validation is not None:
            size = kwargs.pop("validation_batch_size", None) or batch_size
            kwargs["validation_data"] = self._validation(validation, size)
        return super().fit(data, epochs=epochs, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, verbose="auto", **kwargs):
        """As `keras.Model.evaluate`: clean cross-entropy and metrics, exact on any rest."""
        weight, data = kwargs.pop("sample_weight", None), x
        if not kwargs.get("_use_cached_eval_dataset"):
            data = self._validation((x, y, weight), batch_size)
        return super().evaluate(data, verbose=verbose, **kwargs)

    def save(self, filepath, overwrite=True, **kwargs):
        """Saves the student, a plain classifier; so does `ModelCheckpoint`."""
        self.student.save(filepath, overwrite=overwrite, **kwargs)

    def _validation(self, data, batch_size):
        if isinstance(data, (tuple, list)):
            data = inputs.as_dataset(*data, batch_size=batch_size)
        if not isinstance(data, tf.data.Dataset):
            return data
        return inputs.padded_batches(data)

    def train_step(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        x, y = tf.cast(x, keras.config.floatx()), tf.cast(tf.reshape(y, [-1]), tf.int32)
        step = self._gradients_compiled if self._roles.host.jit_compile else self._gradients
        gradients, terms, clean_logits = step(x, y, weight, self._seeds(tf.shape(x)[0]))
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        self._average_statistics()
        self.step.assign_add(1)
        return self._report(x, y, weight, terms, clean_logits)

    def _seeds(self, count):
        """Seeds of this replica's examples: (seed, step, position in the global batch)."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        position = tf.range(count) + tf.cast(replica, tf.int32) * count
        return noise.example_seeds(self.seed, self.step.value, position)

    def _gradients(self, x, y, weight, seeds):
        """Attack, then eq. 6: gradients, per-example terms and clean logits of a batch."""
        x_adv = self._adversary(x, y, seeds)
        views = self.method.views(x, x_adv)
        reads = {*self.method.reads, *self.distillation.reads}
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            student = Forward(self.network, views, training=True)
            for view in views:  # the order in which BatchNorm sees them: clean first
                if view in reads:
                    student[view]
            others = {
                role: Forward(getattr(self._roles, role, None), views, tape=tape)
                for role in ("teacher", "robust_teacher")
            }
            partner = Forward(getattr(self._roles, "partner", None), views, training=True)
            terms = self.method.losses(y, student, others["teacher"])
            terms = {
                **terms,
                **self.distillation.losses(y, student, partner=partner, **others),
            }
            terms = {term: terms[term] for term in self.term_weights}
            total = sum(self.term_weights[term] * terms[term] for term in terms)
            # Regularisers of the user's own layers join the loss as they do in Keras.
            terms["total"] = _weighted(total, weight) + sum(self.student.losses)
            loss = tf.reduce_mean(terms["total"])
            # Gradients are summed over replicas.
            replicas = self.distribute_strategy.num_replicas_in_sync
            loss = self.optimizer.scale_loss(loss / replicas)
        gradients = tape.gradient(loss, variables)
        if "clean" not in student and self.method.adversarial:
            student["clean"] = self.network(x, training=False)
        if self.method.adversarial:
            hit = tf.argmax(student["adv"]["logits"], -1, output_type=y.dtype) == y
            terms["adv_accuracy"] = tf.cast(hit, x.dtype)
        return gradients, terms, student["clean"]["logits"]

    @tf.function(jit_compile=True, autograph=False)
    def _gradients_compiled(self, *batch):
        return self._gradients(*batch)

    def _adversary(self, x, y, seeds):
        training = self.attack_bn_mode == "train"
        statistics = _statistics(self.network) if training else []
        saved = [tf.identity(variable) for variable in statistics]

        def logits_fn(images):
            return self.network(images, training=training)["logits"]

        x_adv = self.method.adversary(self.attack, logits_fn, x, y, seeds=seeds)
        for variable, value in zip(statistics, saved, strict=True):
            variable.assign(value)
        return x_adv

    def _average_statistics(self):
        """Keeps BatchNorm's moving statistics equal on all replicas: their mean."""
        trained = self.student, getattr(self, "partner", None)
        statistics = [v for model in trained if model for v in _statistics(model)]
        if self.distribute_strategy.num_replicas_in_sync == 1 or not statistics:
            return
        context = tf.distribute.get_replica_context()
        means = context.all_reduce("MEAN", [tf.identity(v) for v in statistics])
        for variable, mean in zip(statistics, means, strict=True):
            variable.assign(mean)

    def _report(self, x, y, weight, terms, clean_logits):
        """Logs of the epoch so far: loss, <term>_loss unweighted, metrics."""
        trackers = self._roles.trackers
        logs = self._roles.host.compute_metrics(x, y, clean_logits, weight)
        for name, values in terms.items():
            # The total is weighted already: a mean over images, not over weights.
            trackers[name].update_state(values, None if name == "total" else weight)
        return {**logs, **{t.name: t.result() for t in trackers.values()}}

    def test_step(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        y = tf.cast(tf.reshape(y, [-1]), tf.int32)
        logits = self.student(x, training=False)
        self._loss_tracker.update_state(losses.cross_entropy(y, logits), weight)
        return self.compute_metrics(x, y, logits, weight)

    def reset_metrics(self):
        super().reset_metrics()
        for tracker in self._roles.trackers.values():
            tracker.reset_state()

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Everything is built by `compile`; Keras's way fails with several workers."""

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self.train_function = self._distributed(self.train_step, drop_ragged=True)
        self.train_function.restart()
        return self.train_function

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            self.test_function = self._distributed(self.test_step)
        self.test_function.restart()
        return self.test_function

    def _distributed(self, step, drop_ragged=False):
        strategy = self.distribute_strategy
        return Dispatch(step, strategy, self._roles.host, self._check, drop_ragged)

    def _check(self, data):
        """Holds the first batch to the input contract."""
        strategy = self.distribute_strategy
        parts = shares(strategy, data)
        if len(set(parts)) > 1:
            raise InputError(
                f"A global batch of {sum(parts)} can't be shared equally by {len(parts)} "
                f"replicas; choose a multiple of {len(parts)}."
            )
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        x, y = (strategy.experimental_local_results(part)[0] for part in (x, y))
        inputs.check_batch(self.student, x, y)


def _part(table, value, axis):
    return choose(table, value, axis)() if isinstance(value, str) else value


def _is_cross_entropy_from_logits(loss) -> bool:
    return isinstance(loss, keras.losses.SparseCategoricalCrossentropy) and (
        loss.get_config().get("from_logits", False)
    )


def _statistics(model):
    """BatchNorm's moving statistics (and other floating non-trainable weights)."""
    return [v.value for v in model.non_trainable_variables if v.value.dtype.is_floating]


def _weighted(values, weight):
    return values if weight is None else values * tf.cast(weight, values.dtype)
