"""SGD as the original recipes mean it, and the learning-rate schedules."""

from typing import Any

import keras
import numpy as np
from keras import ops

from vfd_tf.hyperparameters import InputError, choose
from vfd_tf.types import Tensor


@keras.saving.register_keras_serializable(package="vfd_tf")
class SGD(keras.optimizers.SGD):
    """SGD with PyTorch's momentum and coupled weight decay.

    g <- gradient + weight_decay * v;  b <- momentum * b + g;  v <- v - lr * b, or with
    Nesterov v <- v - lr * (g + momentum * b). Decay acts on every trainable weight and on
    the gradient already summed over replicas. Keras's own `weight_decay=` is decoupled,
    ten times weaker at momentum 0.9, and its momentum carries old learning rates.

    With `gradient_accumulation_steps` a schedule counts updates, not micro-batches, so
    that k of these train as one batch of k times the size does.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        **kwargs,
    ):
        super().__init__(learning_rate, float(momentum), nesterov, **kwargs)
        self.coupled_weight_decay = float(weight_decay)

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Any
    ) -> None:
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        gradient = gradient + self.coupled_weight_decay * variable
        if self.momentum:
            buffer = self.momentums[self._get_variable_index(variable)]
            velocity = self.momentum * buffer + gradient
            self.assign(buffer, velocity)
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, learning_rate * gradient)

    def _get_current_learning_rate(self):
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def get_config(self) -> dict:
        config = super().get_config()
        return {**config, "weight_decay": self.coupled_weight_decay}


@keras.saving.register_keras_serializable(package="vfd_tf")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine from peak / 25 up to the peak in the first `rise` of all steps, then to 0.

    The end is peak / 250,000. Smith & Topin 2019, https://arxiv.org/abs/1708.07120; the
    constants are those of PyTorch's OneCycleLR, without its momentum cycle.
    """

    def __init__(self, peak: float, total_steps: int, rise: float = 0.25):
        self.peak, self.total_steps, self.rise = peak, total_steps, rise

    def __call__(self, step):
        step = ops.cast(step, "float32")
        top = max(self.rise * self.total_steps - 1, 1e-6)
        first, last = self.peak / 25, self.peak / 25 / 1e4
        up = _cosine(first, self.peak, step / top)
        down = _cosine(self.peak, last, (step - top) / (self.total_steps - 1 - top))
        return ops.where(step <= top, up, down)

    def get_config(self) -> dict:
        return {"peak": self.peak, "total_steps": self.total_steps, "rise": self.rise}


@keras.saving.register_keras_serializable(package="vfd_tf")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate times min(1, (step + 1) / steps): a linear rise in front.

    Args:
        rate: The learning rate or schedule that is reached.
        steps: Length of the rise.
    """

    def __init__(self, rate: Any, steps: int):
        self.rate, self.steps = rate, steps

    def __call__(self, step):
        rate = self.rate(step) if callable(self.rate) else self.rate
        return rate * ops.minimum(1.0, (ops.cast(step, "float32") + 1) / self.steps)

    def get_config(self) -> dict:
        rate = self.rate
        rate = keras.saving.serialize_keras_object(rate) if callable(rate) else rate
        return {"rate": rate, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        rate = config["rate"]
        if isinstance(rate, dict):
            rate = keras.saving.deserialize_keras_object(rate)
        return cls(rate, config["steps"])


def _cosine(start, end, share):
    share = ops.clip(share, 0.0, 1.0)
    return end + (start - end) / 2 * (1 + ops.cos(np.pi * share))


def constant(recipe: Any, steps_per_epoch: int) -> Any:
    """The learning rate itself."""
    return recipe.learning_rate


def piecewise(recipe: Any, steps_per_epoch: int) -> Any:
    """learning_rate x a factor from each milestone on; default factors 1, 0.1, 0.01, ..."""
    milestones = recipe.lr_milestones
    factors = recipe.lr_factors or tuple(0.1**i for i in range(len(milestones) + 1))
    if len(factors) != len(milestones) + 1 or list(milestones) != sorted(milestones):
        raise InputError(
            f"lr_factors needs one value more than the rising lr_milestones; got {factors} "
            f"for {milestones}."
        )
    if not milestones:
        return recipe.learning_rate * factors[0]
    # PiecewiseConstantDecay still has the earlier value at the boundary step itself.
    boundaries = [m * steps_per_epoch - 1 for m in milestones]
    values = [recipe.learning_rate * factor for factor in factors]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)


def cosine(recipe: Any, steps_per_epoch: int) -> Any:
    """Half a cosine from the learning rate to 0 over all steps."""
    total = recipe.epochs * steps_per_epoch
    return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total)


def one_cycle(recipe: Any, steps_per_epoch: int) -> Any:
    """One cycle with the learning rate as its peak, `lr_rise` of the steps rising."""
    return OneCycle(recipe.learning_rate, recipe.epochs * steps_per_epoch, recipe.lr_rise)


def learning_rate(recipe: Any, steps_per_epoch: int) -> Any:
    """The learning rate of a recipe: its schedule, after its warm-up."""
    rate = choose(SCHEDULES, recipe.schedule, "schedule")(recipe, steps_per_epoch)
    steps = round(recipe.warmup_epochs * steps_per_epoch)
    return Warmup(rate, steps) if steps else rate


SCHEDULES = {
    "constant": constant,
    "piecewise": piecewise,
    "cosine": cosine,
    "one-cycle": one_cycle,
}
