"""Components and models of a user's own: what they are given, told and refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from twins import CLASSES, SHAPE, X, Y, network

from vfd_tf import AdversarialTrainer, InputError, VFDCallback, attacks, losses
from vfd_tf.hyperparameters import component, hyper
from vfd_tf.training.callbacks import Anneal, TermShares
from vfd_tf.training.distillation import LBGAT, VFD, Distillation
from vfd_tf.training.methods import TRADES, Natural
from vfd_tf.training.methods.base import Method
from vfd_tf.training.schedules import LambdaSchedule

L = keras.layers
PGD = attacks.PGD(0.1, steps=1)


def cross_entropy(y, student):
    return losses.cross_entropy(y, student["adv"]["logits"])


@component
class Own(Method):
    """Cross-entropy on adversarial images alone."""

    reads = ("adv",)
    hard_label = ("adv",)

    @property
    def weights(self):
        return {"adv": 1.0}

    def terms(self, y, student, teacher):
        return {"adv": cross_entropy(y, student)}


def trainer_of(method, distillation="none", **options):
    made = AdversarialTrainer(network(), method, PGD, distillation, **options)
    made.compile(keras.optimizers.SGD(0.1))
    return made


def fit(made, **options):
    return made.fit(X, Y, batch_size=12, verbose=0, **options).history


def test_a_term_that_another_would_replace_is_refused():
    @component
    class Rival(Distillation):
        @property
        def weights(self):
            return {"adv": 0.01}

    with pytest.raises(InputError, match="Own and Rival both have a term 'adv'"):
        trainer_of(Own(), Rival())


def test_what_a_method_watches_is_seen_and_no_part_of_the_loss():
    @component
    class Watching(Own):
        watches = ("ones",)

        def state(self, classes):
            return {"images": np.zeros((), "float32")}

        def terms(self, y, student, teacher):
            return {**super().terms(y, student, teacher), "ones": tf.ones(tf.shape(y)[0])}

        def seen(self, y, logits, terms):
            return {"images": tf.reduce_sum(terms["ones"])}

        def after_step(self, state, seen):
            return {"images": state["images"] + seen["images"]}

    plain, watching = trainer_of(Own()), trainer_of(Watching())
    assert fit(watching)["loss"] == fit(plain)["loss"]
    assert watching.learning.scalars()["images"] == len(X)


def test_a_method_that_names_no_term_of_labels_is_told_so_by_what_replaces_them():
    @component
    class Nameless(Own):
        hard_label = ("clean",)

    for distillation in ("bgat", "kd"):
        teachers = {"teacher": network(1), "robust_teacher": network(2)}
        teachers = teachers if distillation == "kd" else {"teacher": teachers["teacher"]}
        with pytest.raises(InputError, match="has terms adv and hard_label="):
            trainer_of(Nameless(), distillation, **teachers)


def test_a_weight_without_its_term_is_named():
    @component
    class Without(Own):
        @property
        def weights(self):
            return {"adv": 1.0, "hard": 1.0}

    with pytest.raises(InputError, match="Without and NoDistillation name a term 'hard'"):
        fit(trainer_of(Without()))


def test_fields_of_a_class_that_is_no_component_are_refused():
    class Undecorated(TRADES):
        beta: float = hyper(3.0, "weight")

    with pytest.raises(InputError, match="put @component on the class"):
        Undecorated()
    assert component(Undecorated)().beta == 3.0


def test_a_step_of_ones_own_decides_what_it_logs():
    class Mine(AdversarialTrainer):
        def train_step(self, data):
            return {**super().train_step(data), "loss": tf.constant(42.0)}

    made = Mine(network(), "natural")
    made.compile(keras.optimizers.SGD(0.1))
    logs = fit(made)
    assert logs["loss"] == [42.0] and logs["clean_loss"] != [42.0]


@pytest.mark.parametrize("method", ["natural", "trades"])
def test_weights_of_images_weigh_terms_as_they_weigh_the_loss(method):
    made = trainer_of(method, VFD(0.5, layer="layer1"), teacher=network(1))
    weight = np.linspace(0.0, 3.0, len(X)).astype("float32")
    logs = fit(made, sample_weight=weight, callbacks=[TermShares()])
    shares = [logs[name][0] for name in logs if name.endswith("_share")]
    assert len(shares) > 1 and sum(shares) == pytest.approx(1, abs=1e-5)


def test_accuracies_count_images_whatever_their_weights():
    """The attack moves nothing, so that both are of the same images."""
    made = AdversarialTrainer(network(), "pgd-at", attacks.PGD(1e-7, steps=1))
    made.compile(keras.optimizers.SGD(0.0))
    right = made.student.predict(X, verbose=0).argmax(-1) == Y
    assert 0 < right.mean() < 1
    logs = fit(made, sample_weight=np.where(right, 0.1, 1.9).astype("float32"))
    assert logs["accuracy"] == logs["adv_accuracy"] == [pytest.approx(right.mean())]


def test_an_anneal_of_lambda_has_the_last_word_wherever_it_stands():
    anneal = Anneal("vfd_weight", lambda epoch: 0.25)
    for callbacks in ([anneal, VFDCallback()], [VFDCallback(), anneal]):
        made = trainer_of("natural", VFD(0.5, layer="layer1"), teacher=network(1))
        assert fit(made, callbacks=callbacks)["vfd_lambda"] == [0.125]


def test_a_first_layer_for_other_pixel_values_is_warned_of():
    def scaled(by):
        inputs = keras.Input(SHAPE)
        return keras.Model(inputs, network()(L.Rescaling(by)(inputs)))

    with pytest.warns(UserWarning, match="begins with rescaling.*leave that layer out"):
        AdversarialTrainer(scaled(1 / 255), "natural")


def test_a_first_layer_for_pixels_in_0_to_1_is_not(recwarn):
    inputs = keras.Input(SHAPE)
    centred = keras.Model(inputs, network()(L.Rescaling(2.0, -1.0)(inputs)))
    AdversarialTrainer(centred, "natural")
    assert not [w for w in recwarn if "leave that layer out" in str(w.message)]


def test_a_subclassed_model_of_several_outputs_is_told_what_to_return():
    class Several(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(CLASSES)

        def call(self, x):
            logits = self.dense(tf.reshape(x, [len(x), -1]))
            return {"logits": logits, "features": x}

    model = Several()
    model(X[:2])
    made = AdversarialTrainer(model, "natural")
    made.compile("sgd")
    with pytest.raises(InputError, match="return the logits alone"):
        fit(made)


@component
class RobustFeatures(VFD):
    """The features of a robust teacher in place of the vanilla one's."""

    needs = ("robust_teacher",)

    def terms(self, y, student, teacher, robust_teacher=None, partner=None):
        return super().terms(y, student, robust_teacher)

    def report(self, student, teacher, robust_teacher=None, partner=None):
        return super().report(student, robust_teacher)

    def heads(self, channels):
        assert channels == {"layer1": 4}
        return {}


def test_a_distillation_may_have_the_features_of_a_robust_teacher():
    made = trainer_of(Own(), RobustFeatures(layer="layer1"), robust_teacher=network(1))
    logs, same = fit(made, epochs=1), network(1)
    assert logs["clean_distance_layer1"][0] > 0.01
    made = AdversarialTrainer(
        same, Own(), PGD, RobustFeatures(layer="layer1"), robust_teacher=network(1)
    )
    made.compile(keras.optimizers.SGD(0.0))
    assert fit(made)["clean_distance_layer1"][0] < 1e-5


def test_a_method_whose_terms_would_need_a_robust_teacher_is_refused():
    @component
    class Needy(Own):
        needs = ("robust_teacher",)

    with pytest.raises(InputError, match="write a distillation, which sees all networks"):
        trainer_of(Needy(), robust_teacher=network(1))


def test_a_method_may_change_its_attack_by_the_epoch():
    @component
    class Rising(Own):
        name = "attack_scale"

        def schedules(self, epochs):
            return {self.name: lambda epoch: (epoch + 1) / epochs}

    assert fit(trainer_of(Rising()), epochs=4)["attack_scale"] == [0.25, 0.5, 0.75, 1.0]
    Rising.name = "attackscale"
    with pytest.raises(InputError, match="Rising.schedules names 'attackscale': name one"):
        fit(trainer_of(Rising()))


def test_a_schedule_of_a_method_may_need_several_epochs():
    @component
    class Half(Own):
        def schedules(self, epochs):
            return {"attack_scale": LambdaSchedule("linear", epochs // 2)}

    scales = fit(trainer_of(Half()), epochs=4)["attack_scale"]
    assert scales[0] < scales[1] <= scales[2] == scales[3] == 1


def test_a_natural_method_keeps_the_view_of_its_metrics():
    @component
    class Elsewhere(Natural):
        def views(self, x, x_adv):
            return {"own": x}

    with pytest.raises(InputError, match="Elsewhere.views are own: keep clean among them"):
        fit(trainer_of(Elsewhere()))


def test_a_distillation_from_a_partner_alone_may_ask_for_projections():
    """They are to a frozen teacher: without one there are none."""

    @component
    class Projecting(LBGAT):
        layers, projects = ("layer1",), True

    made = trainer_of(TRADES(), Projecting(), partner=network(1))
    assert made.projections == [] and np.isfinite(fit(made)["loss"]).all()


def test_a_method_may_read_other_views_than_the_usual_ones():
    """BatchNorm sees what is read and nothing else: here images of one grey."""

    @component
    class Grey(Own):
        reads = ("grey",)
        kept = "clean", "adv"

        def views(self, x, x_adv):
            usual = {"clean": x, "adv": x_adv, "grey": 0 * x + 0.3}
            return {name: usual[name] for name in (*self.kept, "grey")}

        def terms(self, y, student, teacher):
            return {"adv": losses.cross_entropy(y, student["grey"]["logits"])}

    def made():
        norm = L.BatchNormalization(momentum=0.0)
        return keras.Sequential([keras.Input(SHAPE), norm, L.Flatten(), L.Dense(CLASSES)])

    trainer = AdversarialTrainer(made(), Grey(), PGD)
    trainer.compile("sgd")
    logs = fit(trainer)
    np.testing.assert_allclose(trainer.student.layers[0].moving_mean, [0.3], rtol=1e-6)
    assert 0 <= logs["adv_accuracy"][0] <= logs["accuracy"][0] <= 1
    Grey.kept = ("clean",)
    with pytest.raises(InputError, match="Grey.views are clean, grey: keep clean and adv"):
        fit(trainer_of(Grey()))
