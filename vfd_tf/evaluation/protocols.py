"""Protocols: named, frozen attacks, such as pgd20 or autoattack, under a threat model."""

import dataclasses
import inspect
import re
from typing import Any

from vfd_tf.attacks import (
    APGDT,
    ATTACKS,
    FGSM,
    OBJECTIVES,
    PGD,
    Attack,
    AttackRun,
    AutoAttack,
    CarliniWagner,
    Composite,
)
from vfd_tf.attacks.attack import radius
from vfd_tf.attacks.objectives import named
from vfd_tf.hyperparameters import InputError, choose, name_of, read


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A frozen attack, threat model included, and the objective of labels it ascends."""

    attack: Attack
    objective: str = "ce"
    transfer: bool = False  # made on a surrogate, scored on the model

    def __post_init__(self):
        starts_at_x = not getattr(self.attack, "random_start", True)
        if self.objective == "kl" and (starts_at_x or isinstance(self.attack, FGSM)):
            raise InputError(
                f"{type(self.attack).__name__} on kl starts at x, where kl has no "
                "gradient, and leaves every image as it is: take pgd20-kl, which starts at "
                "random."
            )

    def __call__(self, logits_fn, x, y, seeds):
        """x_adv [n, h, w, c] of images and labels, all of them attacked to the end."""
        clean = logits_fn(x) if self.objective == "kl" else None
        objective = named(self.objective, y, clean)
        return self.attack(logits_fn, x, objective, seeds=seeds)

    def stages(self, classes: int) -> dict[str, tuple[AttackRun, ...]]:
        """Stage -> the runs of an evaluation on a model of so many classes, in order.

        An ensemble has a stage for each of its attacks, all others have one.
        """
        members = getattr(self.attack, "members", {"": self.attack})
        form = (lambda a: a) if self.transfer else (lambda a: a.for_evaluation())
        return {
            name: tuple(
                dataclasses.replace(run, passes=self.attack.passes)
                for run in form(attack).attack_runs(classes, self.objective)
            )
            for name, attack in members.items()
        }

    def describe(self) -> str:
        """One line with every hyper-parameter."""
        other = "" if self.objective == "ce" else f" on {self.objective}"
        attack = self.attack if self.transfer else self.attack.for_evaluation()
        return attack.describe() + other

    @property
    def threat(self) -> str:
        """The threat model: linf:8/255."""
        if self.attack.epsilon is None:
            return f"{self.attack.norm}, unbounded"
        return f"{self.attack.norm}:{radius(self.attack.epsilon)}"

    @property
    def unbounded(self) -> bool:
        """Whether its examples have sizes of their own, which are reported."""
        return self.attack.epsilon is None


# Name -> class, fields, objective: what is not just an attack with its defaults.
PRESETS = {
    "cw": (CarliniWagner, {}, "ce"),
    "cw-search": (CarliniWagner, {"c": 1e-3, "search_steps": 9}, "ce"),
    "cw-linf": (PGD, {"steps": 100, "norm": "linf"}, "margin"),
    "autoattack-plus": (AutoAttack, {"version": "plus"}, "ce"),
    "autoattack-rand": (AutoAttack, {"version": "rand"}, "ce"),
    "autoattack-quick": (AutoAttack, {"version": "quick"}, "ce"),
    "malt": (APGDT, {"target_order": "malt"}, "ce"),
}
TRANSFER = "transfer-"  # begins the names of attacks that are made on a surrogate
_UNTARGETED = {name: o for name, o in OBJECTIVES.items() if not name.startswith("targeted")}
# Attacks whose name may be followed by a number of steps and by an objective.
_OPEN = {"fgsm": False, "pgd": True, "mim": True}


def protocol(attack: Any, epsilon: float = 8 / 255, norm: str = "linf") -> Protocol:
    """What a name stands for: "fgsm", "pgd20", "pgd20-margin", "autoattack", "cw:c=10".

    An attack of `ATTACKS` or a preset; PGD and MIM with their number of steps, PGD also
    with its objective (ce where none is named, kl, margin, dlr, pm). Fields follow colons:
    "pgd50:restarts=10". PGD: random start, step epsilon / 4, one run. `cw` is
    C&W with c = 1, kappa 0, 1,000 steps of 0.01; `cw-search` searches c; `cw-linf` is
    PGD-100 on the margin, in L-inf alone. "transfer-pgd20" is PGD-20 made on a surrogate.
    An attack given as an object keeps its own threat model.

    Raises:
        InputError: An unknown name, field or value; an attack that leaves the ball, or one
            on kl without a random start.
    """
    if isinstance(attack, Protocol):
        return attack
    if isinstance(attack, Attack):
        return Protocol(_refuse_training(attack))
    threat = {"epsilon": epsilon, "norm": norm}
    if inspect.isclass(attack) and issubclass(attack, Attack):
        return Protocol(_refuse_training(attack(**_known(attack, threat))))
    if not isinstance(attack, str):
        raise InputError(
            f"{attack!r} is not an attack: pass a name such as 'pgd20', or an attack."
        )
    if is_transfer(attack):
        return _on_surrogate(protocol(attack[len(TRANSFER) :], epsilon, norm), attack)
    head, *settings = attack.split(":")
    cls, options, objective = _parse(head.replace("_", "-").lower())
    own = _fields(cls, settings, attack)
    options = {**options, **own}
    if options.get("norm", norm) != norm and "epsilon" not in options:
        usual = "8/255" if options["norm"] == "linf" else "0.5"
        raise InputError(
            f"{attack!r} has a norm of its own: name its radius too, such as "
            f"{attack}:epsilon={usual}."
        )
    chosen = cls(**{**_known(cls, threat), **options})
    _refuse_idle(chosen, own, attack)
    return Protocol(_refuse_training(chosen), objective)


def is_under(attack: str, threat: str) -> bool:
    """Whether the attack of a column of verdicts has the threat model linf:8/255.

    One that can't be named any more, of an earlier version, is taken to have it.
    """
    norm, _, size = threat.partition(":")
    try:
        return protocol(attack, read(float, size), norm).threat == threat
    except (ArithmeticError, ValueError):
        return True


def is_transfer(attack: Any) -> bool:
    """Whether this names an attack that is made on a surrogate."""
    return isinstance(attack, str) and attack.lower().startswith(TRANSFER)


def _on_surrogate(own, name):
    if isinstance(own.attack, Composite):
        raise InputError(
            f"{name} is an ensemble of attacks, which goes by the model's own answers: "
            "take transfer-pgd20, for one."
        )
    return dataclasses.replace(own, transfer=True)


def _known(cls, values):
    """Those of the values that are fields of a class."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def _refuse_training(attack):
    if not attack.in_ball and attack.trains:
        raise InputError(
            f"The attack {name_of(ATTACKS, attack)!r} leaves the epsilon ball: it is for "
            "training alone."
        )
    return attack


def _refuse_idle(attack, own, text):
    """Raises `InputError` for a setting that another one leaves without effect."""
    for field in dataclasses.fields(attack):
        when = field.metadata.get("when") or {}
        if field.name not in own or attack[field.name] == field.default:
            continue
        for other, allowed in when.items():
            if attack[other] not in allowed:
                raise InputError(
                    f"{field.name} has no effect in {text!r}: add "
                    f"{other}={'|'.join(allowed)}, or leave it out."
                )


def _parse(head):
    """(class, fields, objective) of a name without settings."""
    if head in PRESETS:
        return PRESETS[head]
    if own := re.match(r"(l2|linf|l-inf)-(.*)", head):
        norm, name = own[1].replace("-", ""), own[2]
        raise InputError(
            f"{head!r} names a norm: pass norm={norm!r} and an epsilon, and the attack as "
            f"{name!r}."
        )
    parts = re.fullmatch(r"([a-z]*)(\d*)(?:-([a-z]+))?", head)
    name, steps, objective = parts.groups() if parts else (head, "", None)
    if head in ATTACKS and name != "pgd" or name not in _OPEN or steps and not _OPEN[name]:
        whole = head if name in ATTACKS or not steps else name
        return choose({**ATTACKS, **PRESETS}, whole, "attack"), {}, "ce"
    if name == "pgd" and not steps:
        raise InputError("The protocol 'pgd' needs its number of steps, such as 'pgd20'.")
    choose(_UNTARGETED, objective or "ce", "objective")
    return ATTACKS[name], {"steps": int(steps)} if steps else {}, objective or "ce"


def _fields(cls, settings, text):
    """{field: value} of the settings name=value."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"{setting!r} in {text!r} is no setting: write name=value.")
        if name == "eps" and "epsilon" in fields:
            raise InputError(f"'eps' in {text!r} is called epsilon: epsilon={value}.")
        field = choose(fields, name, f"field of {cls.__name__}")
        try:
            values[name] = read(field.type, value)
        except (KeyError, ValueError, ZeroDivisionError):
            raise InputError(f"{value!r} in {text!r} is no value of {name}.") from None
    return values
