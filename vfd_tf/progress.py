"""How far something has come, on one line that fits the terminal."""

import contextlib
import functools
import re
import shutil
import sys
import textwrap
import time

import keras

_ACCURACY = re.compile(r"(.*_)?acc(uracy)?")
_EVERY = 0.1  # seconds between two drawings
_BAR = 20


def duration(seconds: float) -> str:
    """A time in the unit that suits it: 12 s, 5 min, 7.5 h, 3.2 days."""
    for size, unit, digits in ((100, "s", 0), (100 * 60, "min", 0), (48 * 3600, "h", 1)):
        if seconds < size:
            return f"{seconds / {'s': 1, 'min': 60, 'h': 3600}[unit]:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"


class Line:
    """A line that is drawn over again, where the stream is a terminal.

    Args:
        stream: Default: standard output, whatever that is when something is drawn.
    """

    def __init__(self, stream=None):
        self._stream, self._drawn = stream, 0

    @property
    def stream(self):
        return self._stream or sys.stdout

    @property
    def moving(self) -> bool:
        """Whether there is a terminal, or a notebook, to draw on."""
        notebook = self._stream is None and "ipykernel" in sys.modules
        return notebook or getattr(self.stream, "isatty", lambda: False)()

    def fits(self, text: str) -> bool:
        return len(text) < _width()  # a full last column would begin a new row

    def cut(self, text: str) -> str:
        """As much of a text as a terminal has room for."""
        return text[: _width() - 1] if self.moving else text

    def draw(self, text: str) -> None:
        """Puts a text, cut to the terminal, in the place of the one before."""
        text = self.cut(text)
        rest = min(self._drawn, _width() - 1) - len(text)
        self._write(f"\r{text}{' ' * rest}")
        self._drawn = len(text)

    def end(self, text: str | None = None) -> None:
        """Leaves a text, as long as it may be, where something was drawn, or nothing."""
        if self._drawn:
            self.draw("")
            self._write("\r")
        if text is not None:
            self._write(text + "\n")

    def _write(self, text):
        self.stream.write(text)
        self.stream.flush()


@contextlib.contextmanager
def labelled(label: str):
    """Inside, every line of standard output and error begins with the label."""
    out, err = (_Labelled(stream, label) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


class _Labelled:
    """A stream that is no terminal, and labels lines."""

    def __init__(self, stream, label):
        self.stream, self.label, self.begins = stream, label, True

    def write(self, text):
        for line in text.splitlines(keepends=True):
            self.stream.write(self.label + line if self.begins else line)
            self.begins = line.endswith("\n")
        return len(text)

    def flush(self):
        self.stream.flush()

    def isatty(self):
        return False


@functools.cache
def say_once(text: str) -> None:
    """Prints a text, the first time it is to be said in this process."""
    print(text)


def wrapped(text: str) -> str:
    """A text in lines that fit the terminal; without a terminal as it is."""
    return textwrap.fill(text, _width() - 1) if Line().moving else text


def _width():
    return max(2, shutil.get_terminal_size().columns)


class ProgressBar(keras.callbacks.Callback):
    """What a `fit` shows: a line that moves, and one line an epoch that stays.

    The moving line has epoch, step, loss, the accuracies (clean, adversarial) and the time
    left of the epoch; the line of an epoch has the accuracies of the validation as well,
    and the time left of the fit. Neither is wider than the terminal: what is less needed
    goes first. Everything else is in the logs that other callbacks get. Without a terminal
    there is the line of an epoch alone, at full length.

    `AdversarialTrainer.fit` puts it in the place of Keras's own. Elsewhere, put it after
    all callbacks that add to the logs, with `verbose=0` in `fit`.

    Args:
        verbose: 0: nothing; 2: the line of an epoch; 1 and "auto": the moving one too.
        stream: Where to; default: standard output.
    """

    async_safe = True  # Keras need not wait for the logs of every step

    def __init__(self, verbose="auto", stream=None):
        super().__init__()
        self.verbose, self.line = verbose, Line(stream)

    def on_train_begin(self, logs=None):
        self.steps = self.params.get("steps")
        self.first_epoch, self.began = None, time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        if self.first_epoch is None:
            self.first_epoch = epoch
        self.epoch, self.seen, self.drawn = epoch, 0, 0.0
        self.epoch_began, self.first_step = time.monotonic(), None

    def on_train_batch_end(self, batch, logs=None):
        now, seen = time.monotonic(), batch + 1
        if seen <= self.seen:
            return  # an older step, reported late
        self.seen = seen
        if self.first_step is None:  # its time is that of tracing
            self.first_step = seen, now
        if self.verbose not in (1, "auto") or not self.line.moving:
            return
        if now - self.drawn >= _EVERY or seen == self.steps:
            self.drawn = now
            self.line.draw(self._step_text(now, logs or {}))

    def on_epoch_end(self, epoch, logs=None):
        self.steps = self.seen or self.steps
        if self.verbose:
            self.line.end(self._epoch_text(epoch, logs or {}))

    def on_train_end(self, logs=None):
        self.line.end()

    def _step_text(self, now, logs):
        left = self._left_of_epoch(now)
        parts = [(0, self._of("epoch", self.epoch + 1)), (1, self._of("step", self.seen))]
        parts += [(3, text) for text in _texts(logs, ["loss", *_accuracies(logs)])]
        parts += [(2, f"{left} left")] if left else []
        text = self._fitted(parts)
        if self.steps and self.line.fits(text + " " * (_BAR + 3)):
            done = min(_BAR, _BAR * self.seen // self.steps)
            text = f"[{'#' * done}{'.' * (_BAR - done)}] {text}"
        return text

    def _epoch_text(self, epoch, logs):
        now = time.monotonic()
        left = self._left_of_fit(epoch, now)
        parts = [(0, self._of("epoch", epoch + 1))]
        parts += [(3, text) for text in _texts(logs, ["loss"])]
        parts += [(4, text) for text in _texts(logs, _accuracies(logs))]
        parts += [(1, text) for text in _texts(logs, _accuracies(logs, "val_"))]
        parts += [(5, duration(now - self.epoch_began))]
        parts += [(2, f"{left} left")] if left else []
        return self._fitted(parts)

    def _fitted(self, parts):
        """(rank, text) joined in this order; on a terminal, as many as fit, by rank."""
        kept = []
        for place, (_, text) in sorted(enumerate(parts), key=lambda item: item[1][0]):
            more = sorted([*kept, (place, text)])
            line = ", ".join(text for _, text in more)
            if not kept or not self.line.moving or self.line.fits(line):
                kept = more
        return self.line.cut(", ".join(text for _, text in kept))

    def _of(self, name, number):
        whole = self.params.get("epochs") if name == "epoch" else self.steps
        return f"{name} {number}/{whole}" if whole else f"{name} {number}"

    def _left_of_epoch(self, now):
        """Time for the steps to come, at the pace of those after the first; or None."""
        first, since = self.first_step
        if not self.steps or self.seen == first:
            return None
        pace = (now - since) / (self.seen - first)
        return duration(pace * max(0, self.steps - self.seen))

    def _left_of_fit(self, epoch, now):
        """Time for the epochs to come, at the pace of those that are done; or None."""
        left = (self.params.get("epochs") or 0) - epoch - 1
        done = epoch + 1 - self.first_epoch
        return duration((now - self.began) / done * left) if left > 0 else None


def with_progress(callbacks, verbose) -> list:
    """The callbacks and a bar, unless one is among them."""
    bars = ProgressBar, keras.callbacks.ProgbarLogger
    given = any(isinstance(callback, bars) for callback in callbacks)
    return list(callbacks) if given else [*callbacks, ProgressBar(verbose)]


def _accuracies(logs, prefix="") -> list[str]:
    """Names of the accuracies in the logs, of validation (`val_`) or of training."""
    names = [name for name in logs if _ACCURACY.fullmatch(name)]
    return [n for n in names if n.startswith("val_") == bool(prefix)]


def _texts(logs, names) -> list[str]:
    return [f"{name} {float(logs[name]):.3f}" for name in names if name in logs]
