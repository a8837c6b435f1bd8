"""An attack of one library on one batch, as a worker of `benchmarks.attacks`.

Each side as its users run it: `Engine.examples` of vfd_tf, `foolbox.TensorFlowModel`,
ART's `TensorFlowV2Classifier`, cleverhans's functions inside one `tf.function`, and
torchattacks on a channels-last network. ResNet-18 everywhere, no early stop.
"""

import argparse
import sys

import numpy as np

from benchmarks import worker

EPSILON, STEP_SIZE, C, LEARNING_RATE = 8 / 255, 2 / 255, 1.0, 0.01


def _keras(options):
    """The network, image -> logits, with the thread count of the options."""
    import tensorflow as tf

    from benchmarks import machine, step
    from vfd_tf.models import network

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    model = network.classifier(step.network("resnet18", options.width))
    return model, machine.tensorflow_facts()


def vfd(options, x, y):
    """() -> x_adv of vfd_tf."""
    import vfd_tf  # noqa: F401, turns oneDNN on; peers leave it to TensorFlow

    model, facts = _keras(options)
    from vfd_tf import evaluation, noise

    craft = options.craft_precision or "float32"
    engine = evaluation.Engine(model, len(x), early_stop=False, craft=craft)
    names = {"pgd": f"pgd{options.steps}:step_size={STEP_SIZE}"}
    names["cw"] = f"cw:steps={options.steps}:early_stop=false"
    protocol = evaluation.protocol(names[options.attack], EPSILON)
    ((run,),) = protocol.stages(10).values()
    seeds = noise.example_seeds(0, 0, np.arange(len(x))).numpy()
    batch = {"x": x, "y": y, "clean_logits": engine.logits(x), "seeds": seeds}
    return lambda: engine.examples(run, batch), facts


def foolbox(options, x, y):
    """() -> x_adv of foolbox."""
    model, facts = _keras(options)
    import foolbox
    import tensorflow as tf

    wrapped = foolbox.TensorFlowModel(model, (0, 1))
    x, y = tf.constant(x), tf.constant(y)
    if options.attack == "pgd":
        attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=options.steps)
        call = lambda: attack(wrapped, x, y, epsilons=EPSILON)  # noqa: E731
    else:
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            1, options.steps, LEARNING_RATE, initial_const=C, abort_early=False
        )
        call = lambda: attack(wrapped, x, y, epsilons=None)  # noqa: E731
    return lambda: call()[1].numpy(), {**facts, "foolbox": foolbox.__version__}


def art(options, x, y):
    """() -> x_adv of the Adversarial Robustness Toolbox."""
    model, facts = _keras(options)
    import art
    import tensorflow as tf
    from art.attacks.evasion import CarliniL2Method, ProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier = TensorFlowV2Classifier(
        model, nb_classes=10, input_shape=x.shape[1:], loss_object=loss, clip_values=(0, 1)
    )
    shared = {"batch_size": len(x), "verbose": False}
    if options.attack == "pgd":
        attack = ProjectedGradientDescent(
            classifier,
            eps=EPSILON,
            eps_step=STEP_SIZE,
            max_iter=options.steps,
            num_random_init=1,
            **shared,
        )
    else:
        attack = CarliniL2Method(
            classifier,
            learning_rate=LEARNING_RATE,
            binary_search_steps=1,
            max_iter=options.steps,
            initial_const=C,
            **shared,
        )
    labels = np.eye(10, dtype="float32")[y]
    return lambda: attack.generate(x, labels), {**facts, "ART": art.__version__}


def cleverhans(options, x, y):
    """() -> x_adv of cleverhans."""
    model, facts = _keras(options)
    import tensorflow as tf
    from cleverhans.tf2.attacks.projected_gradient_descent import (
        projected_gradient_descent,
    )

    @tf.function(autograph=False)
    def attack(x, y):
        return projected_gradient_descent(
            lambda images: model(images, training=False),
            x,
            EPSILON,
            STEP_SIZE,
            options.steps,
            np.inf,
            clip_min=0.0,
            clip_max=1.0,
            y=y,
        )

    x, y = tf.constant(x), tf.constant(y)
    return lambda: attack(x, y).numpy(), facts


def torchattacks(options, x, y):
    """() -> x_adv of torchattacks."""
    import torch
    import torchattacks

    from benchmarks import pytorch_worker

    torch.set_num_threads(options.threads)
    last = torch.channels_last
    model = pytorch_worker.ResNet18(options.width).eval().to(memory_format=last)
    x = torch.tensor(x.transpose(0, 3, 1, 2).copy()).to(memory_format=last)
    y = torch.tensor(y).long()
    if options.attack == "pgd":
        attack = torchattacks.PGD(model, EPSILON, STEP_SIZE, options.steps)
    else:
        attack = torchattacks.CW(model, C, 0, options.steps, LEARNING_RATE)
    facts = pytorch_worker.facts_of(model, "cpu")["facts"]
    return lambda: attack(x, y).numpy(), facts


LIBRARIES = {f.__name__: f for f in (vfd, foolbox, art, cleverhans, torchattacks)}


def main(arguments):
    parser = argparse.ArgumentParser(parents=[worker.shared_flags()])
    parser.add_argument("--library", choices=LIBRARIES, required=True)
    parser.add_argument("--attack", choices=("pgd", "cw"), required=True)
    parser.add_argument("--craft_precision")
    options = parser.parse_args(arguments)
    levels, labels = worker.batch(options.batch_size)
    x = np.frombuffer(levels, "uint8").reshape(-1, 32, 32, 3) / np.float32(255)
    attack, facts = LIBRARIES[options.library](options, x, np.array(labels, "int32"))

    def step() -> float:
        return float(attack().sum())

    worker.serve({"facts": facts}, step)


if __name__ == "__main__":
    main(sys.argv[1:])
