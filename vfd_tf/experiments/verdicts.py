"""Adds to a run directory the verdicts on the test split that a plan asks for."""

import importlib.util

from vfd_tf import evaluation, files
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.experiments.session import Session
from vfd_tf.models import network
from vfd_tf.models.mixture import mixture
from vfd_tf.training import curves


class Verdicts:
    """The verdicts of one run's students, and of their mixtures with a vanilla network.

    Args:
        directory: The run's directory, complete.
        session: The `Session` of the command, with its plan.
        vanilla: A .keras file, where the plan asks for mixtures.
    """

    def __init__(self, directory: RunDirectory, session: Session, vanilla=None):
        self.directory, self.session, self.vanilla = directory, session, vanilla

    @property
    def students(self) -> list[str]:
        """The students that are there and asked for, and their mixtures."""
        plan = self.session.plan
        found = [name for name in self.directory.students if name in plan.students]
        mixed = [name for name in found if name != "best"] if self.vanilla else []
        return found + [
            mixture_name(name, weight) for name in mixed for weight in plan.mixtures
        ]

    def add(self) -> None:
        """Evaluates what isn't known yet of the asked-for protocols."""
        session, directory = self.session, self.directory
        directory.keep_only(session.data.test.digest[:16])
        for role, path, needs in (
            ("surrogate", session.plan.surrogate, _is_black_box),
            ("vanilla", session.plan.mixtures and self.vanilla, _is_mixture),
        ):
            if path:
                directory.keep_made_with(role, files.sha256(path), needs)
        for which in self.students:
            for images, attacks in session.plan.rounds().items():
                if _is_mixture(which):  # its networks are attacked as one, or not at all
                    attacks = [a for a in attacks if not evaluation.is_transfer(a)]
                self._add(which, images, attacks)
        directory.remove_journal()  # of a process that was killed behind its verdicts

    def _add(self, which, images, attacks):
        session, directory = self.session, self.directory
        test = session.data.test[:images]
        threat, count = session.plan.threat, f"n={len(test)}"
        known = directory.verdicts(which, threat, count)
        missing = [name for name in attacks if name not in known]
        if not missing and "clean" in known:
            if not directory.accuracies(which, threat, count):  # results.json is new
                directory.add_verdicts(which, threat, count, {})
            return
        print(f"{directory.path}: evaluating {which} on {len(test)} test images")
        found = self._evaluated(which, test, missing)
        if session.cluster.chief and importlib.util.find_spec("tensorboard"):
            both = evaluation.accuracies({**known, **found})
            events = f"{directory.path}/tensorboard"
            curves.write_accuracies(events, which, f"{threat} {count}", both)
        # Last: an evaluation that has verdicts is not made again.
        directory.add_verdicts(which, threat, count, found)

    def _evaluated(self, which, test, attacks):
        """Column -> bool [n] of a student; replicas and workers share the images.

        A single process goes on from the windows of images that were finished before.
        """
        session, plan, journal = self.session, self.session.plan, None
        black_box = any(map(evaluation.is_transfer, attacks))
        with session.strategy.scope():
            model, mark = self._model(which)
            surrogate = network.load(plan.surrogate) if black_box else None
        if session.cluster.count == 1:
            threat = plan.epsilon, plan.norm
            described = {a: evaluation.protocol(a, *threat).describe() for a in attacks}
            journal = self.directory.journal(mark, described)
        result = evaluation.evaluate(
            model,
            session.cluster.share(test),
            attacks,
            epsilon=plan.epsilon,
            norm=plan.norm,
            batch_size=plan.batch_size,
            devices=session.cluster.devices,
            journal=journal,
            surrogate=surrogate,
            compilations=session.compilations,
            strict=False,  # one that collapsed may look as if it gave probabilities
        )
        for warning in result.warnings:
            print(f"Warning: {warning}")
        own = result.verdicts()
        return {name: session.cluster.whole(own[name], len(test)) for name in own}

    def _model(self, which):
        """A student or a mixture, and what its journal belongs to."""
        name, _, weight = which.partition(_MIXTURE)
        path = self.directory.student(name)
        mark = files.sha256(path)
        if not weight:
            return network.load(path), mark
        networks = network.load(self.vanilla), network.load(path)
        mark = f"{mark} {files.sha256(self.vanilla)} {weight}"
        return mixture(*networks, float(weight)), mark


_MIXTURE = "-mixture-"


def mixture_name(student: str, weight: float) -> str:
    """What the mixture of a student and its vanilla teacher is called: last-mixture-0.5."""
    return f"{student}{_MIXTURE}{weight:g}"


def _is_mixture(which, column=None):
    return _MIXTURE in which


def _is_black_box(which, column):
    return evaluation.is_transfer(column)
