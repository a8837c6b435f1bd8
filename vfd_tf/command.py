"""The command line: flags -> experiments -> train -> evaluate -> one table."""

import sys

import tensorflow as tf
from absl import flags

from vfd_tf import config, datasets, evaluating, evaluation, info, running, tradeoff
from vfd_tf.part import InputError, choose

USAGE = """Adversarial training with Vanilla Feature Distillation.

  python run.py --method=hat --vfd_lambda=0.01
  python run.py --flagfile=flags/cifar10_trades.flags --distill=none,vfd
  python run.py evaluate --model=my.keras --dataset=cifar10 --eval_attacks=autoattack
  python run.py info runs/NAME runs/NAME/best.keras
  python run.py plot runs/* --plot_y=pgd20 --out=tradeoff.png
  tensorboard --logdir=runs

The same command again continues a run, or reports it where it is complete.

modes, as the first word or as --mode:
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 done, 1 stopped, 2 bad input (one sentence on stderr)."""
    argv = sys.argv if argv is None else argv
    values = config.define()
    values.set_gnu_getopt()  # flags may follow the paths
    if any(word in ("--help", "-h", "--helpfull", "--helpshort") for word in argv[1:]):
        modes = "".join(f"  {name:9} {run.__doc__}\n" for name, run in MODES.items())
        print(USAGE + modes + config.help_text(values))
        return 0
    try:
        words = values(argv)[1:]
        if words and words[0] in MODES and not values["mode"].present:
            values.mode = words.pop(0)
        choose(MODES, values.mode, "mode")(values, words)
    except (InputError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; the same command continues after the last whole epoch.")
        return 1
    return 0


def train(values, words: list[str]) -> None:
    """Train, or continue or find, the runs that the flags ask for; evaluate them."""
    if words:
        raise InputError(
            f"Unexpected argument {words[0]!r}; flags are --name=value, and the modes "
            f"{', '.join(MODES)}."
        )
    experiments = config.experiments(values)
    if values.workdir and len(experiments) > 1:
        raise InputError(
            f"--workdir names one run directory, but --method and --distill ask for "
            f"{len(experiments)} runs; use --runs for the folder of all."
        )
    plan = config.evaluating(values)
    for attack in plan.attacks:
        evaluation.protocol(attack, plan.epsilon, plan.norm)
    first = experiments[0]
    setting = running.Setting(
        data=datasets.load(first.dataset, values.data_dir, first.validation),
        evaluating=plan,
        root=values.runs,
        strategy=make_strategy(values.strategy),
        panel_every=values.panel_every,
        describe=config.flagfile,
    )
    for each in experiments:
        running.check(each, setting, values.workdir)
    for each in experiments:
        running.run(each, setting, values.workdir)
    print(setting.report())


MODES = {
    "train": train,
    "evaluate": evaluating.run,
    "info": info.show,
    "plot": tradeoff.plot,
}


def make_strategy(name: str) -> tf.distribute.Strategy:
    """One device, or a mirror of the network on every GPU (without one: on every CPU)."""
    if name == "one_device":
        return tf.distribute.get_strategy()
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


if __name__ == "__main__":
    sys.exit(main())
