"""Figure 3 of the paper: clean and adversarial images in the features of students.

Images of a few classes are drawn from the test split; every student gets adversarial images
of its own, and one t-SNE of both kinds together. A folder then holds, of the students that
the last call named, in their order:

features.npz   embedding float32 [students, 2n, 2]: in the plane, clean first
               labels int32 [n]: places in `classes`; index int64 [n]: in the test split
               classes, names: texts; adversarial bool [2n]
               accuracy [students, 2]: percent of the n right, clean and adversarial
               silhouette [students, 2, 3]: in the plane and in the features; of clean
               images, of adversarial ones, of both
               sha256, settings: what the students are, and all that decides the rest
examples.npz   clean float32 [m, h, w, c], labels int32 [m]: places in `class_names`
               adversarial [students, m, h, w, c]
               predictions_clean, predictions_adversarial int32 [students, m]
               class_names, names, sha256, settings: texts
"""

import dataclasses
import json
import os
import time

import numpy as np
import tensorflow as tf

from vfd_tf import files
from vfd_tf.attacks.attack import radius
from vfd_tf.data.datasets import Dataset
from vfd_tf.evaluation import Engine, perturb, protocol
from vfd_tf.experiments import embedding
from vfd_tf.hyperparameters import Component, InputError, component, hyper
from vfd_tf.models import contract, network, precision

FEATURES, EXAMPLES = "features.npz", "examples.npz"
_REMEDY = "remove it, and the same command makes it again"
# What is kept of each student, by file.
_OF_STUDENT = {
    FEATURES: ("embedding", "accuracy", "silhouette"),
    EXAMPLES: ("adversarial", "predictions_clean", "predictions_adversarial"),
}


@component
class FeaturePlan(Component):
    """Which images are taken, how they are attacked, and which features are drawn."""

    layer: str = hyper("last", "layer whose features are drawn; last: the paper's layer k")
    classes: int = hyper(5, "classes drawn at random", minimum=2)
    images: int = hyper(500, "test images of each class", minimum=2)
    attack: str = hyper("pgd20", "protocol that makes the adversarial images")
    perplexity: float = hyper(30.0, "t-SNE: neighbours that count, about", 1.0)
    examples: int = hyper(8, "images that are kept as a sheet, with their x_adv", minimum=0)
    seed: int = hyper(0, "seed of the classes, the images, the attack, t-SNE", minimum=0)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Images of a test split, class by class.

    Attributes:
        x, y: float32 [n, h, w, c] in [0, 1], and labels [n].
        index: Their places in the split.
        chosen: The classes, in order.
    """

    x: np.ndarray
    y: np.ndarray
    index: np.ndarray
    chosen: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """Places in `chosen`: int32 [n]."""
        return np.searchsorted(self.chosen, self.y).astype("int32")

    def sheet(self, count: int) -> np.ndarray:
        """Places of so many images, of every class in turn."""
        rank = np.concatenate([np.arange(k) for k in np.bincount(self.labels)])
        return np.lexsort((self.labels, rank))[:count]


def select(data: Dataset, plan: FeaturePlan) -> Selection:
    """The images that a plan draws; fewer than it asks for are said."""
    random, labels = np.random.default_rng(plan.seed), np.asarray(data.test.y)
    known = np.unique(labels)
    if len(known) < 2:
        raise InputError(
            f"The test images of {data.name} are of {len(known)} class: features are "
            "compared between classes, so choose another --dataset."
        )
    if len(known) < plan.classes:
        print(f"Note: {data.name} has test images of {len(known)} classes: all are taken.")
    chosen = random.choice(known, min(plan.classes, len(known)), replace=False)
    index, few = [], {}
    for label in sorted(chosen):
        places = np.flatnonzero(labels == label)
        if len(places) < plan.images:
            few[data.class_names[label]] = len(places)
        size = min(plan.images, len(places))
        index.append(np.sort(random.choice(places, size, replace=False)))
    if few:
        counts = ", ".join(f"{count} of {name}" for name, count in few.items())
        print(f"Note: there are fewer than {plan.images} test images: {counts}.")
    index = np.concatenate(index)
    some = data.test[index]
    return Selection(some.floats(), np.asarray(some.y), index, np.sort(chosen))


def draw(
    students: dict[str, str],
    data: Dataset,
    plan: FeaturePlan,
    folder: str,
    *,
    epsilon: float = 8 / 255,
    norm: str = "linf",
    batch_size: int = 128,
) -> dict[str, np.ndarray]:
    """Writes both files into a folder; a student that is in them is not computed again.

    Args:
        students: Name -> `.keras` file.
        epsilon, norm: Threat model of the attack.
        batch_size: Images that go through a student at once; sets the memory.

    Returns:
        The arrays of features.npz.

    Raises:
        InputError: A student of other images or fewer classes, or without the layer; an
            unknown attack; files that are damaged.
    """
    threat = {"epsilon": epsilon, "norm": norm}
    settings = _settings(data, plan, threat)
    models = {name: _checked(path, data, plan) for name, path in students.items()}
    marks = {name: files.sha256(path) for name, path in students.items()}
    known, chosen = _known(folder, settings), select(data, plan)
    os.makedirs(folder, exist_ok=True)
    for name, model in models.items():
        if marks[name] not in known:
            begin = time.perf_counter()
            attack = {**threat, "batch_size": batch_size}
            known[marks[name]] = _row(model, chosen, plan, attack)
            print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
        rows = {n: known[mark] for n, mark in marks.items() if mark in known}
        _write(folder, rows, marks, chosen, data, plan, settings)
    return files.read_arrays(os.path.join(folder, FEATURES), _REMEDY)


def _checked(path, data, plan):
    model = network.load(path)
    contract.check_fits(model, path, data)
    contract.refuse_probabilities(model)
    return network.tap(precision.in_float32(model), [plan.layer])


def _settings(data, plan, threat) -> str:
    """All that decides the rows but the students: JSON."""
    fields, described = dataclasses.asdict(plan), protocol(plan.attack, **threat).describe()
    fields |= {"dataset": data.name, "test_data": data.test.digest, "attack": described}
    fields |= {"epsilon": radius(threat["epsilon"]), "norm": threat["norm"]}
    return json.dumps(fields, sort_keys=True)


def _known(folder, settings) -> dict[str, dict]:
    """SHA-256 of a student -> its row, of a folder's files of these settings."""
    rows = []
    for name, keys in _OF_STUDENT.items():
        path = os.path.join(folder, name)
        arrays = files.read_arrays(path, _REMEDY)
        if not arrays or str(arrays.get("settings")) != settings:
            return {}
        with files.read_or_refused(path, _REMEDY):
            parts = zip(arrays["sha256"], *(arrays[key] for key in keys), strict=True)
            labels = [(name, key) for key in keys]
            rows.append({str(m): dict(zip(labels, p, strict=True)) for m, *p in parts})
    features, examples = rows
    return {m: row | examples[m] for m, row in features.items() if m in examples}


def _row(model, chosen, plan, attack) -> dict:
    """What is kept of one student: (file, array) -> its part of it."""
    x_adv = perturb(model, chosen.x, chosen.y, plan.attack, seed=plan.seed, **attack)
    engine = Engine(model, attack["batch_size"])

    def forward(x):
        outputs = model(x, training=False)
        flat = network.features(outputs, plan.layer)
        return {"logits": outputs["logits"], "flat": _flattened(flat)}

    both = np.concatenate([chosen.x, x_adv])
    found = engine.runner.run("features", forward, {"x": both})
    count, predictions = len(chosen.y), found["logits"].argmax(-1).astype("int32")
    points = embedding.plane(found["flat"], plan.seed, plan.perplexity)
    sheet = chosen.sheet(plan.examples)
    right = (predictions == np.tile(chosen.y, 2)).reshape(2, count)
    spaces = [embedding.silhouettes(p, chosen.labels) for p in (points, found["flat"])]
    return {
        (FEATURES, "embedding"): points,
        (FEATURES, "accuracy"): 100 * right.mean(-1),
        (FEATURES, "silhouette"): np.stack(spaces),
        (EXAMPLES, "adversarial"): x_adv[sheet],
        (EXAMPLES, "predictions_clean"): predictions[:count][sheet],
        (EXAMPLES, "predictions_adversarial"): predictions[count:][sheet],
    }


def _flattened(features):
    return tf.reshape(features, [tf.shape(features)[0], -1])


def _write(folder, rows, marks, chosen, data, plan, settings):
    """Writes both files, of the students that there are so far."""
    sheet, names = chosen.sheet(plan.examples), np.array(list(rows))
    shared = {
        "names": names,
        "sha256": np.array([marks[name] for name in rows]),
        "settings": np.array(settings),
    }
    fixed = {
        FEATURES: {
            "labels": chosen.labels,
            "index": chosen.index,
            "classes": np.array([data.class_names[k] for k in chosen.chosen]),
            "adversarial": np.repeat([False, True], len(chosen.y)),
        },
        EXAMPLES: {
            "clean": chosen.x[sheet],
            "labels": chosen.y[sheet].astype("int32"),
            "class_names": _class_names(rows, data),
        },
    }
    for file in (EXAMPLES, FEATURES):
        own = {
            key: np.stack([row[file, key] for row in rows.values()])
            for key in _OF_STUDENT[file]
        }
        arrays = {**own, **fixed[file], **shared}
        path = os.path.join(folder, file)
        with files.replaced(path) as part, open(part, "wb") as target:
            np.savez_compressed(target, **arrays)


def _class_names(rows, data):
    """Those of the data set; a student of more classes has numbers for the others."""
    predicted = [
        row[EXAMPLES, f"predictions_{kind}"]
        for row in rows.values()
        for kind in ("clean", "adversarial")
    ]
    count = max([len(data.class_names), *(1 + p.max(initial=0) for p in predicted)])
    more = map(str, range(len(data.class_names), count))
    return np.array([*data.class_names, *more])
