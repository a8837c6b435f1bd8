"""ProgressBar: what a fit shows, on terminals of any width and without one."""

import io
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras.callbacks import CallbackList

from vfd_tf import AdversarialTrainer, progress
from vfd_tf.progress import Line, ProgressBar, duration

LOGS = {
    "accuracy": 0.45314, "loss": 1.23456, "adv_accuracy": 0.3126, "adv_loss": 2.0,
    "gradient_norm": 5.0, "vfd_lambda": 0.01, "images_per_second": 812.0,
    "sparse_top_k_categorical_accuracy": 0.9,
}  # fmt: skip
WHOLE = {**LOGS, "val_loss": 1.5, "val_accuracy": 0.501, "val_pgd10_accuracy": 0.31}


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def rows(self):
        """What is written, as the rows that a terminal of endless width would show."""
        rows = [""]
        for piece in re.split(r"([\r\n])", self.getvalue()):
            if piece == "\n":
                rows.append("")
            elif piece != "\r":  # writing goes on at the first column
                rows[-1] = piece + rows[-1][len(piece) :]
        return [row.rstrip() for row in rows]

    def drawings(self):
        return [piece for piece in re.split(r"[\r\n]", self.getvalue()) if piece.strip()]


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def wide(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))


def fit(bar, clock, epochs=2, steps=4, known=True, stride=1, first=0, seconds=10.0):
    """Calls the callback as Keras does: a step takes `seconds`, and so does validation."""
    bar.set_params({"epochs": epochs, "steps": steps if known else None, "verbose": 0})
    bar.on_train_begin()
    for epoch in range(first, epochs):
        bar.on_epoch_begin(epoch)
        for step in range(stride - 1, steps, stride):
            clock[0] += seconds * stride
            bar.on_train_batch_end(step, LOGS)
        clock[0] += seconds
        bar.on_epoch_end(epoch, WHOLE)
    bar.on_train_end()


@pytest.mark.parametrize("columns", [7, 40, 80, 100, 250])
def test_nothing_is_ever_wider_than_the_terminal(clock, monkeypatch, columns):
    wide(monkeypatch, columns)
    terminal = Terminal()
    fit(ProgressBar(1, terminal), clock, epochs=3)
    assert max(map(len, terminal.drawings())) < columns
    rows = terminal.rows()
    assert len(rows) == 4 and rows[-1] == ""  # one an epoch, whatever was drawn before
    heads = [row.split(",")[0] for row in rows[:3]]
    assert heads == [f"epoch {n}/3"[: columns - 1].rstrip() for n in (1, 2, 3)]


def test_a_window_that_shrinks_is_followed(clock, monkeypatch):
    terminal, bar = Terminal(), ProgressBar(1)
    monkeypatch.setattr(bar.line, "_stream", terminal)
    wide(monkeypatch, 120)
    fit(bar, clock, epochs=1)
    before = len(terminal.drawings())
    wide(monkeypatch, 30)
    fit(bar, clock, epochs=1)
    assert max(map(len, terminal.drawings()[before:])) < 30


def test_the_moving_line_has_epoch_step_loss_accuracies_and_time_left(clock, monkeypatch):
    wide(monkeypatch, 200)
    terminal = Terminal()
    fit(ProgressBar(1, terminal), clock, epochs=1)
    first, second = terminal.drawings()[:2]
    # Of 4 steps of 10 s each: the first says nothing yet, 2 are left after the second.
    assert first.strip().endswith(
        "epoch 1/1, step 1/4, loss 1.235, accuracy 0.453, adv_accuracy 0.313, "
        "sparse_top_k_categorical_accuracy 0.900"
    )
    assert second.startswith("[##########..........] epoch 1/1, step 2/4, loss 1.235")
    assert second.strip().endswith("20 s left") and "gradient_norm" not in second


def test_the_line_of_an_epoch_has_validation_and_the_time_left_of_the_fit(clock):
    stream = io.StringIO()
    fit(ProgressBar("auto", stream), clock, epochs=3)
    # No terminal: one line an epoch. An epoch takes 4 x 10 s and 10 s of validation.
    assert stream.getvalue().splitlines() == [
        f"epoch {n}/3, loss 1.235, accuracy 0.453, adv_accuracy 0.313, "
        "sparse_top_k_categorical_accuracy 0.900, val_accuracy 0.501, "
        f"val_pgd10_accuracy 0.310, 50 s{left}"
        for n, left in ((1, ", 2 min left"), (2, ", 50 s left"), (3, ""))
    ]


def test_80_columns_hold_the_accuracies_of_validation(clock, monkeypatch):
    wide(monkeypatch, 80)
    terminal = Terminal()
    fit(ProgressBar(1, terminal), clock, epochs=1)
    assert terminal.rows()[0] == (
        "epoch 1/1, loss 1.235, val_accuracy 0.501, val_pgd10_accuracy 0.310, 50 s"
    )


def test_verbose_2_is_a_line_an_epoch_on_a_terminal_too_and_0_is_silent(clock):
    for verbose, lines in ((2, 2), (0, 0)):
        terminal = Terminal()
        fit(ProgressBar(verbose, terminal), clock)
        assert len(terminal.getvalue().splitlines()) == lines


def test_steps_that_nobody_knows_are_counted_in_the_first_epoch(clock, monkeypatch):
    wide(monkeypatch, 200)
    terminal = Terminal()
    fit(ProgressBar(1, terminal), clock, known=False)
    drawings = terminal.drawings()
    assert drawings[1].startswith("epoch 1/2, step 2, loss")
    assert " left" not in drawings[1]
    assert any("epoch 2/2, step 2/4, " in d and "20 s left" in d for d in drawings)


def test_several_steps_at_once_and_late_reports(clock, monkeypatch):
    wide(monkeypatch, 200)
    terminal = Terminal()
    bar = ProgressBar(1, terminal)
    fit(bar, clock, epochs=1, steps=8, stride=4)
    assert [re.search(r"step (\d+)/8", d)[1] for d in terminal.drawings()[:2]] == ["4", "8"]
    bar.on_epoch_begin(1)
    bar.on_train_batch_end(7, LOGS)
    count = len(terminal.drawings())
    bar.on_train_batch_end(3, LOGS)
    assert len(terminal.drawings()) == count and bar.seen == 8


def test_a_fit_that_is_continued_counts_its_own_epochs(clock):
    stream = io.StringIO()
    bar = ProgressBar(2, stream)
    fit(bar, clock, epochs=5, first=3)
    fit(bar, clock, epochs=1)
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch 4/5", "epoch 5/5", "epoch 1/1"]
    assert lines[0].endswith("50 s, 50 s left") and not lines[1].endswith("left")


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_keras_s_own_fit_drives_it(capsys, steps_per_execution):
    x, y = np.random.rand(24, 4).astype("float32"), np.arange(24) % 3
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        "sgd", loss, metrics=["accuracy"], steps_per_execution=steps_per_execution
    )
    bar, common = ProgressBar(), {"batch_size": 4, "verbose": 0, "validation_data": (x, y)}
    model.fit(x, y, epochs=2, callbacks=[bar], **common)
    assert bar.seen == 6
    history = model.fit(x, y, epochs=3, initial_epoch=2, callbacks=[bar], **common).history
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch 1/2", "epoch 2/2", "epoch 3/3"]
    loss, accuracy = history["loss"][0], history["val_accuracy"][0]
    assert f"loss {loss:.3f}, " in lines[2] and f"val_accuracy {accuracy:.3f}, " in lines[2]


@pytest.mark.parametrize("listed", [None, "alone", "list", "CallbackList"])
def test_fit_of_a_trainer_shows_it_in_place_of_keras_s_bar(
    make_network, toy, monkeypatch, listed
):
    wide(monkeypatch, 60)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    trainer = AdversarialTrainer(make_network(), "trades", attack="fgsm")
    trainer.compile("sgd", metrics=["accuracy"])
    own = keras.callbacks.LambdaCallback()
    callbacks = {"alone": own, "list": [own], "CallbackList": CallbackList([own])}
    fit = {"batch_size": 8, "validation_data": toy, "epochs": 2}
    trainer.fit(*toy, callbacks=callbacks.get(listed), **fit)
    rows = [row for row in terminal.rows() if row]
    assert [row.split(",")[0] for row in rows] == ["epoch 1/2", "epoch 2/2"]
    assert all("val_accuracy" in row and len(row) < 60 for row in rows)


def test_a_bar_among_the_callbacks_is_the_only_one(make_network, toy, capsys):
    trainer = AdversarialTrainer(make_network(), "trades", attack="fgsm")
    trainer.compile("sgd")
    trainer.fit(*toy, batch_size=8, callbacks=[ProgressBar(2)])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_interrupted_line_is_cleared(monkeypatch):
    wide(monkeypatch, 40)
    terminal = Terminal()
    line = Line(terminal)
    line.draw("a long text that is cut to the forty columns of the terminal")
    line.draw("short")
    assert terminal.rows() == ["short"]
    line.end("the end")
    assert terminal.rows() == ["the end", ""]


@pytest.mark.parametrize(
    "seconds, text",
    [(0.2, "0 s"), (99, "99 s"), (150, "2 min"), (5400, "90 min"), (9000, "2.5 h"),
     (200_000, "2.3 days")],
)  # fmt: skip
def test_times_come_in_the_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text
