"""The command line: flags -> experiments -> train -> evaluate -> one table.

Exit codes: 0 done; 1 stopped at once by a second Ctrl-C, by the end of another worker, or
by an error that nobody expected, whose traceback is in a file that is named; 2 bad input,
or a file or a folder that can't be read or written; 75 stopped by SIGTERM, Ctrl-C or
--stop_signal, and saved: the same command continues.
"""

import difflib
import os
import platform
import re
import sys
import tempfile
import time
import traceback
import warnings

import keras
import tensorflow as tf

from vfd_tf import files, signals
from vfd_tf.cli import (
    evaluate,
    features,
    flags,
    idle_flags,
    info,
    mix,
    plot,
    recipes,
    refusals,
    report,
    suite,
    train,
)
from vfd_tf.hyperparameters import InputError, choose
from vfd_tf.training.devices.cluster import is_lost_worker
from vfd_tf.versions import __version__

USAGE = """Adversarial training with Vanilla Feature Distillation.

  python run.py --method=hat --vfd_lambda=0.01
  python run.py --recipe=trades --distill=none,vfd
  python run.py evaluate --model=my.keras --dataset=cifar10 --eval_attacks=autoattack
  python run.py info runs/NAME runs/NAME/best.keras
  python run.py mix VANILLA.keras ROBUST.keras --mix_kind=nuts --dataset=cifar10
  python run.py plot runs/* --plot_y=pgd20 --out=tradeoff.png
  python run.py suite table1 --scale=cpu
  python run.py report
  tensorboard --logdir=runs

The same command again continues a run, or reports it where it is complete.
Each mode has a help of its own, such as `evaluate --help`; --version tells versions.

modes, as the first word or as --mode:
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line: its exit code, see above; errors are a sentence on stderr."""
    argv = sys.argv if argv is None else argv
    values, mode = flags.define(), None
    values.set_gnu_getopt()  # flags may follow the paths
    with warnings.catch_warnings():
        warnings.formatwarning = _formatted
        try:
            # A run is a function of its flags, not of the user's keras.json.
            keras.config.set_image_data_format("channels_last")
            keras.config.set_floatx("float32")
            keras.config.set_epsilon(1e-7)
            if _told(values, argv[1:]):
                return 0
            argv = recipes.read(argv)
            words = _parsed(values, argv)
            if words and words[0] in MODES and not values["mode"].present:
                values.mode = words.pop(0)
            mode = values.mode
            run, more = choose(MODES, mode, "mode"), values.stop_signal
            with signals.Signals((*signals.NAMES, more) if more else signals.NAMES):
                run(values, words, argv)
            return 0
        except signals.Stopped as stopped:
            print(f"\nStopped by {stopped.signal}; {INTERRUPTED.get(mode, NOTHING)}.")
            return stopped.code
        except InputError as error:
            return _refused(str(error))
        except KeyboardInterrupt:
            print(f"\nStopped; {INTERRUPTED.get(mode, NOTHING)}.")
            return 1
        except BrokenPipeError:  # of `| head`
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            return 1
        except OSError as error:
            return _refused(f"{files.sentence(error)}, and the same command continues.")
        except Exception as error:
            if "TF_CONFIG" in os.environ and is_lost_worker(error):
                why = str(error).strip().split("\n")[0][:200]
                print(f"error: {LOST_WORKER} ({why})", file=sys.stderr, flush=True)
                return 1
            sentence = _full(error) or _of_a_pipeline(error)
            if sentence:
                return _refused(sentence)
            print(f"error: {_written_down(error, values)}", file=sys.stderr)
            return 1
        finally:
            warnings.formatwarning = _PLAIN


_PLAIN = warnings.formatwarning


def _formatted(message, category, *where):
    if issubclass(category, UserWarning):
        return f"Warning: {message}\n"
    return _PLAIN(message, category, *where)


def _refused(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def _full(error) -> str | None:
    """The sentence for what TensorFlow says of a full disk or memory, or None."""
    if isinstance(error, MemoryError) or "OOM when allocating" in str(error):
        return "There is not enough memory: choose a smaller --batch_size."
    if not isinstance(error, tf.errors.OpError):
        return None
    for reason in ("No space left on device", "File too large", "Disk quota exceeded"):
        if reason in error.message:
            return (
                f"A file of TensorFlow can't be written ({reason}); make room on the disk, "
                "and the same command continues."
            )
    return None


def _of_a_pipeline(error) -> str | None:
    """The sentence of an `InputError` that tf.data wrapped in an error of its own."""
    found = re.search(r"\bInputError: (.+)", str(error))
    return found[1] if found and isinstance(error, tf.errors.OpError) else None


def _written_down(error, values) -> str:
    """Writes the traceback to a file; one sentence that says what and where."""
    text = f"{' '.join(sys.argv)}\n{_versions()}\n\n{traceback.format_exc()}"
    what = (str(error).strip() or "no message").split("\n")[0][:200]
    name = time.strftime(f"vfd-error-%Y%m%d-%H%M%S-{os.getpid()}.txt")
    runs = [values["runs"].value] if os.path.isdir(values["runs"].value) else []
    for folder in (*runs, ".", tempfile.gettempdir()):
        path = os.path.join(folder, name)
        try:
            with open(path, "w", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        break
    else:
        path = "nowhere, since no folder can be written"
    return (
        f"This was not expected: {type(error).__name__}: {what.rstrip('.')}; the traceback "
        f"is in {path}, to be sent with a report."
    )


def _versions() -> str:
    return (
        f"vfd_tf {__version__}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}, Python {platform.python_version()}"
    )


def _told(values, words: list[str]) -> bool:
    """Prints the help or the versions, where these are asked for."""
    if "--version" in words:
        print(_versions())
        return True
    if not any(word in ("--help", "-h", "--helpfull", "--helpshort") for word in words):
        return False
    named = [word.removeprefix("--mode=") for word in words]
    mode = next((word for word in named if word in MODES), None)
    if mode:
        print(f"{mode}: {MODES[mode].__doc__.splitlines()[0]}")
    else:
        print(USAGE + "".join(f"  {n:9} {run.__doc__}\n" for n, run in MODES.items()))
    print(flags.help_text(values, mode))
    return True


def _parsed(values, argv: list[str]) -> list[str]:
    """Reads the flags; the words that are none."""
    with refusals.of_flags(values):
        words = values(argv)[1:]
    recipes.refuse_unread(values)
    for text in (*words, *(str(values[name].value) for name in values)):
        if "\0" in text or text != text.encode(errors="replace").decode():
            raise InputError(f"{text!a} is no text: rename the file or folder.")
    return words


def _train(values, words, argv):
    """Train, or continue or find, the runs that the flags ask for; evaluate them."""
    if words:
        near = difflib.get_close_matches(words[0], MODES, n=1)
        raise InputError(
            f"Unexpected argument {words[0]!r}; flags are --name=value, and the modes "
            f"{', '.join(MODES)}{f': did you mean {near[0]}' if near else ''}."
        )
    train.run(values, argv)


def _other(mode, run):
    """A mode that trains nothing, after its warnings."""

    def warned(values, words, argv):
        idle_flags.warn(values, argv, mode)
        run(values, words)

    warned.__doc__ = run.__doc__
    return warned


MODES = {
    "train": _train,
    "evaluate": _other("evaluate", evaluate.run),
    "info": _other("info", info.show),
    "plot": _other("plot", plot.plot),
    "suite": _other("suite", suite.run),
    "report": _other("report", report.run),
    "features": _other("features", features.run),
    "mix": _other("mix", mix.run),
}
NOTHING = "nothing had begun"
LOST_WORKER = (
    "Another worker has stopped, and this one with it: see what that one says; started "
    "again, all of them continue from its last checkpoint."
)
INTERRUPTED = {
    "train": "the same command continues from the last checkpoint",
    "evaluate": "the same command continues: the attacks that were finished are kept",
    "info": "nothing was being changed",
    "plot": "nothing is lost, the same command begins again",
    "suite": "the same command continues: what was finished is kept",
    "report": "nothing is lost, the same command begins again",
    "features": "the same command continues: the students that were drawn are kept",
    "mix": "files that were written are whole, and the same command writes all of them",
}
