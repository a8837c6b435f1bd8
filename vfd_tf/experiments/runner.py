"""Running an experiment: train into a run directory, or continue, or find it complete."""

import functools

from vfd_tf import files
from vfd_tf.experiments import checks, continuing, fitting, forecast, model_card, places
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.run_directory import RunDirectory, key
from vfd_tf.experiments.session import Session
from vfd_tf.experiments.verdicts import Verdicts
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import network
from vfd_tf.models.mixture import OtherArchitecture, interpolation
from vfd_tf.training import roles, view_norms


class Runner:
    """Runs one experiment: the networks it needs first, then itself, then its evaluation.

    Args:
        experiment: The `Experiment`.
        session: The `Session` of the command.
        workdir: Its directory; default: named by what the result depends on.
        source: The `continuing.Source` that it goes on from, or None.

    Attributes:
        before: Role -> the runner of a network that is trained before this one: one that
            is wanted as "auto".
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
        wanted = dict.fromkeys(self.first.prerequisites)
        if session.plan.mixtures and experiment.method.adversarial:
            wanted["teacher"] = None  # also where the method needs none
        teachers = session.of_teachers()
        self.before = {
            role: Runner(self.first.prerequisite(role), teachers)
            for role in wanted
            if self.first[role] == "auto"
        }
        self._given = {r: self.first[r] for r in wanted if r not in self.before}
        self._workdir = workdir

    @functools.cached_property
    def keys(self) -> dict[str, str]:
        """Role -> key of the run, or hash of the file, that gives its network."""
        return places.helpers(self.first, self.session.data.digest)

    @functools.cached_property
    def identity(self) -> dict:
        """What the result depends on."""
        identity = self.experiment.identity(self.session.data.digest, self.keys)
        return identity | self.source.mark if self.source else identity

    @functools.cached_property
    def directory(self) -> RunDirectory:
        """The run directory; nothing is made yet."""
        path = places.path(self.experiment, self.identity, self.session.root)
        label = "+".join(places.labels(self.experiment)[2:])
        return RunDirectory(self._workdir or path, label=label)

    def share(self) -> None:
        """Gives all workers the directories of the chief."""
        for runner in self.before.values():
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
        if self.session.plan.surrogate:
            path = self.session.plan.surrogate
            checks.check_prerequisite(network.load(path), "surrogate", path, data)
        if self.source:
            self.source.check(experiment, data.digest, self.keys)
        checks.check_recipe(experiment, self.session)
        stand_ins = {role: self._stand_in(role) for role in roles.WANTED}
        start = self._given.get("teacher")
        student = cluster.in_turn(lambda: fitting.network_of(experiment, data, start))
        pair = experiment.method, experiment.distillation
        networks = roles.assemble(student, stand_ins, *pair)
        view_norms.siblings(networks["student"], *pair, experiment.recipe)
        self._check_mixtures(student)
        for runner in self.before.values():
            runner._check_directories()
            runner.plan()
        self._check_directories()
        self._say_source()
        self.plan(student, stand_ins)

    def _check_mixtures(self, student):
        """Refuses students that there won't be, and weights that have no mean."""
        plan, experiment = self.session.plan, self.experiment
        mixtures = plan.mixtures if experiment.method.adversarial else ()
        if mixtures and "last" not in plan.students and experiment.recipe.average == "none":
            raise InputError(
                "--mixtures mixes the last and the average student, and without --average "
                "there is no average one: add last to --eval_students."
            )
        single = next((mix for mix in mixtures if mix.networks == 1), None)
        if single is None:
            return
        if self.first.teacher == "auto":
            other = self.first.prerequisite("teacher")
            vanilla = fitting.network_of(other, self.session.data)
        else:
            vanilla = network.load(self.first.teacher)
        try:
            interpolation(vanilla, student, 0.5)
        except OtherArchitecture as error:
            fix = f"write {single.share:g} instead of {single.text} in --mixtures"
            raise OtherArchitecture(error.why, fix) from error

    def _facts(self):
        """What all workers must agree on: the run, and the files of its networks."""
        return {"run (files of --init, --arch, ...)": key(self.identity), **self.keys}

    def _stand_in(self, role):
        """The network of a role as far as it is known before anything is trained."""
        data = self.session.data
        if role not in self.experiment.needs:  # --init=teacher alone reads its weights
            return None
        if role == "partner":
            return fitting.network_of(self.experiment, data)
        if role in self._given:
            return network.load(self._given[role])
        if role in self.before:
            return fitting.network_of(self.before[role].experiment, data)
        return None

    def _check_directories(self):
        """Refuses directories of others, damaged ones, and ones that can't be written."""
        root, directory = self.session.root, self.directory
        for path in dict.fromkeys((directory.path, root)):
            files.check_writable(path)
        directory.check_owner(self.identity, self.experiment.fields())
        if not directory.complete:
            directory.state()

    def _say_source(self):
        """Names a run that this one could go on from, where it would begin anew."""
        directory = self.directory
        if not directory.complete and not directory.state().epoch and not self.source:
            root = self.session.root
            hint = continuing.hint(self.experiment, self.identity, root)
            if hint:
                print(f"Note: {hint}")

    def plan(self, student=None, stand_ins=None) -> None:
        """Notes the work of a run that is not complete."""
        if self.directory.complete:
            return
        data = self.session.data
        student = student or fitting.network_of(self.experiment, data)
        beside = {r: m for r, m in (stand_ins or {}).items() if m is not None}
        plan, surrogate = self.session.plan, 0
        if plan.surrogate:
            surrogate = forecast.multiply_adds(network.load(plan.surrogate))
        self.session.pending[self.directory.path] = forecast.Work(
            self.experiment,
            data,
            plan,
            forecast.multiply_adds(student),
            {role: forecast.multiply_adds(model) for role, model in beside.items()},
            surrogate,
        )

    def run(self, wait: bool = False) -> list[RunDirectory]:
        """Trains, continues or finds the experiment, and evaluates it.

        No two processes have one directory at once.

        Args:
            wait: Waits for another process that trains the same, instead of refusing.

        Returns:
            The directories of those before it, and at the end its own.
        """
        done, networks = [], dict(self._given)
        for role, runner in self.before.items():
            print(f"--{role}=auto: {type(runner.experiment.method).__name__} first")
            done += runner.run(wait=True)
            networks[role] = runner.directory.student("best")
        vanilla = networks.get("teacher") if self.experiment.method.adversarial else None
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
            Verdicts(directory, self.session, vanilla).add()
            if self.session.cluster.chief:
                model_card.write(directory)
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

    def _flags(self):
        """The flags that repeat the run."""
        describe, source = self.session.describe, self.source
        text = describe(self.experiment) if describe else ""
        return text + (f"--continue_from={source.path}\n" if source else "")


def warn_without_gpu(experiment: Experiment, session: Session) -> None:
    """A note before training where what is pending takes a CPU days."""
    student = fitting.network_of(experiment, session.data)
    images = session.data.train[: experiment.recipe.batch_size].floats()
    note = forecast.without_gpu(student, session.pending.values(), images)
    if note:
        print(f"Note: {note}", flush=True)
