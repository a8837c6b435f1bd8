"""`evaluate`: accuracy of a classifier, clean and under every attack of a plan."""

import collections.abc
import dataclasses
import inspect
import os
import time
from typing import Any

import numpy as np

from vfd_tf import losses
from vfd_tf.attacks import BALLS, Attack, Composite
from vfd_tf.attacks.attack import radius
from vfd_tf.data.batching import check_readable_again, is_arrays
from vfd_tf.evaluation import referee, sanity
from vfd_tf.evaluation.compilations import Compilations
from vfd_tf.evaluation.engine import Engine
from vfd_tf.evaluation.journal import Journal, digest, settings
from vfd_tf.evaluation.protocols import TRANSFER, Protocol, is_transfer, protocol
from vfd_tf.evaluation.result import EvaluationResult
from vfd_tf.evaluation.screen import Screen
from vfd_tf.hyperparameters import InputError, choose
from vfd_tf.models import classifiers, precision


def evaluate(
    model: Any,
    data: Any,
    attacks: Any = ("fgsm", "pgd20"),
    *,
    epsilon: float | None = None,
    norm: str = "linf",
    seed: int = 0,
    batch_size: int | None = 128,
    verbose: int = 0,
    early_stop: bool = True,
    bounds: tuple[float, float] = (0.0, 1.0),
    surrogate: Any = None,
    referees: bool = False,
    craft_precision: str | None = None,
    strict: bool = True,
    journal: Journal | None = None,
    examples: bool = False,
    devices: tuple[str, ...] = (),
    compilations: Compilations | None = None,
) -> EvaluationResult:
    """Accuracy of any Keras classifier, clean and under attack.

        result = vfd_tf.evaluate(model, (x, y), ["pgd20", "autoattack"], epsilon=8 / 255)
        print(result)

    Robust under an attack is what is classified correctly and stays so at every iterate
    of all of its runs.

    Args:
        model: Classifier with logits (or a dict with "logits"): a Keras model, the path of
            one or of a run directory, a SavedModel, a function images -> logits.
        data: (x, y) float32 images and labels (class indices, or one-hot), a tf.data set
            of batches, a `PyDataset`, or anything else that yields batches once; with
            referees, twice.
        attacks: Protocol names ("fgsm", "pgd20", "cw", "autoattack", ...) or attacks, or
            one of them.
        epsilon, norm: Threat model of the named attacks, images in [0, 1]; default
            L-inf 8/255. Another norm needs an epsilon of its own. Attacks given as objects
            keep theirs.
        seed: With an image's position, decides the draws of every attack on it.
        batch_size: Images that go through the model at once; sets the memory.
        verbose: 1 for progress bars.
        early_stop: Stop attacking an image once it is misclassified; results are
            unchanged.
        bounds: Range of the images that model and data have, for example (-1, 1).
            Attacks and epsilon are in [0, 1] all the same.
        surrogate: Another classifier, on which all attacks but ensembles are made again and
            scored on `model`: black-box columns "transfer-<attack>", and its own
            accuracy, `surrogate_clean`. Where `attacks` names such columns, these alone.
        referees: Repeat FGSM, PGD and MIM with cleverhans and report differences.
        craft_precision: None, or "mixed_bfloat16" or "mixed_float16" to make the examples
            in, those on a surrogate excepted; what counts is always a float32 forward of
            them.
        strict: Refuse probabilities and images outside the bounds, instead of a warning;
            robust accuracies of such images mean nothing.
        journal: A `Journal` of this model to go on from and to write to.
        devices: Names of devices that share the batches, such as those of a strategy in
            whose scope the model was loaded; default: what TensorFlow chooses.
        examples: Keep x_adv of every attack in the result, in the range of `bounds`.
        compilations: `Compilations` to share with other models of the architecture.

    Returns:
        Which images are classified correctly, bool [n]: `result.clean`, and under each
        attack `result.robust[name]`; `result.table()`, `result.warnings`.

    Raises:
        InputError: Another norm without epsilon, an epsilon that no attack takes,
            probabilities instead of logits, images outside the bounds, labels outside the
            classes, an unknown attack, logits that are not finite.
    """
    attacks, norm = _listed(attacks), checked_norm(norm)
    given, epsilon = epsilon, default_radius(epsilon, norm)
    check_radius(attacks, given, norm)
    _check_seed(seed)
    if isinstance(journal, (str, os.PathLike)):
        raise InputError(
            f"journal is the path {os.fspath(journal)!r}: pass vfd_tf.evaluation.Journal("
            "folder, {'model': the hash of the model's file}), which tells the verdicts of "
            "this model from those of others."
        )
    plan = _plan(attacks, epsilon, norm)
    if referees:
        check_readable_again(data)
        referee.check()
    model = precision.in_float32(classifiers.as_model(model), bounds)
    options = {"batch_size": batch_size, "bounds": bounds, "strict": strict}
    options["devices"] = tuple(devices)
    craft = craft_precision or "float32"
    precision.check_computes(model, craft)
    make = compilations.engine if compilations else Engine
    engine = make(model, early_stop=early_stop, craft=craft, **options)
    engines, other, warnings = dict.fromkeys(plan, engine), None, []
    if surrogate is not None:
        surrogate = precision.in_float32(classifiers.as_model(surrogate), bounds)
        other = make(model, early_stop=False, source=surrogate, **options)
        warnings = sanity.of_ensembles(plan)
        plan = _with_black_box(plan)
        engines = {name: other if own.transfer else engine for name, own in plan.items()}
    elif any(own.transfer for own in plan.values()):
        raise InputError("Attacks called transfer-... need a surrogate: surrogate=model.")
    screen = Screen(verbose, data)
    job = _Job(plan, engines, engine, other, seed, screen, journal, examples)
    with precision.exact_float32():
        result = job.run(data, warnings)
        if referees:
            result.referee = referee.compare(engine, data, plan)
    return result


def _listed(attacks) -> list:
    """Names, attacks and protocols, or one of them, as a list."""
    if isinstance(attacks, (str, Attack, Protocol)) or inspect.isclass(attacks):
        attacks = [attacks]
    if is_arrays(attacks):
        raise InputError(
            "attacks is an array: pass images and labels as one argument, "
            "evaluate(model, (x, y), ['pgd20'])."
        )
    if not isinstance(attacks, collections.abc.Iterable):
        raise InputError(
            f"attacks is {attacks!r}: pass names, such as ['pgd20'], or [] for the clean "
            "accuracy alone."
        )
    return list(attacks)


def _plan(attacks, epsilon, norm) -> dict[str, Protocol]:
    """Column -> protocol of a list of names, attacks and protocols."""
    protocols = [protocol(a, epsilon, norm) for a in attacks]
    return {_name(a, p): p for a, p in zip(attacks, protocols, strict=True)}


def _check_seed(seed):
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise InputError(f"seed must be a whole number from 0 to 2^32 - 1; got {seed!r}.")


def _with_black_box(plan):
    """A plan, and its single attacks on a surrogate where it names none of these."""
    if any(is_transfer(name) for name in plan):
        return plan
    return plan | {
        f"{TRANSFER}{name}": dataclasses.replace(own, transfer=True)
        for name, own in plan.items()
        if not isinstance(own.attack, Composite)
    }


def check_radius(attacks: list, epsilon: float | None, norm: str) -> None:
    """Refuses an epsilon or norm where every attack is an object with another of its own.

    Beside names, for which epsilon and norm are, an object may have another radius.
    """
    objects = [a.attack if isinstance(a, Protocol) else a for a in attacks]
    if epsilon is None or not all(isinstance(a, Attack) for a in objects):
        return
    for own in objects:
        same = own.norm == norm or norm == "linf"  # the default, which may not be meant
        if own.epsilon is None or (same and np.isclose(own.epsilon, epsilon)):
            continue
        name, size = type(own).__name__, radius(own.epsilon)
        raise InputError(
            f"The attack {name} has epsilon {size} in {own.norm} of its own: leave out "
            f"epsilon and norm, or write {name}(epsilon=..., norm=...)."
        )


def checked_norm(norm: str) -> str:
    """ "linf" or "l2", however it is written: Linf, L-inf, L2; or an `InputError`."""
    name = str(norm).lower().replace("-", "").replace("_", "")
    choose(BALLS, name if name in BALLS else norm, "norm")
    return name


def default_radius(epsilon: float | None, norm: str) -> float:
    """The radius: 8/255 where none is given for L-inf; L2 has no default."""
    if isinstance(epsilon, str):
        raise InputError(
            f"epsilon is the text {epsilon!r}: pass a number, such as 8 / 255."
        )
    if epsilon is not None:
        if np.ndim(epsilon):
            raise InputError(
                f"epsilon has shape {np.shape(epsilon)}: pass one number, such as 8 / 255, "
                "and evaluate once for each radius."
            )
        return float(epsilon)
    if norm != "linf":
        raise InputError(f"Name the radius of the {norm} ball, such as epsilon=0.5.")
    return 8 / 255


class _Job:
    """The windows of a data set under the protocols of a plan."""

    def __init__(self, plan, engines, engine, other, seed, screen, journal, examples):
        self.plan, self.engines, self.engine, self.other = plan, engines, engine, other
        self.seed, self.screen, self.journal = seed, screen, journal
        self.keep = examples
        of = plan if journal else ()
        self.settings = {name: settings(plan[name], engines[name]) for name in of}
        self.mark = ""  # of the surrogate's logits on a window
        self.found = {name: [] for name in plan}
        self.clean, self.seconds = [], dict.fromkeys(plan, 0.0)
        self.surrogate, self.dead, self.labels = [], [], set()
        self.sizes = {name: [] for name in plan}

    def run(self, data, warnings) -> EvaluationResult:
        for number, window in enumerate(self.engine.windows.read(data, self.seed)):
            self.clean.append(window.correct)
            self.classes = window.clean_logits.shape[-1]
            self.labels |= set(window.y.tolist())
            self.screen.say("clean", self.clean)
            if number == 0:
                warnings += sanity.of_model(self.engine, window)
                warnings += sanity.of_whole_box(window, self.plan)
            self.dead.append(sanity.dead_gradients(self.engine, window))
            if self.other is not None:
                logits = self._of_surrogate(window, number == 0)
                self.surrogate.append(losses.correct(window.y, logits).numpy())
                self.mark = f" surrogate={digest(logits)}"
            for name in self.plan:
                self._attack(name, number, window)
            if number == 0:
                robust = {name: found[0].robust for name, found in self.found.items()}
                warnings += sanity.of_radius(self.engine, window, robust, self.plan)
        result = self._result()
        result.warnings = self._warnings(warnings, result)
        if self.screen.verbose:
            for warning in result.warnings:
                print(f"Warning: {warning}")
        return result

    def _warnings(self, found, result):
        """Those of the first window and of the whole, each once."""
        engines = (self.engine,) if self.other is None else (self.engine, self.other)
        objections = [text for each in engines for text in each.windows.objections]
        found = found + sanity.of_gradients(np.concatenate(self.dead))
        found += sanity.of_undefined(self.engine.undefined)
        found += sanity.of_few_classes(self.plan, self.classes)
        found += sanity.of_chance(result.clean, self.classes)
        images = sum(map(len, self.clean))
        found += sanity.of_many_logits(self.labels, images, self.classes)
        found += sanity.of_verdicts(result, self.plan)
        return [*dict.fromkeys(objections + found)]

    def _of_surrogate(self, window, first):
        """The surrogate's logits on a window."""
        if first:
            self.other.model.layout = self.engine.model.layout
            self.other.windows.check_source(window, self._surrogate_logits)
        return self._surrogate_logits(window.x)

    def _settings(self, name):
        """What a column of the journal depends on, on the window of now."""
        return self.settings[name] + (self.mark if self.plan[name].transfer else "")

    def _surrogate_logits(self, x):
        return self.other.logits(x, source=True)

    def _joined(self, parts):
        """Examples as the model takes them: an array, or one a size of the images."""
        parts = [np.asarray(self.engine.model.outside(part)) for part in parts]
        same = len({part.shape[1:] for part in parts}) == 1
        return np.concatenate(parts) if same else parts

    def _attack(self, name, number, window):
        """An attack on a window, from where the journal says."""
        known = None
        if self.journal:
            known = self.journal.read(name, number, window, self._settings(name))
        progress, sizes, seconds = known or (None, None, 0.0)
        if progress is not None and progress.x_adv is None and self.keep:
            progress, sizes, seconds = None, None, 0.0  # its examples were not kept
        if sizes is None:
            progress, sizes, seconds = self._go_on(name, number, window, progress, seconds)
        self.seconds[name] += seconds
        self.sizes[name].append(sizes)
        self.found[name].append(progress)
        label = f"{name}@{self.plan[name].threat}"
        self.screen.say(label, [p.robust for p in self.found[name]])

    def _go_on(self, name, number, window, progress, before):
        """(progress, sizes, seconds) of an attack on a window that is to be finished."""
        start = time.perf_counter() - before

        def write(progress, *sizes):
            seconds = time.perf_counter() - start
            if self.journal:
                own = {"settings": self._settings(name)}
                self.journal.write(name, number, window, progress, seconds, *sizes, **own)
            return seconds

        def save(progress):
            self.screen.run(progress)
            write(progress)

        engine, count = self.engines[name], len(window)
        stages = self.plan[name].stages(window.clean_logits.shape[-1])
        runs, done = sum(map(len, stages.values())), progress.runs_done if progress else 0
        self.screen.begin(name, sum(map(len, self.clean)) - count, count, runs, done)
        progress = engine.attacked(
            self.plan[name], window, progress, save, self.screen.step
        )
        self.screen.end()
        sizes = _sizes(progress, window)
        if not self.keep:
            nothing = dict.fromkeys(("x_adv", "attempted", "margins"))
            progress = dataclasses.replace(progress, **nothing)
        return progress, sizes, write(progress, sizes)

    def _result(self):
        robust = {n: np.concatenate([p.robust for p in f]) for n, f in self.found.items()}
        stages = {
            name: {
                stage: np.concatenate([p.after[stage] for p in found])
                for stage in found[0].after
            }
            for name, found in self.found.items()
            if len(found[0].after) > 1
        }
        kept = {
            name: self._joined([p.x_adv for p in found])
            for name, found in self.found.items()
            if self.keep
        }
        return EvaluationResult(
            np.concatenate(self.clean),
            robust,
            {n: p.describe() for n, p in self.plan.items()},
            threats={n: p.threat for n, p in self.plan.items()},
            stages=stages,
            distances={
                name: np.concatenate(self.sizes[name])
                for name, protocol in self.plan.items()
                if protocol.unbounded
            },
            seconds=self.seconds,
            examples=kept,
            surrogate_clean=np.concatenate(self.surrogate) if self.surrogate else None,
        )


def _sizes(progress, window):
    """||x' - x||_2 of the images that an attack has made misclassified."""
    lost = window.correct & ~progress.robust
    delta = progress.x_adv[lost] - window.x[lost]
    return np.sqrt(np.square(delta).sum(axis=tuple(range(1, delta.ndim))))


def _name(attack, protocol) -> str:
    return attack if isinstance(attack, str) else protocol.describe()
