"""Mixtures of a run's student with a vanilla network: how they are written and made.

`0.8` mixes probabilities, `weights:0.5` interpolates weights, and `nuts:0.985` is a
MixedNUTS that keeps this share of the student's right answers under attack.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from vfd_tf import evaluation, files
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.hyperparameters import InputError, choose
from vfd_tf.models import classifiers, precision
from vfd_tf.models.mixed_nuts import KEPT, Nuts
from vfd_tf.models.mixture import interpolation, mixed_nuts, mixture

# Of the images that numbers are fitted to. The fits in a results.json name no attack: with
# another one, or another grid, they would have to be told apart from those that are there.
FIT_ATTACK = "pgd20"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to make one classifier of two.

    Attributes:
        make: (vanilla, robust, **numbers) -> classifier.
        networks: How many networks an image goes through.
        default: The share where none is written, or None.
        fitted: Whether its numbers are fitted to the student, on held-out images; of
            others the share is their only number, the weight.
    """

    make: Callable
    networks: int = 2
    default: float | None = None
    fitted: bool = False


PLAIN = "mixture"  # is written as its share alone
KINDS = {
    PLAIN: Kind(mixture),
    "weights": Kind(interpolation, networks=1),
    "nuts": Kind(mixed_nuts, default=KEPT, fitted=True),
}


@dataclasses.dataclass(frozen=True)
class Mix:
    """One mixture of a student with a vanilla network.

    Attributes:
        kind: A key of `KINDS`.
        share: Weight of the student; of "nuts" the share of its right answers under attack
            that no vanilla network overrules.

    Raises:
        InputError: No such kind, or a share outside [0, 1].
    """

    kind: str
    share: float

    def __post_init__(self):
        kind = choose(KINDS, self.kind, "kind of mixture")
        if not 0 <= self.share <= 1:
            raise _refused(self.text)
        if kind.fitted and not self.share:
            raise InputError(
                f"mixtures has {self.text!r}, which keeps none of the right answers: write "
                f"a number above 0, such as {self.kind}:{kind.default:g}."
            )

    @classmethod
    def of(cls, entry: str | float) -> "Mix":
        """The mixture that an entry stands for: 0.8, "weights:0.5", "nuts"."""
        if isinstance(entry, bool) or not isinstance(entry, (str, int, float)):
            raise _refused(entry)
        kind, colon, share = str(entry).strip().partition(":")
        if not colon and kind not in KINDS:
            kind, share = PLAIN, kind
        default = choose(KINDS, kind, "kind of mixture").default
        try:
            known = default if default and not share else float(share)
        except ValueError as error:
            raise _refused(entry) from error
        return cls(kind, float(f"{known:g}"))  # with as many digits as its name has

    @classmethod
    def named(cls, name: str, student: str) -> "Mix | None":
        """The mixture of a student that verdicts of this name are of, if they are."""
        kind, _, share = name.removeprefix(f"{student}-").partition("-")
        try:
            mix = cls(kind, float(share))
        except ValueError:  # no number, or an InputError
            return None
        return mix if mix.name(student) == name else None

    @property
    def text(self) -> str:
        """The entry that stands for it."""
        return ("" if self.kind == PLAIN else f"{self.kind}:") + f"{self.share:g}"

    @property
    def fitted(self) -> bool:
        return KINDS[self.kind].fitted

    @property
    def networks(self) -> int:
        return KINDS[self.kind].networks

    def name(self, student: str) -> str:
        """What its verdicts are filed under: last-mixture-0.8, last-nuts-0.985."""
        return f"{student}-{self.kind}-{self.share:g}"

    def classifier(self, vanilla: Any, robust: Any, fit: Nuts | None = None) -> Any:
        """The classifier of two networks; `fit` has the numbers where some are fitted."""
        numbers = fit.numbers if fit else {"weight": self.share}
        return KINDS[self.kind].make(vanilla, robust, **numbers)


def is_mixed(name: str) -> bool:
    """Whether verdicts of this name are those of a mixture."""
    return any(f"-{kind}-" in name for kind in KINDS)


def are_of_another(
    directory: RunDirectory, network: str | None, role: str = "vanilla"
) -> bool:
    """Whether verdicts of a run are known to be with another network than they should.

    Args:
        network: The run directory, or the file, of the network that took part in them; of
            one that is None or has no weights nothing is known.
        role: "vanilla", which mixtures are with, or "surrogate", of black-box columns.
    """
    path = network or ""
    if os.path.isdir(path):
        path = RunDirectory(path).student("best")
    known = directory.results.get(role)
    return bool(known) and os.path.isfile(path) and known != _digest(path, os.stat(path))


@functools.lru_cache(maxsize=16)  # every point of a report asks
def _digest(path, state):
    return files.sha256(path)


def held_out_logits(
    robust: Any,
    x: np.ndarray,
    y: np.ndarray,
    attack: str = FIT_ATTACK,
    *,
    epsilon: float,
    norm: str,
    batch_size: int,
    strict: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a robust network on images, clean and attacked: what numbers are fitted to.

    In float32, as an evaluation has them, whatever the network computes in.

    Args:
        x, y: Held-out images and labels.
        attack, epsilon, norm: Protocol and threat model.
        batch_size: Images that go through the network at once.
        strict: Refuse what looks like probabilities, instead of a warning.
    """
    options = {"batch_size": batch_size, "strict": strict}
    options |= {"epsilon": epsilon, "norm": norm}
    robust = precision.in_float32(classifiers.as_model(robust))
    with precision.exact_float32():
        moved = evaluation.perturb(robust, x, y, attack, **options)
        engine = evaluation.Engine(robust, batch_size)
        return engine.logits(x), engine.logits(moved)


def _refused(entry):
    return InputError(
        f"mixtures has {entry!r}: write numbers from 0 to 1, alone or after a kind, such "
        "as 0.8, weights:0.5 or nuts:0.985."
    )
