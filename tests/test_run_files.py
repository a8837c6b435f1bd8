"""Files of runs: damaged, full or out of reach is one sentence, and nothing is lost."""

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from vfd_tf import InputError, files
from vfd_tf.cli import flags, main
from vfd_tf.experiments import fitting, run_directory
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.runner import Runner

SMALL = (
    *("--dataset=digits", "--arch=resnet8", "--width=0.125", "--batch_size=256"),
    *("--method=natural", "--distill=none", "--epochs=2", "--learning_rate=0.05"),
    *("--schedule=constant", "--eval_attacks=fgsm", "--epsilon=0.2", "--max_images=64"),
)


def run(workdir, *words):
    return main.main(["run.py", *SMALL, f"--workdir={workdir}", *words])


def weights(path):
    return [v.numpy() for v in keras.saving.load_model(path, compile=False).weights]


def same_students(one, other):
    return all(
        np.array_equal(a, b)
        for which in ("best", "last")
        for a, b in zip(
            weights(one / f"{which}.keras"), weights(other / f"{which}.keras"), strict=True
        )
    )


def refusal(capsys):
    """The one line on stderr."""
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert error.endswith(".\n") and "Traceback" not in error
    return error.removeprefix("error: ").rstrip()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never disturbed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    before = pathlib.Path.cwd()
    os.chdir(path.parent)
    try:
        assert run(path) == 0
    finally:
        os.chdir(before)
    return path


@pytest.fixture
def copy(finished, tmp_path):
    return pathlib.Path(shutil.copytree(finished, tmp_path / "copy"))


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def foreign(path):
    if path.suffix == ".npz":
        np.savez(path, other=np.zeros(3))
    else:
        path.write_text("[1, 2]")


def checkpoint(run):
    """The newest."""
    return max(run.glob("checkpoint-*.npz"))


@pytest.mark.parametrize("damage", [halved, emptied, foreign])
@pytest.mark.parametrize("name", ["run.json", "results.json", "verdicts.npz", "checkpoint"])
def test_a_damaged_file_is_named_with_what_to_do_and_kept(copy, capsys, name, damage):
    if name == "verdicts.npz" and damage is foreign:
        pytest.skip("other columns are no damage: those of this run are evaluated again")
    if name == "checkpoint":  # as in the middle of training
        (copy / "results.json").unlink()
        name = checkpoint(copy).name
    damage(copy / name)
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert run(copy) == 2
    sentence = refusal(capsys)
    assert str(copy / name) in sentence
    assert any(word in sentence.lower() for word in ("restore", "remove"))
    assert before == {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}


def test_a_bit_that_turned_in_the_weights_is_found(copy, capsys):
    (copy / "results.json").unlink()
    turn_a_bit(checkpoint(copy))
    assert run(copy) == 2
    assert str(checkpoint(copy)) in refusal(capsys)


def turn_a_bit(path):
    with np.load(path) as saved:
        largest = max((saved[name] for name in saved), key=lambda array: array.nbytes)
    data = bytearray(path.read_bytes())
    data[data.index(largest.tobytes()) + largest.nbytes // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["flags.txt", "history.csv", "metrics.jsonl"])
@pytest.mark.parametrize("damage", [halved, emptied, pathlib.Path.unlink])
def test_a_text_of_a_complete_run_is_written_again(copy, finished, name, damage):
    damage(copy / name)
    assert run(copy) == 0
    lines = [(p / name).read_text().splitlines() for p in (copy, finished)]
    own, whole = ([n for n in each if "workdir" not in n] for each in lines)
    assert own == whole


def test_a_number_that_turned_in_the_results_is_found(copy, capsys):
    """Which is a number all the same."""
    text = (copy / "results.json").read_text()
    (copy / "results.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    assert run(copy) == 2
    assert "results.json is damaged (its checksum is another)" in refusal(capsys)


@pytest.mark.parametrize("name", ["best.keras", "last.keras", "checkpoint"])
def test_an_archive_of_a_complete_run_that_is_damaged_is_named(copy, capsys, name):
    path = checkpoint(copy) if name == "checkpoint" else copy / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert run(copy) == 0
    assert capsys.readouterr().out.count(f"Note: {path} is damaged: restore it") == 1


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, capsys, error):
    def refused(file, how):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(files.fcntl, "flock", refused)
    with files.owned(str(tmp_path / "run")):
        assert "has no locks; see that no other process" in capsys.readouterr().out
    assert not (tmp_path / "run" / files.LOCK).exists()


def test_results_that_were_removed_are_made_again_without_training(copy, finished, capsys):
    (copy / "results.json").unlink()
    assert run(copy) == 0
    assert "Epoch" not in capsys.readouterr().out
    before, after = (json.loads((p / "results.json").read_text()) for p in (finished, copy))
    assert after["accuracies"] == before["accuracies"]
    assert same_students(copy, finished)


@pytest.mark.slow
def test_a_removed_state_trains_again_to_the_same_weights(copy, finished):
    (copy / "results.json").unlink()
    checkpoint(copy).unlink()
    assert run(copy) == 0
    assert same_students(copy, finished)


@pytest.mark.parametrize("where", ["afile", "afile/below", "/proc/nope"])
@pytest.mark.parametrize("flag", ["workdir", "runs"])
def test_a_place_that_is_no_folder_or_cannot_be_written(tmp_path, capsys, where, flag):
    (tmp_path / "afile").write_text("mine")
    assert main.main(["run.py", *SMALL, f"--{flag}={where}"]) == 2
    assert "choose another" in refusal(capsys)
    assert (tmp_path / "afile").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["afile"]


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EFBIG])
def test_a_full_disk_is_a_sentence_and_the_run_goes_on_to_the_same_bits(
    tmp_path, finished, capsys, monkeypatch, code
):
    write, calls = np.savez, []

    def full(*args, **arrays):
        calls.append(1)
        if len(calls) == 2:
            args[0].write(b"half of it")
            raise OSError(code, os.strerror(code))
        return write(*args, **arrays)

    monkeypatch.setattr(np, "savez", full)
    assert run(tmp_path / "run") == 2
    sentence = refusal(capsys)
    assert os.strerror(code) in sentence and "the same command continues" in sentence
    assert ("make room" in sentence) == (code != errno.EACCES)
    left = {p.name for p in (tmp_path / "run").iterdir()}
    assert not any("part" in name or "lock" in name for name in left)
    assert run(tmp_path / "run") == 0
    assert "from epoch 0, step 5 to 2" in capsys.readouterr().out
    assert same_students(tmp_path / "run", finished)


@pytest.mark.slow
def test_a_file_size_limit_in_a_process_of_its_own(tmp_path):
    resource = pytest.importorskip("resource")

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words = [
        sys.executable,
        "-m",
        "vfd_tf",
        *SMALL,
        f"--workdir={tmp_path / 'run'}",
    ]
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(
        words, capture_output=True, text=True, preexec_fn=limited, cwd=root
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [li for li in done.stderr.splitlines() if li.startswith("error: ")]
    assert "make room on the disk" in line


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = str(tmp_path / "a.txt")
    for text, fails in (("old", False), ("new", True)):
        try:
            with files.replaced(path) as part, open(part, "w") as file:
                file.write(text)
                if fails:
                    raise OSError(errno.ENOSPC, "full")
        except OSError:
            assert fails
    assert pathlib.Path(path).read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_nobody_expected_is_written_to_a_file_and_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Runner, "check", lambda _: 1 / 0)
    assert run(tmp_path / "run") == 1
    sentence = refusal(capsys)
    assert "ZeroDivisionError" in sentence and "vfd-error-" in sentence
    (path,) = tmp_path.glob("vfd-error-*.txt")
    assert path.name in sentence and "Traceback" in path.read_text()


@pytest.mark.slow
def test_a_run_that_was_ended_early_is_not_complete(
    tmp_path, finished, capsys, monkeypatch
):
    callbacks = fitting.callbacks_of

    def stopping(*args):
        def stop(epoch, logs):
            trainer.model.stop_training = True

        trainer = keras.callbacks.LambdaCallback(on_epoch_end=stop)
        return [*callbacks(*args), trainer]

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "callbacks_of", stopping)
        assert run(tmp_path / "run") == 2
    assert "after 1 of 2 epochs" in refusal(capsys)
    assert not run_directory.RunDirectory(str(tmp_path / "run")).complete
    assert run(tmp_path / "run") == 0
    assert same_students(tmp_path / "run", finished)


NUMBERS = [
    name
    for name in flags.define()
    if getattr(flags.define()[name].parser, "kind", None) in (float, int)
]


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e400", "9" * 50])
def test_no_flag_takes_a_number_that_is_not_finite_in_float32(text):
    taken = []
    for name in NUMBERS:
        values = flags.define()
        try:
            values(["run.py", f"--{name}={text}"])
            taken.append(name)
        except Exception as error:
            assert "\n" not in str(error)
    assert len(NUMBERS) > 40 and not taken


def test_a_tuple_holds_no_infinite_number():
    with pytest.raises(InputError, match="lr_factors must be finite"):
        Experiment().recipe.replace(lr_factors=(1.0, float("inf"), 0.1))


@pytest.mark.parametrize("words", [["-m", "vfd_tf", "--help"], ["run.py", "--help"]])
def test_another_keras_backend_is_refused_in_one_sentence(words):
    root = pathlib.Path(__file__).parents[1]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, cwd=root
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and "KERAS_BACKEND=tensorflow" in done.stderr


def test_another_keras_backend_is_an_import_error_in_python():
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-c", "import vfd_tf"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=pathlib.Path(__file__).parents[1],
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and "KERAS_BACKEND=tensorflow" in last
