"""Kinds of trade-off curves: what each is called in a report, and how it is drawn."""

import dataclasses

from vfd_tf.experiments import mixtures


@dataclasses.dataclass(frozen=True)
class CurveKind:
    """One kind of curve.

    Attributes:
        title: In heads of tables and in legends.
        phrase: In a sentence, with the name of the row whose curve it is.
        way: How a method trades accuracy for robustness on it, in the notes of a table.
        line: Dashes of the line and marker of its points, as matplotlib has them.
    """

    title: str
    phrase: str
    way: str
    line: tuple[str, str]


SWEEP = "sweep"
CURVE_KINDS = {
    SWEEP: CurveKind(
        "sweep", "{} at other settings", "a sweep of its parameter", ("-", ".")
    ),
    # Those of `mixtures.KINDS`.
    "mixture": CurveKind(
        "mixture",
        "plain mixtures of {} and vanilla",
        "plain mixtures of its probabilities with the vanilla model's",
        (":", "."),
    ),
    "weights": CurveKind(
        "interpolation",
        "interpolated weights of {} and vanilla",
        "networks between it and the vanilla model, of interpolated weights",
        ("--", "x"),
    ),
    "nuts": CurveKind(
        "MixedNUTS",
        "MixedNUTS of {} and vanilla",
        "MixedNUTS with the vanilla model, fitted on held-out images",
        ("-.", "*"),
    ),
}


def needs_autoattack(kind: str) -> bool:
    """Whether other attacks than AutoAttack find too few errors of its networks."""
    return kind != SWEEP and mixtures.KINDS[kind].fitted
