"""What an evaluation prints: it fits the terminal, and says how long it will take."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest

from vfd_tf.evaluation import screen
from vfd_tf.evaluation.screen import Screen


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def lines(self):
        return [
            line.rstrip() for line in re.split(r"[\r\n]", self.getvalue()) if line.strip()
        ]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(screen, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def terminal_of(monkeypatch, columns):
    """Standard output as a terminal so wide."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    return terminal


def window(shown, name, first, clock, seconds, runs=2):
    """An attack of 2 runs with 2 looks of `seconds` each on 20 images from `first` on."""
    shown.begin(name, first, 20, runs)
    for run in range(runs):
        for step in (5, 10):
            clock[0] += seconds
            shown.step(step, 10)
        shown.run(SimpleNamespace(runs_done=run + 1, robust_so_far=np.arange(20) < 5))
    shown.end()
    shown.say(f"{name}@linf:0.1", [np.arange(20) < 5])


def test_the_time_left_is_that_of_the_runs_and_images_to_come(clock, monkeypatch):
    terminal = terminal_of(monkeypatch, 200)
    shown = Screen(1, (np.zeros(60), np.zeros(60)))
    window(shown, "one", 0, clock, 10.0)
    # A window takes 4 x 10 s, and there are three: 120 s, less what is done.
    left = [re.search(r"(\d+ \w+) left", line)[1] for line in terminal.lines()[:4]]
    assert left == ["2 min", "2 min", "90 s", "80 s"]
    window(shown, "two", 0, clock, 1.0)
    # 12 s of its own, and 80 s of the first attack on the other two windows.
    left = [re.search(r"(\d+ s) left", line)[1] for line in terminal.lines()[5:9]]
    assert left == ["91 s", "90 s", "89 s", "88 s"]
    assert terminal.lines()[4] == "one@linf:0.1: 25.00% of 20 images, 60 in all"
    assert "run 1 of 2 done, 25.00% still robust, step 5 of 10" in terminal.lines()[2]


def test_runs_done_before_don_t_count_as_fast(clock, monkeypatch):
    terminal = terminal_of(monkeypatch, 200)
    shown = Screen(1, (np.zeros(20), np.zeros(20)))
    shown.begin("one", 0, 20, runs=10, done=8)
    clock[0] += 10.0
    shown.step(10, 10)
    assert terminal.lines()[-1].endswith("10 s left")


@pytest.mark.parametrize("columns", [15, 40, 80, 300])
def test_nothing_that_moves_is_wider_than_the_terminal(clock, monkeypatch, columns):
    terminal = terminal_of(monkeypatch, columns)
    shown = Screen(1, (np.zeros(60), np.zeros(60)))
    window(shown, "autoattack-plus:norm=l2:epsilon=0.5", 0, clock, 1.0)
    *moving, last = terminal.lines()
    assert max(map(len, moving)) < columns
    assert last.endswith("60 in all")  # what stays is whole


def test_images_that_nobody_counted_have_no_time_left(clock, monkeypatch):
    terminal = terminal_of(monkeypatch, 200)
    window(Screen(1, iter([])), "one", 0, clock, 1.0)
    assert " left" not in terminal.getvalue()


def test_without_a_terminal_only_what_stays_is_printed(clock, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    window(Screen(1, (np.zeros(20), np.zeros(20))), "one", 0, clock, 1.0)
    window(Screen(0, (np.zeros(20), np.zeros(20))), "one", 0, clock, 1.0)
    assert stream.getvalue() == "one@linf:0.1: 25.00% of 20 images\n"
