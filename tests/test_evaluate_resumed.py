"""Evaluations go on where they stopped, keep what they found, refuse what isn't theirs."""

import csv
import errno
import json
import shutil
import threading
import time

import evaluations
import numpy as np
import pytest
from evaluations import columns, linear, run, table

from vfd_tf import InputError, datasets, evaluation, files
from vfd_tf.cli import evaluate
from vfd_tf.evaluation import Engine, Journal

saved = evaluations.saved


def test_an_evaluation_waits_for_another_and_keeps_what_it_found(saved, tmp_path, capsys):
    folder, other = tmp_path / "model.eval", tmp_path / "other"
    assert run(saved, "--eval_attacks=pgd5", f"--eval_dir={other}") == 0
    capsys.readouterr()
    second = threading.Thread(target=run, args=(saved, "--eval_attacks=fgsm"))
    with files.owned(str(folder)):
        second.start()
        printed, end = "", time.monotonic() + 60
        while "another process evaluates it" not in printed and time.monotonic() < end:
            time.sleep(0.1)
            printed += capsys.readouterr().out
        shutil.copytree(other, folder, dirs_exist_ok=True)
    second.join()
    assert "another process evaluates it" in printed
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert {"fgsm", "pgd5"} <= {row["attack"] for row in rows}


def test_what_was_evaluated_is_not_evaluated_again(saved, capsys, monkeypatch):
    assert run(saved, "--eval_attacks=fgsm,pgd5") == 0
    before = capsys.readouterr().out
    calls = []
    whole = Engine.examples
    monkeypatch.setattr(
        Engine,
        "examples",
        lambda *a, **more: calls.append(a[1].attack) or whole(*a, **more),
    )
    assert run(saved, "--eval_attacks=fgsm,pgd5,mim3") == 0
    after = capsys.readouterr().out.split("\n")
    known = [x for x in before.split("\n") if x.startswith(("| fgsm", "| pgd5"))]
    assert len(known) == 2
    for line in known:  # the time it took as well
        cells = [cell.strip() for cell in line.split("|")]
        assert cells in [[cell.strip() for cell in other.split("|")] for other in after]
    kinds = [type(attack).__name__ for attack in calls]
    assert "MIM" in kinds and "FGSM" not in kinds


def test_an_evaluation_that_was_killed_goes_on_where_it_stopped(saved, monkeypatch):
    whole, seen = Engine.examples, []

    def killed(self, run, batch, **more):
        seen.append(run)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return whole(self, run, batch, **more)

    monkeypatch.setattr(Engine, "examples", killed)
    assert run(saved, "--eval_attacks=apgd-t:steps=5") == 1
    after, folder = [], saved.with_suffix(".eval")
    half = folder / "journal" / "0123-0.npz.89abcdef.part"
    half.write_bytes(b"half a window")
    monkeypatch.setattr(
        Engine,
        "examples",
        lambda *a, **more: after.append(a[1]) or whole(*a, **more),
    )
    assert run(saved, "--eval_attacks=apgd-t:steps=5") == 0
    ranks = [r.rank for r in after if r.rank]
    assert ranks[0] == seen[2].rank == 4  # the two runs before are not repeated
    assert not half.exists()
    resumed = columns(folder, "digits, 48 test images, linf:0.1")["apgd-t:steps=5"]
    monkeypatch.undo()
    test = datasets.load("digits").test[:48]
    fresh = evaluation.evaluate(linear(), test, ["apgd-t:steps=5"], epsilon=0.1)
    np.testing.assert_array_equal(resumed, fresh.robust["apgd-t:steps=5"])


def test_results_of_one_model_accumulate(saved, capsys):
    """Attacks join their table; other counts, radii and seeds stand beside it."""
    folder, one = saved.with_suffix(".eval"), "digits, 48 test images, linf:0.1"
    assert run(saved, "--eval_attacks=fgsm,pgd5,cw:steps=10") == 0
    first = table(folder, one)
    for words in (
        ("--eval_attacks=mim5",),
        ("--eval_attacks=fgsm", "--max_images=12"),
        ("--eval_attacks=fgsm", "--eval_epsilon=0.05"),
        ("--eval_attacks=pgd5", "--eval_seed=3"),
        ("--eval_attacks=fgsm,pgd5", "--eval_batch_size=16"),
    ):
        assert run(saved, *words) == 0
        assert "differ" not in capsys.readouterr().out
    found = table(folder, one)
    for name in ("clean", "fgsm", "pgd5", "cw:steps=10"):
        known, now = (dict(rows[name], seconds=0) for rows in (first, found))
        assert known == now
    test = datasets.load("digits").test[:48]
    names = ["fgsm", "pgd5", "cw:steps=10", "mim5"]
    whole = evaluation.evaluate(linear(), test, names, epsilon=0.1)
    for name, verdict in whole.verdicts().items():
        np.testing.assert_array_equal(columns(folder, one)[name], verdict)
    rows = {row["attack"]: row["accuracy"] for row in whole.rows()}
    assert {name: row["accuracy"] for name, row in found.items()} == rows
    assert [name for name in found if "worst" in name] == ["worst"]
    assert list(found)[-1] == "worst"
    others = [
        "digits, 12 test images, linf:0.1",
        "digits, 48 test images, linf:0.05",
        "digits, 48 test images, linf:0.1, seed 3",
    ]
    for title in others:
        assert set(table(folder, title)) <= {"clean", "fgsm", "pgd5"}
    text = (folder / "results.md").read_text()
    places = [text.index(f"\n{title}\n") for title in (one, *others)]
    assert places == sorted(places)
    tex = (folder / "results.tex").read_text()
    assert tex.count(r"\toprule") == 4 and f"% {one}\n" in tex
    with open(folder / "results.csv") as file:
        assert {row["table"] for row in csv.DictReader(file)} == {one, *others}


def test_a_row_that_changes_is_told(saved):
    verdicts = {"clean": np.ones(4, bool), "fgsm": np.array([1, 1, 0, 0], bool)}
    known = evaluation.Report()
    found = evaluation.EvaluationResult(verdicts["clean"], {"fgsm": verdicts["fgsm"]}, {})
    assert known.add("t", {}, found) == [] == known.add("t", {}, found)
    found.robust["fgsm"] = np.array([1, 0, 0, 1], bool)
    (note,) = known.add("t", {}, found)
    assert note == (
        "2 of 4 verdicts of fgsm differ from those in the report (t), which are replaced."
    )
    np.testing.assert_array_equal(known.verdicts["t|fgsm"], found.robust["fgsm"])


@pytest.mark.parametrize("file", ["verdicts.npz", "results.csv", "results.json"])
def test_a_report_that_was_written_half_is_read_and_the_same_command_adds_the_rest(
    saved, monkeypatch, file
):
    """A disk that is full, or a process that was killed, before a file was replaced."""
    folder, title = saved.with_suffix(".eval"), "digits, 48 test images, linf:0.1"
    assert run(saved, "--eval_attacks=fgsm") == 0
    replaced = files.replaced

    def full(path, *args):
        if path == str(folder / file):
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return replaced(path, *args)

    more = "--eval_attacks=fgsm,pgd5"
    with monkeypatch.context() as patch:
        patch.setattr(files, "replaced", full)
        assert run(saved, more) == 2
    known = evaluation.Report.read(str(folder))
    assert {"clean", "fgsm"} <= {row["attack"] for row in known.rows}
    assert run(saved, more) == 0
    rights = columns(folder, title)
    assert set(rights) == {"clean", "fgsm", "pgd5"}
    expected = {name: 100 * right.mean() for name, right in rights.items()}
    expected["worst"] = 100 * np.all([*rights.values()], axis=0).mean()
    found = {name: row["accuracy"] for name, row in table(folder, title).items()}
    assert found == pytest.approx(expected)


def test_a_damaged_journal_is_begun_anew_with_a_note(saved, capsys):
    folder = saved.with_suffix(".eval")
    title = "digits, 48 test images, linf:0.1"
    assert run(saved, "--eval_attacks=fgsm,pgd5") == 0
    before = columns(folder, title)
    entries = sorted((folder / "journal").glob("*.npz"))
    assert len(entries) == 2
    entries[0].write_bytes(entries[0].read_bytes()[:200])
    np.savez(entries[1], runs=1, seconds=0.0, open=np.ones(3, bool), sizes=np.ones(0))
    capsys.readouterr()
    assert run(saved, "--eval_attacks=fgsm,pgd5") == 0
    printed = capsys.readouterr().out
    for entry in entries:
        assert f"Note: {entry} is damaged; " in printed
    for name, verdict in columns(folder, title).items():
        np.testing.assert_array_equal(verdict, before[name])
    assert run(saved, "--eval_attacks=fgsm,pgd5") == 0
    assert "is damaged" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, content, hint",
    [
        ("results.json", '{"tables": ', "can't be read"),
        ("results.json", "[]", "can't be read"),
        ("results.json", '{"rows": []}', "another version"),
        ("verdicts.npz", "no archive", "can't be read"),
    ],
)
def test_a_damaged_report_is_told_before_the_work(saved, capsys, name, content, hint):
    assert run(saved, "--eval_attacks=fgsm") == 0
    folder = saved.with_suffix(".eval")
    (folder / name).write_text(content)
    capsys.readouterr()
    assert run(saved, "--eval_attacks=fgsm") == 2
    printed = capsys.readouterr()
    (line,) = printed.err.strip().split("\n")
    assert hint in line and f"remove {folder}, or choose another --eval_dir" in line
    assert (folder / name).read_text() == content and "clean" not in printed.out


def test_a_damaged_owner_is_told(saved, capsys):
    assert run(saved, "--eval_attacks=fgsm") == 0
    saved.with_suffix(".eval").joinpath("journal/owner.json").write_text("")
    assert run(saved, "--eval_attacks=fgsm") == 2
    assert "damaged" in capsys.readouterr().err


def test_verdicts_of_other_code_are_not_reused(saved, monkeypatch, capsys):
    assert run(saved, "--eval_attacks=fgsm") == 0
    monkeypatch.setattr(evaluate, "_sources", lambda: "other")
    assert run(saved, "--eval_attacks=fgsm") == 2
    assert "sources other" in capsys.readouterr().err


def test_a_folder_of_another_model_is_refused_and_kept(saved, tmp_path, capsys):
    assert run(saved, "--eval_attacks=fgsm") == 0
    results = (tmp_path / "model.eval/results.json").read_text()
    other = tmp_path / "other.keras"
    linear(1).save(other)
    folder = f"--eval_dir={tmp_path / 'model.eval'}"
    assert run(other, folder, "--eval_attacks=fgsm") == 2
    error = capsys.readouterr().err
    assert "model_sha256" in error and "another --eval_dir" in error
    assert (tmp_path / "model.eval/results.json").read_text() == results


def test_a_journal_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="no evaluation"):
        Journal(str(tmp_path), {}, {})
