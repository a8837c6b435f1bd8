"""A classifier under evaluation: compiled attacks, run on what is still robust.

Images are worked through in windows. In each, an attack goes on for a few iterations with
all its images, in full batches, then leaves those whose fate is sealed behind.
"""

import keras
import numpy as np
import tensorflow as tf

from vfd_tf import noise
from vfd_tf.attacks.objectives import named
from vfd_tf.data.batching import arrays_of, batches, checked_batch_size
from vfd_tf.evaluation import sanity
from vfd_tf.evaluation.protocols import protocol
from vfd_tf.evaluation.windows import Progress, Window, is_correct, regrouped, take
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract, folding, network, precision

_STAGES = 1000  # streams of the stages of an ensemble, apart from those of restarts
_WINDOW_BYTES = 2**23  # of images; an attack's state is several times that


class Target:
    """A classifier under evaluation.

    Args:
        model: Classifier with logits; a dict with "logits", a subclassed model, ...
        batch_size: Images that go through the network at once: sets the memory.
        early_stop: Leave images as soon as their verdict is known. Without it all of them
            go through all iterations, to the same verdicts.
        bounds: The range of images that the model takes; attacks work in [0, 1].
        craft: Another network to craft the examples with: in another precision, or a
            surrogate.
        strict: Refuse probabilities and images outside the bounds; else `complaints`
            holds what is wrong with them.
    """

    def __init__(
        self,
        model,
        batch_size=128,
        early_stop=True,
        bounds=(0.0, 1.0),
        craft=None,
        strict=True,
    ):
        self.network = network.tap(model)
        self.model = network.classifier(model)
        self.fixed_size = network.batch_size_of(self.model)
        batch_size = 128 if batch_size is None else batch_size
        batch_size = self.fixed_size or checked_batch_size(batch_size)
        self.craft = self.network if craft is None else network.tap(craft)
        self.batch_size, self.early_stop = batch_size, early_stop
        self.bounds = contract.checked_bounds(bounds)
        self.dtype = precision.dtype_of(self.model)
        self.watch = None  # called with (step, steps) as a run goes on
        self.layout = ""  # how the model takes images, see `outside`
        self.undefined = 0  # how often an image had logits that predict no class
        self.strict, self.complaints, self._compiled = strict, [], {}

    def correct(self, data, attack=None, seed=0, batch_size=None, progress=None):
        """Which images are classified correctly, and under `attack`: bool [n].

        Args:
            data: (x, y), `Images` or a tf.data set of batches.
            attack: A protocol, or what `protocol` makes one of; None: no attack.
            seed: With the position in the data, decides the draws of an image.
            batch_size: Instead of that of the constructor.
            progress: Called with the images of a window and the accuracy so far.
        """
        self.batch_size = self.fixed_size or batch_size or self.batch_size
        attack = None if attack is None else protocol(attack)
        verdicts = []
        for window in self.windows(data, seed):
            verdict = window.correct
            if attack is not None:
                verdict = self.attacked(attack, window).robust
            verdicts.append(verdict)
            if progress:
                progress(len(verdict), float(np.concatenate(verdicts).mean()))
        return np.concatenate(verdicts)

    def check(self, data) -> None:
        """Raises `InputError` for what `windows` would refuse in the first batch."""
        first = next(batches(data, self.batch_size), None)
        if first is None:
            raise InputError("The data set is empty.")
        window = next(self.windows(first))
        self._check_whole(data, window.clean_logits.shape[-1])

    def _check_whole(self, data, classes):
        """Holds all images and labels to the contract where they are in memory."""
        arrays = arrays_of(data)
        if arrays is not None:
            self._holds(contract.check_images, self.inside(arrays[0]))
            contract.class_indices(arrays[1], classes)

    def windows(self, data, seed=0):
        """The `Window`s of a data set, in order; refuses bad input before it attacks.

        Of what isn't in memory as a whole, that in a later window when it comes.
        """
        position, shape = 0, None
        for x, y in regrouped(batches(data, self.batch_size), self._per_window):
            x = self._channels_last(self.inside(x))
            if self._holds(contract.check_images, x):
                x = np.clip(x, 0, 1)  # rounding errors of a normalisation
            x = x.astype(self.dtype)
            if x.shape[1:] != shape:
                contract.check_shape(self.model, self.outside(x[:1]))
                shape = x.shape[1:]
            logits = self.logits(x)
            if position == 0:
                few = self.outside(tf.constant(x[:1]))
                known = logits[contract.predicts(logits)]  # a few may be NaN, but not all
                known = known if len(known) else logits
                self._holds(contract.check_logits, self.model, known, few)
                self._holds(contract.check_range, self.model, logits)
                self._check_whole(data, logits.shape[-1])
            y = contract.class_indices(y, logits.shape[-1])
            places = position + tf.range(len(x))
            seeds = noise.example_seeds(seed, 0, places).numpy()
            yield Window(x, y, logits, seeds)
            position += len(x)
        if not position:
            raise InputError("The data set is empty.")

    def _per_window(self, x):
        count = _WINDOW_BYTES // max(x[:1].nbytes, 1) // self.batch_size
        return max(count, 1) * self.batch_size

    def _holds(self, check, *values) -> bool:
        """Whether a part of the input contract holds; raises if it is strict."""
        found = sanity.complaint(check, *values)
        if found and self.strict:
            raise InputError(found[0])
        self.complaints = [*self.complaints, *found]
        return not found

    def _channels_last(self, x):
        """Images [n, h, w] or [n, c, h, w] as attacks take them, [n, h, w, c]."""
        if x.ndim == 3:
            self.layout = "hw" if network.graph_of(self.model) is None else ""
            return x[..., None]
        self.layout = "chw" if network.channels_first(self.model, x.shape[1:]) else ""
        return np.moveaxis(x, 1, -1) if self.layout else x

    def check_craft(self, window):
        """Refuses a surrogate of other images or classes, or one with probabilities."""
        surrogate = network.classifier(self.craft)
        few = self.outside(tf.constant(window.x[:1]))
        contract.check_shape(surrogate, few)
        logits = self.logits(window.x[: self.batch_size], craft=True)
        if logits.shape[-1] != window.clean_logits.shape[-1]:
            raise InputError(
                f"The surrogate {surrogate.name!r} has {logits.shape[-1]} classes, the "
                f"model {window.clean_logits.shape[-1]}: use one trained on the same data."
            )
        self._holds(contract.check_logits, surrogate, logits, few)

    def images(self, x):
        """Images of a data set as attacks take them: [n, h, w, c] in [0, 1]."""
        return np.clip(self._channels_last(self.inside(x)), 0, 1).astype(self.dtype)

    def inside(self, x):
        """Images of the model's range in [0, 1]."""
        low, high = self.bounds
        return x if self.bounds == (0.0, 1.0) else (x - low) / (high - low)

    def outside(self, x):
        """Images [n, h, w, c] in [0, 1] as the model takes them.

        [n, h, w, c], [n, h, w] or [n, c, h, w], in the range of `bounds`.
        """
        low, high = self.bounds
        if self.layout == "hw":
            x = x[..., 0]
        elif self.layout == "chw":
            x = tf.transpose(x, [0, 3, 1, 2])
        return x if self.bounds == (0.0, 1.0) else low + x * (high - low)

    def logits(self, x, craft=False) -> np.ndarray:
        """Logits [n, c] of images in [0, 1], in inference mode.

        With `craft`, those of the network that examples are crafted on.
        """

        def forward(x):
            return {"logits": self.logits_fn(craft)(x)}

        found = self.in_batches(("forward", craft), forward, {"x": x})["logits"]
        if not craft:
            self.undefined += int((~contract.predicts(found)).sum())
        return found

    def logits_fn(self, craft=False):
        """Images [n, h, w, c] in [0, 1] -> logits [n, c], in their dtype.

        Those of the network itself, or folded for speed, of the one that crafts.
        """
        network_fn = folding.folded(self.craft) if craft else self._exact

        def function(x):
            return tf.cast(network_fn(self.outside(x))["logits"], x.dtype)

        return function

    def _exact(self, x):
        return self.network(x, training=False)

    def attacked(self, attack, window, saved=None, save=lambda progress: None):
        """The `Progress` of a window under a protocol, once all its runs are done.

        Args:
            saved: Where to go on from.
            save: Called with the progress after every run.
        """
        progress = saved or Progress.begin(window, self.early_stop)
        number = 0
        for i, (stage, runs) in enumerate(
            attack.stages(window.clean_logits.shape[-1]).items()
        ):
            for run in runs:
                number += 1
                if number > progress.runs_done and progress.robust_so_far.any():
                    self._run(run, window, progress, i, attack.transfer)
                    progress.runs_done = number
                    save(progress)
            # A stage that was done before a resume keeps what it found then.
            progress.after.setdefault(stage, progress.robust_so_far & window.correct)
        return progress

    def _run(self, run, window, progress, stage, transfer):
        """One run on the images that are still robust, and the verdicts on its examples."""
        index = np.flatnonzero(progress.robust_so_far)
        batch = window.take(index)
        if transfer:
            batch["clean_logits"] = self.logits(batch["x"], craft=True)
        if stage:
            batch["seeds"] = noise.fork(batch["seeds"], _STAGES + stage).numpy()
        found = self.examples(run, batch)
        broken = ~is_correct(batch["y"], self.logits(found))
        left = np.flatnonzero(~broken)
        if len(left) and not transfer:
            # Where rounding took an image for broken too early: on the network itself.
            early = ~is_correct(batch["y"][left], self.logits(found[left], craft=True))
            again = left[early]
            if len(again):
                found[again] = self.examples(run, take(batch, again), craft=False)
                broken[again] = ~is_correct(batch["y"][again], self.logits(found[again]))
        first = broken | ~progress.attempted[index]
        progress.x_adv[index[first]] = found[first]
        progress.attempted[index] = True
        progress.robust_so_far[index[broken]] = False

    def examples(self, run, batch, craft=True) -> np.ndarray:
        """x_adv of one run on images of a window: `batch` is {x, y, clean, seeds}.

        Without `craft`, on the judged network itself.
        """
        attack, x, seeds = run.attack, batch["x"], run.seeds(batch["seeds"])
        target = run.target(batch["clean_logits"])
        given = {"x": x, "y": batch["y"], "clean": batch["clean_logits"]}
        given["target"] = batch["y"] if target is None else target.numpy()
        drawn = {"x": x, "seeds": np.asarray(seeds)}
        state = self.in_batches(
            ("begin", attack), lambda x, seeds: attack.begin(x, None, seeds), drawn
        )
        look = attack.look if self.early_stop else attack.iterations
        left = np.arange(len(x))
        for first in range(0, attack.iterations, look):
            last = min(first + look, attack.iterations)
            now = {"state": take(state, left), **take(given, left)}
            new, done = self._advance(run, now, first, last, craft)
            for name, value in new.items():
                state[name][left] = value
            if self.watch:
                self.watch(last, attack.iterations)
            if self.early_stop:
                left = left[~done]
            if not len(left):
                break
        found = self.in_batches(
            ("result", attack),
            lambda x, state: {"x_adv": attack.result(x, state)},
            {"x": x, "state": state},
        )
        return found["x_adv"]

    def _advance(self, run, arrays, first, last, craft):
        """(state, done) after the steps first, ..., last - 1 of a run."""

        def advance(first, last, state, x, y, clean, target):
            logits_fn = self.logits_fn(craft)
            objective = named(run.objective, y, clean, target)
            state = run.attack.advance(logits_fn, x, objective, state, first, last)
            return {**state, "done": run.attack.done(state)}

        key = "advance", run.attack, run.objective, craft
        steps = [tf.constant(n) for n in (first, last)]
        new = self.in_batches(key, advance, arrays, steps)
        return new, new.pop("done")

    def in_batches(self, key, function, arrays, options=()) -> dict[str, np.ndarray]:
        """The function of arrays {name: [n, ...]}, compiled, batch by batch.

        The last batch is filled up to a size of few by images of its own, so that kernels
        are prepared for few shapes, and none is of 0 images.
        """
        flat = keras.tree.flatten(arrays)
        key = key, tuple(array.shape[1:] for array in flat)
        if key not in self._compiled:
            eager = getattr(self.model, "run_eagerly", False)
            self._compiled[key] = function if eager else _compiled(function)
        count, parts = len(flat[0]), []
        for start in range(0, count, self.batch_size):
            index = np.arange(start, min(start + self.batch_size, count))
            size = self.fixed_size or bucket(len(index), self.batch_size)
            filled = np.resize(index, size)
            tensors = keras.tree.map_structure(tf.convert_to_tensor, take(arrays, filled))
            found = self._compiled[key](*options, **tensors)
            parts.append({k: np.asarray(v)[: len(index)] for k, v in found.items()})
        return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def _compiled(function):
    """The function compiled: one trace of full batches, and one of any other size."""
    compiled = tf.function(function, reduce_retracing=True, autograph=False)
    # Every attack traces its own; TensorFlow takes them for one that is traced too often.
    compiled._omit_frequent_tracing_warning = True
    return compiled


def bucket(count: int, batch_size: int) -> int:
    """The size that a batch of so many images is filled up to.

    batch_size / 2^k, or three quarters of that; 8 at least, where batch_size allows it.
    """
    if batch_size > 2 * count and batch_size % 2:
        batch_size = max(count, 8)  # halves of an odd size are no sizes
    size = batch_size
    while size % 2 == 0 and size // 2 >= max(count, 8):
        size //= 2
    less = size * 3 // 4
    return less if size % 4 == 0 and less >= max(count, 8) else size
