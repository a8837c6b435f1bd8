"""What an evaluation found: verdicts, distances, warnings, and the tables of them."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from vfd_tf import text
from vfd_tf.evaluation import tables
from vfd_tf.evaluation.protocols import is_under
from vfd_tf.hyperparameters import InputError


@dataclasses.dataclass
class EvaluationResult:
    """Verdicts per image, clean and under each attack: bool [n] each.

    Attributes:
        clean: Classified correctly.
        robust: Attack -> classified correctly, and under all of the attack's runs.
        attacks: Attack -> every hyper-parameter, on one line.
        threats: Attack -> threat model.
        stages: Attack -> stage of an ensemble -> robust after it.
        distances: Attack -> ||x' - x|| where an unbounded attack succeeded.
        seconds: Attack -> time it took.
        warnings: What makes these numbers doubtful, a sentence each.
        examples: Attack -> x_adv [n, h, w, c], where they were asked for.
        referee: Attack -> how the referee's verdicts compare, where there was one.
        surrogate_clean: Classified correctly by the surrogate, where there was one.
    """

    clean: np.ndarray
    robust: dict[str, np.ndarray]
    attacks: dict[str, str]
    threats: dict[str, str] = dataclasses.field(default_factory=dict)
    stages: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    distances: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    examples: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    referee: dict[str, dict] = dataclasses.field(default_factory=dict)
    surrogate_clean: np.ndarray | None = None

    @property
    def worst(self) -> np.ndarray:
        """Correct on the clean image and under every bounded attack: bool [n].

        Where none is bounded, under every attack.

        Raises:
            InputError: Attacks of several threat models, which have no worst of all.
        """
        groups = self._groups()
        if len(groups) > 1:
            raise InputError(
                f"The attacks are of several threat models, {' and '.join(groups)}: take "
                "result.worsts() or result.robust."
            )
        (names,) = groups.values() or [self.robust]
        return self._worst_of(names)

    def worsts(self) -> dict[str, np.ndarray]:
        """The worst of several attacks as columns: bool [n].

        "worst"; of several threat models "worst <threat>", of those with several attacks.
        """
        groups = self._groups()
        if len(groups) > 1:
            several = {t: names for t, names in groups.items() if len(names) > 1}
            return {f"worst {t}": self._worst_of(names) for t, names in several.items()}
        return {"worst": self.worst} if len(self.robust) > 1 else {}

    def _groups(self) -> dict[str, list[str]]:
        """Threat model -> the bounded attacks under it."""
        groups = {}
        for name in self.robust:
            if name not in self.distances:
                groups.setdefault(self.threats.get(name, ""), []).append(name)
        return groups

    def _worst_of(self, names):
        return worst({"clean": self.clean, **{name: self.robust[name] for name in names}})

    def verdicts(self) -> dict[str, np.ndarray]:
        """Column -> bool [n]: clean, and under each attack."""
        return {"clean": self.clean, **self.robust}

    def accuracies(self) -> dict[str, float]:
        """Percent correct: clean, under each attack, and `worsts`."""
        return {name: 100 * float(v.mean()) for name, v in self._columns().items()}

    def _columns(self, more=()):
        return {**self.verdicts(), **dict(more), **self.worsts()}

    def __str__(self):
        """The rows as a Markdown table, warnings below it."""
        return tables.markdown(self.rows(), "", self.warnings)

    def table(self) -> str:
        """The accuracies as a Markdown table."""
        return table({"model": self.accuracies()})

    def rows(self) -> list[dict]:
        """One row an attack: accuracy in percent, its 95 % interval, distances, seconds."""
        columns = self._columns(self._stage_columns())
        return [self._row(name, verdict) for name, verdict in columns.items()]

    def _stage_columns(self):
        return {
            f"{name}, after {stage}": verdict
            for name, stages in self.stages.items()
            for stage, verdict in list(stages.items())[:-1]
        }

    def _row(self, name, verdict):
        low, high = wilson(int(verdict.sum()), len(verdict))
        sizes = self.distances.get(name)
        found = sizes is not None and len(sizes) > 0
        return {
            "attack": name,
            "threat": self.threats.get(name, ""),
            "accuracy": 100 * float(verdict.mean()),
            "low": 100 * low,
            "high": 100 * high,
            "images": len(verdict),
            "mean_distance": float(np.mean(sizes)) if found else None,
            "median_distance": float(np.median(sizes)) if found else None,
            "seconds": self.seconds.get(name),
            "parameters": self.attacks.get(name, ""),
        }


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: (low, high) in [0, 1].

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    from scipy.stats import binomtest  # half a second, for those who need no interval

    return tuple(binomtest(successes, count).proportion_ci(method="wilson"))


def worst(verdicts: dict[str, np.ndarray]) -> np.ndarray:
    """Of columns with "clean": correct on the clean image and under every attack, bool [n].

    A verdict under attack says as much of the clean image itself: in the one pass that the
    column "clean" is, or in most of several passes, of which one says nothing.
    """
    attacks = [verdict for name, verdict in verdicts.items() if name != "clean"]
    return np.logical_and.reduce(attacks or [verdicts["clean"]])


def with_worst(
    verdicts: dict[str, np.ndarray], threat: str | None = None
) -> dict[str, np.ndarray]:
    """Columns with "clean", and of several attacks "worst": of all of a threat model."""
    counted = _counted(verdicts, threat)
    if len(verdicts) <= 2 or not counted:
        return dict(verdicts)
    return {**verdicts, "worst": worst({name: verdicts[name] for name in counted})}


def have_like_worst(one: Iterable[str], other: Iterable[str], threat: str) -> bool:
    """Whether the worst of two rows of columns is over the same attacks."""
    return _counted(one, threat) == _counted(other, threat)


def _counted(columns, threat):
    """The columns that the worst is over: attacks of a threat model, or None: all."""
    attacks = set(columns) - {"clean", "worst"}
    return {name for name in attacks if threat is None or is_under(name, threat)}


def accuracies(
    verdicts: dict[str, np.ndarray], threat: str | None = None
) -> dict[str, float]:
    """Percent of verdicts bool [n]; of several attacks also "worst", of each image.

    Args:
        threat: linf:8/255 leaves attacks of other threat models out of the worst.
    """
    columns = with_worst(verdicts, threat)
    return {name: 100 * float(verdict.mean()) for name, verdict in columns.items()}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown table of percentages: {row: {column: value}}."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    body = [
        [name, *(f"{row[c]:.2f}" if c in row else "" for c in columns)]
        for name, row in rows.items()
    ]
    return text.markdown(["accuracy (%)", *columns], body)
