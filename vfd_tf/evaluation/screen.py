"""What an evaluation prints as it goes."""

import time

import numpy as np

from vfd_tf.data.batching import count_of
from vfd_tf.progress import Line, duration


class Screen:
    """A line for every attack on a window, and on a terminal a moving one inside.

    The moving line ends with the time left: for the attack at hand at the pace of its runs
    so far, and for others at that of the windows before them, as far as there are any.

    Args:
        verbose: 0 prints nothing.
        data: What is evaluated, for the number of images, if it is known beforehand.
    """

    def __init__(self, verbose, data):
        self.verbose, self.line = bool(verbose), Line()
        known = count_of(data)
        self.known, self.total = known, "" if known is None else f" of {known}"
        self.pace = {}  # attack -> seconds an image
        self.behind = {}  # attack -> images it is done with

    def begin(self, name, first, count, runs=1, done=0):
        """An attack of so many runs, `done` of them before, begins on a window's images."""
        self.name, self.last, self.count, self.share = name, first + count, count, ""
        self.head = f"{name}, images {first + 1} to {self.last}{self.total}"
        self.runs, self.done, self.before = runs, done, done
        self.began = time.monotonic()

    def run(self, progress):
        """One of its runs is done."""
        share = 100 * progress.robust_so_far.mean()
        self.done = progress.runs_done
        self.share = (
            f", run {progress.runs_done} of {self.runs} done, {share:.2f}% still robust"
        )

    def step(self, step, steps):
        """The run has come to a step."""
        if not self.verbose or not self.line.moving:
            return
        left = self._left(self.done + step / steps)
        end = f", step {step} of {steps}" + (f", {left} left" if left else "")
        texts = (f"{self.head}{self.share}{end}", f"{self.head}{end}", f"{self.name}{end}")
        self.line.draw(next(filter(self.line.fits, texts), texts[-1]))

    def end(self):
        """The attack is done with the window."""
        self.pace[self.name] = (time.monotonic() - self.began) / self.count
        self.behind[self.name] = self.last

    def _left(self, done):
        """The time left, once so many runs are done; None where images aren't counted."""
        if self.known is None or done <= self.before:
            return None
        run = (time.monotonic() - self.began) / (done - self.before)
        later = (self.known - self.last) / self.count  # windows like this one
        seconds = run * max(0.0, self.runs - done + self.runs * later)
        for name, pace in self.pace.items():
            if name != self.name:
                seconds += pace * (self.known - self.behind[name])
        return duration(seconds)

    def say(self, label, verdicts):
        """The share of true verdicts [n], one array a window, so far."""
        if self.verbose:
            done = np.concatenate(verdicts)
            share = f"{100 * done.mean():.2f}% of {len(done)} images"
            rest = "" if self.known in (None, len(done)) else f", {self.known} in all"
            self.line.end(f"{label}: {share}{rest}")
