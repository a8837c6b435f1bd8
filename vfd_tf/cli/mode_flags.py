"""The flags of modes that are no hyper-parameters.

Every function takes the section they are in, as arguments of absl's DEFINE functions.
"""

from absl import flags

from vfd_tf.cli.strategies import STRATEGIES
from vfd_tf.experiments.evaluation_plan import STUDENTS
from vfd_tf.experiments.mixtures import FIT_ATTACK, KINDS, PLAIN
from vfd_tf.hyperparameters import LARGEST
from vfd_tf.models.mixed_nuts import KEPT
from vfd_tf.suites.engines import ENGINES
from vfd_tf.suites.suite import SCALES

_LARGEST = LARGEST[int]
# What --mix_kind takes -> the kind of mixture; the plain one, of probabilities, says so.
MIX_KINDS = {"probabilities" if k == PLAIN else k: own for k, own in KINDS.items()}


def runs(own) -> None:
    """How a run is trained, where, and when it is saved."""
    text, integer = flags.DEFINE_string, flags.DEFINE_integer
    help_ = "run of fewer epochs and else the same flags, to train longer from there"
    text("continue_from", None, help_, **own)
    help_ = "what trains: one device, all GPUs of this machine, or several workers"
    flags.DEFINE_enum("strategy", "auto", list(STRATEGIES), help_, **own)
    help_ = "XLA: auto compiles on a single GPU alone"
    flags.DEFINE_enum("jit_compile", "auto", ["auto", "true", "false"], help_, **own)
    help_ = "training steps per call, between updates of the progress bar and callbacks"
    integer("steps_per_execution", 1, help_, 1, _LARGEST, **own)
    help_ = "minutes between two checkpoints in the middle of an epoch"
    flags.DEFINE_float("checkpoint_minutes", 10.0, help_, 0.01, **own)
    help_ = "steps between two checkpoints as well; none: minutes alone"
    integer("checkpoint_steps", None, help_, 1, _LARGEST, **own)
    help_ = "signal that stops and saves, as SIGTERM and Ctrl-C do, such as USR1"
    text("stop_signal", None, help_, **own)
    help_ = "epochs between panels of images in TensorBoard; 0: none"
    integer("panel_every", 5, help_, 0, _LARGEST, **own)
    help_ = "wait for another process that trains the same run, instead of refusing"
    flags.DEFINE_boolean("wait", False, help_, **own)


def evaluation_of_runs(own) -> None:
    """Which students of a run are evaluated, on how many images."""
    add = flags.DEFINE_list
    help_ = "attacks on the first n test images alone, such as autoattack:1000,cw:100"
    add("attack_images", "", help_, **own)
    add("eval_students", ",".join(STUDENTS), "students that are evaluated", **own)
    help_ = "also evaluate the teachers that are trained before a run"
    flags.DEFINE_boolean("eval_teachers", True, help_, **own)
    help_ = "also evaluate mixtures with the vanilla teacher: 0.8,weights:0.5,nuts:0.985"
    add("mixtures", "", help_, **own)


def features(own) -> None:
    """Of which students, and where their pictures' numbers go."""
    text = flags.DEFINE_string
    text("features_dir", "features", "folder of the pictures' numbers", **own)
    help_ = "student of every run directory"
    flags.DEFINE_enum("features_student", "last", list(STUDENTS), help_, **own)
    flags.DEFINE_list("features_names", "", "names of the students, in order", **own)


def suite(own) -> None:
    """What runs, how large, where."""
    text, enum, integer = flags.DEFINE_string, flags.DEFINE_enum, flags.DEFINE_integer
    boolean = flags.DEFINE_boolean
    help_ = "how large the runs are: the full recipe (paper), a short one, one for a CPU"
    enum("scale", "paper", list(SCALES), help_, **own)
    integer("seeds", 1, "runs of every row, from --seed on", 1, 100, **own)
    help_ = "what runs the commands: this machine's devices, or Parsl on any others"
    enum("engine", "local", list(ENGINES), help_, **own)
    text("engine_config", None, "file of --engine=parsl: a Parsl configuration", **own)
    integer("workers", None, "runs at a time on a CPU; none: one", 1, 1000, **own)
    integer("retries", 0, "how often what failed unexpectedly is run again", 0, 100, **own)
    help_ = "print what would be run, with the hours it will take"
    boolean("dry_run", False, help_, **own)
    help_ = "print a shell command a line, after its level in the graph"
    boolean("list", False, help_, **own)
    help_ = "run these rows alone, such as TRADES,TRADES+VFD-Adv; the report has all"
    flags.DEFINE_list("rows", "", help_, **own)
    text("shard", None, "i/n: run the i-th of n parts, and what it needs", **own)


def evaluate(own) -> None:
    """Which model, and how it is attacked."""
    text, enum, boolean = flags.DEFINE_string, flags.DEFINE_enum, flags.DEFINE_boolean
    text("model", None, ".keras or .h5 file, SavedModel or run directory", **own)
    text("eval_dir", None, "folder of the results; default: beside the model", **own)
    flags.DEFINE_integer("eval_seed", 0, "seed of all attacks", 0, _LARGEST, **own)
    text("bounds", "0,1", "lowest and highest pixel value of the model's images", **own)
    boolean(
        "eval_early_stop", True, "stop attacking an image once it is misclassified", **own
    )
    text("save_adversarial", None, "file.npz for the adversarial examples", **own)
    help_ = "network that black-box attacks see: a .keras file, a run directory, or auto"
    text("surrogate", None, help_, **own)
    help_ = "architecture of --surrogate=auto, as --arch"
    text("surrogate_arch", "wide_resnet_34_10", help_, **own)
    enum("referee", None, ["cleverhans"], "repeat FGSM, PGD and MIM with it", **own)
    policies, help_ = (
        ["mixed_bfloat16", "mixed_float16"],
        "precision of attacks on the model itself",
    )
    enum("craft_precision", None, policies, f"{help_}; verdicts are float32", **own)
    boolean("strict", True, "refuse probabilities and images outside --bounds", **own)


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
    add("mix_kept", str(KEPT), help_, **own)
    help_ = "nuts: protocol whose images the numbers are fitted to"
    text("mix_attack", FIT_ATTACK, help_, **own)
    help_ = "nuts: temperature of the vanilla logits; the paper's is 0"
    flags.DEFINE_float("mix_temperature", 1.0, help_, 0.0, **own)
    text("mix_dir", "mixtures", "folder of the files", **own)
