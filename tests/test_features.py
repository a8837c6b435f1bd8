"""Figure 3: its images, its embedding, its files, and what is not computed again."""

import dataclasses

import keras
import numpy as np
import pytest
import tiny

from vfd_tf.cli import features as mode
from vfd_tf.cli import flags
from vfd_tf.data import datasets
from vfd_tf.experiments import embedding, features
from vfd_tf.experiments.features import FeaturePlan
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import network

L = keras.layers
PLAN = FeaturePlan(classes=3, images=12, attack="pgd2", examples=5, perplexity=5.0)
THREAT = {"epsilon": 0.1, "norm": "linf"}


@pytest.fixture(scope="module")
def data():
    return datasets.load("digits", training=False)


@pytest.fixture(scope="module")
def students(data, tmp_path_factory):
    """Name -> file of an untrained network, and of one trained for a moment."""
    folder, found = tmp_path_factory.mktemp("students"), {}
    for name, epochs in (("raw", 0), ("trained", 3)):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                L.Conv2D(8, 3, activation="relu", name="layer1"),
                L.Conv2D(8, 3, activation="relu", name="layer2"),
                L.Flatten(),
                L.Dense(10),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss)
        if epochs:
            x, y = data.train.floats(), data.train.y
            model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
        found[name] = str(folder / f"{name}.keras")
        model.save(found[name])
    return found


def draw(students, data, folder, plan=PLAN, **threat):
    return features.draw(students, data, plan, str(folder), **{**THREAT, **threat})


def loaded(folder, name=features.FEATURES):
    with np.load(folder / name, allow_pickle=False) as file:
        return dict(file)


def blobs(count=40, dimensions=120, distance=6.0):
    """Points of five far-apart Gaussians, and which each is of."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), count)
    centres = distance * random.normal(size=(5, dimensions))
    return centres[labels] + random.normal(size=(5 * count, dimensions)), labels


def test_neighbours_stay_neighbours():
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import KNeighborsClassifier

    points, labels = blobs()
    found = embedding.plane(points)
    assert found.shape == (200, 2) and found.dtype == "float32"
    assert trustworthiness(points, found, n_neighbors=39) >= 0.95
    nearest = KNeighborsClassifier(5).fit(found[::2], labels[::2])
    assert nearest.score(found[1::2], labels[1::2]) == 1


def test_fine_structure_stays_too():
    """Points of a curve in many dimensions: neighbours on it are neighbours."""
    from sklearn.manifold import trustworthiness

    t = np.linspace(0, 3, 150)[:, None]
    random = np.random.default_rng(0)
    points = np.sin(t * np.linspace(0.5, 2, 80) + random.uniform(0, 6, 80))
    assert trustworthiness(points, embedding.plane(points, perplexity=10.0)) >= 0.95


def test_the_same_seed_gives_the_same_plane_on_any_number_of_cores():
    from threadpoolctl import threadpool_limits

    points, _ = blobs(count=12)
    one = embedding.plane(points, 3)
    with threadpool_limits(1):
        np.testing.assert_array_equal(one, embedding.plane(points, 3))


def test_silhouettes_by_hand():
    """Two classes of two points on a line: 1 - a / b, averaged."""
    clean, moved = np.array([0.0, 1, 10, 11]), np.array([0.0, 10, 1, 11])
    labels = np.array([0, 0, 1, 1])
    points = np.concatenate([clean, moved])[:, None]
    found = embedding.silhouettes(points, labels)
    np.testing.assert_allclose(found[0], (2 * (1 - 1 / 10.5) + 2 * (1 - 1 / 9.5)) / 4)
    assert found[1] < 0 < found[2] < found[0]
    assert np.isnan(embedding.silhouettes(points, np.zeros(4))).all()


def test_silhouettes_are_scikit_learns(monkeypatch):
    from sklearn.metrics import silhouette_score

    points, labels = blobs(distance=1.0)
    points = (points + 5).astype("float32")
    monkeypatch.setattr(embedding, "_BLOCK", 50)  # of 120 dimensions
    found = embedding.silhouettes(points, labels[:100])
    parts = (points[:100], labels[:100]), (points[100:], labels[:100])
    for own, part in zip(found, (*parts, (points, np.tile(labels[:100], 2))), strict=True):
        np.testing.assert_allclose(own, silhouette_score(*part), rtol=1e-5)


def test_features_without_a_picture_are_refused():
    with pytest.raises(InputError, match="the same"):
        embedding.plane(np.ones((20, 60)))
    with pytest.raises(InputError, match="NaN"):
        embedding.plane(np.full((20, 60), np.nan))


def test_the_images_are_of_the_split_class_by_class(data):
    found = features.select(data, PLAN)
    assert len(found.y) == 36 and len(set(found.index)) == 36
    np.testing.assert_array_equal(data.test.y[found.index], found.y)
    np.testing.assert_array_equal(data.test.floats()[found.index], found.x)
    np.testing.assert_array_equal(found.chosen[found.labels], found.y)
    assert [*np.bincount(found.labels)] == [12, 12, 12]
    np.testing.assert_array_equal(found.labels[found.sheet(5)], [0, 1, 2, 0, 1])


def test_seeds_choose_classes_and_images(data):
    chosen = [features.select(data, PLAN.replace(seed=s)) for s in (0, 0, 1, 2, 3)]
    np.testing.assert_array_equal(chosen[0].index, chosen[1].index)
    assert len({tuple(c.chosen) for c in chosen}) > 1


def test_fewer_images_are_said(data, capsys):
    found = features.select(data, PLAN.replace(images=5000, classes=99))
    assert len(found.y) == 360 and len(found.chosen) == 10
    said = capsys.readouterr().out
    assert "10 classes" in said and "fewer than 5000" in said


def test_the_files_hold_what_they_say(students, data, tmp_path):
    returned = draw(students, data, tmp_path)
    found, sheet = loaded(tmp_path), loaded(tmp_path, features.EXAMPLES)
    assert returned.keys() == found.keys()
    assert found["embedding"].shape == (2, 72, 2) and found["embedding"].dtype == "float32"
    assert [*found["names"]] == ["raw", "trained"]
    assert found["adversarial"].tolist() == [False] * 36 + [True] * 36
    assert found["silhouette"].shape == (2, 2, 3) and found["accuracy"].shape == (2, 2)
    assert sheet["clean"].shape == (5, 8, 8, 1)
    assert sheet["adversarial"].shape == (2, 5, 8, 8, 1)
    distance = np.abs(sheet["adversarial"] - sheet["clean"]).max(axis=(2, 3, 4))
    assert distance.min() > 0 and distance.max() <= 0.1 + 1e-6
    chosen = features.select(data, PLAN)
    for i, path in enumerate(students.values()):
        model = network.load(path)
        right = model(chosen.x).numpy().argmax(-1) == chosen.y
        np.testing.assert_allclose(found["accuracy"][i, 0], 100 * right.mean())
        for kind, images in (
            ("clean", sheet["clean"]),
            ("adversarial", sheet["adversarial"][i]),
        ):
            wanted = model(images).numpy().argmax(-1)
            np.testing.assert_array_equal(sheet[f"predictions_{kind}"][i], wanted)
    assert found["accuracy"][1, 0] > found["accuracy"][1, 1]
    names = np.array(data.class_names)
    np.testing.assert_array_equal(found["classes"], names[chosen.chosen])
    np.testing.assert_array_equal(sheet["class_names"], names)


def test_the_embedding_is_of_the_features_of_the_layer(students, data, tmp_path):
    """A row of the file against the same numbers from the network's own layer."""
    found = draw({"raw": students["raw"]}, data, tmp_path)
    chosen = features.select(data, PLAN)
    model = network.load(students["raw"])
    inner = keras.Model(model.inputs[0], model.get_layer("layer2").output)
    flat = inner(chosen.x).numpy().reshape(len(chosen.y), -1)
    wanted = embedding.silhouettes(np.tile(flat, (2, 1)), chosen.labels)[0]
    np.testing.assert_allclose(found["silhouette"][0, 1, 0], wanted, rtol=1e-4)


def test_the_same_call_gives_the_same_bytes(students, data, tmp_path):
    for folder in ("one", "two"):
        draw(students, data, tmp_path / folder)
    for name in (features.FEATURES, features.EXAMPLES):
        one, two = (tmp_path / folder / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_a_student_that_is_there_is_not_computed_again(
    students, data, tmp_path, monkeypatch
):
    draw({"raw": students["raw"]}, data, tmp_path)
    calls, own = [], features.perturb
    monkeypatch.setattr(
        features, "perturb", lambda *a, **k: calls.append(1) or own(*a, **k)
    )
    both = draw({"trained": students["trained"], "again": students["raw"]}, data, tmp_path)
    assert len(calls) == 1 and [*both["names"]] == ["trained", "again"]
    alone = draw(students, data, tmp_path / "other")
    np.testing.assert_array_equal(both["embedding"][::-1], alone["embedding"])
    calls.clear()
    draw(students, data, tmp_path, epsilon=0.05)
    assert len(calls) == 2


@pytest.mark.parametrize("change", [{"layer": "layer1"}, {"seed": 7}, {"perplexity": 4.0}])
def test_other_settings_are_computed_anew(students, data, tmp_path, change):
    one = draw({"raw": students["raw"]}, data, tmp_path)
    two = draw({"raw": students["raw"]}, data, tmp_path, plan=PLAN.replace(**change))
    assert not np.array_equal(one["embedding"], two["embedding"])


def test_a_stopped_call_leaves_the_students_before(students, data, tmp_path, monkeypatch):
    own = features.perturb

    def stopped(model, *args, **options):
        if (tmp_path / features.FEATURES).exists():
            raise KeyboardInterrupt
        return own(model, *args, **options)

    monkeypatch.setattr(features, "perturb", stopped)
    with pytest.raises(KeyboardInterrupt):
        draw(students, data, tmp_path)
    assert [*loaded(tmp_path)["names"]] == ["raw"]
    monkeypatch.setattr(features, "perturb", own)
    assert [*draw(students, data, tmp_path)["names"]] == ["raw", "trained"]


def test_what_does_not_fit_is_refused_before_anything_is_made(students, data, tmp_path):
    other = keras.Sequential([keras.Input((4, 4, 1)), L.Flatten(), L.Dense(10)])
    other.save(tmp_path / "other.keras")
    folder = tmp_path / "out"
    cases = [
        ({"other": str(tmp_path / "other.keras")}, PLAN, "images"),
        (students, PLAN.replace(layer="layer9"), "layer9"),
        (students, PLAN.replace(attack="pdg20"), "pdg"),
    ]
    for some, plan, words in cases:
        with pytest.raises(InputError, match=words):
            draw(some, data, folder, plan=plan)
    assert not folder.exists()
    folder.mkdir()
    (folder / features.FEATURES).write_bytes(b"no archive")
    with pytest.raises(InputError, match="remove it"):
        draw(students, data, folder)
    (folder / features.FEATURES).unlink()
    draw({"raw": students["raw"]}, data, folder)
    arrays = loaded(folder)
    np.savez(folder / features.FEATURES, **{**arrays, "embedding": arrays["embedding"][:0]})
    with pytest.raises(InputError, match="remove it"):
        draw(students, data, folder)
    one = dataclasses.replace(data, test=data.test[data.test.y == 3])
    with pytest.raises(InputError, match="1 class"):
        features.select(one, PLAN)


def values(tmp_path, *words):
    """The flags of the command line, with those of the mode."""
    found = flags.define()
    small = [f"--features_{n}={getattr(PLAN, n)}" for n in ("classes", "images", "attack")]
    found(["run.py", *small, f"--features_dir={tmp_path}", "--eval_epsilon=0.1", *words])
    return found


def test_the_mode_prints_a_table_of_files(students, tmp_path, capsys):
    mode.run(values(tmp_path, "--dataset=digits"), [*students.values()])
    said = capsys.readouterr().out
    assert "36 images of" in said and "| trained " in said
    assert [*loaded(tmp_path)["names"]] == ["raw", "trained"]


def test_a_run_directory_brings_its_data_set_and_its_name(tmp_path, capsys):
    assert tiny.train(tiny.written(tmp_path)) == 0
    words = [str(tmp_path / "run"), str(tmp_path / "net.keras")]
    mode.run(values(tmp_path / "out"), words)
    found = loaded(tmp_path / "out")
    assert [*found["names"]] == ["natural+none", "net"] and len(found["labels"]) == 8
    assert str(tmp_path / "data.npz") in str(found["settings"])
    assert "fewer than 12 test images" in capsys.readouterr().out
    # The run has no such student: a note says so, and the file is drawn alone.
    data = f"--dataset=npz:{tmp_path / 'data.npz'}"
    mode.run(values(tmp_path / "out", "--features_student=average", data), words)
    assert "no average student" in capsys.readouterr().err
    assert [*loaded(tmp_path / "out")["names"]] == ["net"]


def test_names_stand_beside_their_students_also_where_some_are_missing(
    students, tmp_path, capsys
):
    words = [students["raw"], str(tmp_path / "nothing"), students["trained"]]
    names = "--features_names=One,Two,Three"
    mode.run(values(tmp_path, "--dataset=digits", names), words)
    assert [*loaded(tmp_path)["names"]] == ["One", "Three"]
    with pytest.raises(InputError, match="names 3 students, and there are 2"):
        mode.run(values(tmp_path, names), words[:2])


def test_the_mode_refuses_what_it_cannot_take(students, tmp_path):
    with pytest.raises(InputError, match="Name the students"):
        mode.run(values(tmp_path), [])
    with pytest.raises(InputError, match="neither a run directory"):
        mode.run(values(tmp_path), [str(tmp_path / "nothing")])
