"""--init=teacher: the student starts from the weights of its vanilla teacher."""

import keras
import numpy as np
import pytest
import tiny

from vfd_tf import InputError
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.models import architectures, initial, network
from vfd_tf.training.distillation import LBGAT, VFD
from vfd_tf.training.methods import PGDAT

L = keras.layers


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With a classifier of which BatchNorm is a part."""
    tiny.written(tmp_path)
    tiny.model(L.Conv2D(2, 3, name="layer1"), L.BatchNormalization()).save(
        tmp_path / "net.keras"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experiment(**fields):
    return Experiment(method=PGDAT(), distillation=VFD(), init="teacher", **fields)


def weights(path):
    return network.load(str(path)).get_weights()


def test_the_teacher_becomes_a_prerequisite_and_starts_from_weights_drawn_anew():
    alone = Experiment(method=PGDAT(), distillation=LBGAT(), init="teacher")
    assert alone.prerequisites == ("teacher",) and alone.needs == ("partner",)
    assert experiment().prerequisites == ("teacher",)
    assert experiment().prerequisite("teacher").init is None
    assert experiment().surrogate("resnet18").init is None


def test_the_run_is_another_one_and_depends_on_the_teacher():
    plain = experiment().replace(init=None).identity("data", {"teacher": "a"})
    assert experiment().identity("data", {"teacher": "a"}) == {**plain, "init": "teacher"}


def test_a_teacher_of_another_architecture_is_refused():
    with pytest.raises(InputError, match="--init=teacher needs a teacher of the student"):
        experiment(teacher_arch="vgg16")
    assert experiment(teacher_arch="resnet18").teacher_arch == "resnet18"


@pytest.mark.parametrize("width, classes", [(0.5, 10), (0.25, 5)])
def test_a_file_of_another_width_or_other_classes_is_refused(tmp_path, width, classes):
    path = str(tmp_path / "teacher.keras")
    network.classifier(architectures.resnet8((8, 8, 3), classes, width)).save(path)
    student = architectures.resnet8((8, 8, 3), 10, 0.25)
    with pytest.raises(InputError, match="no resnet8 of its width and classes"):
        initial.start_from_teacher(student, path, "resnet8")


def test_all_weights_are_the_teacher_s(tmp_path):
    path = str(tmp_path / "teacher.keras")
    teacher = architectures.resnet8((8, 8, 3), 10, 0.25)
    random = np.random.default_rng(0)
    teacher.set_weights([random.uniform(size=w.shape) for w in teacher.get_weights()])
    network.classifier(teacher).save(path)
    student = architectures.resnet8((8, 8, 3), 10, 0.25)
    initial.start_from_teacher(student, path, "resnet8")
    for ours, theirs in zip(student.get_weights(), teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("method, distill", [("pgd-at", "none"), ("trades", "bgat")])
def test_a_run_starts_from_the_teacher_that_is_trained_first(
    folder, method, distill, recwarn
):
    """At a rate of 0 the weights stay where they started."""
    words = f"--method={method}", f"--distill={distill}", "--init=teacher"
    assert tiny.train(folder, *words, "--learning_rate=0", "--pgd_steps=1") == 0
    assert not [w for w in recwarn if "is not used by" in str(w.message)]
    (teacher,) = (folder / "runs").iterdir()
    ours, theirs = weights(folder / "run/last.keras"), weights(teacher / "best.keras")
    for one, other in zip(ours[:2] + ours[-2:], theirs[:2] + theirs[-2:], strict=True):
        np.testing.assert_array_equal(one, other)
    drawn = weights(folder / "net.keras")
    assert not np.array_equal(ours[0], drawn[0])
