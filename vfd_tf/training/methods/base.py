"""What every adversarial-training method is: an adversary, terms, and their weights.

A method turns the student's outputs on named views of a batch into named per-example
terms. Its total is sum_k weights[k] * mean(terms[k]), eq. 6 of
https://arxiv.org/abs/2206.02158 without the distillation.
"""

from collections.abc import Callable
from typing import Any

import keras

from vfd_tf import noise
from vfd_tf.attacks import objectives
from vfd_tf.hyperparameters import Component, hyper
from vfd_tf.training.learned import Learner
from vfd_tf.types import Outputs, Tensor, Terms


class Method(Component, Learner):
    """Base of all methods.

    Class facts that the trainer reads:
        reads: the views whose student outputs `terms` uses, in the order of the
            training-mode passes (clean before adversarial).
        needs: frozen networks it asks for (`"teacher"`).
        hard_label: the terms that learn from the label, the plain cross-entropy first;
            a distillation that replaces labels replaces these.
        beta_term: the term that its trade-off weight (beta, or ALP's pairing) weighs.
        adversarial: whether it trains on adversarial examples at all.
        batch_norm: whether BatchNorm is "shared" by its views unless an option says else,
            or "views".
        objective_forwards: forwards of the student that `objective` makes in front of the
            attack.
    """

    reads = ("clean", "adv")
    needs = ()
    hard_label = ("clean",)
    beta_term = None
    adversarial = True
    batch_norm = "shared"
    objective_forwards = 0

    @property
    def weights(self) -> dict[str, float]:
        """Term -> weight in the total."""
        raise NotImplementedError

    def taps(self, model: keras.Model) -> tuple[str, ...]:
        """Layers of a student whose outputs `terms` reads besides the logits."""
        return ()

    def images(self, x: Tensor, seeds: Tensor) -> Tensor:
        """The images of a batch as training has them, before any attack."""
        return x

    def set_of(self, view: str) -> str:
        """The set of BatchNorm that a view goes through, where views have their own.

        That of "adv" is the attack's.
        """
        return "clean" if view == "clean" else "adv"

    def start(self, x: Tensor, seeds: Tensor | None) -> Tensor | None:
        """Where the inner maximisation starts; None leaves it to the attack."""
        return None

    def objective(self, logits_fn: Callable, x: Tensor, y: Tensor) -> objectives.Objective:
        """The score the adversary ascends; cross-entropy unless a method says otherwise."""
        return objectives.cross_entropy(y)

    def schedules(self, epochs: int) -> dict[str, Callable]:
        """Term -> factor on its weight by the epoch, from 0, of a training of `epochs`.

        Beside terms, "attack_scale" and "awp_gamma": epsilon with step size, and AWP's.
        """
        return {}

    def adversary(
        self,
        attack: Any,
        logits_fn: Callable,
        x: Tensor,
        y: Tensor,
        start: Tensor | None = None,
        seeds: Tensor | None = None,
        objective: Callable | None = None,
    ) -> Tensor:
        """x_adv [n, h, w, c] against the student's `logits_fn`.

        The objective and the start are the method's own unless they are given, or the
        attack has a start of its own.
        """
        seeds = noise.or_positions(seeds, x)
        if start is None and not getattr(attack, "own_start", False):
            start = self.start(x, seeds)
        objective = objective or self.objective(logits_fn, x, y)
        return attack(logits_fn, x, objective, start=start, seeds=seeds)

    def views(self, x: Tensor, x_adv: Tensor) -> dict[str, Tensor]:
        """The named inputs on which networks are asked for outputs."""
        return {"clean": x, "adv": x_adv}

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        """Per-example terms {name: [n]}.

        The images are a replica's share of the batch, or a part of it where gradients are
        accumulated: what is normalised over a batch takes `state`.

        Args:
            y: Labels, integers [n] or distributions [n, c].
            student: Mapping view -> {"logits": [n, c], layer: features}, training mode.
            teacher: The same of the frozen vanilla teacher, or None where not needed.
        """
        raise NotImplementedError


def start_noise_field(default: float = 0.001, zero: str = "") -> Any:
    """The field of a method whose attack starts at noise around x."""
    meaning = "standard deviation of the attack's start, images in [0, 1]"
    return hyper(default, meaning + zero, minimum=0.0)


class NormalStart(Method):
    """A method whose attack starts at x + start_noise * N(0, 1), not clipped."""

    def start(self, x: Tensor, seeds: Tensor | None) -> Tensor | None:
        if not self.start_noise:
            return None
        return x + self.start_noise * noise.normal(seeds, x.shape[1:], x.dtype)
