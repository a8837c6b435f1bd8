"""What all commands that train begin with: their session, and the surrogate of "auto"."""

import contextlib
import tempfile
from collections.abc import Iterator

import numpy as np

from vfd_tf.cli import flags
from vfd_tf.cli.strategies import make_strategy
from vfd_tf.data import datasets
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.provenance import provenance
from vfd_tf.experiments.runner import Runner
from vfd_tf.experiments.session import Session
from vfd_tf.progress import labelled
from vfd_tf.training.devices.cluster import Cluster


@contextlib.contextmanager
def session(values, first: Experiment, plan: EvaluationPlan) -> Iterator[Session]:
    """The session of a command; of its workers only the chief has the real folders.

    Args:
        first: The experiment whose data set it is.
        plan: The evaluation.
    """
    # Before anything else of TensorFlow: workers find each other at its start.
    strategy = make_strategy(values.strategy)
    cluster = Cluster(strategy)
    cluster.check_same(_versions() | _places(cluster))
    cluster.check_same(_flags(values))
    with contextlib.ExitStack() as stack:
        root, verbose = values.runs, {}
        if not cluster.chief:
            stack.enter_context(labelled(f"[worker {cluster.index}] "))
            root, verbose = stack.enter_context(tempfile.TemporaryDirectory()), 2
        # One by one: the first may have to prepare what the others then find.
        data = cluster.in_turn(lambda: _data(values, first))
        found = Session(
            data=data,
            plan=plan,
            root=root,
            strategy=strategy,
            jit_compile={"true": True, "false": False}.get(values.jit_compile, "auto"),
            steps_per_execution=values.steps_per_execution,
            panel_every=values.panel_every,
            checkpoint_minutes=values.checkpoint_minutes,
            checkpoint_steps=values.checkpoint_steps,
            describe=flags.flagfile,
            **({"verbose": verbose} if verbose else {}),
        )
        cluster.check_same({"the data set": found.data.digest})
        yield found
        cluster.sum(np.zeros(1))  # none ends before the others are done


def _data(values, first):
    return datasets.load(
        first.dataset,
        values.data_dir,
        first.validation,
        image_size=first.image_size,
        hold=first.hold,
    )


def surrogate(experiment: Experiment, session: Session, arch: str) -> str:
    """The file of a vanilla network for black-box attacks, trained first or found.

    Args:
        experiment: The run of the flags, which says how it is trained.
        arch: Its architecture.
    """
    plan = EvaluationPlan(attacks=(), max_images=session.plan.max_images)
    runner = Runner(experiment.surrogate(arch), session.with_plan(plan))
    runner.check()
    return runner.run(wait=True)[-1].student("best")


def _versions():
    """What has to be the same on all workers, whatever the flags."""
    known = provenance()
    names = "vfd_tf", "tensorflow", "keras", "numpy"
    return {name: str(known[name]) for name in names}


def _places(cluster):
    """Where all workers must think they are."""
    devices = {"number of devices": str(len(cluster.devices))}
    return {"list of workers": ", ".join(cluster.addresses), **devices}


def _flags(values):
    """The flags that all workers must have been given alike."""
    own = {"data_dir", "runs", "workdir"}  # places may differ from machine to machine
    flat = values.flag_values_dict()
    return {f"--{name}": str(value) for name, value in flat.items() if name not in own}
