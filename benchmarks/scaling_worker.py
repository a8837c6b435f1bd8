"""A replica or worker of `benchmarks.scaling`: the training step under a strategy."""

import argparse
import itertools
import math
import sys

import vfd_tf  # before TensorFlow

# isort: split
import keras
import tensorflow as tf

from benchmarks import machine, step, worker
from vfd_tf.cli.strategies import make_strategy
from vfd_tf.training.optimizers import SGD


def strategy_of(replicas):
    """One device for 0 replicas; else mirrored, or the workers of TF_CONFIG."""
    if not replicas:
        return make_strategy("one_device")
    cpu = tf.config.list_physical_devices("CPU")[0]
    own = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, own)
    chosen = make_strategy("auto")
    several = chosen.num_replicas_in_sync > replicas
    return chosen if several else make_strategy("mirrored")


def trainer_of(options, strategy):
    """The compiled trainer of a pair, in the scope of the strategy."""
    method, distillation = step.split(options.pair)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        trainer = vfd_tf.AdversarialTrainer(
            step.network(options.arch, options.width),
            method,
            vfd_tf.attacks.PGD(steps=options.steps),
            distillation,
            teacher=step.network(options.arch, options.width),
            options=vfd_tf.TrainingOptions(sync_batch_norm=not options.own_batch_norm),
        )
        trainer.compile(SGD(1e-3, 0.9, weight_decay=2e-4))
    return trainer


def step_of(trainer, strategy, batch_size):
    """The compiled training step on each replica's share of one batch: () -> loss."""
    x, y = step.batch(batch_size)
    each = batch_size // strategy.num_replicas_in_sync

    def share(array):
        def of_replica(context):
            first = context.replica_id_in_sync_group * each
            return array[first : first + each]

        return strategy.experimental_distribute_values_from_function(of_replica)

    data = (x, y) if strategy.num_replicas_in_sync == 1 else (share(x), share(y))
    train, iterator = trainer.make_train_function(), itertools.repeat(data)

    def run() -> float:
        loss = float(train(iterator)["loss"].numpy())
        if not math.isfinite(loss):
            raise SystemExit("The loss is no longer finite: its times mean nothing.")
        return loss

    return run


def main(arguments):
    parser = argparse.ArgumentParser(parents=[worker.shared_flags()])
    parser.add_argument("--pair", default="trades+vfd")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--replicas", type=int, default=0)
    parser.add_argument("--own_batch_norm", action="store_true")
    options = parser.parse_args(arguments)
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    said, sys.stdout = sys.stdout, sys.stderr  # the asking end reads JSON alone
    strategy = strategy_of(options.replicas)
    trainer = trainer_of(options, strategy)
    run = step_of(trainer, strategy, options.batch_size)
    facts = {**machine.tensorflow_facts(), "XLA": "off"}
    sys.stdout = said
    worker.serve({"facts": facts, "replicas": strategy.num_replicas_in_sync}, run)


if __name__ == "__main__":
    main(sys.argv[1:])
