"""What an experiment is refused for before anything is trained."""

from vfd_tf import evaluation
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.session import Session
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract
from vfd_tf.training import choices
from vfd_tf.training.optimizers import learning_rate
from vfd_tf.training.weights.accumulation import check_divides


def check_recipe(experiment: Experiment, session: Session) -> None:
    """Raises `InputError` for what doesn't fit the data or the number of epochs."""
    data, size = session.data, experiment.recipe.batch_size
    replicas = session.strategy.num_replicas_in_sync
    recipe = experiment.recipe
    if size > len(data.train):
        raise InputError(
            f"A batch of {size} is larger than the {len(data.train)} training images; "
            "choose a smaller batch_size."
        )
    check_divides(size, replicas, recipe.accumulate_steps)
    workers = session.cluster.count
    for images, name in ((data.validation, "validation"), (session.test, "test")):
        if len(images) < workers:
            raise InputError(
                f"{len(images)} {name} images can't be shared by {workers} workers: take "
                "more images, or fewer workers."
            )
    learning_rate(recipe, 1)
    if recipe.schedule == "piecewise" and max(recipe.lr_milestones, default=0) >= (
        recipe.epochs
    ):
        print(
            f"Note: --lr_milestones={','.join(map(str, recipe.lr_milestones))} are not all "
            f"reached in {recipe.epochs} epochs."
        )
    if recipe.average == "swa" and (recipe.swa_start or 0) >= recipe.epochs:
        raise InputError(
            f"swa_start {recipe.swa_start} leaves nothing to average in {recipe.epochs} "
            "epochs; choose a smaller one."
        )
    augmentation = data.augmentation.replace(cutout=recipe.cutout, cutmix=recipe.cutmix)
    augmentation.check(data.input_shape, size, data.num_classes)
    if experiment.method.adversarial:
        choices.refuse_no_attack(experiment.attack)


def check_prerequisite(model, role: str, path: str, data) -> None:
    """Raises `InputError` for a network file of other data, or one near chance."""
    contract.check_fits(model, f"The {role} {path}", data, exactly=True)
    accuracy = evaluation.Engine(model).correct(data.validation).mean()
    print(f"{role} {path}: {100 * accuracy:.1f}% of the validation images")
    if accuracy < 1.5 / data.num_classes:
        raise InputError(
            f"The {role} {path} classifies {100 * accuracy:.1f}% of the validation images, "
            "near chance: it was trained on other data or other pixel values."
        )
