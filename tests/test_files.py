"""Files that are replaced whole, by however many processes at once."""

import contextlib
import os
import time

import numpy as np
import pytest

from vfd_tf import files
from vfd_tf.checkpoints import Checkpoints, State
from vfd_tf.evaluation import Journal
from vfd_tf.experiments import model_card
from vfd_tf.experiments.record import Record
from vfd_tf.experiments.run_directory import RunDirectory


def left_behind(path, *ending):
    """What a process leaves that is killed while it writes a file: its name."""
    with contextlib.suppress(KeyboardInterrupt), files.replaced(str(path), *ending) as part:
        with open(part, "w") as file:
            file.write("half")
        os.link(part, path.parent / "kept")
        raise KeyboardInterrupt
    os.rename(path.parent / "kept", part)
    return os.path.basename(part)


def test_two_that_write_one_file_at_once_leave_the_whole_file_of_the_later(tmp_path):
    path = tmp_path / "suite.json"
    with files.replaced(str(path)) as one, open(one, "w") as file:
        file.write("one")
        with files.replaced(str(path)) as other:
            with open(other, "w") as second:
                second.write("other")
            assert os.path.basename(other).startswith("suite.json.")
        assert path.read_text() == "other"
    assert path.read_text() == "one" and os.listdir(tmp_path) == ["suite.json"]


@pytest.mark.parametrize("ending", [".part", ".part.keras"])
def test_what_was_left_half_written_goes_after_a_day_and_no_sooner(tmp_path, ending):
    old, young = (left_behind(tmp_path / "best.keras", ending) for _ in range(2))
    two_days_ago = time.time() - 2 * 86400
    for name in (old, f"best.keras.mine{ending}"):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (two_days_ago, two_days_ago))
    with files.replaced(str(tmp_path / "best.keras"), ending) as part:
        (tmp_path / os.path.basename(part)).write_text("whole")
    names = {"best.keras", young, f"best.keras.mine{ending}"}
    assert set(os.listdir(tmp_path)) == names


def test_a_checkpoint_that_was_half_written_goes_with_the_next_one(tmp_path):
    left_behind(tmp_path / "checkpoint-00009-00000001.npz")
    other = left_behind(tmp_path / "notes.txt")
    Checkpoints(tmp_path).write(State(epoch=1), {"v0": np.ones(2)})
    assert set(os.listdir(tmp_path)) == {"checkpoint-00001-00000000.npz", other}


def test_a_folder_with_nothing_but_half_written_files_is_nobody_s(tmp_path):
    left_behind(tmp_path / "run.json")
    RunDirectory(str(tmp_path)).check_owner({}, {})
    files.remove_parts(str(tmp_path))
    assert os.listdir(tmp_path) == []
    left_behind(tmp_path / "owner.json")
    Journal(str(tmp_path), {"student": "a"}, {})
    assert files.read_json(str(tmp_path / "owner.json"), "") == {"student": "a"}


def test_half_written_files_are_none_of_a_run_s(tmp_path):
    directory = RunDirectory(str(tmp_path))
    identity = {"dataset": "digits", "arch": "resnet8", "helpers": {}}
    directory.claim(identity, {}, "--seed=0\n")
    for name, ending in (("best.keras", ".part.keras"), ("results.json", ".part")):
        left_behind(tmp_path / name, ending)
    shown = [row[0] for row in model_card._files(Record(str(tmp_path)))]
    assert shown == ["flags.txt", "run.json"]
