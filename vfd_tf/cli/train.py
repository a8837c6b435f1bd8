"""The mode `train`: the runs that flags ask for, trained, evaluated, in one table."""

import tensorflow as tf

from vfd_tf import evaluation
from vfd_tf.cli import flags, idle_flags
from vfd_tf.data import datasets
from vfd_tf.experiments import continuing
from vfd_tf.experiments.runner import Runner, warn_without_gpu
from vfd_tf.experiments.session import Session
from vfd_tf.hyperparameters import InputError


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
    source = continuing.Source(values.continue_from) if values.continue_from else None
    plan = flags.evaluation_plan(values)
    for attack in plan.attacks:
        evaluation.protocol(attack, plan.epsilon, plan.norm)
    first = experiments[0]
    session = Session(
        data=datasets.load(
            first.dataset,
            values.data_dir,
            first.validation,
            image_size=first.image_size,
            hold=first.hold,
        ),
        plan=plan,
        root=values.runs,
        strategy=make_strategy(values.strategy),
        panel_every=values.panel_every,
        describe=flags.flagfile,
    )
    runners = [Runner(each, session, values.workdir, source) for each in experiments]
    for runner in runners:
        runner.check()
    warn_without_gpu(first, session)
    directories = {d.path: d for runner in runners for d in runner.run()}
    print(session.report([*directories.values()]))


def make_strategy(name: str) -> tf.distribute.Strategy:
    """One device, or a mirror of the network on every GPU (without one: on every CPU)."""
    if name == "one_device":
        return tf.distribute.get_strategy()
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])
