"""What a runner trains before itself is known before anything is trained."""

import os

import pytest
import tiny

from vfd_tf.cli import flags
from vfd_tf.data import datasets
from vfd_tf.experiments.runner import Runner
from vfd_tf.experiments.session import Session
from vfd_tf.hyperparameters import InputError


@pytest.fixture
def runner(tmp_path):
    """A function from flags to the runner of TRADES, which needs no teacher itself."""
    tiny.written(tmp_path)

    def made(*words):
        values = flags.define()
        flags.parse(values, [*tiny.flags(tmp_path), "--method=trades", *words])
        (experiment,) = flags.experiments(values)
        plan = flags.evaluation_plan(values, training=True)
        data = datasets.load(values.dataset, validation=experiment.validation)
        return Runner(experiment, Session(data=data, plan=plan, root=values.runs))

    return made


def natural(runner):
    """The paths of vanilla networks that are forecast."""
    return [path for path in runner.session.pending if "-natural-" in path]


def test_the_teacher_of_mixtures_is_checked_shared_and_forecast(runner, monkeypatch):
    mixed = runner("--mixtures=0.5")
    copied = []
    monkeypatch.setattr(mixed.session.cluster, "copy_folder", copied.append)
    mixed.check()
    (teacher,) = natural(mixed)
    assert [*mixed.session.pending] == [teacher, mixed.directory.path]
    assert teacher in copied and mixed.directory.path in copied
    assert mixed.session.pending[teacher].training > 0
    os.makedirs(teacher)
    with open(os.path.join(teacher, "other.txt"), "w"):
        pass
    with pytest.raises(InputError, match="-natural-.* holds files but no run"):
        runner("--mixtures=0.5").check()


def test_no_teacher_is_made_where_none_is_mixed_or_one_is_given(runner, tmp_path):
    given = f"--teacher={tmp_path / 'net.keras'}"
    for words in ((), ("--mixtures=0.5", given), ("--method=natural", "--mixtures=0.5")):
        alone = runner(*words)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vfd_tf.experiments.checks.check_prerequisite", lambda *_: None)
            alone.check()
        assert not alone.before
        assert [*alone.session.pending] == [alone.directory.path]
