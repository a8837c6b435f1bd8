"""AWP: the loss is descended at the worst weights nearby, from the weights themselves.

Wu et al. 2020, https://arxiv.org/abs/2004.05884: v = gamma ||w|| g / ||g|| for the kernels
of the student, one step of ascent; the update is w <- w - learning_rate * grad L(w + v).
"""

import tensorflow as tf

from vfd_tf.training.weights.scopes import Apart


def worst_shifts(gradients, variables, gamma, model):
    """The move v of each variable; zero for biases, norms, and all but the model's.

    Args:
        gradients: Of the loss, summed over replicas; None where there is none.
        variables: What is trained.
        gamma: Length of the move, relative to that of the weights.
        model: The student as it is shipped.
    """
    moves, shifts = {id(v) for v in model.trainable_variables}, []
    for gradient, variable in zip(gradients, variables, strict=True):
        w = variable.value
        if gradient is None or len(variable.shape) < 2 or id(variable) not in moves:
            shifts.append(tf.zeros_like(w))
            continue
        length = tf.norm(gradient) + tf.cast(1e-20, w.dtype)
        shifts.append(tf.cast(gamma, w.dtype) * tf.norm(w) * gradient / length)
    return shifts


class Shifted(Apart):
    """Inside, networks are at weights + shifts; `settle` moves the weights back.

    A layer may change a weight in its forward (spectral normalisation): gradients are
    taken at all values that were read, and `settle` keeps the change.

    Args:
        variables: What is trained.
        shifts: The move of each, or None for none.
        tape: Watches the values that are read.

    Attributes:
        values: For each variable the values of it that are read, in order.
    """

    def __init__(self, variables, shifts, tape):
        self.variables, self.tape = variables, tape
        self.shifts = shifts or [tf.zeros_like(v.value) for v in variables]
        self.values = [
            [v.value + s] for v, s in zip(self.variables, self.shifts, strict=True)
        ]
        self.index = {id(v): i for i, v in enumerate(variables)}
        firsts = (values[0] for values in self.values)
        super().__init__(zip(variables, firsts, strict=True))

    def add_update(self, update):
        super().add_update(update)
        variable, _ = update
        if id(variable) in self.index:
            value = self.get_current_value(variable)
            self.tape.watch(value)
            self.values[self.index[id(variable)]].append(value)

    def settle(self, others):
        """Keeps what layers assigned: to `others` as it is, to weights less the shifts."""
        for variable in others:
            value = self.get_current_value(variable)
            if value is not None:
                variable.assign(value)
        for variable, shift, values in zip(
            self.variables, self.shifts, self.values, strict=True
        ):
            if len(values) > 1:
                variable.assign(values[-1] - shift)
