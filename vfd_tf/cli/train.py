"""The mode `train`: the runs that flags ask for, trained, evaluated, in one table."""

import contextlib
import os
import tempfile
from dataclasses import replace

import numpy as np

from vfd_tf.cli import flags, idle_flags
from vfd_tf.cli.strategies import make_strategy
from vfd_tf.data import datasets
from vfd_tf.experiments import continuing
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.provenance import provenance
from vfd_tf.experiments.runner import Runner, warn_without_gpu
from vfd_tf.experiments.session import Session
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import classifiers
from vfd_tf.progress import labelled
from vfd_tf.training.cluster import Cluster


def run(values, argv: list[str]) -> None:
    """Train, or continue or find, the runs that the flags ask for; evaluate them."""
    experiments = flags.experiments(values)
    idle_flags.warn(values, argv, "train", experiments)
    for name in ("workdir", "continue_from"):
        if values[name].value and len(experiments) > 1:
            raise InputError(
                f"--{name} names one run directory, but --method and --distill ask for "
                f"{len(experiments)} runs; use --runs for the folder of all."
            )
    plan = flags.evaluation_plan(values, training=True)
    with _session(values, experiments[0], plan) as session:
        _run(experiments, session, values)


@contextlib.contextmanager
def _session(values, first, plan):
    """The session of the command; of its workers only the chief has the real folders."""
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
        session = Session(
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
        cluster.check_same({"the data set": session.data.digest})
        yield session
        cluster.sum(np.zeros(1))  # none ends before the others are done


def _data(values, first):
    return datasets.load(
        first.dataset,
        values.data_dir,
        first.validation,
        image_size=first.image_size,
        hold=first.hold,
    )


def _run(experiments, session, values):
    workdir, source = values.workdir, None
    if not session.cluster.chief:
        workdir = workdir and os.path.join(session.root, "workdir")
    if values.continue_from:
        path = values.continue_from
        if not session.cluster.chief:
            path = os.path.join(session.root, "continue_from")
        session.cluster.copy_folder(path)
        source = continuing.Source(path)
    if session.plan.surrogate:
        surrogate = _surrogate(experiments[0], session, values.surrogate_arch)
        session = session.with_plan(replace(session.plan, surrogate=surrogate))
    runners = [Runner(each, session, workdir, source) for each in experiments]
    for runner in runners:
        runner.check()
    warn_without_gpu(experiments[0], session)
    directories = {d.path: d for each in runners for d in each.run(values.wait)}
    print(session.report([*directories.values()]))


def _surrogate(experiment, session, arch):
    """The file of the surrogate; "auto" trains a vanilla network first, or finds it."""
    given = session.plan.surrogate
    if given != "auto":
        return classifiers.student_of_run(given) or given
    own = session.with_plan(EvaluationPlan(attacks=()))
    runner = Runner(experiment.surrogate(arch), own)
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
