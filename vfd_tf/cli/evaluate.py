"""The mode `evaluate`: a model file and a data set -> accuracies under attack."""

import hashlib
import os
import pathlib
import shlex
import sys

import numpy as np

from vfd_tf import evaluation, files
from vfd_tf.attacks.attack import radius
from vfd_tf.cli import flags, sessions
from vfd_tf.data import datasets
from vfd_tf.evaluation import report, sanity
from vfd_tf.evaluation.journal import made
from vfd_tf.experiments.provenance import provenance
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import classifiers, contract, network


def run(values, words: list[str]) -> None:
    """Accuracy of a .keras file under attack: --model=FILE --eval_attacks=autoattack."""
    path = _only(([values.model] if values.model else []) + words)
    plan = flags.evaluation_plan(values)
    if values.surrogate != "auto":
        _run(values, path, plan, None)
        return
    with sessions.session(values, flags.experiments(values)[0], plan) as session:
        _run(values, path, plan, session)


def _only(paths):
    """The one model that is named."""
    if not paths:
        raise InputError("Name the model: python run.py evaluate --model=FILE.keras.")
    if len(paths) > 1:
        raise InputError(
            f"evaluate takes one model, and there are {len(paths)} ({', '.join(paths)}): "
            "give each a command of its own."
        )
    return paths[0]


def _run(values, path, plan, session):
    """Evaluates; the session is that of a surrogate that is trained first, or None."""
    bounds = _bounds(values)
    described = {
        name: evaluation.protocol(name, plan.epsilon, plan.norm).describe()
        for name in plan.attacks
    }
    path = model_file(path)
    model = classifiers.from_path(path)
    folder = values.eval_dir or results_folder(path)
    report.Report.read(folder)  # refuses a damaged one
    files.check_writable(folder, "choose another --eval_dir")
    data = session.data if session else _data(values)
    test = data.test[: plan.max_images]
    check_model(model, path, data, test.y)
    check_writable(values.save_adversarial)
    facts = _facts(values, path, described)
    settings = _settings(values, plan, data, test, bounds)
    surrogate, plans = _black_box(values, data, session, described, settings)
    images = _of_the_model(test, plan.batch_size, bounds)
    with files.owned(made(folder), wait=True, what="evaluates"):
        journal = evaluation.Journal(os.path.join(folder, "journal"), facts["owner"], plans)
        files.remove_parts(journal.folder)  # of a process that was killed
        result = _evaluated(values, plan, model, images, bounds, surrogate, journal)
        if surrogate is not None:
            accuracy = 100 * float(result.surrogate_clean.mean())
            settings["surrogate"]["accuracy"] = accuracy
        _report(folder, result, facts, settings)
    if values.save_adversarial:
        save_examples(values.save_adversarial, test, bounds, result)


def _data(values):
    return datasets.load(
        values.dataset,
        values.data_dir,
        training=False,
        image_size=values.image_size,
        hold=values.hold,
    )


def _evaluated(values, plan, model, images, bounds, surrogate, journal):
    return evaluation.evaluate(
        model,
        images,
        plan.attacks,
        epsilon=plan.epsilon,
        norm=plan.norm,
        seed=values.eval_seed,
        batch_size=plan.batch_size,
        verbose=1,
        early_stop=values.eval_early_stop,
        bounds=bounds,
        surrogate=surrogate,
        referees=values.referee == "cleverhans",
        craft_precision=values.craft_precision,
        strict=values.strict,
        journal=journal,
        examples=bool(values.save_adversarial),
    )


def _report(folder, result, facts, settings):
    known = report.Report.read(folder)
    facts |= {**settings, "warnings": result.warnings, "referee": result.referee}
    for note in known.add(_title(settings), settings, result):
        print(f"Note: {note}")
    print("\n" + known.write(folder, facts, facts["model"]))
    for name, entry in result.referee.items():
        print(_referee(name, entry))
    print(f"\n{os.path.join(folder, 'results.json')}")


def model_file(path: str) -> str:
    """The path of a model; of a run directory that of its best student, which is said."""
    student = classifiers.student_of_run(path)
    if student is None:
        return path
    print(f"{path} is a run directory: its {os.path.basename(student)} is taken.")
    return student


def results_folder(path: str) -> str:
    """Where the results of a model go by default: FILE.eval for FILE.keras."""
    path = os.path.normpath(path)
    return (path if os.path.isdir(path) else os.path.splitext(path)[0]) + ".eval"


def _bounds(values):
    """The range of the model's images, of a text such as -1,1."""
    try:
        return contract.checked_bounds([float(text) for text in values.bounds.split(",")])
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"--bounds={values.bounds} must be two numbers, low and high, such as -1,1."
        ) from error


def in_bounds(x, bounds):
    """Images in [0, 1] as a model of other bounds takes them."""
    low, high = bounds
    return x if bounds == (0.0, 1.0) else (low + x * (high - low)).astype("float32")


def _of_the_model(test, batch_size, bounds):
    """The test images in the range of the model; of stored ones, batches of them."""
    if bounds == (0.0, 1.0):
        return test
    if isinstance(test, datasets.Images):
        return in_bounds(test.floats(), bounds), test.y
    low, high = bounds
    return test.batches(batch_size).map(lambda x, y: (low + x * (high - low), y))


def check_model(model, path: str, data, labels=()) -> None:
    """Raises `InputError` for a model that doesn't fit the data set.

    More logits than classes are fine, as long as the labels mean the same; it is said,
    unless an evaluation of images with these labels will.
    """
    network.tap(model)  # one input, logits as the only output
    classes = contract.check_fits(model, path, data)
    if classes is None or classes <= data.num_classes:
        return
    if not sanity.of_many_logits(set(np.ravel(labels).tolist()), len(labels), classes):
        print(
            f"Note: {path} has {classes} classes and {data.name} {data.num_classes}, which "
            "are taken for the model's first."
        )


def check_writable(path: str | None) -> None:
    """Raises `InputError` for a file that can't be written, before the work."""
    folder = os.path.dirname(path or "") or "."
    if not os.path.isdir(folder):
        raise InputError(f"There is no folder {folder} for {path}: make it first.")
    if path and (os.path.isdir(path) or not os.access(folder, os.W_OK)):
        raise InputError(f"{path} can't be written: name a file in a folder of yours.")


def save_examples(path: str, test, bounds, result) -> None:
    """Writes x, y and x_adv of every attack, in order, in the range of the model."""
    arrays = {f"x_adv/{name}": x_adv for name, x_adv in result.examples.items()}
    with files.replaced(path) as part, open(part, "wb") as file:
        x = in_bounds(test.floats(), bounds)
        np.savez_compressed(file, x=x, y=test.y, **arrays)


def _facts(values, path, described):
    """What repeats the evaluation; "owner": what all results of a folder depend on."""
    versions = provenance()
    owner = {
        "vfd_tf": f"{versions['vfd_tf']}, sources {_sources()}",
        "tensorflow": versions["tensorflow"],
        "keras": versions["keras"],
        "model_sha256": files.sha256(path),
    }
    return {
        "owner": owner,
        "model": path,
        "order": "official"
        if values.dataset in datasets.DATASETS
        else "shuffled once, seed 0, as saved with --save_adversarial",
        "attacks": described,
        "command": shlex.join(["python", "run.py", *sys.argv[1:]]),
        "verdicts": "float32 forward",
        **versions,
    }


def _settings(values, plan, data, test, bounds):
    """What the rows of one table of the report have in common."""
    return {
        "dataset": data.name,
        "test_data": test.digest,
        "images": len(test),
        "norm": plan.norm,
        "epsilon": plan.epsilon,
        "seed": values.eval_seed,
        "bounds": list(bounds),
        "craft_precision": values.craft_precision,
        "surrogate": None,
        "batch_size": plan.batch_size,
        "early_stop": values.eval_early_stop,
    }


def _title(settings):
    """The title of a table: all that its rows depend on beside model and attack."""
    low, high = settings["bounds"]
    surrogate, name = settings["surrogate"], settings["dataset"]
    crafted, but = settings["craft_precision"], " but for transfer-" if surrogate else ""
    file = name not in datasets.DATASETS  # may hold other images another day
    parts = [
        f"{name} ({settings['test_data'][:8]})" if file else name,
        f"{settings['images']} test images",
        f"{settings['norm']}:{radius(settings['epsilon'])}",
        f"seed {settings['seed']}" if settings["seed"] else "",
        f"images in [{low:g}, {high:g}]" if (low, high) != (0, 1) else "",
        f"crafted in {crafted}" + but if crafted else "",
    ]
    if surrogate:
        right = f"{surrogate['accuracy']:.2f} % right"
        parts.append(f"surrogate {surrogate['sha256'][:8]} {right}")
    return ", ".join(part for part in parts if part)


def _sources() -> str:
    """Short hash of this package's code: verdicts of another code are not reused."""
    sha, root = hashlib.sha256(), pathlib.Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


def _referee(name, entry) -> str:
    return (
        f"cleverhans {name}, no random start, {entry['images']} images: "
        f"{entry['cleverhans']:.2f}%, ours {entry['ours']:.2f}%, "
        f"{entry['verdicts_that_differ']} verdicts differ"
    )


def _black_box(values, data, session, described, settings):
    """The surrogate, or None, and what the files of all columns depend on, by name.

    Writes file and hash into the settings.
    """
    if not values.surrogate:
        return None, described
    path = _surrogate(values, session)
    surrogate, mark = classifiers.from_path(path), files.sha256(path)
    check_model(surrogate, path, data)
    settings["surrogate"] = {"file": path, "sha256": mark}
    columns = {
        name if evaluation.is_transfer(name) else f"{evaluation.TRANSFER}{name}": text
        for name, text in described.items()
    }
    return surrogate, described | {n: f"{text} {mark}" for n, text in columns.items()}


def _surrogate(values, session) -> str:
    """The file of the surrogate; a session trains it first, or finds it."""
    if session is None:
        return model_file(values.surrogate)
    first = flags.experiments(values)[0]
    return sessions.surrogate(first, session, values.surrogate_arch)
