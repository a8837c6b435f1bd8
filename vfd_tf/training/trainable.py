"""Keras's face of a trainer: `fit`, `evaluate` and files; the step is `trainer`'s."""

import contextlib
import warnings

import keras
import tensorflow as tf

from vfd_tf.data import batching, fit_data
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract, network
from vfd_tf.progress import with_progress
from vfd_tf.training import checks
from vfd_tf.training.devices.cluster import Cluster
from vfd_tf.training.devices.dispatch import Dispatch, shares
from vfd_tf.training.devices.distributed_data import by_worker, distributed
from vfd_tf.training.own_schedules import OwnSchedules
from vfd_tf.training.saving import weights_file
from vfd_tf.training.saving.checkpoint import Checkpoint
from vfd_tf.training.saving.divergence import RolledBack, StopOnDivergence
from vfd_tf.training.weights.accumulation import check_divides

# A step of the user's own decides what it logs.
_STOCK_STEPS = ("AdversarialTrainer.train_step",)
_DATA_SETS = tf.data.Dataset, tf.distribute.DistributedDataset


class Trainable(keras.Model):
    """A model whose `fit` trains its `student`; what is saved is the student.

    Subclasses have `student`, `network`, `seed`, `iteration`, `distillation`, the networks
    of all roles, and the steps.
    """

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """As `keras.Model.fit`; checks the first batch and drops ragged ones.

        `sample_weight` weighs every term of the loss. Batches of another size than the
        usual one (the rest of an epoch) are dropped, and counted, so that every replica
        always has the same share. Arrays come in an order that depends on the seed and on
        the step at which an epoch begins. `verbose` shows a `ProgressBar`.
        """
        if class_weight is not None:
            raise InputError(
                "class_weight is not supported: pass sample_weight, one weight an image."
            )
        callbacks = checks.prepared_callbacks(callbacks, OwnSchedules())
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = fit_data.split(
                x, y, sample_weight, validation_split
            )
        if validation_data is not None:
            size = validation_batch_size or batch_size
            parts = validation_data
            if not isinstance(parts, (tuple, list)):
                parts = (validation_data,)
            if len(parts) > 3:
                raise InputError(
                    f"validation_data has {len(parts)} parts: pass (x, y), or with weights "
                    "(x, y, sample_weight)."
                )
            parts = (*parts, None, None)[:3]
            validation_data = self._validation(*parts, size, validation_steps)
        self._check_arrays(x, y)
        data, steps_per_epoch = fit_data.for_training(
            (x, y, sample_weight),
            batch_size,
            steps_per_epoch,
            shuffle,
            self.seed,
            network.batch_size_of(self.student),
            say=print if verbose else None,
        )
        self._check_validation(validation_data)
        strategy = self.distribute_strategy
        validation_data = distributed(strategy, validation_data)
        verbose = verbose if Cluster(strategy).chief else 0
        checkpoint = next((c for c in callbacks if isinstance(c, Checkpoint)), None)
        if verbose:
            self.say_layers()
            if checkpoint:
                checkpoint.say_places(hasattr(data, "begin"))
            callbacks = with_progress(callbacks, verbose)
        # One endless set, of which an epoch is so many steps.
        self._steps = steps_per_epoch if hasattr(data, "begin") else None
        history = self._fit(
            data,
            callbacks,
            checkpoint,
            epochs=epochs,
            verbose=0,
            validation_data=validation_data,
            shuffle=shuffle,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_freq=validation_freq,
        )
        self.train_function.say_dropped()
        return history

    def _fit(self, data, callbacks, checkpoint, **options):
        """Keras's fit, from the newest checkpoint on, where there is a `Checkpoint`."""
        checks.check_on_nan(self.options.on_nan, checkpoint)
        divergence = next(c for c in callbacks if isinstance(c, StopOnDivergence))
        divergence.tell(getattr(data, "index", None), checkpoint)
        around = checkpoint.around(callbacks) if checkpoint else contextlib.nullcontext()
        with contract.as_input_errors(), warnings.catch_warnings(), around:
            if options["steps_per_epoch"] is None:  # nothing is missing where a set ends
                warnings.filterwarnings("ignore", "Your input ran out of data")
            while True:
                begun = self._begun(data, checkpoint)
                first, epochs = options["initial_epoch"], options["epochs"]
                if checkpoint:
                    state = checkpoint.state
                    first = epochs if state.stopped else max(first, state.epoch)
                own = {**options, "initial_epoch": first, "callbacks": callbacks}
                own["shuffle"] = bool(own["shuffle"]) and not isinstance(begun, _DATA_SETS)
                try:
                    return super().fit(begun, **own)
                except RolledBack as lost:
                    checkpoint.roll_back(lost)

    def _begun(self, data, checkpoint):
        """Batches from where training stands; each replica gets its share."""
        strategy, seekable = self.distribute_strategy, hasattr(data, "begin")
        if checkpoint:
            checkpoint.restore(self, seekable)
        if not seekable:
            return distributed(strategy, data)

        def stands():
            return int(self.iteration.numpy())

        since, done = stands, 0
        if checkpoint:
            begun = checkpoint.state.since
            since, done = (lambda: begun), stands() - begun
        if self._replicas == 1:
            return data.begin(since, done)
        check_divides(data.batch_size, self._replicas, self.options.accumulate_steps)
        return by_worker(
            strategy, data.batch_size, lambda share: data.begin(since, done, share)
        )

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        **kwargs,
    ):
        """As `keras.Model.evaluate`: clean cross-entropy and metrics, exact on any rest."""
        if not kwargs.get("_use_cached_eval_dataset"):
            x = self._validation(x, y, sample_weight, batch_size, steps)
            x = distributed(self.distribute_strategy, x)
        with contract.as_input_errors(), warnings.catch_warnings():
            if steps is None:  # nothing is missing where a set ends that hasn't said when
                warnings.filterwarnings("ignore", "Your input ran out of data")
            return super().evaluate(
                x,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **kwargs,
            )

    def get_metrics_result(self):
        """As in Keras; {} in an epoch whose steps were all run before it was resumed."""
        metrics = self._compile_metrics
        built = metrics is None or metrics.built
        return super().get_metrics_result() if built else {}

    def say_layers(self):
        """Prints which layers a distillation reads, where it leaves the choice to us."""
        if "last" in self.distillation.layers and hasattr(self.network, "output"):
            size = "x".join(str(n) for n in self.network.output["last"].shape[1:])
            name = network.last(network.graph_of(self.student))
            print(f"Layer 'last' of the student is {name!r}, {size}.")

    def save(self, filepath, overwrite=True, **kwargs):
        """Saves the student, a plain classifier; so does `ModelCheckpoint`."""
        self.student.save(filepath, overwrite=overwrite, **kwargs)

    def save_weights(self, filepath, overwrite=True, **kwargs):
        """Saves weights that the student's own architecture loads.

        What else training has (optimizer, step, averages, partner) is in the file as well,
        for `load_weights` of a trainer.
        """
        self.student.save_weights(filepath, overwrite=overwrite, **kwargs)
        weights_file.add_state(filepath, self._others())

    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        """Loads the student's weights, and what `save_weights` of a trainer added."""
        self.student.load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
        weights_file.restore_state(filepath, self._others())

    def _others(self):
        """All variables of training but the student's weights."""
        shipped = {id(v) for v in self.student.weights}
        own = [v for v in self.weights if id(v) not in shipped]
        return [*own, *(self.optimizer.variables if self.compiled else ())]

    def export(self, filepath, *args, **kwargs):
        """Exports the student, see `keras.Model.export`."""
        self.student.export(filepath, *args, **kwargs)

    def get_config(self):
        """Refuses: a trainer is no classifier to be saved."""
        raise InputError(
            "An AdversarialTrainer is saved as its student: call trainer.save(path), or "
            "keras.saving.save_model(trainer.student, path)."
        )

    @property
    def _fills_batches(self) -> bool:
        """Whether validation comes in batches of one size, the last one filled up."""
        fixed = network.batch_size_of(self.student)
        return fixed is not None or self._replicas > 1

    def _validation(self, x, y=None, weight=None, batch_size=None, steps=None):
        replicas = self._replicas
        fixed = network.batch_size_of(self.student)
        self._check_arrays(x, y)
        return fit_data.for_validation(x, y, weight, batch_size, steps, replicas, fixed)

    _steps = _label_kind = None

    @property
    def _replicas(self):
        return self.distribute_strategy.num_replicas_in_sync

    def _check_validation(self, data):
        """Holds the first batch for validation to the input contract, where it can be read
        twice."""
        first = None
        if isinstance(data, tf.data.Dataset):
            first = batching.first_batch(data)
        elif isinstance(data, keras.utils.PyDataset):
            first = keras.utils.unpack_x_y_sample_weight(data[0])
        if first is None or isinstance(first[0], dict) or first[1] is None:
            return
        x, y, weight = first
        contract.check_batch(self.student, x, y, True, weight)
        self._check_kind(y)

    def _check_arrays(self, x, y):
        """Holds all images and labels to the contract where they are in memory."""
        if batching.is_arrays(x) and y is not None:
            x, y = batching.checked_arrays(x, y)
            contract.check_images(x)
            if self.num_classes is not None:
                contract.check_labels(y, self.num_classes, soft=True)

    def _check_kind(self, y):
        """Refuses labels of another kind than those that the metrics were built for."""
        kind = "distributions" if y.ndim == 2 and y.shape[-1] != 1 else "class indices"
        if self.fitted._compile_metrics is None:
            return
        if self._label_kind not in (None, kind):
            raise InputError(
                f"The labels are {self._label_kind} first and {kind} then, where metrics "
                "know one kind: pass training and validation alike, or compile again."
            )
        self._label_kind = kind

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Everything is built by `compile`; Keras's way fails with several workers."""

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self.train_function = self._distributed(
                self.train_step,
                self._training_logs,
                self._check_training,
                self.computing,
                one_size=True,
                own_logs=type(self).train_step.__qualname__ not in _STOCK_STEPS,
            )
        self.train_function.restart(self._steps)
        return self.train_function

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            self.test_function = self._distributed(
                self.test_step, self.get_metrics_result, self._check
            )
        self.test_function.restart()
        return self.test_function

    def _distributed(self, step, results, check, scope=contextlib.nullcontext, **options):
        own = self.distribute_strategy, self.fitted
        return Dispatch(step, results, *own, check, scope, **options)

    def _check_training(self, data):
        own, replicas = shares(self.distribute_strategy, data), self._replicas
        size = sum(own) * replicas // len(own)  # of all workers
        check_divides(size, replicas, self.options.accumulate_steps)
        x, y = self._check(data)
        for role in ("teacher", "robust_teacher"):
            if role in self._untracked.networks:
                checks.warn_of_chance(self._untracked.networks[role], role, x, y)

    def _check(self, data):
        """Holds the first batch to the input contract; builds metrics for its labels.

        Returns the images and labels of its first replica.
        """
        strategy = self.distribute_strategy
        parts = shares(strategy, data)
        if len(set(parts)) > 1:
            check_divides(sum(parts), len(parts), 1)
        parts = keras.utils.unpack_x_y_sample_weight(data)
        x, y, weight = (
            part if part is None else strategy.experimental_local_results(part)[0]
            for part in parts
        )
        if y is None or isinstance(x, dict):
            raise InputError("The data must be pairs (images, labels), or with weights.")
        self.num_classes = contract.check_batch(self.student, x, y, True, weight)
        self._check_kind(y)
        metrics = self.fitted._compile_metrics
        if metrics is not None and not metrics.built:
            logits = tf.zeros([len(y), self.num_classes])
            with strategy.scope():
                metrics.build(y, logits)
                # Some metrics make their variables in the first update, which replicas
                # can't; in this scope nothing else of it stays.
                with keras.StatelessScope():
                    metrics.update_state(y, logits)
        return x, y
