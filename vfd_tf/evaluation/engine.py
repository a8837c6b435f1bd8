"""Runs attacks on windows of images, and drops the images that are misclassified.

Every few iterations, images that are already misclassified are dropped from the batch, so
that the others go on in full batches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vfd_tf import noise
from vfd_tf.attacks import AttackRun
from vfd_tf.evaluation.attacked_model import AttackedModel
from vfd_tf.evaluation.batch_runner import BatchRunner
from vfd_tf.evaluation.protocols import Protocol, protocol
from vfd_tf.evaluation.windows import (
    SAME,
    Window,
    Windows,
    changes,
    is_correct,
    margins_of,
    take,
)
from vfd_tf.models import contract

_STAGES = 1000  # streams of the stages of an ensemble, apart from those of restarts


@dataclasses.dataclass
class Progress:
    """How far an attack on a window has come.

    Attributes:
        robust_so_far: Which images no run has made misclassified: bool [n].
        x_adv: The examples that are misclassified, else those of smallest margin of all
            runs on it.
        attempted: Which images any run was on.
        runs_done: How many runs are done.
        after: Stage -> which images were robust after it.
        ordered: Order of classes -> the classes [n, k] of every image; not saved.
        margins: By how much x_adv is classified correctly; None of an older journal.
    """

    robust_so_far: np.ndarray
    x_adv: np.ndarray
    attempted: np.ndarray
    runs_done: int = 0
    after: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ordered: dict[Callable, np.ndarray] = dataclasses.field(default_factory=dict)
    margins: np.ndarray | None = None

    @classmethod
    def begin(cls, window: Window, correct: np.ndarray, early_stop: bool) -> "Progress":
        """Nothing done; what is misclassified without an attack is left out of all runs."""
        robust = correct.copy() if early_stop else np.ones(len(window), bool)
        return cls(robust, window.x.copy(), np.zeros(len(window), bool))

    @property
    def robust(self) -> np.ndarray:
        """Which images are classified correctly and stay so under all runs."""
        return list(self.after.values())[-1]


class Engine:
    """A classifier under evaluation.

    Args:
        model: Classifier with logits; a dict with "logits", a subclassed model, ...
        batch_size: Images that go through the network at once: sets the memory.
        early_stop: Stop attacking an image once it is misclassified. Without it all images
            go through all iterations; results are the same.
        bounds: The range of images that the model takes; attacks work in [0, 1].
        source: A surrogate that examples are made on.
        devices: Names of devices that share the batches; default: what TensorFlow chooses.
        craft: Precision that examples are made in, one of `precision.POLICIES`.
        strict: Refuse probabilities and images outside the bounds; else
            `windows.objections` holds what is wrong with them.

    Attributes:
        model: The `AttackedModel`.
        windows: What reads data sets.
        runner: What runs functions of images.
        undefined: How often an image had logits that predict no class.
        random: Whether images were seen to have other logits in another pass.
    """

    def __init__(
        self,
        model: Any,
        batch_size: int | None = 128,
        early_stop: bool = True,
        bounds: tuple[float, float] = (0.0, 1.0),
        source: Any = None,
        strict: bool = True,
        craft: str = "float32",
        devices: tuple[str, ...] = (),
    ):
        self.model = AttackedModel(model, bounds, source, craft)
        eager = getattr(self.model.classifier, "run_eagerly", False)
        self.runner = BatchRunner(batch_size, self.model.fixed_size, eager, devices)
        self.early_stop, self.strict = early_stop, strict
        self.again()

    def again(self) -> "Engine":
        """Itself, compiled functions and all, as if no image had been seen."""
        size, lanes = self.runner.batch_size, len(self.runner.devices)
        self.model.layout = ""
        self.windows = Windows(self.model, self.logits, size, self.strict, lanes)
        self.undefined, self.random = 0, False
        return self

    def correct(self, data: Any, attack: Any = None, seed: int = 0) -> np.ndarray:
        """Which images are classified correctly, and under `attack`: bool [n].

        Args:
            data: (x, y), `Images` or a tf.data set of batches.
            attack: A protocol, or what `protocol` makes one of; None: no attack.
            seed: With the position in the data, decides the draws of an image.
        """
        attack = None if attack is None else protocol(attack)
        found = []
        for window in self.windows.read(data, seed):
            robust = window.correct
            if attack is not None:
                robust = self.attacked(attack, window).robust
            found.append(robust)
        return np.concatenate([*found, np.zeros(0, bool)])  # a share may be empty

    def logits(self, x: np.ndarray, source: Any = False) -> np.ndarray:
        """Logits [n, c] of images in [0, 1], in inference mode.

        With `source`, those of the network that examples are made on.
        """

        def forward(x):
            return {"logits": self.model.logits_fn(source)(x)}

        found = self.runner.run(("forward", source), forward, {"x": x})["logits"]
        if not source:
            self.undefined += int((~contract.predicts(found)).sum())
        return found

    def attacked(
        self,
        attack: Protocol,
        window: Window,
        saved: Progress | None = None,
        save: Callable = lambda progress: None,
        watch: Callable | None = None,
    ) -> Progress:
        """The `Progress` of a window under a protocol, once all its runs are done.

        Args:
            saved: Where to go on from.
            save: Called with the progress after every run.
            watch: Called with (step, steps) as a run goes on.
        """
        correct, passes = window.correct, attack.attack.passes
        if passes > 1:
            correct, *_ = self._judged(window.y, window.x, passes)
        progress = saved or Progress.begin(window, correct, self.early_stop)
        number, stages = 0, attack.stages(window.clean_logits.shape[-1])
        for i, (stage, runs) in enumerate(stages.items()):
            for run in runs:
                number += 1
                if number > progress.runs_done and progress.robust_so_far.any():
                    self._run(run, window, progress, i, attack.transfer, watch)
                    progress.runs_done = number
                    save(progress)
            # A stage that was done before a resume keeps what it found then.
            progress.after.setdefault(stage, progress.robust_so_far & correct)
        return progress

    def _run(self, run, window, progress, stage, transfer, watch):
        """One run on the images that are still robust; what is misclassified now."""
        index = np.flatnonzero(progress.robust_so_far)
        batch = window.take(index)
        if run.order is not None:
            batch["ordered"] = self._ordered(run.order, window, progress)[index]
        if transfer:
            batch["clean_logits"] = self.logits(batch["x"], source=True)
        if stage:
            batch["seeds"] = noise.fork(batch["seeds"], _STAGES + stage).numpy()
        found = self.examples(run, batch, watch=watch)
        right, margins, logits = self._judged(batch["y"], found, run.passes)
        left = np.flatnonzero(right)
        if len(left) and not transfer and run.passes == 1:
            again = left[self._ended_early(batch["y"][left], found[left], logits[left])]
            if len(again):
                some = take(batch, again)
                found[again] = self.examples(run, some, source=False, watch=watch)
                right[again], margins[again], _ = self._judged(some["y"], found[again])
        if progress.margins is None:
            progress.margins = np.full(len(window), np.inf)
        best = ~right | ~progress.attempted[index] | (margins < progress.margins[index])
        progress.x_adv[index[best]] = found[best]
        progress.margins[index[best]] = margins[best]
        progress.attempted[index] = True
        progress.robust_so_far[index[~right]] = False

    def _ended_early(self, y, x, logits):
        """Where rounding ended an attack on images that are classified correctly: bool [n].

        The network that examples are made on misclassifies these, the exact one doesn't.
        Nowhere once the exact one has given images other logits than before: where outputs
        are random a wrong pass is no rounding, and another run would be a second attack.
        """
        early = ~is_correct(y, self.logits(x, source=True))
        if early.any() and not self.random:
            self.random = bool(changes(logits, self.logits(x)).max() > SAME)
        return early & (not self.random)

    def _judged(self, y, x, passes=1):
        """Which images are classified correctly in more than half of so many passes.

        And their margins, of the mean logits, both [n], and these logits.
        """
        every = [self.logits(x) for _ in range(passes)]
        hits = sum(is_correct(y, logits).astype(int) for logits in every)
        with np.errstate(invalid="ignore"):  # of masked classes
            mean = sum(every) / passes
            return 2 * hits > passes, margins_of(y, mean), mean

    def _ordered(self, order, window, progress):
        """The classes [n, k] in an order, of all images that are robust so far."""
        if order not in progress.ordered:
            left = progress.robust_so_far

            def classes(x, y):
                return {"classes": order(self.model.logits_fn(True), x, y)}

            some = {"x": window.x[left], "y": window.y[left]}
            found = self.runner.run(("order", order), classes, some)["classes"]
            progress.ordered[order] = np.zeros((len(window), found.shape[1]), found.dtype)
            progress.ordered[order][left] = found
        return progress.ordered[order]

    def examples(
        self,
        run: AttackRun,
        batch: dict[str, np.ndarray],
        source: Any = True,
        watch: Callable | None = None,
    ) -> np.ndarray:
        """x_adv of one run on images: `batch` is {x, y, clean_logits, seeds}.

        Without `source`, made on the network itself.
        """
        attack, x, seeds = run.attack, batch["x"], run.seeds(batch["seeds"])
        target = run.target(batch["clean_logits"], batch.get("ordered"))
        given = {"x": x, "y": batch["y"], "clean": batch["clean_logits"]}
        given["target"] = batch["y"] if target is None else np.asarray(target)
        state = self.runner.run(
            ("begin", attack),
            lambda x, seeds: attack.begin(x, None, seeds),
            {"x": x, "seeds": np.asarray(seeds)},
        )
        look = attack.look if self.early_stop else attack.iterations
        left = np.arange(len(x))
        for first in range(0, attack.iterations, look):
            last = min(first + look, attack.iterations)
            now = {"state": take(state, left), **take(given, left)}
            new, done = self._advance(run, now, first, last, source)
            for name, value in new.items():
                state[name][left] = value
            if watch:
                watch(last, attack.iterations)
            if self.early_stop:
                left = left[~done]
            if not len(left):
                break
        found = self.runner.run(
            ("result", attack),
            lambda x, state: {"x_adv": attack.result(x, state)},
            {"x": x, "state": state},
        )
        return found["x_adv"]

    def _advance(self, run, arrays, first, last, source):
        """(state, done) after the steps first, ..., last - 1 of a run."""

        def advance(first, last, state, x, y, clean, target):
            logits_fn = self.model.logits_fn(source)
            objective = run.goal(y, clean, target)
            state = run.attack.advance(logits_fn, x, objective, state, first, last)
            return {**state, "done": run.attack.done(state)}

        key = "advance", run.attack, run.objective, run.passes > 1, source
        steps = [tf.constant(n) for n in (first, last)]
        new = self.runner.run(key, advance, arrays, steps)
        return new, new.pop("done")
