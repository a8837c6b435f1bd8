"""An experiment: one training run with everything that decides its result."""

import dataclasses
import json
from typing import Any

from vfd_tf import evaluation
from vfd_tf.attacks import PGD, Attack
from vfd_tf.data import datasets
from vfd_tf.data.holding import HOLDS
from vfd_tf.hyperparameters import Component, InputError, component, hyper
from vfd_tf.models import architectures, backbones, initial
from vfd_tf.training.distillation import VFD, Distillation, NoDistillation
from vfd_tf.training.methods import HAT, PGDAT, Method, Natural
from vfd_tf.training.optimizers import SCHEDULES
from vfd_tf.training.options import TrainingOptions
from vfd_tf.training.schedules import LambdaSchedule


@component
class Recipe(TrainingOptions):
    """How a network is trained, whatever the method."""

    epochs: int = hyper(110, "epochs of training", minimum=1)
    batch_size: int = hyper(128, "images a step, over all replicas", minimum=1)
    learning_rate: float = hyper(0.1, "learning rate, the peak of its schedule", 0.0)
    schedule: str = hyper("piecewise", "learning-rate schedule", choices=tuple(SCHEDULES))
    lr_milestones: tuple[int, ...] = hyper(
        (100, 105),
        "piecewise: whole epochs after which the learning rate changes",
        when={"schedule": ("piecewise",)},
    )
    lr_factors: tuple[float, ...] = hyper(
        (),
        "piecewise: factors on the learning rate; empty: 1, 0.1, 0.01, ...",
        when={"schedule": ("piecewise",)},
    )
    lr_rise: float = hyper(
        0.25,
        "one-cycle: share of the steps that rise",
        0.0,
        1.0,
        when={"schedule": ("one-cycle",)},
    )
    momentum: float = hyper(0.9, "momentum of SGD", minimum=0.0, maximum=1.0)
    nesterov: bool = hyper(False, "Nesterov momentum")
    weight_decay: float = hyper(5e-4, "coupled weight decay, as PyTorch's", minimum=0.0)
    augment: bool = hyper(True, "random crop and flip, where the data set has them")
    cutout: int = hyper(0, "side of the square cut out of images, pixels", minimum=0)
    cutmix: float = hyper(0.0, "CutMix: alpha of its Beta distribution; 0: none", 0.0)
    warmup_epochs: float = hyper(0.0, "epochs of linear learning-rate warm-up", minimum=0.0)
    attack_warmup: int = hyper(
        0,
        "epochs over which the attack's epsilon and step size rise",
        minimum=0,
        part_of="attack",
    )
    awp_warmup: int = hyper(0, "epochs before AWP begins", minimum=0, part_of="student")
    val_attack: str = hyper(
        "pgd10", "protocol that chooses the best student, every epoch", part_of="attack"
    )
    val_attack_images: int | None = hyper(
        None, "held-out images that it takes; none: all", minimum=1, part_of="attack"
    )

    def __post_init__(self):
        super().__post_init__()
        if evaluation.protocol(self.val_attack).transfer:
            raise InputError(
                f"val_attack={self.val_attack} is made on a surrogate: name the attack "
                "itself, such as pgd10."
            )
        if self.awp_warmup and not self.awp_gamma:
            raise InputError("awp_warmup needs awp_gamma (--awp_gamma=0.005).")

    @classmethod
    def parts_of(cls, what: str) -> dict[str, Any]:
        """Name -> default of the fields that are part of "attack" or of "student" alone."""
        found = (f for f in dataclasses.fields(cls) if f.metadata["part_of"] == what)
        return {field.name: field.default for field in found}

    def without(self, what: str) -> "Recipe":
        """This recipe with the defaults of these fields, see `parts_of`."""
        return self.replace(**self.parts_of(what))


@component
class Experiment(Component):
    """Everything that decides the result of one training run."""

    dataset: str = hyper(
        "cifar10",
        f"data set: {', '.join(datasets.DATASETS)}, tfds:NAME, npz:FILE, dir:FOLDER",
    )
    validation: int | None = hyper(
        None, "images held out of training; none: 1,000, at most a tenth", minimum=1
    )
    image_size: int | None = hyper(
        None, "images become squares of this side, pixels; none: as they are", minimum=1
    )
    hold: str = hyper(
        "auto", "where pixels are held; auto: in memory up to 4 GiB", choices=HOLDS
    )
    arch: str = hyper("resnet18", architectures.HELP)
    init: str | None = hyper(None, initial.HELP)
    width: float = hyper(1.0, "factor on the channels of the architecture", 0.01, 100.0)
    normalize: bool = hyper(True, "first layer: the data set's mean and variance")
    seed: int = hyper(0, "seed of weights, order, augmentation and noise", minimum=0)
    teacher: str = hyper("auto", "vanilla teacher: a .keras file, or auto (find or train)")
    robust_teacher: str = hyper("auto", "robust teacher: a .keras file, or auto")
    teacher_seed: int = hyper(1000, "seed of teachers trained by auto", minimum=0)
    teacher_arch: str | None = hyper(
        None, "architecture of the vanilla teacher of auto; none: the student's"
    )
    teacher_epochs: int | None = hyper(
        None, "epochs of the teachers of auto; none: the student's", minimum=1
    )
    method: Method = HAT()
    distillation: Distillation = VFD()
    attack: Attack = PGD()
    recipe: Recipe = Recipe()
    lambda_schedule: LambdaSchedule = LambdaSchedule()
    beta_schedule: LambdaSchedule = LambdaSchedule()

    def __post_init__(self):
        super().__post_init__()
        architectures.check(self.arch)
        if self.teacher_arch is not None:
            architectures.check(self.teacher_arch)
        initial.check(self.init, self.arch)
        if self.init == initial.TEACHER and self.teacher_arch not in (None, self.arch):
            raise InputError(
                f"--init=teacher needs a teacher of the student's architecture: leave out "
                f"--teacher_arch={self.teacher_arch}, or name a file with --init."
            )

    @property
    def students(self) -> tuple[str, ...]:
        """The students that a run leaves."""
        return ("best", "last", *(("average",) if self.recipe.average != "none" else ()))

    @property
    def needs(self) -> tuple[str, ...]:
        """The roles of the networks that the losses of this run read."""
        return tuple(dict.fromkeys((*self.method.needs, *self.distillation.needs)))

    @property
    def prerequisites(self) -> tuple[str, ...]:
        """The networks this run needs that are trained before it."""
        starts = ("teacher",) if self.init == initial.TEACHER else ()
        needs = dict.fromkeys((*self.needs, *starts))
        return tuple(role for role in needs if role in PREREQUISITES)

    def prerequisite(self, role: str) -> "Experiment":
        """The experiment whose student plays `role` here."""
        if self.seed == self.teacher_seed:
            raise InputError(
                f"seed and teacher_seed are both {self.seed}; a teacher must start from "
                "other weights than its student."
            )
        other = {"teacher": self.teacher_arch}.get(role) or self.arch
        before = self._trained_before(PREREQUISITES[role](), other)
        epochs = self.teacher_epochs or self.recipe.epochs
        recipe = before.recipe.replace(epochs=epochs)
        return before.replace(recipe=recipe, teacher_epochs=None)

    def surrogate(self, arch: str) -> "Experiment":
        """The experiment of a vanilla network to make black-box attacks on."""
        return self._trained_before(Natural(), arch)

    def _trained_before(self, method, arch):
        return self.replace(
            method=method,
            distillation=NoDistillation(),
            seed=self.teacher_seed,
            arch=arch,
            init=self._init_of(arch),
            recipe=self.recipe.without("student"),
        )

    def _init_of(self, arch):
        """The weights that a prerequisite of this architecture starts from.

        Its student's, unless these are a prerequisite's; of another architecture, those of
        ImageNet alone are its own.
        """
        if self.init == initial.TEACHER:
            return None
        fits = arch == self.arch or (
            self.init == initial.IMAGENET and backbones.is_name(arch)
        )
        return self.init if fits else None

    def identity(self, digest: str, helpers: dict[str, str]) -> dict:
        """What the result depends on; equal identities give equal weights.

        Components are named by the fields that differ from their defaults: a new field
        whose default changes nothing leaves the runs of before their names.

        Args:
            digest: Hash of the training images.
            helpers: Role -> key or file hash of the networks trained before.
        """
        same = ("dataset", "arch", "width", "normalize", "seed")
        identity = {name: self[name] for name in same}
        identity["arch"] = architectures.mark(self.arch)
        if self.init:
            identity["init"] = initial.mark(self.init)
        identity |= {"data": digest, "helpers": helpers} | self._image_size()
        return identity | {
            name: component.brief() for name, component in self._components().items()
        }

    def fields(self) -> dict[str, dict]:
        """Every hyper-parameter that counts: component -> field -> value, defaults too."""
        components = self._components()
        return json.loads(
            json.dumps({n: dataclasses.asdict(p) for n, p in components.items()})
        )

    def hyperparameters(self) -> dict:
        """All that counts, flat: "recipe.epochs" -> 110, "method" -> its class."""
        named = {
            name: type(component).__name__ for name, component in self._components().items()
        }
        plain = {name: self[name] for name in ("dataset", "arch", "width", "seed")}
        plain |= {"init": self.init} if self.init else {}
        return (
            plain
            | self._image_size()
            | named
            | {
                f"{component}.{name.rstrip('_')}": value
                for component, fields in self.fields().items()
                for name, value in fields.items()
            }
        )

    def _image_size(self):
        """Named only where it is set: runs of before keep their names."""
        return {} if self.image_size is None else {"image_size": self.image_size}

    def _components(self) -> dict[str, Component]:
        """The components that decide the result: no attack where nothing is attacked."""
        components = {"method": self.method, "distillation": self.distillation}
        components["recipe"] = self.recipe
        if self.method.adversarial:
            components["attack"] = self.attack
        else:
            components["recipe"] = self.recipe.without("attack")
        if isinstance(self.distillation, VFD):
            components["lambda_schedule"] = self.lambda_schedule
        if self.method.beta_term and self.beta_schedule != LambdaSchedule():
            components["beta_schedule"] = self.beta_schedule
        return components


PREREQUISITES = {"teacher": Natural, "robust_teacher": PGDAT}
