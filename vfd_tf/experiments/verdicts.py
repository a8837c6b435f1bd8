"""Adds to a run directory the verdicts on the test split that a plan asks for."""

import importlib.util
import json

from vfd_tf import evaluation, files
from vfd_tf.experiments.evaluation_plan import Wanted
from vfd_tf.experiments.mixtures import Mix, held_out_logits, is_mixed
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.experiments.session import Session
from vfd_tf.models import network
from vfd_tf.models.mixed_nuts import NothingToFit
from vfd_tf.models.mixture import Nuts, fit_nuts
from vfd_tf.training.callbacks import curves


class Verdicts:
    """The verdicts of one run's students, and of their mixtures with a vanilla network.

    Args:
        directory: The run's directory, complete.
        session: The `Session` of the command, with its plan.
        vanilla: A .keras file, where the plan asks for mixtures.
    """

    def __init__(self, directory: RunDirectory, session: Session, vanilla=None):
        self.directory, self.session, self.vanilla = directory, session, vanilla
        self._logits = {}  # of a student, which all shares are fitted to

    @property
    def wanted(self) -> list[Wanted]:
        """What the plan asks for of the students that are there."""
        mixed = bool(self.vanilla)
        return [*self.session.plan.wanted(self.directory.students, mixed)]

    @property
    def mixtures(self) -> dict[str, tuple[str, Mix]]:
        """Name -> the student and the mixture, of those that are asked for."""
        return {each.name: (each.student, each.mix) for each in self.wanted if each.mix}

    def add(self) -> None:
        """Evaluates what isn't known yet of the asked-for protocols."""
        session, directory = self.session, self.directory
        directory.keep_only(session.data.test.digest[:16])
        for role, path, needs in (
            ("surrogate", session.plan.surrogate, _is_black_box),
            ("vanilla", session.plan.mixtures and self.vanilla, _needs_vanilla),
        ):
            if path:
                directory.keep_made_with(role, files.sha256(path), needs)
        directory.recount()
        made = [name for name in self.mixtures if self._can_be_made(name)]
        for name, _, mix, images, attacks in self.wanted:
            if mix is None or name in made:
                self._add(name, images, attacks)
        directory.remove_journal()  # of a process that was killed after its verdicts

    def _add(self, which, images, attacks):
        session, directory = self.session, self.directory
        test = session.data.test[:images]
        threat, count = session.plan.threat, f"n={len(test)}"
        known = directory.verdicts(which, threat, count)
        missing = [name for name in attacks if name not in known]
        if not missing and "clean" in known:
            return
        print(f"{directory.path}: evaluating {which} on {len(test)} test images")
        found = self._evaluated(which, test, missing)
        if session.cluster.chief and importlib.util.find_spec("tensorboard"):
            both = evaluation.accuracies({**known, **found}, threat)
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
            journal = self.directory.journal(mark, self._described(attacks))
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

    def _described(self, attacks):
        """Column -> what its windows depend on: the protocol, the surrogate."""
        plan = self.session.plan
        threat = plan.epsilon, plan.norm
        found = {a: evaluation.protocol(a, *threat).describe() for a in attacks}
        black_box = [*filter(evaluation.is_transfer, attacks)]
        mark = files.sha256(plan.surrogate) if black_box else ""
        return found | {a: f"{found[a]} {mark}" for a in black_box}

    def _model(self, which):
        """A student or a mixture, and what its journal belongs to."""
        name, mix = self.mixtures.get(which, (which, None))
        path = self.directory.student(name)
        mark = files.sha256(path)
        if mix is None:
            return network.load(path), mark
        fit = self.directory.fit(which, self.session.plan.threat)
        mark = f"{mark} {files.sha256(self.vanilla)} {mix.text}"
        mark += f" {json.dumps(fit)}" if fit else ""
        networks = network.load(self.vanilla), network.load(path)
        return mix.classifier(*networks, Nuts(**fit) if mix.fitted else None), mark

    def _can_be_made(self, which):
        """Fits the numbers of a mixture that has some; says so where none fit."""
        student, mix = self.mixtures[which]
        if not mix.fitted:
            return True
        threat, cluster = self.session.plan.threat, self.session.cluster
        fit = self.directory.fit(which, threat)
        if not fit:
            fit = self._fit(student, mix.share) if cluster.chief else {}
            fit = json.loads(cluster.from_chief(json.dumps(fit).encode()))
            self.directory.add_fit(which, threat, fit)
        if "reason" in fit:
            print(f"Warning: {which} is left out: {fit['reason']}")
        return "reason" not in fit

    def _fit(self, student, kept):
        if student not in self._logits:
            self._logits[student] = self._held_out(student)
        try:
            return vars(fit_nuts(*self._logits[student], kept=kept))
        except NothingToFit as error:
            return {"reason": str(error)}

    def _held_out(self, student):
        """Logits of a student on the validation split, clean and attacked; labels."""
        plan, held_out = self.session.plan, self.session.data.validation
        print(f"{self.directory.path}: fitting to {len(held_out)} validation images")
        robust = network.load(self.directory.student(student))
        x, y = held_out.floats(), held_out.y
        options = {"epsilon": plan.epsilon, "norm": plan.norm}
        options |= {"batch_size": plan.batch_size, "strict": False}  # as in _evaluated
        return *held_out_logits(robust, x, y, **options), y


def _needs_vanilla(which, column):
    return is_mixed(which)


def _is_black_box(which, column):
    return evaluation.is_transfer(column)
