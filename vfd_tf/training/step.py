"""The training step of one batch on one replica: the attack, then eq. 6 and its gradient.

Eq. 6 of https://arxiv.org/abs/2206.02158 is the one weighted sum in `Step._equation_6`.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from vfd_tf import losses
from vfd_tf.attacks import Attack, cross_entropy
from vfd_tf.models import folding
from vfd_tf.models.network import Forward
from vfd_tf.training.distillation import Distillation
from vfd_tf.training.methods import Method
from vfd_tf.training.options import TrainingOptions


@dataclasses.dataclass(eq=False)
class Step:
    """What a batch goes through before the optimizer.

    Attributes:
        networks: Role -> network; "student", and those that method and distillation need.
        model: The student as it is shipped; its own regularisers join the loss.
        running: Variables as they are now: "attack_scale", the factor on the attack's
            epsilon and step size, and "awp_gamma".
        term_weights: Term -> variable, the weights of eq. 6 as they are now.
        scale_loss: The loss before its gradient is taken: 1 / replicas, float16 scaling.
    """

    method: Method
    distillation: Distillation
    attack: Attack
    options: TrainingOptions
    networks: dict[str, keras.Model]
    model: keras.Model
    running: dict[str, keras.Variable]
    term_weights: dict[str, keras.Variable]
    scale_loss: Callable

    def adversary(self, x, y, seeds):
        """x_adv, with BatchNorm's moving statistics left as they were: [n, h, w, c]."""
        network = self.networks["student"]
        if self.options.attack_bn_mode == "train":
            outputs = functools.partial(_in_training_mode, network)
        else:
            outputs = folding.folded(network)

        def logits_fn(images):
            with _Apart():  # layers may count or draw in inference mode, too
                return outputs(images)["logits"]

        attack, options = self.attack, {"seeds": seeds}
        if isinstance(attack, Attack):
            attack = attack.scaled(tf.cast(self.running["attack_scale"].value, x.dtype))
        if self.options.attack_objective == "ce":
            options["objective"] = cross_entropy(y)
        return self.method.adversary(attack, logits_fn, x, y, **options)

    def gradients(self, x, x_adv, y, weight, variables, shifts=None, ascent=False):
        """Eq. 6 at the weights, or at weights + shifts.

        Args:
            x, x_adv: Images [n, h, w, c].
            y: Labels, integers [n] or distributions [n, c].
            weight: Weights of the examples [n], or None.
            variables: What is trained.
            shifts: AWP's perturbation of each of `variables`, or None.
            ascent: The gradient is AWP's own: no statistics, seeds, ... move.

        Returns:
            Gradients, per-example terms {name: [n]}, clean logits [n, c].
        """
        batch = x, x_adv, y, weight
        if shifts is None and not ascent:
            at = [[v.value] for v in variables]
            return self._equation_6(*batch, at, tf.GradientTape())
        if shifts is None:
            shifts = [tf.zeros_like(v.value) for v in variables]
        tape = tf.GradientTape()
        with _Shifted(variables, shifts, tape) as scope:
            results = self._equation_6(*batch, scope.at, tape)
        if not ascent:
            scope.move(self._moving())
        return results

    def _moving(self):
        networks = [
            self.networks[role] for role in ("student", "partner") if role in self.networks
        ]
        return [v for network in networks for v in network.non_trainable_variables]

    def _equation_6(self, x, x_adv, y, weight, at, tape):
        """The weighted sum of all terms, and its gradient.

        `at` holds for each variable the values that the networks read: one, and another
        wherever a layer changes the variable in its forward pass.
        """
        views = self.method.views(x, x_adv)
        with tape:
            tape.watch(at)
            student, terms = self._terms(y, views, tape)
            total = sum(self.term_weights[name] * terms[name] for name in self.term_weights)
            # Regularisers of the user's own layers join the loss as they do in Keras.
            terms["total"] = weighted(total, weight) + sum(self._regularisers())
            loss = self.scale_loss(tf.reduce_mean(terms["total"]))
        gradients = [_summed(parts) for parts in tape.gradient(loss, at)]
        if "clean" not in student and self.method.adversarial:
            network = self.networks["student"]
            with _Apart((v, v.value) for v in network.variables):  # for the log alone
                student["clean"] = network(x, training=False)
        if self.method.adversarial:
            hit = tf.argmax(student["adv"]["logits"], -1, output_type=tf.int32)
            terms["adv_accuracy"] = tf.cast(hit == losses.hard(y), x.dtype)
        return gradients, terms, student["clean"]["logits"]

    def _terms(self, y, views, tape):
        """The student's outputs and all terms, those to watch included, of a batch."""
        student = Forward(self.networks["student"], views, training=True)
        reads = {*self.method.reads, *self.distillation.reads}
        if "clean" in self.term_weights:
            reads.add("clean")
        for view in views:  # the order in which BatchNorm sees them: clean first
            if view in reads:
                student[view]
        frozen = {
            role: Forward(self.networks.get(role), views, tape=tape)
            for role in ("teacher", "robust_teacher")
        }
        partner = Forward(self.networks.get("partner"), views, training=True)
        smoothing = self.options.label_smoothing
        if smoothing:
            logits = student[next(iter(student))]["logits"]
            y = losses.smooth(y, logits.shape[-1], smoothing, logits.dtype)
        terms = {
            **self.method.terms(y, student, frozen["teacher"]),
            **self.distillation.terms(y, student, partner=partner, **frozen),
        }
        if "clean" in self.term_weights and "clean" not in terms:
            terms["clean"] = losses.cross_entropy(y, student["clean"]["logits"])
        terms = {name: terms[name] for name in self.term_weights}
        return student, {**terms, **self.distillation.report(student, frozen["teacher"])}

    def _regularisers(self):
        partner = self.networks.get("partner")
        return [*self.model.losses, *(partner.losses if partner else ())]

    def worst_shifts(self, gradients, variables):
        """AWP's move of each variable: gamma ||w|| g / ||g|| of the student's kernels."""
        gamma, shifts = self.running["awp_gamma"].value, []
        moves = {id(v) for v in self.model.trainable_variables}
        for gradient, variable in zip(gradients, variables, strict=True):
            w = variable.value
            if gradient is None or len(variable.shape) < 2 or id(variable) not in moves:
                shifts.append(tf.zeros_like(w))
                continue
            length = tf.norm(gradient) + tf.cast(1e-20, w.dtype)
            shifts.append(tf.cast(gamma, w.dtype) * tf.norm(w) * gradient / length)
        return shifts


class _Apart(keras.StatelessScope):
    """Inside, what layers assign to variables stays apart; gradients end there, as ever."""

    def __init__(self, mapping=()):
        super().__init__(list(mapping), collect_losses=True)

    def add_update(self, update):
        variable, value = update
        super().add_update((variable, tf.stop_gradient(tf.cast(value, variable.dtype))))


class _Shifted(_Apart):
    """Networks at weights + shifts; nothing that a layer assigns inside is lost.

    Attributes:
        at: For each variable the values of it that are read, as the tape watches them.
    """

    def __init__(self, variables, shifts, tape):
        self.variables, self.shifts, self.tape = variables, shifts, tape
        self.at = [[v.value + s] for v, s in zip(variables, shifts, strict=True)]
        self.index = {id(v): i for i, v in enumerate(variables)}
        values = (parts[0] for parts in self.at)
        super().__init__(zip(variables, values, strict=True))

    def add_update(self, update):
        super().add_update(update)
        variable, _ = update
        if id(variable) in self.index:
            value = self.get_current_value(variable)
            self.tape.watch(value)
            self.at[self.index[id(variable)]].append(value)

    def move(self, others):
        """Assigns for good what layers assigned: `others` as it is, weights less shifts."""
        for variable in others:
            value = self.get_current_value(variable)
            if value is not None:
                variable.assign(value)
        for variable, shift, parts in zip(
            self.variables, self.shifts, self.at, strict=True
        ):
            if len(parts) > 1:
                variable.assign(parts[-1] - shift)


def _in_training_mode(network, images):
    """Outputs in training mode; statistics, seeds, ... stay what they were."""
    with _Apart():
        return network(images, training=True)


def _summed(gradients):
    """The sum of the gradients with respect to all values of one variable, or None."""
    # An Embedding's are IndexedSlices, which can't be scaled.
    known = [tf.convert_to_tensor(g) for g in gradients if g is not None]
    return sum(known[1:], known[0]) if known else None


def statistics(model):
    """BatchNorm's moving statistics (and other floating non-trainable weights)."""
    return [v.value for v in model.non_trainable_variables if v.value.dtype.is_floating]


def weighted(values, weight):
    """Per-example values times the weights of the examples, where there are any."""
    return values if weight is None else values * tf.cast(weight, values.dtype)
