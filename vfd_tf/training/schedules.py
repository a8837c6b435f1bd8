"""Schedules: epoch -> factor on a weight of eq. 6, on the attack, or on AWP."""

import dataclasses
import math

from vfd_tf.hyperparameters import Component, InputError, component, hyper

SHAPES = {
    "constant": lambda share: 1.0,
    "linear": lambda share: share,
    "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,
}


@component
class LambdaSchedule(Component):
    """Factor on lambda, or beta: rises from 0 to 1 over `warmup_epochs`, then stays."""

    shape: str = hyper("constant", "shape of its rise", choices=tuple(SHAPES))
    warmup_epochs: int = hyper(0, "epochs until it is reached", minimum=0)

    def __post_init__(self):
        super().__post_init__()
        if (self.shape == "constant") == bool(self.warmup_epochs):
            raise InputError(
                f"A {self.shape} schedule over {self.warmup_epochs} warmup_epochs has no "
                "meaning: a rise needs both a shape, linear or cosine, and epochs."
            )

    def __call__(self, epoch: int) -> float:
        share = min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0
        return SHAPES[self.shape](share)


@dataclasses.dataclass(frozen=True)
class Late:
    """A schedule: 1 for the first `epochs` epochs, then `factor`."""

    epochs: int
    factor: float

    def __call__(self, epoch: int) -> float:
        return self.factor if epoch >= self.epochs else 1.0


@dataclasses.dataclass(frozen=True)
class Delay:
    """A schedule: 0 for the first `epochs` epochs, then 1."""

    epochs: int

    def __call__(self, epoch: int) -> float:
        return float(epoch >= self.epochs)
