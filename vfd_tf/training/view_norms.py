"""BatchNorm by view: the sets of a student that its clean and adversarial images have.

The shipped student has one set. Of every other set there is a sibling, a network of the
same layers with BatchNorm layers of its own, which is trained and not shipped. Xie et al.
2020, https://arxiv.org/abs/1911.09665
"""

import keras
import tensorflow as tf

from vfd_tf import noise
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import batch_norms, contract


def reads(method, distillation, terms=()) -> set[str]:
    """The views on which the student is asked for outputs in training mode."""
    clean = ("clean",) if "clean" in terms else ()
    return {*method.reads, *distillation.reads, *clean}


def siblings(network, method, distillation, options) -> tuple[dict[str, keras.Model], list]:
    """(set -> network of the sets that are not shipped, their BatchNorm layers).

    Without adversarial examples, or where a single set is read, there are none.

    Raises:
        InputError: BatchNorm that can't be taken apart, or a shipped set that no view has.
    """
    wanted = method.batch_norm if options.batch_norm == "method" else options.batch_norm
    if not method.adversarial:
        return {}, []
    if wanted == "shared":
        _refuse_options_of_views(options)
        return {}, []
    terms = ("clean",) if options.add_clean_ce else ()
    sets = sorted({method.set_of(view) for view in reads(method, distillation, terms)})
    if options.ship_view not in sets:
        raise InputError(
            f"{type(method).__name__} trains no BatchNorm of {options.ship_view} images: "
            f"ship the set {' or '.join(sets)} (--ship_view={sets[0]})."
        )
    networks, norms = {}, []
    affine = options.batch_norm_affine == "views"
    for name in sets:
        if name != options.ship_view:
            networks[name], own = batch_norms.sibling(network, affine)
            norms += own
    return networks, norms


def _refuse_options_of_views(options):
    for name in ("batch_norm_affine", "ship_view"):
        if options[name] != getattr(type(options), name):
            raise InputError(f"{name} needs batch_norm='views' (--batch_norm=views).")


def shipped(trainer, x, y):
    """What the shipped set sees in training of clean images [n, h, w, c].

    Their adversarial examples, where views have BatchNorm of their own and it is theirs.
    """
    if not trainer._untracked.siblings or trainer.options.ship_view == "clean":
        return x
    x = tf.cast(x, keras.config.floatx())
    position = tf.range(tf.shape(x)[0])
    seeds = noise.example_seeds(trainer.seed, trainer.iteration.value, position)
    x = trainer.method.images(x, seeds)
    return trainer._make_step().adversarial(x, contract.labels(y), seeds)
