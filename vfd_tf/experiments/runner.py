"""Running an experiment: train into a run directory, or continue, or find it complete."""

import functools
import importlib.util
import re

from vfd_tf import evaluation, files
from vfd_tf.experiments import checks, continuing, fitting, forecast
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.run_directory import RunDirectory, key
from vfd_tf.experiments.session import Session
from vfd_tf.hyperparameters import name_of
from vfd_tf.models import architectures, network
from vfd_tf.training import curves, roles
from vfd_tf.training.distillation import DISTILLATIONS
from vfd_tf.training.methods import METHODS


class Runner:
    """Runs one experiment: the networks it needs first, then itself, then its evaluation.

    Args:
        experiment: The `Experiment`.
        session: The `Session` of the command.
        workdir: Its directory; default: named by what the result depends on.
        source: The `continuing.Source` that it goes on from, or None.

    Attributes:
        prerequisites: Role -> the runner of a network that is wanted as "auto".
    """

    def __init__(
        self,
        experiment: Experiment,
        session: Session,
        workdir: str | None = None,
        source: continuing.Source | None = None,
    ):
        self.experiment, self.session, self.source = experiment, session, source
        self.first = source.first(experiment) if source else experiment
        roles_ = self.first.prerequisites
        self.prerequisites = {
            role: Runner(self.first.prerequisite(role), session)
            for role in roles_
            if self.first[role] == "auto"
        }
        self._given = {r: self.first[r] for r in roles_ if r not in self.prerequisites}
        self._workdir = workdir

    @functools.cached_property
    def keys(self) -> dict[str, str]:
        """Role -> key of the run, or hash of the file, that gives its network."""
        keys = {}
        for role in self.first.prerequisites:
            if role in self.prerequisites:
                keys[role] = key(self.prerequisites[role].identity)
            else:
                keys[role] = files.sha256(self._given[role])
        return keys

    @functools.cached_property
    def identity(self) -> dict:
        """What the result depends on."""
        identity = self.experiment.identity(self.session.data.digest, self.keys)
        return identity | self.source.mark if self.source else identity

    @functools.cached_property
    def directory(self) -> RunDirectory:
        """The run directory; nothing is made yet."""
        experiment = self.experiment
        labels = (
            re.sub(r"[^\w.]+", "-", experiment.dataset).strip("-"),
            architectures.label(experiment.arch),
            name_of(METHODS, experiment.method),
            name_of(DISTILLATIONS, experiment.distillation),
        )
        name = "-".join((*labels, key(self.identity)))
        path = self._workdir or f"{self.session.root}/{name}"
        return RunDirectory(path, label="+".join(labels[2:]))

    def share(self) -> None:
        """Gives all workers the directory of the chief, and those of prerequisites."""
        for runner in self.prerequisites.values():
            runner.share()
        self.session.cluster.copy_folder(self.directory.path)

    def check(self) -> None:
        """Raises `InputError` for what would fail later, before anything is trained."""
        cluster = self.session.cluster
        # The chief first, which may download what it starts from.
        cluster.check_same(cluster.in_turn(self._facts))
        self.share()
        experiment, data = self.experiment, self.session.data
        for role, path in self._given.items():
            checks.check_prerequisite(network.load(path), role, path, data)
        if self.source:
            self.source.check(experiment, data.digest, self.keys)
        checks.check_recipe(experiment, self.session)
        stand_ins = {role: self._stand_in(role) for role in roles.WANTED}
        student = cluster.in_turn(lambda: fitting.network_of(experiment, data))
        roles.assemble(student, stand_ins, experiment.method, experiment.distillation)
        self._check_directories()
        for runner in self.prerequisites.values():
            runner.plan()
        self.plan(student, stand_ins)

    def _facts(self):
        """What all workers must agree on: the run, and the files of its networks."""
        return {"run (files of --init, --arch, ...)": key(self.identity), **self.keys}

    def _stand_in(self, role):
        """The network of a role as far as it is known before anything is trained."""
        data = self.session.data
        if role == "partner":
            wanted = role in self.experiment.distillation.needs
            return fitting.network_of(self.experiment, data) if wanted else None
        if role in self._given:
            return network.load(self._given[role])
        if role in self.prerequisites:
            return fitting.network_of(self.prerequisites[role].experiment, data)
        return None

    def _check_directories(self):
        """Refuses directories of others, damaged ones, and ones that can't be written."""
        root, directory = self.session.root, self.directory
        for path in dict.fromkeys((directory.path, root)):
            files.check_writable(path)
        directory.check_owner(self.identity, self.experiment.fields())
        if not directory.complete and not directory.state().epoch and not self.source:
            hint = continuing.hint(self.experiment, self.identity, root)
            if hint:
                print(f"Note: {hint}")

    def plan(self, student=None, stand_ins=None) -> None:
        """Notes the work of a run that is not complete."""
        if self.directory.complete:
            return
        data = self.session.data
        student = student or fitting.network_of(self.experiment, data)
        teachers = [model for model in (stand_ins or {}).values() if model is not None]
        self.session.pending[self.directory.path] = forecast.Work(
            self.experiment, data, self.session.plan, student, teachers
        )

    def run(self, wait: bool = False) -> list[RunDirectory]:
        """Trains, continues or finds the experiment, and evaluates it.

        No two processes have one directory at once.

        Args:
            wait: Waits for another process that trains the same, instead of refusing.

        Returns:
            The directories of its prerequisites, and at the end its own.
        """
        done, networks = [], dict(self._given)
        for role, runner in self.prerequisites.items():
            print(f"--{role}=auto: {type(runner.experiment.method).__name__} first")
            done += runner.run(wait=True)
            networks[role] = runner.directory.student("best")
        directory = self.directory
        with directory.owned(wait=wait):
            files.remove_parts(directory.path)
            self.session.cluster.copy_folder(directory.path)
            directory.check_owner(self.identity, self.experiment.fields())
            if directory.complete:
                print(f"{directory.path}: complete")
                if self.session.cluster.chief:
                    directory.mend(self._flags())
            else:
                self._train(networks)
            self.session.pending.pop(directory.path, None)
            self._evaluate()
        return [*done, directory]

    def _train(self, networks):
        experiment, session, directory = self.experiment, self.session, self.directory
        trainer = fitting.make_trainer(experiment, session, networks)
        directory.claim(self.identity, experiment.fields(), self._flags())
        if self.source:
            self.source.hand_over(directory)
            steps = len(session.data.train) // experiment.recipe.batch_size
            print(f"{directory.path}: {self.source.describe(experiment, steps)}")
        work, extra = session.pending.pop(directory.path, None), []
        if work:
            left = experiment.recipe.epochs - directory.state().epoch
            extra = [forecast.Forecast(work, left, session.pending.values())]
        fitting.train(experiment, session, directory, trainer, extra)

    def _verdicts(self, which, attacks):
        """Column -> bool [n] of a student; replicas and workers share the images.

        A single process goes on from the windows of images that were finished before.
        """
        session, plan, journal = self.session, self.session.plan, None
        with session.strategy.scope():
            student = network.load(self.directory.student(which))
        if session.cluster.count == 1:
            threat = plan.epsilon, plan.norm
            described = {a: evaluation.protocol(a, *threat).describe() for a in attacks}
            journal = self.directory.journal(which, described)
        result = evaluation.evaluate(
            student,
            session.cluster.share(session.test),
            attacks,
            epsilon=plan.epsilon,
            norm=plan.norm,
            batch_size=plan.batch_size,
            devices=session.cluster.devices,
            journal=journal,
        )
        for warning in result.warnings:
            print(f"Warning: {warning}")
        own = result.verdicts()
        return {name: session.cluster.whole(own[name], len(session.test)) for name in own}

    def _flags(self):
        """The flags that repeat the run."""
        describe, source = self.session.describe, self.source
        text = describe(self.experiment) if describe else ""
        return text + (f"--continue_from={source.path}\n" if source else "")

    def _evaluate(self):
        """Adds to results.json what it doesn't hold yet of the asked-for protocols."""
        session, directory = self.session, self.directory
        plan, test = session.plan, session.test
        threat, count = session.threat_and_count
        directory.keep_only(session.data.test.digest[:16])
        for which in directory.students:
            known = directory.verdicts(which, threat, count)
            missing = [a for a in plan.attacks if a not in known]
            if not missing and "clean" in known:
                if not directory.accuracies(which, threat, count):  # results.json is new
                    directory.add_verdicts(which, threat, count, {})
                continue
            print(f"{directory.path}: evaluating {which}.keras on {len(test)} test images")
            verdicts = self._verdicts(which, missing)
            if session.cluster.chief and importlib.util.find_spec("tensorboard"):
                both = evaluation.accuracies({**known, **verdicts})
                events = f"{directory.path}/tensorboard"
                curves.write_accuracies(events, which, f"{threat} {count}", both)
            # Last: an evaluation that has verdicts is not made again.
            directory.add_verdicts(which, threat, count, verdicts)
        directory.remove_journal()  # of a process that was killed behind its verdicts


def warn_without_gpu(experiment: Experiment, session: Session) -> None:
    """A note before training where what is pending takes a CPU days."""
    student = fitting.network_of(experiment, session.data)
    images = session.data.train[: experiment.recipe.batch_size].floats()
    note = forecast.without_gpu(student, session.pending.values(), images)
    if note:
        print(f"Note: {note}", flush=True)
