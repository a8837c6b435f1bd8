"""From suites and flags to the runs of a graph."""

import dataclasses
from collections.abc import Container

from vfd_tf import evaluation
from vfd_tf.cli import flags, recipes, refusals
from vfd_tf.experiments.evaluation_plan import attack_images
from vfd_tf.hyperparameters import InputError, choose
from vfd_tf.suites.graph import Graph, Node, Run
from vfd_tf.suites.suite import STUDENTS, Suite
from vfd_tf.training.methods import Natural

# Flags that a suite sets itself, for every run.
_OWN = ("mode", "recipe", "seed", "runs", "workdir", *flags.OF_ROWS)
# Flags that change no result, and are those of a machine.
_PLACES = ("data_dir", "strategy", "jit_compile", "steps_per_execution", "panel_every")
_PLACES += ("checkpoint_minutes", "checkpoint_steps", "eval_batch_size")
_ATTACKS = ("eval_attacks", "attack_images")  # that not all runs of a suite have
# What a suite's file says instead of a flag.
_KEYS = {"mixtures": "mixtures = [...] in [curves]", "eval_students": "students"}
_OF_ROWS = ("recipe", "method", "distill")  # of these, what a suite's file may set


def passed_on(values) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The flags of the command that join all runs: those that change results, others."""
    taken = sorted(flags.taken(values, "train") - set(_OWN))
    given = [values[name] for name in taken if values[name].present]
    texts = {flag.name: flag.serialize() for flag in given}
    return (
        tuple(text for name, text in texts.items() if name not in _PLACES and text),
        tuple(text for name, text in texts.items() if name in _PLACES and text),
    )


def _how(values):
    """The flags that change no result: what a run needs is trained so as well."""
    return tuple(values[name].serialize() for name in _PLACES if values[name].present)


@dataclasses.dataclass
class PlannedSuite:
    """A suite with all its runs in a graph.

    Args:
        suite: The `Suite`.
        folder: Where suite.json and the report are.
        graph: The graph, which the runs are added to.
        more: Flags that join all runs, after those of the suite.
        seeds: The seeds of every run.
        places: More flags for all runs, which change no result.

    Attributes:
        points: (point, seed, path of its run), in order.
        plans: (point, seed) -> how this suite evaluates the run.
        attacks: What is evaluated: the suite's columns, or --eval_attacks.
    """

    suite: Suite
    folder: str
    graph: Graph
    more: tuple[str, ...]
    seeds: tuple[int, ...]
    places: tuple[str, ...] = ()

    def __post_init__(self):
        _refuse_own(self.suite)
        own, given = _values(self.more), _names(self.more)
        asked = own.eval_attacks if "eval_attacks" in given else self.suite.attacks
        self.attacks = tuple(asked)
        self.fewer = {**self.suite.images, **self._fewer(own.attack_images)}
        self.surrogate = self._surrogate()
        pairs = [(point, seed) for seed in self.seeds for point in self.suite.points()]
        runs = [self._run(*pair) for pair in pairs]
        _refuse_unlike(runs)
        paths = map(self.graph.add, runs)
        self.points = [(*p, path) for p, path in zip(pairs, paths, strict=True)]
        # The graph's plans are those of all suites that want a run.
        self.plans = {p: run.plan for p, run in zip(pairs, runs, strict=True)}
        if self.suite.features:
            self.graph.add_other(self._features())

    def words(self, *own: str) -> tuple[str, ...]:
        """The flags of a run: of suite and scale, the user's, and its own."""
        more = (word for word in self.more if not _names([word]) & set(_ATTACKS))
        words = (*self.suite.flags, *more, *self.places, *own)
        replaced = recipes.replaced(words)  # by that of the scale
        return tuple(word for word in words if word not in replaced)

    def _fewer(self, texts):
        """Attack -> images, of --attack_images."""
        plain = {name.removeprefix(evaluation.TRANSFER): name for name in self.attacks}
        pairs = attack_images(texts)
        for name, _ in pairs:
            choose(plain, name, f"attack of {self.suite.name} in --attack_images")
        return dict(pairs)

    def _surrogate(self):
        """The experiment of the network that black-box attacks are made on, or None."""
        if _values(self.more).surrogate == "auto":
            raise InputError(
                "A suite trains the surrogate of its black-box columns itself: leave "
                "--surrogate=auto out, or name a file."
            )
        wanted = any(map(evaluation.is_transfer, self.attacks))
        if not wanted or "surrogate" in _names(self.more):
            return None
        words = self.words(*self.suite.surrogate, "--method=natural", "--distill=none")
        try:
            experiment = flags.experiments(_values(words))[0]
        except InputError as error:
            raise InputError(f"{self.suite.name}, its surrogate: {error}") from error
        return experiment.surrogate(experiment.arch)

    def _run(self, point, seed):
        words = self.words(*point.words, f"--seed={seed}")
        try:
            values = _values((*self._evaluation(point), *words))
            experiments = flags.experiments(values)
            if len(experiments) > 1:
                raise InputError("--method and --distill name several runs, not one.")
            experiment = experiments[0]
            plan = flags.evaluation_plan(values, training=True)
        except InputError as error:
            raise InputError(f"{self.suite.name}, {point.label}: {error}") from error
        mixtures = self.suite.mixtures if self.suite.mixes(point) else ()
        if mixtures and isinstance(experiment.method, Natural):
            raise InputError(
                f"{self.suite.name}, {point.label}: its student is trained as the vanilla "
                "teacher is, and mixing both has no effect; name other rows in mixed and "
                "against."
            )
        students = self._students(point, experiment)
        plan = dataclasses.replace(
            plan, students=students, teachers=False, mixtures=mixtures
        )
        name = f"{self.suite.name}: {point.label}, seed {seed}"
        black_box = any(map(evaluation.is_transfer, self._attacks(point)))
        surrogate = self.surrogate if black_box else None
        return Run(name, words, experiment, plan, surrogate, _how(values))

    def _students(self, point, experiment):
        averaged = experiment.recipe.average != "none"
        students = self.suite.students or STUDENTS[: 1 + averaged]
        if "average" in students and not averaged:
            raise InputError(
                f"{self.suite.name}, {point.label}: there is no averaged student without "
                "--average=ema or swa; add it to flags, or take average out of students."
            )
        return students

    def _evaluation(self, point):
        """The flags of the evaluation of a run, before those of the user."""
        attacks, most = self._attacks(point), self.suite.max_images
        plain = {name.removeprefix(evaluation.TRANSFER) for name in attacks}
        fewer = [f"{name}:{n}" for name, n in self.fewer.items() if name in plain]
        yield f"--eval_attacks={','.join(attacks)}"
        yield f"--attack_images={','.join(fewer)}"
        if most:
            yield f"--max_images={most}"
        if self.surrogate is not None and any(map(evaluation.is_transfer, attacks)):
            yield "--surrogate=of-this-suite"

    def _attacks(self, point):
        """Curves are compared on AutoAttack, or else on the last attack there is."""
        robust = [name for name in self.attacks if name == "autoattack"]
        return tuple(robust or self.attacks[-1:]) if point.curve else self.attacks

    def _features(self):
        """The command that draws the features of all rows of the first seed."""
        points = [(p, path) for p, seed, path in self.points if seed == self.seeds[0]]
        paths = [path for _, path in points]
        first = self.graph.nodes[paths[0]].experiment
        words = [*paths, *self.suite.features, f"--features_dir={self.folder}"]
        rows = [point.row for point, _ in points]
        if not any("," in row for row in rows):
            words.append(f"--features_names={','.join(rows)}")
        words += [f"--dataset={first.dataset}", f"--norm={first.attack.norm}"]
        words += [f"--epsilon={flags.text_of(first.attack.epsilon)}"]
        if first.image_size:
            words.append(f"--image_size={first.image_size}")
        words += [word for word in self.places if _names([word]) == {"data_dir"}]
        name = f"{self.suite.name}: features"
        words = ("features", *words)
        return Node(name, self.folder, words, after=tuple(paths), tolerant=True)

    def paths(self, rows: Container[str] = ()) -> list[str]:
        """Paths of all that this suite asks for itself, or of some rows alone."""
        runs = [path for point, _, path in self.points if not rows or point.row in rows]
        features = [self.folder] if self.suite.features and not rows else []
        return [*dict.fromkeys(runs), *features]


def _names(words):
    return {word.removeprefix("--").partition("=")[0] for word in words}


def _values(words):
    """The values of flags that are given as words."""
    values = flags.define()
    with refusals.of_flags(values):
        flags.parse(values, words)
    return values


def _refuse_own(suite: Suite):
    """Raises `InputError` if a suite sets what is not its rows' to decide."""
    swept = [suite.sweep] if suite.sweep else []
    swept = {name for name, _ in (*swept, *suite.curves.values())}
    for words in (suite.flags, suite.surrogate, *suite.rows.values()):
        swept |= _names(words)
    for name in _OWN:
        if name in swept and name not in _OF_ROWS:
            key = _KEYS.get(name)
            instead = f"write {key} in its place" if key else "leave it out of the file"
            raise InputError(
                f"The suite {suite.name} sets --{name} for a run, which is set for all "
                f"runs alike: {instead}."
            )


def _refuse_unlike(runs: list[Run]):
    """Raises `InputError` unless all runs of a suite are evaluated alike."""
    first = runs[0]
    for run in runs:
        for flag, what in (("eval_epsilon", "threat"), ("max_images", "max_images")):
            its, mine = getattr(first.plan, what), getattr(run.plan, what)
            if mine != its:
                raise InputError(
                    f"{first.name} would be evaluated with {what} {its}, and {run.name} "
                    f"with {mine}: give all rows one --{flag}, in `flags`."
                )
