"""The flags of modes that are no hyper-parameters.

Every function takes the section they are in, as arguments of absl's DEFINE functions.
"""

from absl import flags

from vfd_tf.experiments.engines import ENGINES
from vfd_tf.experiments.suite import SCALES
from vfd_tf.hyperparameters import LARGEST

_LARGEST = LARGEST[int]
MIX_KINDS = ("probabilities", "nuts", "weights")


def suite(own) -> None:
    """What runs, how large, where."""
    text, enum, integer = flags.DEFINE_string, flags.DEFINE_enum, flags.DEFINE_integer
    boolean = flags.DEFINE_boolean
    help_ = "how large the runs are: the paper's, a short recipe, or one for a CPU"
    enum("scale", "paper", list(SCALES), help_, **own)
    integer("seeds", 1, "runs of every row, from --seed on", 1, 100, **own)
    help_ = "what runs the commands: this machine's devices, or Parsl on any others"
    enum("engine", "local", list(ENGINES), help_, **own)
    text("engine_config", None, "file of --engine=parsl: a Parsl configuration", **own)
    integer("workers", None, "runs at a time on a CPU; none: one", 1, 1000, **own)
    integer("retries", 0, "how often what failed unexpectedly is run again", 0, 100, **own)
    help_ = "print what would be run, with the hours it will take"
    boolean("dry_run", False, help_, **own)
    help_ = "print a shell command a line, behind its level in the graph"
    boolean("list", False, help_, **own)
    help_ = "run these rows alone, such as TRADES,TRADES+VFD-Adv; the report has all"
    flags.DEFINE_list("rows", "", help_, **own)
    text("shard", None, "i/n: run the i-th of n parts, and what it needs", **own)


def evaluate(own) -> None:
    """Which model, and how it is attacked."""
    text, enum, boolean = flags.DEFINE_string, flags.DEFINE_enum, flags.DEFINE_boolean
    text("model", None, "the .keras file to evaluate", **own)
    text("eval_dir", None, "folder of the results; default: beside the model", **own)
    flags.DEFINE_integer("eval_seed", 0, "seed of all attacks", 0, _LARGEST, **own)
    text("bounds", "0,1", "lowest and highest pixel value of the model's images", **own)
    boolean(
        "eval_early_stop", True, "stop attacking an image once it is misclassified", **own
    )
    text("save_adversarial", None, "file.npz for the adversarial examples", **own)
    text("surrogate", None, "black box: a .keras file to attack instead, or auto", **own)
    help_ = "architecture of --surrogate=auto, as --arch"
    text("surrogate_arch", "wide_resnet_34_10", help_, **own)
    enum("referee", None, ["cleverhans"], "repeat FGSM, PGD and MIM with it", **own)
    policies, help_ = (
        ["mixed_bfloat16", "mixed_float16"],
        "precision of the attack",
    )
    enum("craft_precision", None, policies, f"{help_}; verdicts are float32", **own)
    boolean("strict", True, "refuse probabilities and images outside [0, 1]", **own)


def plot(own) -> None:
    """What is drawn."""
    text = flags.DEFINE_string
    text("out", "tradeoff.png", "the figure, .png, .pdf or .svg", **own)
    text("plot_x", "clean", "column of the x axis", **own)
    text("plot_y", "worst", "column of the y axis", **own)
    text("plot_student", "last", "student, as results.json calls it", **own)


def mix(own) -> None:
    """How two networks become one."""
    text, add = flags.DEFINE_string, flags.DEFINE_list
    help_ = "what is mixed: probabilities, those of MixedNUTS, or weights"
    flags.DEFINE_enum("mix_kind", "probabilities", list(MIX_KINDS), help_, **own)
    help_ = "shares of the robust network, from 0 to 1, one file each"
    add("mix_weights", "0.6,0.8,0.9", help_, **own)
    help_ = "nuts: shares of the right answers under attack to keep, one file each"
    add("mix_kept", "0.985", help_, **own)
    help_ = "nuts: protocol whose images the numbers are fitted to"
    text("mix_attack", "pgd20", help_, **own)
    help_ = "nuts: temperature of the vanilla logits; the paper's is 0"
    flags.DEFINE_float("mix_temperature", 1.0, help_, 0.0, **own)
    text("mix_dir", "mixtures", "folder of the files", **own)
