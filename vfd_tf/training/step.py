"""The training step of one batch on one replica: Algorithm 1 of the paper.

Equations are those of https://arxiv.org/abs/2206.02158. Eq. 6 is `Step.equation_6`, eq. 5
`distillation.equation_5`.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from vfd_tf import losses
from vfd_tf.attacks import Attack, cross_entropy
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import folding, precision
from vfd_tf.models.network import Forward, regularisers
from vfd_tf.training import view_norms
from vfd_tf.training.distillation import Distillation
from vfd_tf.training.methods import Method
from vfd_tf.training.options import TrainingOptions
from vfd_tf.training.weights import awp
from vfd_tf.training.weights.accumulation import in_parts, joined, mean_gradients
from vfd_tf.training.weights.scopes import Apart


@dataclasses.dataclass(eq=False)
class Step:
    """What a batch goes through before the optimizer.

    Attributes:
        networks: Role -> network; "student", and those that method and distillation need.
        siblings: Set of BatchNorm -> the student with that set, where it has several.
        norms: BatchNorm layers of siblings whose regularisers join the loss.
        trained: All models that are trained.
        model: The student as it is shipped; its own regularisers join the loss.
        variables: What is trained.
        scheduled: Variables that schedules change, read at every step: "attack_scale",
            the factor on the attack's epsilon and step size, and "awp_gamma".
        term_weights: Term -> variable, its weight in eq. 6, read at every step.
        float16: Whether the student computes in float16, whose gradients vanish.
        scale_loss: The loss before its gradient is taken: 1 / replicas, float16 scaling.
        compiled_attack: A function of tensors -> the same, compiled by XLA where wanted.
        compiled: The same for functions in which BatchNorm may ask other replicas.
        summed: Gradients -> their sum over replicas.
    """

    method: Method
    distillation: Distillation
    attack: Attack
    options: TrainingOptions
    networks: dict[str, keras.Model]
    siblings: dict[str, keras.Model]
    norms: list[keras.Layer]
    trained: list[keras.Model]
    model: keras.Model
    variables: list[keras.Variable]
    scheduled: dict[str, keras.Variable]
    term_weights: dict[str, keras.Variable]
    float16: bool
    scale_loss: Callable
    compiled_attack: Callable
    compiled: Callable
    summed: Callable

    def __call__(self, x, y, weight, seeds):
        """Algorithm 1: x_adv, then the gradient of eq. 6.

        Args:
            x: Images [n, h, w, c].
            y: Labels, integers [n] or distributions [n, c].
            weight: Weights of the examples [n], or None.
            seeds: Seeds of the examples [n, 2].

        Returns:
            Gradients, per-example terms {name: [n]}, clean logits [n, c].
        """
        x = self.method.images(x, seeds)
        parts, x_adv = self.options.accumulate_steps, x
        if self.method.adversarial:  # else x' is x itself, and shares its passes
            attack = self.compiled_attack(self.adversarial)
            x_adv = joined(in_parts(attack, parts, x, y, seeds))  # eq. 1
        batch, shifts = (x, x_adv, y, weight), None
        if self.options.awp_gamma:
            gradients = in_parts(self.compiled(self.ascent), parts, *batch)
            ascent = self.summed(mean_gradients(gradients))
            gamma = self.scheduled["awp_gamma"].value
            shifts = awp.worst_shifts(ascent, self.variables, gamma, self.model)
        descent = functools.partial(self.compiled(self.descent), shifts)
        gradients, terms, logits = zip(*in_parts(descent, parts, *batch), strict=True)
        return mean_gradients(gradients), joined(terms), joined(logits)

    def adversarial(self, x, y, seeds):
        """Eq. 1: x_adv [n, h, w, c], with the state of all layers left as it was."""
        network = self._student_of("adv")
        if self.options.attack_bn_mode == "train":
            outputs = functools.partial(network, training=True)
        else:
            outputs = folding.folded(network)

        def logits_fn(images):
            with Apart():  # layers may count or draw in inference mode, too
                return tf.cast(outputs(images)["logits"], images.dtype)

        if self.float16:
            logits_fn = precision.without_underflow(logits_fn)
        attack, options = self.attack, {"seeds": seeds}
        if isinstance(attack, Attack):
            attack = attack.scaled(tf.cast(self.scheduled["attack_scale"].value, x.dtype))
        options["objective"] = self._objective(x, y)
        return self.method.adversary(attack, logits_fn, x, y, **options)

    def _student_of(self, view):
        """The student with the BatchNorm of a view."""
        return self.siblings.get(self.method.set_of(view), self.networks["student"])

    def _objective(self, x, y):
        """What the attack ascends where the method doesn't decide it, else None."""
        if self.options.attack_objective == "ce":
            return cross_entropy(y)
        return self.distillation.objective(y, **self._frozen({"clean": x}))

    def _frozen(self, views, tape=None):
        """The outputs of the frozen networks on views, computed where they are read."""
        return {
            role: Forward(self.networks.get(role), views, tape=tape)
            for role in ("teacher", "robust_teacher")
        }

    def descent(self, shifts, x, x_adv, y, weight):
        """The gradient of eq. 6 at the weights, or at weights + shifts; see `__call__`."""
        tape = tf.GradientTape()
        if shifts is None:
            values = [[v.value] for v in self.variables]
            return self._differentiated(tape, values, x, x_adv, y, weight)
        with awp.Shifted(self.variables, shifts, tape) as scope:
            found = self._differentiated(tape, scope.values, x, x_adv, y, weight)
        scope.settle(v for net in self.trained for v in net.non_trainable_variables)
        return found

    def ascent(self, x, x_adv, y, weight):
        """The gradient of eq. 6 for AWP: no statistics, seeds, ... move."""
        tape = tf.GradientTape()
        with awp.Shifted(self.variables, None, tape) as scope:
            return self._differentiated(tape, scope.values, x, x_adv, y, weight)[0]

    def _differentiated(self, tape, values, x, x_adv, y, weight):
        """Eqs. 3 to 6 and their gradient with respect to all values of each variable."""
        if not self.method.adversarial:
            x_adv = x  # a compiled function has made two tensors of it
        with tape:
            tape.watch(values)
            views = self.distillation.views(self.method.views(x, x_adv))
            student, terms = self.terms(y, views, tape)  # eqs. 3-5
            terms["total"] = self.equation_6(terms, weight, student.losses)
            loss = self.scale_loss(tf.reduce_mean(terms["total"]))
        gradients = [_summed(parts) for parts in tape.gradient(loss, values)]
        if self.method.adversarial:
            terms["adv_accuracy"] = self._adv_accuracy(y, student, x.dtype)
        return gradients, terms, student["clean"]["logits"]

    def equation_6(self, terms, weight, added=()):
        """Eq. 6: the sum of all terms with their weights, [n].

        lambda is the weight of VFD's term, beta that of a method's own. Regularisers of
        the user's layers join the loss as they do in Keras: those of weights once, what
        layers have `added` in their forward once for each.
        """
        total = sum(self.term_weights[name] * terms[name] for name in self.term_weights)
        own = [*added, *regularisers(self.model)]
        if "partner" in self.networks:
            own += regularisers(self.networks["partner"])
        own += [loss for norm in self.norms for loss in regularisers(norm)]
        own = [tf.reduce_sum(tf.cast(loss, total.dtype)) for loss in own]
        return weighted(total, weight) + sum(own)

    def terms(self, y, views, tape):
        """The student's outputs on the views, and all terms, those to watch included."""
        others = {view: self._student_of(view) for view in views}
        logged = ("clean", "adv") if self.method.adversarial else ("clean",)
        if not views.keys() >= set(logged):
            raise InputError(
                f"{type(self.method).__name__}.views are {', '.join(views)}: keep "
                f"{' and '.join(logged)} among them, for the log; `reads` says what is "
                "used."
            )
        student = Forward(self.networks["student"], views, training=True, others=others)
        reads = view_norms.reads(self.method, self.distillation, self.term_weights)
        for view in views:  # the order in which BatchNorm sees them: clean first
            if view in reads:
                student[view]
        frozen = self._frozen(views, tape)
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
        kept = *self.term_weights, *self.method.watches, *self.distillation.watches
        missing = [name for name in kept if name not in terms]
        if missing:
            both = f"{type(self.method).__name__} and {type(self.distillation).__name__}"
            raise InputError(
                f"{both} name a term {missing[0]!r} in `weights` or `watches` that their "
                "`terms` don't return."
            )
        terms = {name: terms[name] for name in kept}
        terms |= self.distillation.report(student, partner=partner, **frozen)
        student.losses += partner.losses
        return student, terms

    def _adv_accuracy(self, y, student, dtype):
        """Which adversarial images are classified correctly [n], for the log."""
        for view in ("clean", "adv"):
            if view not in student:  # logits for metrics alone
                network = self._student_of(view)
                with Apart((v, v.value) for v in network.variables):
                    student[view] = network(student.views[view], training=False)
        hit = tf.argmax(student["adv"]["logits"], -1, output_type=tf.int32)
        return tf.cast(hit == losses.hard(y), dtype)


def _summed(gradients):
    """The sum of the gradients with respect to all values of one variable, or None."""
    known = [g for g in gradients if g is not None]
    return sum(known[1:], known[0]) if known else None


def weighted(values, weight):
    """Per-example values times the weights of the examples, where there are any."""
    return values if weight is None else values * tf.cast(weight, values.dtype)
