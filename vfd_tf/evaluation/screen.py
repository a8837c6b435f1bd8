"""What an evaluation prints as it goes."""

import sys

import numpy as np

from vfd_tf.batching import count_of


class Screen:
    """A line for every attack on a window, and on a terminal a moving one inside.

    Args:
        verbose: 0 prints nothing.
        data: What is evaluated, for the number of images, if it is known beforehand.
    """

    def __init__(self, verbose, data):
        self.verbose, self.moving = bool(verbose), bool(verbose) and sys.stdout.isatty()
        known = count_of(data)
        self.known, self.total = known, "" if known is None else f" of {known}"
        self.head = self.share = ""

    def begin(self, name, first, count):
        """An attack on the images of a window begins."""
        self.head = f"{name}, images {first + 1} to {first + count}{self.total}"
        self.share = ""

    def run(self, progress):
        """One of its runs is done."""
        share = 100 * progress.open.mean()
        self.share = f", run {progress.runs} done, {share:.2f}% still robust"

    def step(self, step, steps):
        """The run has come to a step."""
        if self.moving:
            text = f"{self.head}{self.share}, step {step} of {steps}"
            print(f"\r{text:100}", end="\r", flush=True)

    def say(self, label, verdicts):
        """The share of true verdicts [n], one array a window, so far."""
        if self.verbose:
            done = np.concatenate(verdicts)
            clear = f"\r{'':100}\r" if self.moving else ""
            share = f"{100 * done.mean():.2f}% of {len(done)} images"
            rest = "" if self.known in (None, len(done)) else f", {self.known} in all"
            print(f"{clear}{label}: {share}{rest}")
