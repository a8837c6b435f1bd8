"""What a plan asks of a run: its students and their mixtures, in order, under attacks."""

from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.mixtures import Mix

PLAN = EvaluationPlan(
    attacks=("fgsm", "transfer-fgsm", "cw"),
    attack_images=(("cw", 10),),
    students=("best", "last"),
    surrogate="there.keras",
    mixtures=(Mix.of(0.8), Mix.of("weights:0.5")),
)
BLACK_BOX = ("fgsm", "transfer-fgsm")


def test_students_come_first_and_mixtures_are_never_of_the_best_or_black_box():
    mix, weights = PLAN.mixtures
    assert [tuple(each) for each in PLAN.wanted(("best", "last", "average"))] == [
        ("best", "best", None, None, BLACK_BOX),
        ("best", "best", None, 10, ("cw",)),
        ("last", "last", None, None, BLACK_BOX),
        ("last", "last", None, 10, ("cw",)),
        ("last-mixture-0.8", "last", mix, None, ("fgsm",)),
        ("last-mixture-0.8", "last", mix, 10, ("cw",)),
        ("last-weights-0.5", "last", weights, None, ("fgsm",)),
        ("last-weights-0.5", "last", weights, 10, ("cw",)),
    ]


def test_what_there_is_not_is_not_wanted():
    assert {each.name for each in PLAN.wanted(("best",))} == {"best"}
    assert {each.name for each in PLAN.wanted(("last",), mixed=False)} == {"last"}
    assert not [*EvaluationPlan(attacks=(), students=()).wanted(("best", "last"))]
