"""Options that work with every method and distillation; all are off by default."""

from vfd_tf.hyperparameters import Component, InputError, component, hyper
from vfd_tf.models.precision import POLICIES

AVERAGES = ("none", "ema", "swa")


@component
class TrainingOptions(Component):
    """How a training step departs from a method's own, whatever the method.

    AWP: every step is taken at weights that were first moved against the student, by
    awp_gamma * ||w|| along the gradient of the whole loss, kernel by kernel. Wu et al.
    2020, https://arxiv.org/abs/2004.05884

    Accumulation: the gradients of the parts of a batch are averaged before the one update,
    which is that of the whole batch, except that BatchNorm sees the parts.

    BatchNorm by view: clean and adversarial images share kernels alone. The attack and the
    shipped student have the adversarial set, unless `ship_view` says otherwise.

    Averages of the student's weights, beside the student: "ema", from the weights after the
    first step on, t steps later with decay min(ema_decay, (1 + t) / (10 + t)); "swa", the
    mean of the epochs from swa_start on, by the callback `StochasticWeightAverage`, https://arxiv.org/abs/1803.05407
    """

    attack_bn_mode: str = hyper(
        "eval",
        "BatchNorm inside the training attack",
        choices=("eval", "train"),
        part_of="attack",
    )
    attack_objective: str = hyper(
        "method",
        "what the training attack ascends: the method's own, or cross-entropy as in "
        "Algorithm 1",
        choices=("method", "ce"),
        part_of="attack",
    )
    add_clean_ce: bool = hyper(
        False,
        "add eq. 6's clean cross-entropy, weight 1, to methods without one",
        part_of="student",
    )
    precision: str = hyper(
        "float32",
        "what all networks compute in; images, attack, logits, losses and weights are "
        "float32",
        choices=POLICIES,
    )
    accumulate_steps: int = hyper(
        1,
        "parts of a batch that go through the networks one after the other, for batches "
        "larger than memory",
        minimum=1,
    )
    sync_batch_norm: bool = hyper(
        True, "BatchNorm over the whole batch instead of each replica's, in training"
    )
    batch_norm: str = hyper(
        "method",
        "BatchNorm of clean and of adversarial images: shared, or views, each its own; "
        "method: shared but for ar-at",
        choices=("method", "shared", "views"),
        part_of="student",
    )
    batch_norm_affine: str = hyper(
        "views",
        "scale and shift of BatchNorm by view: views, or shared, statistics alone by view",
        choices=("views", "shared"),
        part_of="student",
    )
    ship_view: str = hyper(
        "adv",
        "BatchNorm by view: whose set the shipped student has",
        choices=("adv", "clean"),
        part_of="student",
    )
    label_smoothing: float = hyper(
        0.0, "s of labels (1 - s) y + s / classes in the losses", 0.0, 0.999
    )
    clip_norm: float | None = hyper(
        None, "largest norm of the gradient, summed over replicas", minimum=1e-12
    )
    awp_gamma: float = hyper(
        0.0, "radius of AWP relative to ||w||; 0: no AWP", minimum=0.0, part_of="student"
    )
    average: str = hyper(
        "none", "average of the student's weights", choices=AVERAGES, part_of="student"
    )
    ema_decay: float = hyper(0.995, "ema: decay a step", 0.0, 1.0, part_of="student")
    on_nan: str = hyper(
        "stop",
        "a loss, gradient or weight that is not finite stops training, is skipped with its "
        "step, or sends it back to the last whole epoch, to leave out the 20 steps before",
        choices=("stop", "skip", "rollback"),
    )
    swa_start: int | None = hyper(
        None,
        "swa: epochs before the average begins; none: half of them",
        minimum=0,
        part_of="student",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.average != "swa" and self.swa_start is not None:
            raise InputError("swa_start needs average='swa' (--average=swa).")
        if self.average != "ema" and self.ema_decay != TrainingOptions.ema_decay:
            raise InputError("ema_decay needs average='ema' (--average=ema).")
        if self.on_nan == "rollback" and self.precision == "mixed_float16":
            raise InputError(
                "mixed_float16 skips what is not finite: leave out on_nan='rollback' "
                "(--on_nan), or train in mixed_bfloat16."
            )
