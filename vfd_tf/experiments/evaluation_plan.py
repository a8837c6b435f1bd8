"""How the students of a run are evaluated on the test split."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vfd_tf import evaluation
from vfd_tf.attacks.attack import radius
from vfd_tf.experiments.mixtures import Mix
from vfd_tf.hyperparameters import InputError, choose

STUDENTS = ("best", "last", "average")


class Wanted(NamedTuple):
    """Attacks on a student or a mixture, on so many test images.

    Attributes:
        name: What its verdicts are filed under.
        student: The student, which a mixture is of.
        mix: The mixture, or None.
        images: The first so many test images; None: all.
        attacks: Protocols; the clean accuracy is always wanted.
    """

    name: str
    student: str
    mix: Mix | None
    images: int | None
    attacks: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """How the students of a run are evaluated on the test split.

    Attributes:
        attacks: Protocols; "transfer-pgd20" is PGD-20 made on the surrogate.
        epsilon, norm: Their threat model.
        batch_size: Images that go through a network at once.
        max_images: Take the first so many test images; None: all.
        attack_images: (attack, images): attacks that take the first so many alone.
        students: Those that are evaluated, where a run has them.
        teachers: Whether networks that are trained before a run are evaluated as well.
        surrogate: A .keras file or a run directory, for black-box attacks.
        mixtures: Those of the last and of the average student with the vanilla teacher.
    """

    attacks: tuple[str, ...] = ("fgsm", "pgd20")
    epsilon: float = 8 / 255
    norm: str = "linf"
    batch_size: int = 128
    max_images: int | None = None
    attack_images: tuple[tuple[str, int], ...] = ()
    students: tuple[str, ...] = STUDENTS
    teachers: bool = True
    surrogate: str | None = None
    mixtures: tuple[Mix, ...] = ()

    def __post_init__(self):
        for student in self.students:
            choose(dict.fromkeys(STUDENTS), student, "student of --eval_students")
        if self.mixtures and set(self.students) <= {"best"}:
            raise InputError(
                "--mixtures mixes the last and the average student, never the best: add "
                "last to --eval_students."
            )
        for attack in self.attacks:
            evaluation.protocol(attack, self.epsilon, self.norm)
            if evaluation.is_transfer(attack) and not self.surrogate:
                raise InputError(
                    f"{attack} is made on a surrogate: name one with --surrogate=FILE."
                )
        known = {_plain(attack) for attack in self.attacks}
        for attack, _ in self.attack_images:
            if attack not in known:
                raise InputError(
                    f"--attack_images names {attack}, which --eval_attacks does not."
                )

    def rounds(self) -> dict[int | None, tuple[str, ...]]:
        """Number of test images, None for all -> the attacks on so many, all of them first.

        A black-box attack takes as many as the attack itself.
        """
        fewer = dict(self.attack_images)
        found = {self.max_images: ()}
        for attack in self.attacks:
            count = fewer.get(_plain(attack), self.max_images)
            if self.max_images is not None:
                count = min(count, self.max_images)
            found[count] = (*found.get(count, ()), attack)
        return found

    def wanted(self, students: Iterable[str], mixed: bool = True) -> Iterator[Wanted]:
        """What is evaluated of a run: its students, then their mixtures.

        The best student is never mixed. The networks of a mixture are attacked as one, so
        that no black-box attack is made on it.

        Args:
            students: Those that the run has.
            mixed: Whether there is a vanilla network to mix them with.
        """
        asked = [name for name in students if name in self.students]
        pairs = [(student, None) for student in asked]
        for student in asked if mixed else ():
            pairs += [(student, mix) for mix in self.mixtures if student != "best"]
        for student, mix in pairs:
            name = mix.name(student) if mix else student
            for images, attacks in self.rounds().items():
                if mix:
                    attacks = tuple(a for a in attacks if not evaluation.is_transfer(a))
                yield Wanted(name, student, mix, images, attacks)

    @property
    def threat(self) -> str:
        """The threat model that results are filed under: linf:8/255."""
        return f"{self.norm}:{radius(self.epsilon)}"

    def joined(self, other: "EvaluationPlan") -> "EvaluationPlan":
        """What either of two plans for the same run asks for.

        Raises:
            InputError: They evaluate it otherwise.
        """
        if not self.students or not other.students:  # one of them evaluates nothing
            return self if self.students else other
        self._check_like(other)

        def both(name):
            return tuple(dict.fromkeys((*getattr(self, name), *getattr(other, name))))

        names = "attacks", "attack_images", "students", "mixtures"
        surrogate = self.surrogate or other.surrogate
        return dataclasses.replace(
            self, surrogate=surrogate, **{name: both(name) for name in names}
        )

    def _check_like(self, other):
        """Raises `InputError` where images, threat or surrogate of two plans differ."""
        mine, theirs = self._images(), other._images()
        same = all(mine[attack] == theirs[attack] for attack in mine.keys() & theirs)
        same = same and self.max_images == other.max_images
        if not same or self.threat != other.threat:
            raise InputError(
                "One run is to be evaluated in two ways, under other threats or on other "
                "numbers of images: run such suites one after the other."
            )
        if self.surrogate and other.surrogate not in (None, self.surrogate):
            raise InputError(
                f"One run is to be attacked from two surrogates, {self.surrogate} and "
                f"{other.surrogate}: give the suites one `surrogate`, or each a --runs of "
                "its own."
            )

    def _images(self):
        """Attack -> its number of images."""
        return {a: count for count, attacks in self.rounds().items() for a in attacks}

    def of_teachers(self) -> "EvaluationPlan":
        """The plan for the networks that are trained before a run."""
        students = self.students if self.teachers else ()
        return dataclasses.replace(self, students=students, mixtures=())


def _plain(attack):
    return attack.removeprefix(evaluation.TRANSFER)


def attack_images(texts) -> tuple[tuple[str, int], ...]:
    """The pairs of texts such as autoattack:1000.

    Raises:
        InputError: A text that is not valid.
    """
    pairs = []
    for text in texts:
        attack, colon, count = text.rpartition(":")
        if not colon or not count.isdecimal() or not int(count):
            raise InputError(
                f"--attack_images={text!r} must be an attack and a number of images, such "
                "as autoattack:1000."
            )
        pairs.append((attack, int(count)))
    return tuple(pairs)
