"""The TRADES step of vfd_tf as a worker of `benchmarks.pytorch_trades`."""

import argparse
import sys

import vfd_tf  # noqa: F401  before TensorFlow

# isort: split
import numpy as np
import tensorflow as tf

from benchmarks import machine, step, worker


def main(arguments):
    parser = argparse.ArgumentParser(parents=[worker.shared_flags()])
    options = parser.parse_args(arguments)
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    levels, labels = worker.batch(options.batch_size)
    x = np.frombuffer(levels, "uint8").reshape(-1, *step.SHAPE) / np.float32(255)
    student = step.network("resnet18", options.width)
    trainer = step.trainer_of("trades", options.steps, student, teacher=None)
    facts = machine.tensorflow_facts()
    own = {
        "device": "cpu" if facts["GPU"] == "none" else "gpu",
        "weights": sum(int(np.prod(v.shape)) for v in student.trainable_variables),
        "facts": {**facts, "XLA": "on" if trainer.jit_compile else "off"},
    }
    labels = tf.constant(labels, tf.int32)
    worker.serve(own, step.step_of(trainer, tf.constant(x), labels))


if __name__ == "__main__":
    main(sys.argv[1:])
