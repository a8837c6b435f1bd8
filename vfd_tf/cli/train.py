"""The mode `train`: the runs that flags ask for, trained, evaluated, in one table."""

import os
from dataclasses import replace

from vfd_tf.cli import flags, idle_flags, sessions
from vfd_tf.experiments import continuing
from vfd_tf.experiments.runner import Runner, warn_without_gpu
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import classifiers


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
    with sessions.session(values, experiments[0], plan) as session:
        _run(experiments, session, values)


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
    given = session.plan.surrogate
    if given == "auto":
        given = sessions.surrogate(experiments[0], session, values.surrogate_arch)
    elif given:
        given = classifiers.student_of_run(given) or given
    session = session.with_plan(replace(session.plan, surrogate=given))
    runners = [Runner(each, session, workdir, source) for each in experiments]
    for runner in runners:
        runner.check()
    warn_without_gpu(experiments[0], session)
    directories = {d.path: d for each in runners for d in each.run(values.wait)}
    print(session.report([*directories.values()]))
